//! How soon a job starts after its commit: when all is quiet, and beside neighbours who are not.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use queue::{
    NewJob, Notifier,
    lanes::{self, Limits},
};
use rand::Rng;
use sqlx::PgPool;

use super::{
    jobs::{self, JobShape, Work},
    worker::Worker,
};
use crate::{
    clock::now_us,
    report::{Goal, Report, percentile},
    server::Server,
};

/// How many jobs are timed.
const SAMPLES: u32 = 500;
/// The same where each waits for a poll.
const POLLED_SAMPLES: u32 = 40;
/// The pause between two of them, up to twice as long.
const PAUSE: Duration = Duration::from_millis(10);
/// The neighbour's backlog, and what its lane may run at once of jobs of 5 ms.
const BACKLOG: u32 = 1_000_000;
const BACKLOG_CAP: i32 = 10;
const BACKLOG_MS: u32 = 5;
/// The same lane's load without a backlog: nine tenths of what it can do.
const BACKLOG_PER_SECOND: u32 = 1800;
/// The busy tenant's lanes, the time of its jobs, and how many of them come in a second: half of what the slots can do.
const BUSY_LANES: u32 = 10_000;
const BUSY_MS: u32 = 50;
const BUSY_PER_SECOND: u32 = 500;
const BUSY_SLOTS: usize = 50;
/// The slots of the other workers.
const SLOTS: usize = 100;
/// The slots where 10,000 lanes start at once.
const START_SLOTS: usize = 1000;

pub async fn measure(server: &Server, report: &mut Report) -> anyhow::Result<()> {
    jobs::reset(&server.pool).await?;
    let idle = pickups(server, SLOTS, false, SAMPLES).await?;
    report.add("pickup_ms_p50", percentile(idle.clone(), 0.5), Goal::AtMost(5.0));
    report.add("pickup_ms_p99", percentile(idle, 0.99), Goal::AtMost(25.0));
    let polled = pickups(server, SLOTS, true, POLLED_SAMPLES).await?;
    report.add("pickup_polled_ms_p50", percentile(polled.clone(), 0.5), Goal::None);
    report.add("pickup_polled_ms_p99", percentile(polled, 0.99), Goal::None);
    beside_a_backlog(server, report).await?;
    beside_a_busy_tenant(server, report).await?;
    many_lanes_at_once(server, report).await
}

/// A small lane, while another one of the same tenant has a million jobs.
async fn beside_a_backlog(server: &Server, report: &mut Report) -> anyhow::Result<()> {
    let big = |n: u32| -> anyhow::Result<NewJob> {
        Ok(NewJob::new(&Work { n, ms: BACKLOG_MS, tell: false }, "tenant")?.lane("big"))
    };
    let mut p99 = [0.0; 2];
    for (p99, backlog) in p99.iter_mut().zip([0, BACKLOG]) {
        jobs::reset(&server.pool).await?;
        let limits = Limits { cap: Some(BACKLOG_CAP), per_second: None };
        lanes::limit(&mut *server.pool.acquire().await?, "work", "big", limits).await?;
        let mut n = 0;
        while n < backlog {
            let batch = (n..n + 10_000).map(big).collect::<anyhow::Result<Vec<_>>>()?;
            drop(jobs::enqueue(&server.pool, &batch).await?);
            n += 10_000;
        }
        let load = Load::start(&server.pool, if backlog == 0 { BACKLOG_PER_SECOND } else { 0 }, big);
        *p99 = percentile(pickups(server, SLOTS, false, SAMPLES).await?, 0.99);
        load.stop().await?;
    }
    report.add("lanes_ms_p99", p99[1], Goal::None);
    report.add("lanes_ratio", p99[1] / p99[0], Goal::AtMost(2.0));
    Ok(())
}

/// A tenant with one lane, beside one with ten thousand.
async fn beside_a_busy_tenant(server: &Server, report: &mut Report) -> anyhow::Result<()> {
    let shape = JobShape { lanes: BUSY_LANES, tenants: 1, ms: BUSY_MS };
    let mut p99 = [0.0; 2];
    for (p99, busy) in p99.iter_mut().zip([0, BUSY_PER_SECOND]) {
        jobs::reset(&server.pool).await?;
        let load = Load::start(&server.pool, busy, move |n| jobs::nth(n.wrapping_mul(7919), shape));
        *p99 = percentile(pickups(server, BUSY_SLOTS, false, SAMPLES).await?, 0.99);
        load.stop().await?;
    }
    report.add("tenant_ms_p99", p99[1], Goal::None);
    report.add("tenant_ratio", p99[1] / p99[0], Goal::AtMost(2.0));
    Ok(())
}

/// Ten thousand lanes with one job each.
async fn many_lanes_at_once(server: &Server, report: &mut Report) -> anyhow::Result<()> {
    jobs::reset(&server.pool).await?;
    jobs::fill(&server.pool, BUSY_LANES, JobShape { lanes: BUSY_LANES, tenants: 1, ms: 0 }).await?;
    let mut worker = Worker::start(server.url(), START_SLOTS, false).await?;
    let started = Instant::now();
    worker.begin().await?;
    super::drain::until_idle(&server.pool).await?;
    report.add("lanes_start_ms", started.elapsed().as_secs_f64() * 1000.0, Goal::AtMost(1000.0));
    worker.stop().await
}

/// The milliseconds from commit to start of jobs that come one by one.
async fn pickups(server: &Server, slots: usize, poll: bool, samples: u32) -> anyhow::Result<Vec<f64>> {
    let mut worker = Worker::start(server.url(), slots, poll).await?;
    worker.begin().await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let notifier = Notifier::start(&server.pool);
    let mut committed = HashMap::new();
    let mut delays = Vec::new();
    for n in 0..samples {
        let job =
            NewJob::new(&Work { n, ms: 0, tell: true }, "timed")?.lane("timed").group(format!("timed/{n}"));
        let wake = jobs::enqueue(&server.pool, &[job]).await?;
        committed.insert(n, now_us());
        notifier.send(wake);
        let (started, at) = worker.next_start().await?;
        let committed = committed.get(&started).copied().unwrap_or(at);
        #[expect(clippy::cast_precision_loss, reason = "microseconds of a second or two")]
        delays.push((at - committed).max(0) as f64 / 1000.0);
        tokio::time::sleep(PAUSE.mul_f64(rand::rng().random_range(0.5..2.0))).await;
    }
    worker.stop().await?;
    Ok(delays)
}

/// Jobs that come all the time.
struct Load {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Load {
    fn start(
        pool: &PgPool,
        per_second: u32,
        job: impl Fn(u32) -> anyhow::Result<NewJob> + Send + 'static,
    ) -> Self {
        const TICKS_PER_SECOND: u32 = 50;
        let stop = Arc::new(AtomicBool::new(per_second == 0));
        let (stopped, pool) = (stop.clone(), pool.clone());
        let task = tokio::spawn(async move {
            let notifier = Notifier::start(&pool);
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / TICKS_PER_SECOND);
            let mut n = 0;
            while !stopped.load(Ordering::Relaxed) {
                ticks.tick().await;
                let end = n + per_second / TICKS_PER_SECOND;
                let batch = (n..end).map(&job).collect::<anyhow::Result<Vec<_>>>()?;
                notifier.send(jobs::enqueue(&pool, &batch).await?);
                n = end;
            }
            Ok(())
        });
        Self { stop, task }
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}
