//! The half of a delivery that needs no database: signed, sent and verified, again and again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use dispatcher::{DispatcherConfig, HttpClient, Requester, SigningKey, relay::relay_shards};
use shared::{
    Database,
    config::BaseConfig,
    db::{
        deliveries::{self, DueDelivery},
        outbox::SHARDS,
    },
    domain::endpoint::secret_place,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    task::JoinSet,
    time::Instant,
};
use uuid::Uuid;

use super::{
    role::command,
    stage::{Shape, Stage},
};
use crate::{process::Process, server::Server};

/// How long all requests may take.
const DEADLINE: Duration = Duration::from_secs(500);
/// How many connections one needs to read what is to be sent.
const CONNECTIONS: u32 = 2;

/// How the process is started.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    base: BaseConfig,
    #[command(flatten)]
    dispatcher: DispatcherConfig,
    /// How many requests it makes.
    #[arg(long)]
    count: usize,
}

/// A delivery that is ready to be sent.
struct Ready {
    due: DueDelivery,
    key: SigningKey,
    body: Bytes,
}

/// Reads the deliveries that wait, says `ready`, sends them in turn when there is a line on its input, as many at once as
/// a dispatcher does, and prints how many requests failed and how many microseconds all took.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let Options { base, dispatcher, count } = options;
    let ready = Arc::new(read(&base).await?);
    anyhow::ensure!(!ready.is_empty(), "no delivery waits");
    let client = HttpClient::new(
        base.webhook_allow.clone(),
        dispatcher.webhook_timeout,
        dispatcher.webhook_proxy.clone(),
    )?;
    println!("ready");
    BufReader::new(tokio::io::stdin()).lines().next_line().await?;
    let (next, began) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let mut senders = JoinSet::new();
    for _ in 0..dispatcher.webhook_slots {
        let (ready, client, next) = (ready.clone(), client.clone(), next.clone());
        senders.spawn(async move {
            let mut failed = 0;
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return failed;
                }
                let Ready { due, key, body } = &ready[n % ready.len()];
                let answer = client.request(due, key, due.read_at + began.elapsed(), body.clone()).await;
                failed += usize::from(answer.error_class.is_some());
            }
        });
    }
    let failed: usize = senders.join_all().await.into_iter().sum();
    println!("{failed} {}", began.elapsed().as_micros());
    Ok(())
}

async fn read(base: &BaseConfig) -> anyhow::Result<Vec<Ready>> {
    let database = Database::connect(&base.database_url, "bench", CONNECTIONS)?;
    let mut conn = database.pool().acquire().await?;
    let ids: Vec<(Uuid, Uuid)> =
        sqlx::query_as("select account_id, id from deliveries").fetch_all(&mut *conn).await?;
    let mut ready = Vec::with_capacity(ids.len());
    for mut due in deliveries::list_due(&mut conn, &ids).await? {
        let secret = base.secret_key.open(&secret_place(due.endpoint_id), &due.sealed_secret)?;
        let body = due.body.take().context("a delivery without a body")?;
        ready.push(Ready { due, key: SigningKey::new(&secret)?, body: Bytes::from(body) });
    }
    drop(conn);
    database.close().await;
    Ok(ready)
}

/// Requests per second, to as many endpoints as deliveries go to.
pub async fn measure(server: &Server, shape: Shape, count: usize) -> anyhow::Result<f64> {
    let mut stage = Stage::set(server, shape).await?;
    // One delivery to each endpoint, made by the relay, so that all is as a dispatcher would find it.
    stage.producer().one_of_each().await?;
    for shard in 0..SHARDS {
        relay_shards(&stage.database, &[(shard, shape.accounts * shape.types)]).await?;
    }
    let mut command = command(&stage, "dispatcher-requests")?;
    command.arg("--count").arg(count.to_string());
    let mut process = Process::start(command).await?;
    process.say("").await?;
    let line = process.line(DEADLINE).await?;
    let (failed, micros) = line.split_once(' ').with_context(|| format!("{line} is no result"))?;
    let answered = stage.receivers.count().await?.answered;
    anyhow::ensure!(
        failed == "0" && answered == u64::try_from(count)?,
        "{failed} of {count} requests failed, and {answered} were answered"
    );
    process.stop().await;
    stage.clear().await?;
    #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
    Ok(count as f64 * 1e6 / micros.parse::<f64>()?)
}
