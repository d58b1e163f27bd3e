//! How much waits where, for gauges and for people.

use serde::Serialize;
use sqlx::{FromRow, PgConnection};

/// The jobs of one queue, as they were counted last: at most ten seconds ago, or fifty times as long as counting takes.
#[derive(Debug, Clone, PartialEq, FromRow, Serialize)]
pub struct Depth {
    /// The queue.
    pub queue: String,
    /// Jobs that could run but for their lane, and those below.
    pub ready: i64,
    /// Of the ready ones, those in a lane that is at its cap or rate.
    pub throttled: i64,
    /// Those in a lane that is closed for a while.
    pub closed: i64,
    /// Those in a lane, or a queue, that is paused.
    pub paused: i64,
    /// Claimed.
    pub running: i64,
    /// Timers and retries.
    pub timers: i64,
    /// Jobs of held groups.
    pub held: i64,
    /// Waiting for a person.
    pub dead: i64,
    /// The age in seconds of the oldest ready job in an open lane.
    pub oldest_open_seconds: Option<f64>,
    /// The same over all lanes.
    pub oldest_seconds: Option<f64>,
    /// Whether a live process claims jobs of this kind.
    pub claimed: bool,
}

/// The depth of every queue that has jobs or a process, by name.
pub async fn depths(conn: &mut PgConnection) -> Result<Vec<Depth>, sqlx::Error> {
    let (may_count,): (bool,) =
        sqlx::query_as("select queue.may_count_depths()").fetch_one(&mut *conn).await?;
    if may_count {
        sqlx::query("select queue.count_depths()").execute(&mut *conn).await?;
    }
    sqlx::query_as("select * from queue.depths order by queue").fetch_all(conn).await
}

/// Sets the gauges of this process to the depths.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub(crate) fn export(depths: &[Depth]) {
    for depth in depths {
        let set = |state: &'static str, count: i64| {
            metrics::gauge!("queue_jobs", "queue" => depth.queue.clone(), "state" => state).set(count as f64);
        };
        set("ready", depth.ready);
        set("throttled", depth.throttled);
        set("closed", depth.closed);
        set("paused", depth.paused);
        set("running", depth.running);
        set("timer", depth.timers);
        set("held", depth.held);
        set("dead", depth.dead);
        let age = |lanes: &'static str, seconds: Option<f64>| {
            metrics::gauge!("queue_oldest_ready_seconds", "queue" => depth.queue.clone(), "lanes" => lanes)
                .set(seconds.unwrap_or(0.0));
        };
        age("open", depth.oldest_open_seconds);
        age("all", depth.oldest_seconds);
        metrics::gauge!("queue_unclaimed", "queue" => depth.queue.clone()).set(if depth.claimed {
            0.0
        } else {
            1.0
        });
    }
}
