//! A worker process: the queue's runtime, once behind apalis's `WorkerBuilder` and once by claim and confirm.

use std::{sync::Arc, time::Duration};

use apalis::prelude::{BoxDynError, Data, WorkerBuilder};
use clap::Args;
use queue::{
    Claimed, CompleteError, Job, JobKind, Notifier, Outcome, Runtime, RuntimeConfig, Source, Unconfirmed,
};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::io::AsyncReadExt;
use tokio_util::task::TaskTracker;

use crate::{
    jobs::{Aborting, Batched, Transactional},
    scribe::{Identity, Scribe},
};

/// How a worker process is started.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    identity: Identity,
    /// Whether its neighbours may not see that it died, as if it ran on another machine.
    #[arg(long)]
    unseen: bool,
}

/// How many jobs of each kind it runs at once.
const SLOTS: usize = 60;
/// The connections of its handlers.
const CONNECTIONS: u32 = 6;
/// How long a handler's transaction may take.
const TRANSACTION_DEADLINE: Duration = Duration::from_secs(5);
/// How long it may take to stop.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// What handlers share.
#[derive(Debug)]
struct Context {
    scribe: Scribe,
    pool: PgPool,
}

/// Works until its input ends.
pub async fn run(options: Options) -> anyhow::Result<()> {
    die_with_parent()?;
    let scribe = Scribe::connect(&options.identity)?;
    let connect = options.identity.database()?;
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(TRANSACTION_DEADLINE)
        .connect_lazy_with(connect.clone());
    let runtime = Runtime::start(RuntimeConfig {
        name: options.identity.name,
        connect,
        notifier: Notifier::start(&pool),
        seen_by_neighbours: !options.unseen,
        listen: true,
        schedules: Vec::new(),
    })?;
    let context = Arc::new(Context { scribe, pool });
    let transactional = WorkerBuilder::new(Transactional::QUEUE)
        .backend(runtime.backend::<Transactional>(SLOTS))
        .data(context.clone())
        .build(run_transactional);
    let aborting = WorkerBuilder::new(Aborting::QUEUE)
        .backend(runtime.backend::<Aborting>(1))
        .data(context.clone())
        .build(abort);
    let workers = TaskTracker::new();
    workers.spawn(transactional.run());
    workers.spawn(aborting.run());
    workers.spawn(run_batched(runtime.source(SLOTS), context));
    workers.close();
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    runtime.shutdown(SHUTDOWN).await;
    let _ = tokio::time::timeout(SHUTDOWN, workers.wait()).await;
    Ok(())
}

/// Even a frozen process shall not outlive the one that started it.
fn die_with_parent() -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    Ok(())
}

/// Works, lets its effect happen, and then writes and completes in one transaction.
async fn run_transactional(
    payload: Transactional,
    job: Job,
    context: Data<Arc<Context>>,
) -> Result<Outcome, BoxDynError> {
    let scribe = &context.scribe;
    scribe.start(&job);
    tokio::time::sleep(Duration::from_millis(payload.0.ms)).await;
    let outcome = payload.0.outcome(&job);
    if outcome == Outcome::Done {
        scribe.effect(&job);
    }
    match tokio::time::timeout(TRANSACTION_DEADLINE, complete(&context.pool, &job, &outcome)).await? {
        Ok(()) => scribe.accepted(&job, &outcome),
        Err(CompleteError::Stale) => {
            scribe.refused(&job);
            return Err(CompleteError::Stale.into());
        }
        Err(error) => return Err(error.into()),
    }
    Ok(outcome)
}

async fn complete(pool: &PgPool, job: &Job, outcome: &Outcome) -> Result<(), CompleteError> {
    let mut tx = pool.begin().await?;
    if *outcome == Outcome::Done {
        sqlx::query("insert into chaos.effects (job, run) values ($1, $2)")
            .bind(job.id())
            .bind(job.run())
            .execute(&mut *tx)
            .await?;
    }
    job.complete(&mut tx, outcome).await?;
    Ok(tx.commit().await?)
}

async fn run_batched(mut source: Source<Batched>, context: Arc<Context>) {
    let running = TaskTracker::new();
    while let Some(claimed) = source.next().await {
        running.spawn(run_one_batched(claimed, context.clone()));
    }
    running.close();
    running.wait().await;
}

/// Works, lets its effect happen, and hands its outcome to the completer.
async fn run_one_batched(claimed: Claimed<Batched>, context: Arc<Context>) {
    let (job, task) = (claimed.job.clone(), claimed.payload.0);
    if !claimed.may_start() {
        return settle(claimed, Outcome::snooze(Duration::ZERO), &context.scribe).await;
    }
    context.scribe.start(&job);
    let worked = tokio::time::sleep(Duration::from_millis(task.ms));
    let outcome = tokio::select! {
        () = worked => task.outcome(&job),
        () = job.cancelled().cancelled() => Outcome::snooze(Duration::ZERO),
    };
    // The lease may have lapsed meanwhile: then another process has the job.
    let outcome = if claimed.may_start() { outcome } else { Outcome::snooze(Duration::ZERO) };
    if outcome == Outcome::Done {
        context.scribe.effect(&job);
    }
    settle(claimed, outcome, &context.scribe).await;
}

async fn settle(claimed: Claimed<Batched>, outcome: Outcome, scribe: &Scribe) {
    let job = claimed.job.clone();
    match claimed.confirm(outcome.clone()).await {
        Ok(()) => scribe.accepted(&job, &outcome),
        Err(Unconfirmed::Stale) => scribe.refused(&job),
        Err(Unconfirmed::Stopped) => {}
    }
}

async fn abort(_: Aborting, job: Job, context: Data<Arc<Context>>) -> Result<Outcome, BoxDynError> {
    context.scribe.start(&job);
    std::process::abort()
}
