//! Logs, metrics and the admin address of a role.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use axum::{Router, extract::State, http::StatusCode, routing::get};
use clap::{Args, ValueEnum};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{Database, db};

/// How a process logs.
#[derive(Debug, Clone, Args)]
pub struct LogConfig {
    /// What is logged: a level (error, warn, info, debug, trace), or levels by module such as `info,queue=debug`.
    #[arg(long, env = "IRIS_LOG", default_value = "info", global = true)]
    pub log: String,

    /// One line a record for people, or one JSON object a record for machines.
    #[arg(long, env = "IRIS_LOG_FORMAT", default_value = "text", global = true)]
    pub log_format: LogFormat,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Sends the log to stderr, so that stdout carries only what was asked for.
pub fn init_log(config: &LogConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::builder()
        .parse(&config.log)
        .with_context(|| format!("IRIS_LOG: {:?} is not a level nor a list of module=level", config.log))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Latencies in seconds, from half a millisecond to the 30 s of a delivery.
const BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// What may wait for long, or run for long, in seconds up to a day.
const LONG_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
    7200.0, 86_400.0,
];
/// The metrics of that kind.
const LONG: [&str; 4] =
    ["queue_pickup_seconds", "queue_run_seconds", "delivery_latency_seconds", "iris_draft_seconds"];
/// How often the exporter empties its histograms of what was recorded.
const UPKEEP: Duration = Duration::from_secs(5);
/// How long the readiness check waits for the database.
const READY_DEADLINE: Duration = Duration::from_secs(2);

/// The process's metrics recorder, installed at the first call.
fn recorder() -> anyhow::Result<PrometheusHandle> {
    static HANDLE: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    // Held while it is made, for the roles of one process start at once.
    let mut handle = HANDLE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*handle {
        return Ok(handle.clone());
    }
    let builder = LONG.iter().try_fold(PrometheusBuilder::new().set_buckets(BUCKETS)?, |builder, name| {
        builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), LONG_BUCKETS)
    })?;
    Ok(handle.insert(builder.install_recorder()?).clone())
}

/// What a role tells its orchestrator.
#[derive(Clone)]
pub struct Admin {
    database: Database,
    is_ready: Arc<dyn Fn() -> bool + Send + Sync>,
    metrics: PrometheusHandle,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    /// `is_ready` adds what the role itself needs, such as a lease, to the database and its migrations.
    pub fn new(
        database: Database,
        is_ready: impl Fn() -> bool + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        Ok(Self { database, is_ready: Arc::new(is_ready), metrics: recorder()? })
    }

    /// `/health/live`, `/health/ready` and `/metrics`.
    pub fn router(self) -> Router {
        Router::new()
            .route("/health/live", get(|| async { "ok" }))
            .route("/health/ready", get(ready))
            .route("/metrics", get(render))
            .with_state(self)
    }

    /// Serves the routes until `stop`. Returns the address, which matters when the port was 0.
    pub async fn serve(self, addr: SocketAddr, stop: CancellationToken) -> anyhow::Result<SocketAddr> {
        let listener = TcpListener::bind(addr)
            .await
            .with_context(|| format!("IRIS_ADMIN_ADDR: cannot listen on {addr}"))?;
        let addr = listener.local_addr()?;
        let metrics = self.metrics.clone();
        let upkeep = stop.clone();
        tokio::spawn(async move {
            while tokio::time::timeout(UPKEEP, upkeep.cancelled()).await.is_err() {
                metrics.run_upkeep();
            }
        });
        tokio::spawn(async move {
            let served =
                axum::serve(listener, self.router()).with_graceful_shutdown(stop.cancelled_owned()).await;
            if let Err(error) = served {
                tracing::error!(%error, "the admin address is no longer served");
            }
        });
        tracing::info!(%addr, "admin address");
        Ok(addr)
    }
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    let applied = tokio::time::timeout(READY_DEADLINE, db::applied_migration(admin.database.pool())).await;
    match applied {
        Ok(Ok(version)) if version >= db::newest_migration() => {}
        Ok(Ok(_)) => return (StatusCode::SERVICE_UNAVAILABLE, "migrations are not applied"),
        Ok(Err(_)) | Err(_) => return (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer"),
    }
    if (admin.is_ready)() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready yet")
    }
}

async fn render(State(admin): State<Admin>) -> String {
    admin.metrics.render()
}
