//! What is measured of each contender, in a database of its own on the same server.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Context;
use rand::Rng;
use sqlx::{Connection, PgConnection};

use super::{
    contenders::Contender,
    process::{self, Process},
};
use crate::{clock::now_us, server::Server};

/// How long making the tables may take.
const SETUP: Duration = Duration::from_secs(60);
/// How many jobs a worker process runs at once, unless the contender does better with another number.
const DRAIN_SLOTS: usize = 1000;
const SLOTS: usize = 100;
/// How long a drain may take.
const DRAIN: Duration = Duration::from_secs(240);
/// How often one looks whether all is done.
const LOOK: Duration = Duration::from_millis(10);
/// How many single jobs are timed, and how long that may take; at least the second number make a percentile.
const SAMPLES: u32 = 300;
const SAMPLES_MIN: usize = 100;
const PICKUPS: Duration = Duration::from_secs(120);
/// How long a single job may wait.
const PICKUP: Duration = Duration::from_secs(30);
/// The pause between two single jobs, up to twice as long.
const PAUSE: Duration = Duration::from_millis(15);
/// How long a worker has until all is quiet: connected, leaders elected, leases renewed.
const QUIET: Duration = Duration::from_secs(12);
/// How much later each round kills: heartbeats are regular, and where between two of them the kill falls counts.
const BEAT_PART: Duration = Duration::from_millis(500);
/// The killed process's jobs. They outlast the kill and the search for it.
const RUNNING: u32 = 100;
const RUNNING_MS: u32 = 120_000;
/// How long one waits for them to start again.
pub const RECOVERY: Duration = Duration::from_secs(60);

/// How the jobs of a killed process came back.
#[derive(Debug, Clone, Copy)]
pub struct Recovery {
    /// How many of [`RUNNING`] started again in time.
    pub started: u32,
    /// Seconds from the kill to the first and the last that did.
    pub first_s: f64,
    pub last_s: f64,
}

impl Recovery {
    pub fn is_complete(&self) -> bool {
        self.started == RUNNING
    }
}

/// A fresh database with the contender's tables; its address.
async fn fresh(server: &Server, contender: &Contender) -> anyhow::Result<String> {
    let url = server.create_database().await?;
    process::run(contender.command("setup", &url)?, SETUP).await?;
    Ok(url)
}

/// Jobs done per second, from the moment at which the workers may begin until nothing is ready or running.
pub async fn drain(server: &Server, contender: &Contender, jobs: u32) -> anyhow::Result<f64> {
    let url = fresh(server, contender).await?;
    let mut producer = Process::start(contender.command("producer", &url)?).await?;
    producer.fill(jobs, 0, false).await?;
    let mut conn = PgConnection::connect(&url).await?;
    for sql in ["vacuum analyze", "checkpoint"] {
        sqlx::query(sql).execute(&mut conn).await?;
    }
    conn.close().await?;
    let mut workers = Vec::new();
    for _ in 0..contender.drain_processes {
        workers.push(Process::start(contender.worker(&url, DRAIN_SLOTS, "drain")?).await?);
    }
    let (waited, mut began) = (Instant::now(), now_us());
    for worker in &mut workers {
        worker.begin().await?;
    }
    let mut ran = 0;
    while ran < jobs || !producer.idle().await? {
        anyhow::ensure!(waited.elapsed() < DRAIN, "{ran} of {jobs} jobs ran in {} s", DRAIN.as_secs());
        tokio::time::sleep(LOOK).await;
        if ran < jobs {
            let counted = count(&mut workers).await?;
            ran = counted.0;
            began = counted.1.unwrap_or(began);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "microseconds of minutes")]
    let per_second = f64::from(jobs) * 1e6 / (now_us() - began) as f64;
    for worker in workers {
        worker.stop().await;
    }
    producer.stop().await;
    Ok(per_second)
}

/// How many jobs the workers ran, and when the first of them started, as far as they say.
async fn count(workers: &mut [Process]) -> anyhow::Result<(u32, Option<i64>)> {
    let (mut ran, mut first) = (0, None);
    for worker in workers {
        let (count, at) = worker.ran().await?;
        ran += count;
        first = first.into_iter().chain((at > 0).then_some(at)).min();
    }
    Ok((ran, first))
}

/// The milliseconds from commit to start of single jobs, while nothing else is to be done.
pub async fn pickups(server: &Server, contender: &Contender) -> anyhow::Result<Vec<f64>> {
    let url = fresh(server, contender).await?;
    let mut producer = Process::start(contender.command("producer", &url)?).await?;
    let mut worker = Process::start(contender.worker(&url, SLOTS, "pickup")?).await?;
    worker.begin().await?;
    tokio::time::sleep(QUIET).await;
    let (began, mut delays) = (Instant::now(), Vec::new());
    for n in 0..SAMPLES {
        let committed = producer.one(n).await?;
        let (started, at) = worker.next_start(PICKUP).await?;
        anyhow::ensure!(started == n, "job {started} started instead of {n}");
        #[expect(clippy::cast_precision_loss, reason = "microseconds of a second or two")]
        delays.push((at - committed).max(0) as f64 / 1000.0);
        if began.elapsed() > PICKUPS {
            break;
        }
        tokio::time::sleep(PAUSE.mul_f64(rand::rng().random_range(1.0..2.0))).await;
    }
    worker.stop().await;
    producer.stop().await;
    anyhow::ensure!(delays.len() >= SAMPLES_MIN, "only {} jobs in {} s", delays.len(), PICKUPS.as_secs());
    Ok(delays)
}

/// Kills a process amid its jobs while another one has nothing to do. The processes are on one machine; `options` may tell
/// ours to behave as if they were not.
pub async fn recovery(
    server: &Server,
    contender: &Contender,
    round: u32,
    options: &[&str],
) -> anyhow::Result<Recovery> {
    let url = fresh(server, contender).await?;
    let mut producer = Process::start(contender.command("producer", &url)?).await?;
    let slots = usize::try_from(RUNNING)?;
    let worker = || {
        let mut command = contender.worker(&url, slots, "recovery")?;
        command.args(options);
        anyhow::Ok(command)
    };
    let mut victim = Process::start(worker()?).await?;
    victim.begin().await?;
    producer.fill(RUNNING, RUNNING_MS, true).await?;
    for _ in 0..RUNNING {
        victim.next_start(PICKUP).await.context("of the jobs to be killed")?;
    }
    let mut heir = Process::start(worker()?).await?;
    heir.begin().await?;
    tokio::time::sleep(QUIET + BEAT_PART * round).await;
    let (killed_at, waited) = (now_us(), Instant::now());
    victim.kill().await?;
    let mut starts = BTreeMap::new();
    while starts.len() < slots {
        let left = RECOVERY.saturating_sub(waited.elapsed());
        let Ok((n, at)) = heir.next_start(left).await else { break };
        starts.entry(n).or_insert(at);
    }
    let in_time = starts.len() == slots || waited.elapsed() >= RECOVERY;
    anyhow::ensure!(in_time, "the process that was to take over ended, or said something else");
    heir.kill().await?;
    producer.stop().await;
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a minute")]
    let seconds = |at: Option<&i64>| at.map_or(RECOVERY.as_secs_f64(), |at| (at - killed_at) as f64 / 1e6);
    Ok(Recovery {
        started: u32::try_from(starts.len())?,
        first_s: seconds(starts.values().min()),
        last_s: seconds(starts.values().max()),
    })
}
