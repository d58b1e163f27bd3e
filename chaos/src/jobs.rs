//! The jobs of a run. Two kinds end in the two ways that there are; a third ends its process.

use std::time::Duration;

use queue::{Job, JobKind, NewJob, Outcome, RunAt};
use rand::Rng;
use serde::{Deserialize, Serialize};

/// How many attempts of a job may fail.
pub const ATTEMPTS_MAX: u16 = 8;
/// More failures than a job has attempts: it ends dead.
pub const HOPELESS: u32 = 1000;

/// What a job is to do.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Task {
    /// How long it works.
    pub ms: u64,
    /// How many of its attempts fail.
    pub failures: u32,
}

impl Task {
    /// How this run of it ends.
    pub fn outcome(self, job: &Job) -> Outcome {
        if job.attempt() >= self.failures {
            return Outcome::Done;
        }
        Outcome::Retry { error: "meant to fail".into(), after: Some(RETRY_AFTER) }
    }
}

/// The delay of a retry that a job asks for.
const RETRY_AFTER: Duration = Duration::from_millis(300);

/// A job that completes in the transaction that writes its effect.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Transactional(pub Task);

impl JobKind for Transactional {
    const QUEUE: &'static str = "transactional";
    const MAX_ATTEMPTS: u16 = ATTEMPTS_MAX;
}

/// A job that is completed in a batch with others.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Batched(pub Task);

impl JobKind for Batched {
    const QUEUE: &'static str = "batched";
    const MAX_ATTEMPTS: u16 = ATTEMPTS_MAX;
}

/// A job that kills the process which runs it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Aborting {}

impl JobKind for Aborting {
    const QUEUE: &'static str = "aborting";
    const MAX_ATTEMPTS: u16 = ATTEMPTS_MAX;
}

/// What the jobs of the load are spread over.
const TENANTS: u32 = 20;
const LANES: u32 = 200;
const PROJECTS: u32 = 50;
/// How many unique keys there are for those that have one: few enough that some are duplicates.
const KEYS: u32 = 500;

/// A job of the load, drawn at random.
pub fn draw(rng: &mut impl Rng) -> anyhow::Result<NewJob> {
    let failures = match rng.random_range(0..1000) {
        0..2 => HOPELESS,
        2..52 => 1,
        _ => 0,
    };
    let task = Task { ms: rng.random_range(5..=500), failures };
    let lane = rng.random_range(0..LANES);
    let tenant = format!("tenant-{}", lane % TENANTS);
    let job = if rng.random_bool(0.5) {
        NewJob::new(&Transactional(task), tenant)?
    } else {
        NewJob::new(&Batched(task), tenant)?
    };
    let project = rng.random_range(0..PROJECTS);
    let mut job = job
        .lane(format!("lane-{lane}"))
        .group(format!("project-{project}/task-{}", rng.random::<u32>()))
        .priority(rng.random_range(-2..=2));
    if rng.random_bool(0.05) {
        job = job.key(format!("key-{}", rng.random_range(0..KEYS)));
    }
    if rng.random_bool(0.1) {
        job = job.run_at(RunAt::After(Duration::from_millis(rng.random_range(500..4000))));
    }
    Ok(job)
}
