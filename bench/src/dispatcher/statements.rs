//! Which statements the time of the database goes to, by pg_stat_statements.

use shared::Database;
use sqlx::FromRow;

use super::stage::Stage;
use crate::{report::Report, server::Server};

/// What a server needs to know that is to tell.
pub const CONFIG: [(&str, &str); 2] =
    [("shared_preload_libraries", "pg_stat_statements"), ("pg_stat_statements.track", "all")];
/// How many statements are told of.
const STATEMENTS_MAX: i64 = 25;
/// How much of a statement is shown.
const TEXT_CHARS_MAX: i32 = 110;

/// Lets the server count from now on, if it was started with [`CONFIG`].
pub async fn prepare(server: &Server, database: &Database) -> anyhow::Result<()> {
    if is_counting(server).await? {
        for sql in ["create extension if not exists pg_stat_statements", "select pg_stat_statements_reset()"]
        {
            sqlx::query(sql).execute(database.pool()).await?;
        }
    }
    Ok(())
}

async fn is_counting(server: &Server) -> anyhow::Result<bool> {
    let query = "select current_setting('shared_preload_libraries') like '%pg_stat_statements%'";
    Ok(sqlx::query_scalar(query).fetch_one(&server.pool).await?)
}

/// One statement.
#[derive(FromRow)]
struct Statement {
    /// Whether a client sent it; otherwise a function ran it, and its time is part of that of another one.
    toplevel: bool,
    calls: i64,
    total_ms: f64,
    mean_ms: f64,
    text: String,
}

/// Adds the statements that took longest to the notes.
pub async fn note(
    server: &Server,
    stage: &Stage,
    report: &mut Report,
    deliveries: usize,
) -> anyhow::Result<()> {
    if !is_counting(server).await? {
        return Ok(());
    }
    let statements: Vec<Statement> = sqlx::query_as(
        "select toplevel, calls, total_exec_time as total_ms, mean_exec_time as mean_ms,
            left(regexp_replace(query, '\\s+', ' ', 'g'), $1) as text
         from pg_stat_statements where dbid = (select oid from pg_database where datname = current_database())
         order by total_exec_time desc, queryid limit $2",
    )
    .bind(TEXT_CHARS_MAX)
    .bind(STATEMENTS_MAX)
    .fetch_all(stage.database.pool())
    .await?;
    report.note(format!("{:>12} {:>9} {:>9}  statement", "us/delivery", "calls", "ms/call"));
    for Statement { toplevel, calls, total_ms, mean_ms, text } in statements {
        #[expect(clippy::cast_precision_loss, reason = "a count of deliveries")]
        let each_us = total_ms * 1000.0 / deliveries.max(1) as f64;
        let within = if toplevel { "" } else { "(within another) " };
        report.note(format!("{each_us:>12.1} {calls:>9} {mean_ms:>9.2}  {within}{text}"));
    }
    Ok(())
}
