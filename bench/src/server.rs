//! The database of a benchmark.

use std::time::Duration;

use anyhow::Context;
use embedded::{Throwaway, start_throwaway_with};
use sqlx::{PgPool, postgres::PgPoolOptions};

/// The settings in which the server differs from PostgreSQL's own. Nothing here makes it less durable.
const CONFIG: [(&str, &str); 2] = [("shared_buffers", "512MB"), ("max_wal_size", "4GB")];

/// A private PostgreSQL and connections to it.
pub struct Server {
    throwaway: Throwaway,
    /// For setting up and looking; what is measured has connections of its own.
    pub pool: PgPool,
}

impl Server {
    pub async fn start() -> anyhow::Result<Self> {
        let throwaway = tokio::task::spawn_blocking(|| start_throwaway_with(&CONFIG))
            .await?
            .context("the benchmark's PostgreSQL")?;
        let pool = PgPoolOptions::new()
            .max_connections(16)
            .acquire_timeout(Duration::from_secs(10))
            .connect(throwaway.url())
            .await?;
        Ok(Self { throwaway, pool })
    }

    pub fn url(&self) -> &str {
        self.throwaway.url()
    }

    /// How many bytes of write-ahead log there have been.
    pub async fn wal_bytes(&self) -> anyhow::Result<f64> {
        let query = sqlx::query_scalar("select (pg_current_wal_insert_lsn() - '0/0')::float8");
        Ok(query.fetch_one(&self.pool).await?)
    }
}
