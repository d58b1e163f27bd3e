//! How much waits where, for gauges and for people.

use std::collections::BTreeSet;

use metrics::gauge;
use serde::Serialize;
use sqlx::{FromRow, PgConnection};

/// The jobs of one queue, as they were counted last: at most ten seconds ago, or fifty times as long as counting takes.
#[derive(Debug, Clone, Default, PartialEq, FromRow, Serialize)]
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
    /// The same over the lanes that are at their cap or rate.
    pub oldest_throttled_seconds: Option<f64>,
    /// The same over those that are closed for a while.
    pub oldest_closed_seconds: Option<f64>,
    /// The same over those that are paused.
    pub oldest_paused_seconds: Option<f64>,
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

/// How many lanes [`oldest_waiting`] looks at.
const LANES_MAX: i32 = 10_000;

/// The lanes of a queue that wait for the same thing, and the oldest of the jobs at their heads.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct Oldest {
    /// What they wait for: `ready` for a slot, `again` for the time of a retry or for a slot after it, `throttled` for a place
    /// under a cap or rate or in an ordered lane, `closed` for the lane to open, `paused` for a person.
    pub state: String,
    /// Why the lanes are closed.
    pub reason: Option<String>,
    /// How many lanes with ready jobs that are.
    pub lanes: i64,
    /// For how many seconds the oldest of the jobs has existed.
    pub seconds: Option<f64>,
}

/// What waits longest in a queue, by what it waits for; a state that no lane is in may be left out. Costs a few look-ups for each of
/// up to ten thousand lanes, however many jobs there are: of each lane only the first ten are looked at.
pub async fn oldest_waiting(conn: &mut PgConnection, queue: &str) -> Result<Vec<Oldest>, sqlx::Error> {
    sqlx::query_as(
        "select state, reason, lanes, extract(epoch from clock_timestamp() - oldest)::float8 as seconds
         from queue.oldest_waiting($1, $2)",
    )
    .bind(queue)
    .bind(LANES_MAX)
    .fetch_all(conn)
    .await
}

/// The gauges of this process.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    /// The queues that have gauges.
    known: BTreeSet<String>,
}

impl Gauges {
    /// Sets the gauges to the depths. A queue that has gone stands at nothing, not at what it last had.
    pub(crate) fn set(&mut self, depths: &[Depth]) {
        let present: BTreeSet<String> = depths.iter().map(|depth| depth.queue.clone()).collect();
        for gone in self.known.difference(&present) {
            set(&Depth { queue: gone.clone(), claimed: true, ..Depth::default() });
        }
        depths.iter().for_each(set);
        self.known.extend(present);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn set(depth: &Depth) {
    let jobs = [
        ("ready", depth.ready),
        ("throttled", depth.throttled),
        ("closed", depth.closed),
        ("paused", depth.paused),
        ("running", depth.running),
        ("timer", depth.timers),
        ("held", depth.held),
        ("dead", depth.dead),
    ];
    for (state, count) in jobs {
        gauge!("queue_jobs", "queue" => depth.queue.clone(), "state" => state).set(count as f64);
    }
    let ages = [
        ("open", depth.oldest_open_seconds),
        ("throttled", depth.oldest_throttled_seconds),
        ("closed", depth.oldest_closed_seconds),
        ("paused", depth.oldest_paused_seconds),
        ("all", depth.oldest_seconds),
    ];
    for (lanes, seconds) in ages {
        gauge!("queue_oldest_ready_seconds", "queue" => depth.queue.clone(), "lanes" => lanes)
            .set(seconds.unwrap_or(0.0));
    }
    gauge!("queue_unclaimed", "queue" => depth.queue.clone()).set(f64::from(u8::from(!depth.claimed)));
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn a_queue_that_has_gone_stands_at_nothing() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let mut gauges = Gauges::default();
        let depth = Depth {
            queue: "mail".into(),
            ready: 3,
            paused: 2,
            oldest_paused_seconds: Some(7.5),
            ..Depth::default()
        };
        let shown = |gauges: &mut Gauges, depths: &[Depth]| {
            metrics::with_local_recorder(&recorder, || gauges.set(depths));
            recorder.handle().render()
        };
        let text = shown(&mut gauges, &[depth]);
        for line in [
            r#"queue_jobs{queue="mail",state="ready"} 3"#,
            r#"queue_jobs{queue="mail",state="paused"} 2"#,
            r#"queue_oldest_ready_seconds{queue="mail",lanes="paused"} 7.5"#,
            r#"queue_unclaimed{queue="mail"} 1"#,
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in {text}");
        }
        let text = shown(&mut gauges, &[]);
        let values: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("mail"))
            .filter_map(|line| line.rsplit(' ').next())
            .collect();
        assert!(values.len() == 14 && values.iter().all(|value| *value == "0"), "{text}");
    }
}
