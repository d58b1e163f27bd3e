//! awa. Where its documentation recommends these settings stands in `../README.md`.

use std::{sync::Arc, time::Duration};

use awa::{
    Client, InsertOpts, JobArgs, JobContext, JobError, JobResult, QueueConfig, QueueStorage,
    QueueStorageConfig, model::insert::params_with,
};
use rival_protocol::{Begin, Goal, Queue, Seen};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, postgres::PgPoolOptions};

const QUEUE: &str = "work";

/// A job, as awa wants it declared.
#[derive(Debug, Serialize, Deserialize, JobArgs)]
struct Work {
    n: u32,
    ms: u32,
    tell: bool,
}

impl From<rival_protocol::Work> for Work {
    fn from(rival_protocol::Work { n, ms, tell }: rival_protocol::Work) -> Self {
        Self { n, ms, tell }
    }
}

/// How long a process may be silent before its jobs are taken from it, and how often it is not: what the other queues get
/// that let one choose.
const SILENCE: Duration = Duration::from_secs(6);
const BEAT: Duration = Duration::from_millis(1_500);
const SWEEP: Duration = Duration::from_secs(1);
/// Slots of a drain.
const DRAIN_SLOTS: u32 = 1_000;

struct Awa {
    pool: PgPool,
    store: QueueStorage,
    enqueued: usize,
}

async fn connect(url: &str, connections: u32) -> anyhow::Result<PgPool> {
    Ok(PgPoolOptions::new().max_connections(connections).connect(url).await?)
}

fn client(pool: &PgPool, slots: u32, seen: Arc<Seen>) -> anyhow::Result<Client> {
    let queue = QueueConfig {
        max_workers: slots,
        // Without a deadline for each job, claims and completions are written in batches.
        deadline_duration: Duration::ZERO,
        poll_interval: Duration::from_millis(20),
        ..QueueConfig::default()
    };
    let handle = move |work: Work, _: &JobContext| {
        let seen = seen.clone();
        async move {
            seen.handle(rival_protocol::Work { n: work.n, ms: work.ms, tell: work.tell }).await;
            Ok::<_, JobError>(JobResult::Completed)
        }
    };
    Ok(Client::builder(pool.clone())
        .queue(QUEUE, queue)
        .heartbeat_interval(BEAT)
        .heartbeat_staleness(SILENCE)
        .heartbeat_rescue_interval(SWEEP)
        .leader_election_interval(SWEEP)
        .register::<Work, _, _>(handle)
        .build()?)
}

impl Queue for Awa {
    async fn setup(url: &str) -> anyhow::Result<()> {
        Ok(awa::migrations::run(&connect(url, 4).await?).await?)
    }

    async fn producer(url: &str) -> anyhow::Result<Self> {
        let store = QueueStorage::new(QueueStorageConfig::default())?;
        Ok(Self { pool: connect(url, 4).await?, store, enqueued: 0 })
    }

    async fn fill(&mut self, jobs: Vec<rival_protocol::Work>) -> anyhow::Result<()> {
        let options = || InsertOpts { queue: QUEUE.into(), ..InsertOpts::default() };
        let jobs = jobs.into_iter().map(|job| params_with(&Work::from(job), options()));
        self.enqueued +=
            self.store.enqueue_params_copy(&self.pool, &jobs.collect::<Result<Vec<_>, _>>()?).await?;
        Ok(())
    }

    async fn one(&mut self, job: rival_protocol::Work) -> anyhow::Result<()> {
        let options = InsertOpts { queue: QUEUE.into(), ..InsertOpts::default() };
        awa::insert_with(&self.pool, &Work::from(job), options).await?;
        self.enqueued += 1;
        Ok(())
    }

    async fn idle(&mut self) -> anyhow::Result<bool> {
        // `QueueStorage::queue_counts` says the same, but takes seconds for a backlog of this size.
        let sql =
            "select (select coalesce(sum(completed_count), 0) from awa.receipt_completion_batches)::int8
            + (select count(*) from awa.done_entries)";
        let done: i64 = sqlx::query_scalar(sql).fetch_one(&self.pool).await?;
        Ok(usize::try_from(done)? >= self.enqueued)
    }

    async fn work(url: &str, slots: usize, goal: Goal, seen: Arc<Seen>, begin: Begin) -> anyhow::Result<()> {
        let pool = connect(url, 20).await?;
        begin.wait().await?;
        let slots = if goal == Goal::Drain { DRAIN_SLOTS } else { u32::try_from(slots)? };
        let client = client(&pool, slots, seen)?;
        client.start().await?;
        std::future::pending().await
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    rival_protocol::serve::<Awa>().await
}
