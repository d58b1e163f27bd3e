//! The database of a benchmark.

use std::time::Duration;

use anyhow::Context;
use embedded::{Throwaway, start_throwaway_with};
use sqlx::{PgPool, postgres::PgPoolOptions};

use crate::process;

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
        Self::start_with(&[]).await
    }

    /// The same with more settings.
    pub async fn start_with(config: &[(&'static str, &'static str)]) -> anyhow::Result<Self> {
        let config = [&CONFIG[..], config].concat();
        let throwaway = tokio::task::spawn_blocking(move || start_throwaway_with(&config))
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

    /// Makes a database for one part of a benchmark, in place of that of the part before; its address.
    pub async fn create_database(&self) -> anyhow::Result<String> {
        for sql in ["drop database if exists part with (force)", "create database part"] {
            sqlx::query(sql).execute(&self.pool).await?;
        }
        let url = self.url().replacen("/postgres?", "/part?", 1);
        anyhow::ensure!(url != self.url(), "the server's address names no database");
        Ok(url)
    }

    /// How long all of the server's processes have computed.
    pub async fn cpu(&self) -> anyhow::Result<Duration> {
        let backend: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&self.pool).await?;
        let server = process::parent(u32::try_from(backend)?);
        Ok(server.map_or(Duration::ZERO, process::cpu_of_family))
    }

    /// How many bytes of write-ahead log there have been.
    pub async fn wal_bytes(&self) -> anyhow::Result<f64> {
        let query = sqlx::query_scalar("select (pg_current_wal_insert_lsn() - '0/0')::float8");
        Ok(query.fetch_one(&self.pool).await?)
    }
}
