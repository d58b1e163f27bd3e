//! A process that enqueues at a steady rate, in transactions of some dozen jobs.

use std::{sync::Arc, time::Duration};

use clap::Args;
use queue::{Enqueued, NewJob, Notifier, Wake};
use sqlx::{PgPool, Postgres, Transaction, postgres::PgPoolOptions};
use tokio::{
    io::AsyncReadExt,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    jobs,
    scribe::{Identity, Scribe},
};

/// How a generator is started.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    identity: Identity,
    /// How many jobs it enqueues in a second.
    #[arg(long)]
    per_second: u32,
}

/// How many transactions are open at once, and how often each of them begins.
const WRITERS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(200);
const PER_SECOND: u32 = 5;
/// How far a writer may be behind before it gives up catching up: the database was away.
const BEHIND_MAX: Duration = Duration::from_secs(1);
/// How long the statements, and the commit, of a transaction may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Enqueues until its input ends.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let scribe = Arc::new(Scribe::connect(&options.identity)?);
    let connect = options.identity.database()?;
    let pool =
        PgPoolOptions::new().max_connections(WRITERS).acquire_timeout(DEADLINE).connect_lazy_with(connect);
    let stop = CancellationToken::new();
    let notifier = Notifier::start(&pool);
    let batch = options.per_second.div_ceil(WRITERS * PER_SECOND);
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let writer = Writer { scribe: scribe.clone(), pool: pool.clone(), notifier: notifier.clone(), batch };
        writers.spawn(writer.run(stop.clone()));
    }
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    stop.cancel();
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    Ok(())
}

struct Writer {
    scribe: Arc<Scribe>,
    pool: PgPool,
    notifier: Notifier,
    batch: u32,
}

impl Writer {
    async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(PAUSE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        while !stop.is_cancelled() {
            let due = ticks.tick().await;
            if due.elapsed() > BEHIND_MAX {
                ticks.reset_at(Instant::now());
            }
            let drawn = {
                let mut rng = rand::rng();
                (0..self.batch).map(|_| jobs::draw(&mut rng)).collect::<anyhow::Result<Vec<_>>>()?
            };
            // What did not get as far as its commit is not in the queue, and nobody expects it there.
            if let Ok(Ok((tx, ids, wake))) = tokio::time::timeout(DEADLINE, self.enqueue(&drawn)).await {
                self.commit(tx, &ids, wake).await;
            }
        }
        Ok(())
    }

    async fn enqueue(
        &self,
        jobs: &[NewJob],
    ) -> anyhow::Result<(Transaction<'static, Postgres>, Vec<Uuid>, Wake)> {
        let mut tx = self.pool.begin().await?;
        let (outcomes, wake) = queue::enqueue(&mut tx, jobs).await?;
        let added = outcomes.into_iter().filter_map(|outcome| match outcome {
            Enqueued::Added(id) => Some(id),
            Enqueued::Duplicate | Enqueued::Cancelled => None,
        });
        Ok((tx, added.collect(), wake))
    }

    /// Commits, and tells the ledger what that means for the jobs.
    async fn commit(&self, tx: Transaction<'static, Postgres>, ids: &[Uuid], wake: Wake) {
        let word = match tokio::time::timeout(DEADLINE, tx.commit()).await {
            Ok(Ok(())) => "enqueued",
            Ok(Err(_)) | Err(_) => "unsure",
        };
        let lines: Vec<String> = ids.iter().map(|id| format!("{word} {id}\n")).collect();
        self.scribe.write(&lines.concat());
        self.notifier.send(wake);
    }
}
