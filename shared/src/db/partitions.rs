//! The partitions of the history tables.

use sqlx::{FromRow, PgConnection};

/// The history tables.
pub const TABLES: [&str; 3] = ["attempts", "deliveries", "events"];
/// Beyond this many the exact number of strays says nothing new.
const STRAYS_MAX: i64 = 10_000;

/// How many rows of a table lie in its DEFAULT partition, outside all days.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Strays {
    /// The table.
    pub table: String,
    /// How many, counted to ten thousand.
    pub rows: i32,
}

/// Makes the daily partitions of a history table from today to `days` ahead, and returns how many were missing. A
/// transaction for each table: until its end, what is written outside all days waits.
pub async fn ensure(conn: &mut PgConnection, table: &str, days: i32) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("select ensure_partitions($1, $2)").bind(table).bind(days).fetch_one(conn).await
}

/// How many rows each history table has outside its partitions; it should be none.
pub async fn count_strays(conn: &mut PgConnection) -> Result<Vec<Strays>, sqlx::Error> {
    sqlx::query_as(
        "select 'events' as table, (select count(*) from (select from events_default limit $1) t)::int4 as rows
         union all select 'deliveries', (select count(*) from (select from deliveries_default limit $1) t)::int4
         union all select 'attempts', (select count(*) from (select from attempts_default limit $1) t)::int4
         order by 1",
    )
    .bind(STRAYS_MAX)
    .fetch_all(conn)
    .await
}
