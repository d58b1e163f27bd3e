//! What every handler can reach.

use std::{sync::Arc, time::Duration};

use shared::{Clock, Database, domain::endpoint_url::AllowList, secrets::SecretKey};
use sqlx::{Postgres, pool::PoolConnection};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::streams::Places;

/// The state of the API; cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    /// Where everything is kept.
    pub database: Database,
    /// The time, for signatures and send windows.
    pub clock: Clock,
    /// What seals and opens stored secrets.
    pub secret_key: SecretKey,
    /// How long the history of webhooks is kept.
    pub history_keep: Duration,
    /// Which private addresses webhooks may go to.
    pub webhook_allow: Arc<AllowList>,
    /// Whether requests are counted, and refused when they are too many.
    pub rate_limits: bool,
    /// A place for each request with a key that may run at once.
    pub requests: Arc<Semaphore>,
    /// A place for each request that anybody may make, so that these take none from callers with a key.
    pub public_requests: Arc<Semaphore>,
    /// A KiB for each KiB of body that may be in memory at once, as bytes.
    pub body_memory: Arc<Semaphore>,
    /// A KiB for each KiB that the values in those bodies may take once they are parsed.
    pub value_memory: Arc<Semaphore>,
    /// A KiB for each KiB of inbound mail that may be in memory at once.
    pub mail_memory: Arc<Semaphore>,
    /// A place for each event stream that may be open at once.
    pub streams: Places,
    /// Cancelled when the server stops to take requests.
    pub shutdown: CancellationToken,
}

impl App {
    /// A connection for reads that need no transaction.
    pub async fn connection(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        self.database.pool().acquire().await
    }
}
