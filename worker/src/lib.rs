//! The worker: discovers contacts, drafts messages, sends them, and does what time asks for.
//!
//! [`run`] joins the queue's runtime with one apalis worker per kind of job. `jobs/` has one file per kind; the
//! providers they use are in `channels/`, `drafting/` and `discovery/`. Start reading at [`jobs::send`], which keeps the
//! promise that nobody gets a message twice.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use apalis::prelude::{WorkerBuilder, WorkerError};
use queue::{Job, JobKind, Runtime, RuntimeConfig, lanes};
use shared::{
    Database,
    config::BaseConfig,
    db::{self, accounts, channel_accounts},
    domain::Channel,
    jobs as kinds,
    mailbox::ensure_mailbox,
    telemetry::Admin,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub mod channels;
pub mod config;
pub mod context;
pub mod discovery;
pub mod drafting;
pub mod jobs;
pub mod schedule;

pub use config::WorkerConfig;
pub use context::Context;

use channels::{
    Channels,
    email::{Email, server::Server},
};
use drafting::Provider;
use jobs::JOB_DEADLINE;

/// How workers are named in the list of leases and among the database's connections.
const NAME: &str = "iris-worker";
/// How many replays make deliveries at once; they share them by batches.
const REPLAY_SLOTS: usize = 2;
/// A periodic job runs alone.
const PERIODIC_SLOTS: usize = 1;
/// An erasure reads much of its account's history: there is time for one after the other.
const ERASURE_SLOTS: usize = 1;
/// How much of the shutdown's time the running jobs have; the rest is for recording their ends and closing.
const DRAINING_SHARE: f64 = 0.8;
/// How long to wait before the mailbox's limit is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Runs a worker until `shutdown`, then lets what runs end within the time that `base` allows. The database need not be
/// there yet, and may come and go. An error is a setting that does not serve.
pub async fn run(config: WorkerConfig, base: BaseConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    if let Some(url) = &base.mailbox.smtp_url {
        Server::parse(url.as_str()).context("IRIS_SMTP_URL")?;
    }
    let database =
        Database::connect(&base.database_url, NAME, base.database_connections).context("DATABASE_URL")?;
    let ctx = Arc::new(Context {
        database: database.clone(),
        clock: base.clock(),
        history_keep: base.history_keep,
        secret_key: base.secret_key.clone(),
        channels: Channels { email: Email::new(config.smtp_answer_timeout) },
        provider: Provider::from_config(&config.drafting)?,
    });
    // Taken out when the worker stops, from when on it is not ready. Its address first: a worker that cannot be watched
    // takes no job.
    let runtime = Arc::new(Mutex::new(None));
    let leased = runtime.clone();
    let stopped = CancellationToken::new();
    let admin = Admin::new(database.clone(), move || lock(&leased).as_ref().is_some_and(Runtime::is_ready))?;
    admin.serve(base.admin_addr, stopped.clone()).await?;
    let started = Runtime::start(RuntimeConfig {
        name: NAME.into(),
        connect: db::connect_options(&base.database_url, NAME).context("DATABASE_URL")?,
        notifier: database.notifier().clone(),
        seen_by_neighbours: base.seen_by_neighbours,
        listen: true,
        schedules: schedule::schedules()?,
    })?;
    let mut workers = start_workers(&started, &ctx, &config);
    *lock(&runtime) = Some(started);
    let helpers = start_helpers(&ctx, &config, &base, &shutdown);
    tracing::info!(provider = ctx.provider.name(), slots = config.send_slots, "the worker runs");

    let ended_early = tokio::select! {
        () = shutdown.cancelled() => None,
        ended = workers.join_next() => Some(ended),
    };
    tracing::info!("the worker stops");
    let running = lock(&runtime).take();
    let stopping = async {
        if let Some(running) = running {
            running.shutdown(base.shutdown.mul_f64(DRAINING_SHARE)).await;
        }
        while workers.join_next().await.is_some() {}
        stopped.cancel();
        drop(helpers);
        database.close().await;
    };
    // What is not over then is dropped, as a crash would: the others take it over.
    if tokio::time::timeout(base.shutdown, stopping).await.is_err() {
        tracing::warn!("the worker did not come to its end in time");
    }
    match ended_early {
        None => Ok(()),
        Some(ended) => bail!("an apalis worker ended by itself: {ended:?}"),
    }
}

/// One apalis worker per kind of job; all of them share the runtime's lease and claimer.
fn start_workers(
    runtime: &Runtime,
    ctx: &Arc<Context>,
    config: &WorkerConfig,
) -> JoinSet<Result<(), WorkerError>> {
    let mut workers = JoinSet::new();
    // apalis tells handlers apart by their types, so that each kind is a line of its own.
    macro_rules! spawn {
        ($kind:ty, $slots:expr, $handler:path) => {
            let backend = runtime.backend::<$kind>($slots);
            workers.spawn(
                WorkerBuilder::new(<$kind>::QUEUE).backend(backend).data(ctx.clone()).build($handler).run(),
            );
        };
        ($kind:ty, $slots:expr, $handler:path, $deadline:expr) => {
            let backend = runtime.backend::<$kind>($slots);
            let handler = |payload: $kind, job: Job, ctx: jobs::Shared| {
                jobs::within($deadline, $handler(payload, job, ctx))
            };
            workers.spawn(
                WorkerBuilder::new(<$kind>::QUEUE).backend(backend).data(ctx.clone()).build(handler).run(),
            );
        };
    }
    spawn!(kinds::Discover, usize::from(config.discover_slots.get()), jobs::discover::run, JOB_DEADLINE);
    spawn!(kinds::Draft, usize::from(config.draft_slots.get()), jobs::draft::run, JOB_DEADLINE);
    spawn!(kinds::Send, usize::from(config.send_slots.get()), jobs::send::run);
    spawn!(kinds::Replay, REPLAY_SLOTS, jobs::replay::run, JOB_DEADLINE);
    spawn!(kinds::CompleteCampaigns, PERIODIC_SLOTS, jobs::complete_campaigns::run, JOB_DEADLINE);
    spawn!(
        kinds::MaintainPartitions,
        PERIODIC_SLOTS,
        jobs::maintain_partitions::run,
        jobs::maintain_partitions::DEADLINE
    );
    spawn!(kinds::EraseHistory, ERASURE_SLOTS, jobs::erase_history::run, JOB_DEADLINE);
    spawn!(kinds::SettleStranded, PERIODIC_SLOTS, jobs::settle_stranded::run, JOB_DEADLINE);
    workers
}

/// What runs beside the jobs: idle connections are closed, and the settings' mailbox is stored.
fn start_helpers(
    ctx: &Arc<Context>,
    config: &WorkerConfig,
    base: &BaseConfig,
    shutdown: &CancellationToken,
) -> JoinSet<()> {
    let mut helpers = JoinSet::new();
    let (sweeping, stop) = (ctx.clone(), shutdown.clone());
    helpers.spawn(async move { sweeping.channels.email.sweep(stop).await });
    let (connecting, mailbox, stop) = (ctx.clone(), base.mailbox.clone(), shutdown.clone());
    let connections = i32::from(config.smtp_connections.get());
    helpers.spawn(async move {
        let connected = async {
            ensure_mailbox(&connecting.database, &connecting.secret_key, &mailbox).await;
            if let Some(sender) = &mailbox.smtp_from {
                limit_mailbox(&connecting.database, &sender.address, connections).await;
            }
        };
        stop.run_until_cancelled(connected).await;
    });
    helpers
}

/// Limits how many messages the mailbox sends at once, over all workers.
async fn limit_mailbox(database: &Database, address: &str, connections: i32) {
    while let Err(error) = try_limit(database, address, connections).await {
        tracing::warn!(error, "the mailbox has no limit yet");
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn try_limit(
    database: &Database,
    address: &str,
    connections: i32,
) -> Result<(), apalis::prelude::BoxDynError> {
    let limits = lanes::Limits { cap: Some(connections), per_second: None };
    let mut tx = database.begin().await?;
    let account = accounts::ensure_first(&mut tx).await?;
    let connected = channel_accounts::list(&mut tx, account.id).await?;
    for mailbox in connected.iter().filter(|m| m.channel == Channel::Email && m.address == address) {
        lanes::limit(&mut tx, kinds::Send::QUEUE, &mailbox.id.to_string(), limits).await?;
    }
    tx.commit().await?;
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
