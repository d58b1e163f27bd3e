//! How fast a backlog is worked off, and what that costs.

use std::time::{Duration, Instant};

use queue::lanes::{self, Limits};
use sqlx::PgPool;

use super::{
    jobs::{self, JobShape},
    reference,
    worker::Worker,
};
use crate::{
    report::{Goal, Report, median},
    server::Server,
};

/// How many jobs a worker process runs at once.
const SLOTS: usize = 1000;
/// The cap of each lane where lanes have one.
const CAP: i32 = 50;
/// How often one looks whether all is done.
const LOOK: Duration = Duration::from_millis(10);
/// The load of the runs that last: jobs per second, and for how long.
const LOAD_PER_SECOND: u32 = 2000;
const LOAD: Duration = Duration::from_secs(60);

/// One drain.
struct Drained {
    per_second: f64,
    memory_mib: f64,
    wal_bytes_per_job: f64,
}

pub async fn measure(server: &Server, report: &mut Report, count: u32, rounds: u32) -> anyhow::Result<()> {
    let (mut references, mut one, mut four, mut capped) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        references.push(reference::drain(server, count).await?);
        one.push(drain(server, count, 1, None).await?);
        four.push(drain(server, count, 4, None).await?.per_second);
        capped.push(drain(server, count, 1, Some(CAP)).await?.per_second);
    }
    let reference = median(references);
    let rate = median(one.iter().map(|drained| drained.per_second).collect());
    report.add("reference_per_second", reference, Goal::None);
    if reference < reference::QUIET_MIN {
        report.note(format!(
            "INVALID: the reference ran at {reference:.0} jobs/s; below {:.0} the machine is busy or slow",
            reference::QUIET_MIN
        ));
    }
    report.add("drain_per_second", rate, Goal::None);
    report.add("drain_ratio", rate / reference, Goal::AtLeast(0.6));
    report.add("drain_4proc_ratio", median(four) / rate, Goal::AtLeast(0.9));
    report.add("drain_capped_ratio", median(capped) / reference, Goal::AtLeast(0.4));
    let memory = one.iter().map(|drained| drained.memory_mib).fold(0.0, f64::max);
    report.add("rss_mb_max", memory, Goal::AtMost(100.0));
    let wal = median(one.iter().map(|drained| drained.wal_bytes_per_job).collect());
    report.add("wal_bytes_per_job", wal, Goal::AtMost(2000.0));
    held_snapshot(server, report, count, rate).await
}

/// Drains a backlog by worker processes that are there already.
async fn drain(server: &Server, count: u32, processes: usize, cap: Option<i32>) -> anyhow::Result<Drained> {
    jobs::reset(&server.pool).await?;
    let wal = server.wal_bytes().await?;
    jobs::fill(&server.pool, count, JobShape::default()).await?;
    if cap.is_some() {
        let mut conn = server.pool.acquire().await?;
        for lane in 0..jobs::LANES {
            lanes::limit(&mut conn, "work", &jobs::lane(lane), Limits { cap, per_second: None }).await?;
        }
    }
    let (per_second, memory_mib) = drain_filled(server, count, processes).await?;
    let wal_bytes_per_job = (server.wal_bytes().await? - wal) / f64::from(count);
    Ok(Drained { per_second, memory_mib, wal_bytes_per_job })
}

async fn drain_filled(server: &Server, count: u32, processes: usize) -> anyhow::Result<(f64, f64)> {
    let mut workers = Vec::new();
    for _ in 0..processes {
        workers.push(Worker::start(server.url(), SLOTS, false).await?);
    }
    let started = Instant::now();
    for worker in &mut workers {
        worker.begin().await?;
    }
    // Looking into the tables would cost the more the more dead rows there are, so the workers are asked first.
    loop {
        let mut ran = 0;
        for worker in &mut workers {
            ran += worker.count().await?;
        }
        if ran >= count {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    until_idle(&server.pool).await?;
    let per_second = f64::from(count) / started.elapsed().as_secs_f64();
    let memory = workers.iter().map(Worker::memory_mib).fold(0.0, f64::max);
    for worker in workers {
        worker.stop().await?;
    }
    Ok((per_second, memory))
}

/// Waits until no job is ready or running.
pub async fn until_idle(pool: &PgPool) -> anyhow::Result<()> {
    loop {
        let idle: bool = sqlx::query_scalar(
            "select not exists (select 1 from queue.ready) and not exists (select 1 from queue.running)",
        )
        .fetch_one(pool)
        .await?;
        if idle {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Drains after a minute of load under a snapshot that somebody holds, as a long report or a dump does: nothing that died
/// since can be removed.
async fn held_snapshot(server: &Server, report: &mut Report, count: u32, rate: f64) -> anyhow::Result<()> {
    jobs::reset(&server.pool).await?;
    let mut holder = server.pool.begin().await?;
    sqlx::query("set transaction isolation level repeatable read").execute(&mut *holder).await?;
    sqlx::query("select 1").execute(&mut *holder).await?;
    let mut worker = Worker::start(server.url(), SLOTS, false).await?;
    worker.begin().await?;
    let loaded = load(server).await?;
    until_idle(&server.pool).await?;
    worker.stop().await?;
    jobs::fill(&server.pool, count, JobShape::default()).await?;
    let (held, _) = drain_filled(server, count, 1).await?;
    report.add("held_xmin_ratio", held / rate, Goal::AtLeast(0.5));
    holder.rollback().await?;

    jobs::reset(&server.pool).await?;
    let mut worker = Worker::start(server.url(), SLOTS, false).await?;
    worker.begin().await?;
    load(server).await?;
    until_idle(&server.pool).await?;
    worker.stop().await?;
    let dead: i64 = sqlx::query_scalar(
        "select coalesce(sum(n_dead_tup), 0)::int8 from pg_stat_user_tables where schemaname = 'queue'",
    )
    .fetch_one(&server.pool)
    .await?;
    #[expect(clippy::cast_precision_loss, reason = "a count of rows")]
    report.add("dead_tuples_ratio", dead as f64 / f64::from(loaded), Goal::AtMost(0.2));
    Ok(())
}

/// Enqueues at a steady rate for a while; returns how many jobs that were.
async fn load(server: &Server) -> anyhow::Result<u32> {
    const TICKS_PER_SECOND: u32 = 100;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / TICKS_PER_SECOND);
    let (started, mut n) = (Instant::now(), 0);
    let notifier = queue::Notifier::start(&server.pool);
    while started.elapsed() < LOAD {
        ticks.tick().await;
        let end = n + LOAD_PER_SECOND / TICKS_PER_SECOND;
        let batch =
            (n..end).map(|n| jobs::nth(n, JobShape::default())).collect::<anyhow::Result<Vec<_>>>()?;
        notifier.send(jobs::enqueue(&server.pool, &batch).await?);
        n = end;
    }
    Ok(n)
}
