//! What is set for a lane: its cap, its rate, and whether it is open. One row; no job is touched.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::{Error, Wake};

/// The limits of a lane, over all replicas.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// How many of its jobs may run at once.
    pub cap: Option<i32>,
    /// How many of its jobs may start in a second.
    pub per_second: Option<f64>,
}

/// Sets the limits of a lane, in the caller's transaction. Jobs that run already count for a new cap.
pub async fn limit(conn: &mut PgConnection, queue: &str, lane: &str, limits: Limits) -> Result<(), Error> {
    sqlx::query(
        "with counted as (
            update queue.running set capped = true where queue = $1 and lane = $2 and not capped
         )
         insert into queue.lanes (queue, lane, cap, per_second) values ($1, $2, $3, $4)
         on conflict (queue, lane) do update set cap = $3, per_second = $4, updated_at = now()",
    )
    .bind(queue)
    .bind(lane)
    .bind(limits.cap)
    .bind(limits.per_second)
    .execute(conn)
    .await?;
    Ok(())
}

/// Closes a lane for a while, with the reason that its waiting work shows. A later end wins over an earlier one.
pub async fn close(
    conn: &mut PgConnection,
    queue: &str,
    lane: &str,
    delay: Duration,
    reason: &str,
) -> Result<DateTime<Utc>, Error> {
    let until: (DateTime<Utc>,) = sqlx::query_as(
        "insert into queue.lanes (queue, lane, closed_until, reason) values ($1, $2, now() + make_interval(secs => $3), $4)
         on conflict (queue, lane) do update set reason = case when lanes.closed_until > excluded.closed_until then lanes.reason else $4 end,
            closed_until = greatest(lanes.closed_until, excluded.closed_until), updated_at = now()
         returning closed_until",
    )
    .bind(queue)
    .bind(lane)
    .bind(delay.as_secs_f64())
    .bind(reason)
    .fetch_one(conn)
    .await?;
    Ok(until.0)
}

/// Opens a lane that was closed.
pub async fn open(conn: &mut PgConnection, queue: &str, lane: &str) -> Result<Wake, Error> {
    sqlx::query(
        "update queue.lanes set closed_until = null, reason = null, updated_at = now() where queue = $1 and lane = $2",
    )
    .bind(queue)
    .bind(lane)
    .execute(conn)
    .await?;
    Ok(Wake::of(&[queue.to_owned()]))
}

/// Pauses or resumes a lane; a paused one stays so until it is resumed.
pub async fn pause(conn: &mut PgConnection, queue: &str, lane: &str, paused: bool) -> Result<Wake, Error> {
    sqlx::query(
        "insert into queue.lanes (queue, lane, paused) values ($1, $2, $3)
         on conflict (queue, lane) do update set paused = $3, updated_at = now()",
    )
    .bind(queue)
    .bind(lane)
    .bind(paused)
    .execute(conn)
    .await?;
    Ok(Wake::of(&[queue.to_owned()]))
}

/// Pauses or resumes a whole queue, over all replicas. What runs goes on.
pub async fn pause_queue(conn: &mut PgConnection, queue: &str, paused: bool) -> Result<Wake, Error> {
    pause(conn, queue, WHOLE_QUEUE, paused).await
}

/// The lane whose row is about the whole queue: no job can be in it, for names are not empty.
const WHOLE_QUEUE: &str = "";

/// Sets how much of the slots a tenant gets beside the others: 1 (the default) to 100.
pub async fn weigh(conn: &mut PgConnection, tenant: &str, weight: i32) -> Result<(), Error> {
    sqlx::query(
        "insert into queue.tenants (tenant, weight) values ($1, $2) on conflict (tenant) do update set weight = $2",
    )
    .bind(tenant)
    .bind(weight)
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets a lane that no longer exists.
pub async fn remove(conn: &mut PgConnection, queue: &str, lane: &str) -> Result<(), Error> {
    sqlx::query("delete from queue.lanes where queue = $1 and lane = $2")
        .bind(queue)
        .bind(lane)
        .execute(conn)
        .await?;
    Ok(())
}
