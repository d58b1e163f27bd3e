//! The database's own limit: `bench/queue/reference.sql`, run by as many connections as serve it best.

use std::time::Instant;

use anyhow::Context;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::task::JoinSet;

use crate::server::Server;

const SQL: &str = include_str!("../../queue/reference.sql");
/// Below this a machine of two cores is busy with something else, and ratios mean little.
pub const QUIET_MIN: f64 = 70_000.0;

/// The statement of that name.
pub fn statement(name: &str) -> anyhow::Result<AssertSqlSafe<String>> {
    let heading = format!("-- name: {name}\n");
    let rest = SQL.split_once(&heading).with_context(|| format!("no statement {name}"))?.1;
    Ok(AssertSqlSafe(rest.split("\n-- name:").next().unwrap_or(rest).trim().to_owned()))
}

/// Jobs per second of the best of 1, 2 and 4 connections.
pub async fn drain(server: &Server, jobs: u32) -> anyhow::Result<f64> {
    let mut best: f64 = 0.0;
    for connections in [1, 2, 4] {
        best = best.max(drain_by(&server.pool, jobs, connections).await?);
    }
    Ok(best)
}

async fn drain_by(pool: &PgPool, jobs: u32, connections: u32) -> anyhow::Result<f64> {
    for name in ["drop", "create", "index"] {
        sqlx::query(statement(name)?).execute(pool).await?;
    }
    sqlx::query(statement("fill")?).bind(i64::from(jobs)).bind(r#"{"n":123456}"#).execute(pool).await?;
    sqlx::query(statement("vacuum")?).execute(pool).await?;
    let started = Instant::now();
    let mut claimers = JoinSet::new();
    for _ in 0..connections {
        claimers.spawn(claim_all(pool.clone()));
    }
    while let Some(ended) = claimers.join_next().await {
        ended??;
    }
    Ok(f64::from(jobs) / started.elapsed().as_secs_f64())
}

async fn claim_all(pool: PgPool) -> anyhow::Result<()> {
    let mut conn = pool.acquire().await?;
    loop {
        let claimed: Vec<(i64, String)> = sqlx::query_as(statement("claim")?).fetch_all(&mut *conn).await?;
        if claimed.is_empty() {
            return Ok(());
        }
        let ids: Vec<i64> = claimed.into_iter().map(|(id, _)| id).collect();
        sqlx::query(statement("done")?).bind(ids).execute(&mut *conn).await?;
    }
}
