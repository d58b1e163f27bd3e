//! Stock apalis-postgres. Where its documentation recommends these settings stands in `../README.md`.

use std::{sync::Arc, time::Duration};

use apalis::{
    layers::WorkerBuilderExt,
    prelude::{BackendExt, Data, TaskBuilder, WorkerBuilder},
};
use apalis_postgres::{Config, PostgresStorage, queries::push_tasks};
use rival_protocol::{Begin, Goal, Queue, Seen, Work};
use sqlx::{PgPool, postgres::PgPoolOptions};

const QUEUE: &str = "work";

struct Apalis(PgPool);

async fn connect(url: &str) -> anyhow::Result<PgPool> {
    Ok(PgPoolOptions::new().max_connections(4).connect(url).await?)
}

async fn push(pool: &PgPool, jobs: &[Work]) -> anyhow::Result<()> {
    let tasks = jobs.iter().map(|job| anyhow::Ok(TaskBuilder::new(serde_json::to_vec(job)?).build()));
    push_tasks(&mut *pool.acquire().await?, QUEUE, tasks.collect::<anyhow::Result<_>>()?).await?;
    Ok(())
}

async fn handle(job: Work, seen: Data<Arc<Seen>>) {
    seen.handle(job).await;
}

impl Queue for Apalis {
    async fn setup(url: &str) -> anyhow::Result<()> {
        Ok(PostgresStorage::<()>::setup(&connect(url).await?).await?)
    }

    async fn producer(url: &str) -> anyhow::Result<Self> {
        Ok(Self(connect(url).await?))
    }

    async fn fill(&mut self, jobs: Vec<Work>) -> anyhow::Result<()> {
        push(&self.0, &jobs).await
    }

    async fn one(&mut self, job: Work) -> anyhow::Result<()> {
        push(&self.0, &[job]).await
    }

    async fn idle(&mut self) -> anyhow::Result<bool> {
        let sql = "select not exists (select 1 from apalis.jobs where status <> 'Done')";
        Ok(sqlx::query_scalar(sql).fetch_one(&self.0).await?)
    }

    async fn work(url: &str, slots: usize, goal: Goal, seen: Arc<Seen>, begin: Begin) -> anyhow::Result<()> {
        let pool = connect(url).await?;
        begin.wait().await?;
        // 1.5 s and four missed are what the other queues get that let one choose: six seconds of silence.
        let config = Config::default()
            .queue(QUEUE)
            .heartbeat_interval(Duration::from_millis(1_500))
            .missed_heartbeats(4);
        let config = match goal {
            Goal::Drain => config.batch_size(10_000).lock_tasks(false),
            Goal::Pickup | Goal::Recovery => config.batch_size(slots),
        };
        let storage = PostgresStorage::<Work>::new(&pool)
            .with_config(config)
            .with_pubsub()
            .poll_with_interval(Duration::from_millis(20));
        // Names must be unique per start, or the jobs of a killed process wait for ever.
        WorkerBuilder::new(format!("work-{}", ulid::Ulid::generate()))
            .backend(storage)
            .data(seen)
            .catch_panic()
            .build(handle)
            .run()
            .await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    rival_protocol::serve::<Apalis>().await
}
