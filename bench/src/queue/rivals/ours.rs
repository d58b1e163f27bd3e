//! Our queue behind the protocol: the tables and the producer. The worker is `worker.rs`.

use anyhow::Context;
use clap::Args;
use queue::{NewJob, Notifier};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::super::jobs::{self, JobShape, Work};
use crate::clock::now_us;

/// How many jobs one statement enqueues.
const BATCH: u32 = 5_000;

/// How the tables are made, or a producer is started.
#[derive(Debug, Args)]
pub struct Options {
    /// The database.
    #[arg(long)]
    url: String,
}

impl Options {
    async fn connect(&self) -> anyhow::Result<PgPool> {
        Ok(PgPoolOptions::new().max_connections(4).connect(&self.url).await?)
    }
}

/// Makes the tables.
pub async fn setup(options: Options) -> anyhow::Result<()> {
    jobs::reset(&options.connect().await?).await
}

/// Says `ready`, then does what each line says until there are no more.
pub async fn produce(options: Options) -> anyhow::Result<()> {
    let pool = options.connect().await?;
    let notifier = Notifier::start(&pool);
    println!("ready");
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = input.next_line().await? {
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["fill", count, ms, tell] => {
                let shape = JobShape { ms: ms.parse()?, ..JobShape::default() };
                fill(&pool, count.parse()?, shape, *tell == "1").await?;
                println!("filled");
            }
            ["one", n] => {
                let work = Work { n: n.parse()?, ms: 0, tell: true };
                let job = NewJob::new(&work, "timed")?.lane("timed").group(format!("timed/{n}"));
                let wake = jobs::enqueue(&pool, &[job]).await?;
                let at = now_us();
                notifier.send(wake);
                println!("{n} {at}");
            }
            ["idle"] => println!("{}", if is_idle(&pool).await? { "idle" } else { "busy" }),
            _ => anyhow::bail!("unknown command: {line}"),
        }
    }
    Ok(())
}

async fn fill(pool: &PgPool, count: u32, shape: JobShape, tell: bool) -> anyhow::Result<()> {
    for from in (0..count).step_by(usize::try_from(BATCH)?) {
        let job = |n| {
            let in_lane = n % shape.lanes;
            let work = Work { n, ms: shape.ms, tell };
            let job = NewJob::new(&work, format!("tenant-{}", in_lane % shape.tenants))?;
            anyhow::Ok(job.lane(jobs::lane(in_lane)).group(format!("project-{in_lane}/task-{n}")))
        };
        let batch = (from..count.min(from + BATCH)).map(job).collect::<anyhow::Result<Vec<_>>>()?;
        drop(jobs::enqueue(pool, &batch).await?);
    }
    Ok(())
}

async fn is_idle(pool: &PgPool) -> anyhow::Result<bool> {
    let sql = "select not exists (select 1 from queue.ready) and not exists (select 1 from queue.running)";
    sqlx::query_scalar(sql).fetch_one(pool).await.context("whether it is idle")
}
