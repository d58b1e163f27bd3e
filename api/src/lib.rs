//! The HTTP API of iris.
//!
//! A request passes the layers of `request.rs` (id, log line, panic) and `operation.rs` (room, credential, limits,
//! scope, deadline), then a handler in `routes/`: it takes what `extract/` gives it, makes one or two calls to `shared::db` or
//! `shared::engine` in one transaction, and returns an envelope. Whatever fails becomes an [`error::ApiError`]. Start
//! reading at `router.rs`, which has one line per operation.

mod app;
mod auth;
mod config;
mod envelope;
pub mod error;
mod extract;
mod limits;
mod openapi;
mod operation;
mod request;
mod router;
mod routes;
mod server;
mod streams;
mod wait;

use std::sync::Arc;

use anyhow::Context;
use shared::{Database, config::BaseConfig, mailbox::ensure_mailbox, telemetry::Admin};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use app::App;
pub use config::ApiConfig;
pub use openapi::openapi;
use streams::Places;

/// How much of requests' bodies may be in memory at once, and how much their values may take. Both are larger than what
/// the largest body takes, so that each gets its turn.
const BODY_MEMORY_KIBIBYTES: usize = 256 * 1024;
const VALUE_MEMORY_KIBIBYTES: usize = 256 * 1024;
/// How much inbound mail may be in memory at once.
const MAIL_MEMORY_KIBIBYTES: usize = 128 * 1024;
/// How many requests without a key may run at once.
const PUBLIC_REQUESTS_MAX: usize = 64;

/// Runs the API until `shutdown`, then finishes what is running.
pub async fn run(config: ApiConfig, base: BaseConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.api_addr)
        .await
        .with_context(|| format!("IRIS_API_ADDR: cannot listen on {}", config.api_addr))?;
    serve(listener, config, base, shutdown).await
}

/// [`run`] on a listener that is there already, so that its caller knows the port.
pub async fn serve(
    listener: TcpListener,
    config: ApiConfig,
    base: BaseConfig,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let database = Database::connect(&base.database_url, "iris-api", base.database_connections)
        .context("DATABASE_URL is not the address of a PostgreSQL")?;
    let draining = shutdown.clone();
    Admin::new(database.clone(), move || !draining.is_cancelled())?
        .serve(base.admin_addr, shutdown.clone())
        .await?;
    let app = App {
        database: database.clone(),
        clock: base.clock(),
        secret_key: base.secret_key.clone(),
        history_keep: base.history_keep,
        webhook_allow: Arc::new(base.webhook_allow.clone()),
        rate_limits: config.api_rate_limits,
        requests: Arc::new(Semaphore::new(config.api_requests_max.get() as usize)),
        public_requests: Arc::new(Semaphore::new(PUBLIC_REQUESTS_MAX)),
        body_memory: Arc::new(Semaphore::new(BODY_MEMORY_KIBIBYTES)),
        value_memory: Arc::new(Semaphore::new(VALUE_MEMORY_KIBIBYTES)),
        mail_memory: Arc::new(Semaphore::new(MAIL_MEMORY_KIBIBYTES)),
        streams: Places::new(config.api_streams_max.get() as usize),
        shutdown: shutdown.clone(),
    };
    let mailbox = tokio::spawn({
        let (database, base) = (database.clone(), base.clone());
        shutdown.clone().run_until_cancelled_owned(async move {
            ensure_mailbox(&database, &base.secret_key, &base.mailbox).await;
        })
    });
    tracing::info!(addr = %listener.local_addr()?, "the API listens");
    let connections_max = config.api_connections_max.get() as usize;
    let router = router::router(&app, config.public_url.as_ref());
    server::serve(listener, router, connections_max, shutdown, base.shutdown).await;
    mailbox.abort();
    database.close().await;
    Ok(())
}
