//! The jobs of the benchmark.

use queue::{JobKind, NewJob, Wake};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, migrate::Migrator};

/// A job that waits for a while, mostly none.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Work {
    /// Its number.
    pub n: u32,
    /// How long the handler waits.
    pub ms: u32,
    /// Whether the worker says when it started.
    pub tell: bool,
}

impl JobKind for Work {
    const QUEUE: &'static str = "work";
}

/// How many lanes and tenants the jobs of a drain are spread over.
pub const LANES: u32 = 100;
const TENANTS: u32 = 10;
/// How many jobs one statement enqueues where that is not what is measured.
const BATCH: u32 = 5000;

/// What the jobs of a load are like.
#[derive(Debug, Clone, Copy)]
pub struct JobShape {
    /// How many lanes they are spread over.
    pub lanes: u32,
    /// How many tenants the lanes are spread over.
    pub tenants: u32,
    /// How long each takes.
    pub ms: u32,
}

impl Default for JobShape {
    fn default() -> Self {
        Self { lanes: LANES, tenants: TENANTS, ms: 0 }
    }
}

/// The name of a lane.
pub fn lane(lane: u32) -> String {
    format!("lane-{lane}")
}

/// The `n`-th job of a load: it has a tenant, a lane and a group.
pub fn nth(n: u32, shape: JobShape) -> anyhow::Result<NewJob> {
    let in_lane = n % shape.lanes;
    let job =
        NewJob::new(&Work { n, ms: shape.ms, tell: false }, format!("tenant-{}", in_lane % shape.tenants))?;
    Ok(job.lane(lane(in_lane)).group(format!("project-{in_lane}/task-{n}")))
}

/// Makes the queue's tables anew.
pub async fn reset(pool: &PgPool) -> anyhow::Result<()> {
    sqlx::raw_sql("drop schema if exists queue cascade; drop table if exists _sqlx_migrations")
        .execute(pool)
        .await?;
    Ok(Migrator::with_migrations(queue::migrations()).run(pool).await?)
}

/// Enqueues the first `jobs` jobs of a load, without a wake.
pub async fn fill(pool: &PgPool, jobs: u32, shape: JobShape) -> anyhow::Result<()> {
    let mut done = 0;
    while done < jobs {
        let end = jobs.min(done + BATCH);
        let batch = (done..end).map(|n| nth(n, shape)).collect::<anyhow::Result<Vec<_>>>()?;
        drop(enqueue(pool, &batch).await?);
        done = end;
    }
    Ok(())
}

/// Enqueues jobs in a transaction of their own.
pub async fn enqueue(pool: &PgPool, jobs: &[NewJob]) -> anyhow::Result<Wake> {
    let mut tx = pool.begin().await?;
    let (_, wake) = queue::enqueue(&mut tx, jobs).await?;
    tx.commit().await?;
    Ok(wake)
}
