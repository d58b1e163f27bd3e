//! Cancel, hold and release every job of a group and of the groups below it.

use sqlx::PgConnection;

use crate::{Error, Wake};

/// Cancels all jobs of the group `prefix` and below, in the caller's transaction. What waits is removed; what runs is
/// told by its cancellation token; what moves between tables meanwhile, or is enqueued later by a job of before, is
/// stopped by the raised epoch. Returns how many waiting jobs were removed.
pub async fn cancel(conn: &mut PgConnection, prefix: &str) -> Result<(u64, Wake), Error> {
    cancel_many(conn, &[prefix]).await
}

/// The same for many groups by one statement.
pub async fn cancel_many(conn: &mut PgConnection, prefixes: &[&str]) -> Result<(u64, Wake), Error> {
    let (removed,): (i64,) = sqlx::query_as("select queue.cancel($1)").bind(prefixes).fetch_one(conn).await?;
    Ok((u64::try_from(removed).unwrap_or_default(), Wake::groups()))
}

/// Holds all jobs of the group and below: what is due waits, what runs goes on. Timers keep their time.
pub async fn hold(conn: &mut PgConnection, prefix: &str) -> Result<(), Error> {
    sqlx::query("select queue.hold($1)").bind(prefix).execute(conn).await?;
    Ok(())
}

/// Releases what [`hold`] held: jobs that became due meanwhile may run now.
pub async fn release(conn: &mut PgConnection, prefix: &str) -> Result<Wake, Error> {
    let (queues,): (Vec<String>,) =
        sqlx::query_as("select queue.release($1)").bind(prefix).fetch_one(conn).await?;
    Ok(Wake::of(&queues))
}
