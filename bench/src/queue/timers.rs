//! Timers: that far ones cost the claim nothing, and that due ones are not late.

use std::time::{Duration, Instant};

use chrono::DateTime;
use queue::{NewJob, Rota, RunAt};
use sqlx::PgPool;
use uuid::Uuid;

use super::{
    jobs::{self, JobShape, Work},
    worker::Worker,
};
use crate::{
    clock::now_us,
    report::{Goal, Report, median, percentile},
    server::Server,
};

/// How many timers lie far ahead.
const FAR: i32 = 1_000_000;
/// Claims that are timed, and how many jobs each takes.
const CLAIMS: u32 = 100;
const CLAIM: usize = 100;
/// How many timers come due in a second, and for how many seconds.
const DUE_PER_SECOND: u32 = 1000;
const DUE_SECONDS: u32 = 10;
/// How many come due at one instant.
const BURST: u32 = 100_000;
/// How far ahead the due ones are when they are enqueued.
const AHEAD: Duration = Duration::from_secs(4);

pub async fn measure(server: &Server, report: &mut Report, rounds: u32) -> anyhow::Result<()> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        without.push(claim_ms(&server.pool, 0).await?);
        with.push(claim_ms(&server.pool, FAR).await?);
    }
    let (without, with) = (median(without), median(with));
    report.add("timers_claim_ms", with, Goal::None);
    report.add("timers_ratio", with / without, Goal::AtMost(1.1));
    report.add("timer_lag_ms_p99", lag_ms(server).await?, Goal::AtMost(1000.0));
    report.add("timers_burst_ms", burst_ms(server).await?, Goal::AtMost(5000.0));
    Ok(())
}

/// The median time of a claim with so many far timers.
async fn claim_ms(pool: &PgPool, far: i32) -> anyhow::Result<f64> {
    jobs::reset(pool).await?;
    sqlx::query(
        "insert into queue.deferred (shard, id, queue, tenant, lane, priority, grp, max_attempts, payload, run_at)
         select 0, gen_random_uuid(), 'work', 'tenant', 'lane-' || n % 100, 0, 'far/' || n, 10, '{}',
            now() + interval '1 day' + n * interval '1 second'
         from generate_series(1, $1) n",
    )
    .bind(far)
    .execute(pool)
    .await?;
    // Writing so many rows leaves work behind that is not the claim's.
    sqlx::query("vacuum (analyze) queue.deferred").execute(pool).await?;
    sqlx::query("checkpoint").execute(pool).await?;
    jobs::fill(pool, CLAIMS * u32::try_from(CLAIM)? * 2, JobShape::default()).await?;
    let lease = Uuid::now_v7();
    sqlx::query(
        "insert into queue.leases (id, name, expires_at) values ($1, 'bench', now() + interval '1 hour')",
    )
    .bind(lease)
    .execute(pool)
    .await?;
    let mut conn = pool.acquire().await?;
    let (mut rota, mut times) = (Rota::default(), Vec::new());
    for _ in 0..CLAIMS {
        let started = Instant::now();
        rota.claim(&mut conn, lease, "work", CLAIM, true).await?;
        times.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(percentile(times, 0.5))
}

/// How late timers start that come due one after the other.
async fn lag_ms(server: &Server) -> anyhow::Result<f64> {
    jobs::reset(&server.pool).await?;
    let mut worker = Worker::start(server.url(), 100, false).await?;
    worker.begin().await?;
    let count = DUE_PER_SECOND * DUE_SECONDS;
    let first = now_us() + i64::try_from(AHEAD.as_micros())?;
    let due = |n: u32| first + i64::from(n) * 1_000_000 / i64::from(DUE_PER_SECOND);
    let jobs = (0..count).map(|n| {
        let at = DateTime::from_timestamp_micros(due(n)).unwrap_or_default();
        let job = NewJob::new(&Work { n, ms: 0, tell: true }, "tenant")?;
        anyhow::Ok(job.lane(jobs::lane(n % jobs::LANES)).run_at(RunAt::At(at)))
    });
    drop(jobs::enqueue(&server.pool, &jobs.collect::<anyhow::Result<Vec<_>>>()?).await?);
    let mut lags = Vec::new();
    for _ in 0..count {
        let (n, at) = worker.next_start().await?;
        #[expect(clippy::cast_precision_loss, reason = "microseconds of a second or two")]
        lags.push((at - due(n)) as f64 / 1000.0);
    }
    worker.stop().await?;
    Ok(percentile(lags, 0.99))
}

/// How long it takes until all timers of one instant can be claimed.
async fn burst_ms(server: &Server) -> anyhow::Result<f64> {
    jobs::reset(&server.pool).await?;
    let worker = Worker::start(server.url(), 100, false).await?;
    let due = now_us() + i64::try_from(AHEAD.as_micros())?;
    sqlx::query(
        "insert into queue.deferred (shard, id, queue, tenant, lane, priority, max_attempts, payload, run_at)
         select 0, gen_random_uuid(), 'work', 'tenant', 'lane-' || n % 100, 0, 10, '{}', $2 from generate_series(1, $1) n",
    )
    .bind(i32::try_from(BURST)?)
    .bind(DateTime::from_timestamp_micros(due).unwrap_or_default())
    .execute(&server.pool)
    .await?;
    loop {
        let left: bool = sqlx::query_scalar("select exists (select 1 from queue.deferred)")
            .fetch_one(&server.pool)
            .await?;
        if !left {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let took = now_us() - due;
    worker.stop().await?;
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a second or two")]
    Ok(took as f64 / 1000.0)
}
