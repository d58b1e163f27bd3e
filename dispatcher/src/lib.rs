//! The dispatcher: outbox to deliveries to signed HTTP requests.
//!
//! Two loops that know nothing of each other. The relay (`relay.rs`) moves events from the outbox to the history and
//! makes one delivery, and its job, per subscribed endpoint. The deliverer (`deliver.rs`) takes claimed jobs through the
//! phases of one attempt: what is signed is in `sign.rs`, how a stranger's server is talked to in `http_client/`, and
//! what is written about it in `record.rs`. Any number of dispatchers share the work. Start reading at [`run`].

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, ensure};
use queue::{Runtime, RuntimeConfig};
use shared::{
    Database,
    config::{BaseConfig, given_up_at},
    db::connect_options,
    telemetry::Admin,
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

mod config;
mod deliver;
mod gauges;
mod http_client;
mod record;
pub mod relay;
mod sign;

pub use config::DispatcherConfig;
use deliver::Deliverer;
pub use http_client::ProxyUrl;
// For benchmarks, which measure the two halves of a delivery apart.
#[doc(hidden)]
pub use deliver::Requester;
#[doc(hidden)]
pub use http_client::{Answer, HttpClient};
#[doc(hidden)]
pub use sign::SigningKey;

/// How dispatchers are named in the list of leases and among the database's connections.
const NAME: &str = "iris dispatcher";
/// How many deliveries to an ordered endpoint one dispatcher takes on at once.
const UNIT_MAX: usize = 100;
/// How much of the shutdown's time is kept for recording, after the last request has ended or was dropped.
const RECORDING_SHARE: f64 = 0.2;
/// How long the loops may take to end once their work has.
const LOOPS_DEADLINE: Duration = Duration::from_secs(5);

/// Runs a dispatcher until `shutdown`, then finishes what is under way within the time that `base` allows. An error is a
/// setting that does not serve; an absent database is waited for.
pub async fn run(
    config: DispatcherConfig,
    base: BaseConfig,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let client =
        HttpClient::new(base.webhook_allow.clone(), config.webhook_timeout, config.webhook_proxy.clone())?;
    run_with(client, config, base, shutdown).await
}

/// As [`run`], with requests made by `requester`.
#[doc(hidden)]
pub async fn run_with(
    requester: impl Requester,
    config: DispatcherConfig,
    base: BaseConfig,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    check_times(&config, &base)?;
    let database =
        Database::connect(&base.database_url, NAME, base.database_connections).context("DATABASE_URL")?;
    let slots = usize::from(config.webhook_slots);
    let leased = Arc::new(Mutex::new(None));
    let asked = leased.clone();
    // First, for it installs what the metrics of all that follows go to.
    let admin = Admin::new(database.clone(), move || lock(&asked).as_ref().is_some_and(Runtime::is_ready))?;
    let runtime = Runtime::start(RuntimeConfig {
        name: NAME.into(),
        connect: connect_options(&base.database_url, NAME).context("DATABASE_URL")?,
        notifier: database.notifier().clone(),
        seen_by_neighbours: base.seen_by_neighbours,
        listen: true,
        schedules: Vec::new(),
    })?;
    let source = runtime.source_of_units(slots, UNIT_MAX);
    let (outcomes, sent) = mpsc::channel(slots);
    let (slow, found_slow) = mpsc::channel(slots);
    let deliverer = Deliverer::new(database.clone(), requester, base.secret_key.clone(), outcomes, slow);
    let give_up = CancellationToken::new();
    let loops = TaskTracker::new();
    loops.spawn(relay::run(database.clone(), usize::from(config.relay_batch), shutdown.clone()));
    loops.spawn(gauges::run(database.clone(), shutdown.clone()));
    loops.spawn(deliverer.run(source));
    let policy = record::Policy { circuit: config.circuit(), retries: config.webhook_retries };
    loops.spawn(record::mark_slow(database.clone(), found_slow));
    loops.spawn(record::run(database.clone(), policy, sent, give_up.clone()));
    // Taken out when the dispatcher stops, from when on it is not ready.
    *lock(&leased) = Some(runtime);
    admin.serve(base.admin_addr, give_up.clone()).await?;
    tracing::info!(slots, "the dispatcher runs");

    shutdown.cancelled().await;
    tracing::info!("the dispatcher stops");
    let running = lock(&leased).take();
    if let Some(running) = running {
        running.shutdown(base.shutdown.mul_f64(1.0 - RECORDING_SHARE)).await;
    }
    give_up.cancel();
    loops.close();
    if tokio::time::timeout(LOOPS_DEADLINE, loops.wait()).await.is_err() {
        tracing::warn!("the dispatcher's loops did not end in time");
    }
    if tokio::time::timeout(LOOPS_DEADLINE, database.close()).await.is_err() {
        tracing::warn!("the database's connections did not close in time");
    }
    Ok(())
}

/// A delivery has all its retries before it is given up with its history.
fn check_times(config: &DispatcherConfig, base: &BaseConfig) -> anyhow::Result<()> {
    let longest = config.webhook_retries.longest();
    ensure!(
        longest < given_up_at(base.history_keep),
        "IRIS_WEBHOOK_RETRIES: with what receivers may ask for they take {} h, and IRIS_HISTORY_KEEP must be a day longer",
        longest.as_secs().div_ceil(3600)
    );
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
