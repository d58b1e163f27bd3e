//! The partitions of the history tables.

use std::time::Duration;

use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

/// The history tables, in the order in which what they keep of a day goes: nothing is shown without what belongs to it.
pub const TABLES: [&str; 3] = ["deliveries", "attempts", "events"];
/// The history table whose rows may still have something ahead of them.
pub const DELIVERIES: &str = TABLES[0];
/// Beyond this many the exact number of strays says nothing new.
const STRAYS_MAX: i64 = 10_000;
/// More days of a table than this are not looked at in one go.
const DAYS_MAX: i64 = 1000;

/// How many rows of a table lie in its DEFAULT partition, outside all days.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Strays {
    /// The table.
    pub table: String,
    /// How many, counted to ten thousand.
    pub rows: i32,
}

/// The deliveries to an endpoint that one call of [`expire_deliveries`] ended.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Expired {
    /// Whose they were.
    pub account_id: Uuid,
    /// To whom they should have gone.
    pub endpoint_id: Uuid,
    /// How many.
    pub deliveries: i64,
}

/// Makes the daily partitions of a history table from today to `days` ahead, and returns how many were missing. A
/// transaction for each table: until its end, what is written outside all days waits.
pub async fn ensure(conn: &mut PgConnection, table: &str, days: i32) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("select ensure_partitions($1, $2)").bind(table).bind(days).fetch_one(conn).await
}

/// The days of a history table that ended `age` ago or earlier, by the names of their partitions, the oldest first.
pub async fn list_ended(
    conn: &mut PgConnection,
    table: &str,
    age: Duration,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "select c.relname::text
         from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = to_regclass($1)
            and case when c.relname ~ '_[0-9]{8}$'
                then (to_date(right(c.relname, 8), 'YYYYMMDD') + 1)::timestamp at time zone 'utc'
                    <= now() - make_interval(secs => $2) end
         order by 1 limit $3",
    )
    .bind(table)
    .bind(age.as_secs_f64())
    .bind(DAYS_MAX)
    .fetch_all(conn)
    .await
}

/// Drops the partition of a day, in a transaction of its own; false if somebody used its table and it is there still.
pub async fn drop_day(conn: &mut PgConnection, partition: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select drop_partition($1)").bind(partition).fetch_one(conn).await
}

/// The partition of a history table that takes what lies outside all days.
pub fn default_of(table: &str) -> String {
    format!("{table}_default")
}

/// How many blocks a partition has.
pub async fn count_blocks(conn: &mut PgConnection, partition: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select coalesce(pg_relation_size(to_regclass($1)), 0) / current_setting('block_size')::bigint",
    )
    .bind(partition)
    .fetch_one(conn)
    .await
}

/// Cancels the deliveries in some blocks of a partition that were made `age` ago or earlier and are still pending, and says
/// whose they were. One whose attempt is being recorded just now is left for the next call.
pub async fn expire_deliveries(
    conn: &mut PgConnection,
    partition: &str,
    age: Duration,
    first_block: i64,
    blocks: i32,
) -> Result<Vec<Expired>, sqlx::Error> {
    sqlx::query_as(
        "select account_id, endpoint_id, deliveries
         from expire_deliveries($1, now() - make_interval(secs => $2), $3, $4)",
    )
    .bind(partition)
    .bind(age.as_secs_f64())
    .bind(first_block)
    .bind(blocks)
    .fetch_all(conn)
    .await
}

/// Deletes up to `rows` rows of a history table that were made `age` ago or earlier and lie outside all days. Returns how
/// many it were.
pub async fn delete_strays(
    conn: &mut PgConnection,
    table: &str,
    age: Duration,
    rows: i32,
) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("select delete_strays($1, now() - make_interval(secs => $2), $3)")
        .bind(table)
        .bind(age.as_secs_f64())
        .bind(rows)
        .fetch_one(conn)
        .await
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
