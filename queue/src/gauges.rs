//! How much waits where, for gauges and for people.

use sqlx::{FromRow, PgConnection};

/// The jobs of one queue by table.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct Depth {
    /// The queue.
    pub queue: String,
    /// Claimable, or in a lane that is full, paused or closed.
    pub ready: i64,
    /// Timers, retries and held jobs.
    pub deferred: i64,
    /// Claimed.
    pub running: i64,
    /// Waiting for a person.
    pub dead: i64,
    /// The age in seconds of the oldest ready job.
    pub oldest_ready_seconds: Option<f64>,
}

/// The depth of every queue that has jobs, by name. Counts the rows: for a look every few seconds, not for a hot path.
pub async fn depths(conn: &mut PgConnection) -> Result<Vec<Depth>, sqlx::Error> {
    sqlx::query_as(
        "select queue, sum(ready)::int8 as ready, sum(deferred)::int8 as deferred, sum(running)::int8 as running,
            sum(dead)::int8 as dead, max(oldest)::float8 as oldest_ready_seconds
         from (
            select queue, count(*) as ready, 0 as deferred, 0 as running, 0 as dead,
                extract(epoch from now() - min(rank - priority * interval '1 minute')) as oldest from queue.ready group by queue
            union all select queue, 0, count(*), 0, 0, null from queue.deferred group by queue
            union all select queue, 0, 0, count(*), 0, null from queue.running group by queue
            union all select queue, 0, 0, 0, count(*), null from queue.dead group by queue
         ) counts group by queue order by queue",
    )
    .fetch_all(conn)
    .await
}
