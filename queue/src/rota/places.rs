//! Where lanes stand while looks are slow, told from process to process.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{FromRow, PgConnection};

/// How far behind that a lane is claimed from where it stands, for what commits later than its neighbours: in a claim of its
/// whole tail, and in the others, which come so often that what is dead there would be walked over again and again. What comes
/// further ahead of it waits for the next look.
const LAG: Duration = Duration::from_secs(10);
const SHORT_LAG: Duration = Duration::from_millis(200);
/// How long after a claim of a lane's tail there is no other, unless the lane is named.
const TAIL_PAUSE: Duration = Duration::from_secs(1);
/// The most lanes that are told.
const LANES_MAX: usize = 5000;

/// Where a lane stands: before these places there is nothing in it that was there when it was claimed from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stand {
    /// The place of its first job, or of the last one that was claimed.
    pub(crate) last: DateTime<Utc>,
    /// The place that a job without priority was given then.
    pub(crate) now: DateTime<Utc>,
}

impl Stand {
    /// From which place on the lane is claimed, when no job that comes is put further ahead than `ahead`, and its whole tail
    /// was claimed from at `tail_at`, which is renewed.
    pub(crate) fn begin(self, ahead: TimeDelta, tail_at: &mut Option<Instant>) -> DateTime<Utc> {
        let now = Instant::now();
        if tail_at.is_some_and(|at| now.saturating_duration_since(at) < TAIL_PAUSE) {
            return self.place(ahead) - SHORT_LAG;
        }
        *tail_at = Some(now);
        self.place(ahead) - LAG
    }

    fn place(self, ahead: TimeDelta) -> DateTime<Utc> {
        self.last.min(self.now - ahead)
    }
}

/// Where the lanes of a queue stood.
#[derive(Debug, Default)]
pub(crate) struct Places {
    tenants: Vec<String>,
    weights: Vec<i32>,
    lanes: Vec<String>,
    stands: Vec<DateTime<Utc>>,
    ahead: TimeDelta,
}

#[derive(FromRow)]
struct Row {
    tenants: Vec<String>,
    weights: Vec<i32>,
    lanes: Vec<String>,
    places: Vec<DateTime<Utc>>,
    /// For how long they are valid, in seconds.
    left: f64,
}

impl Places {
    /// None yet; no job that comes is put further ahead than `ahead`.
    pub(crate) fn new(ahead: TimeDelta) -> Self {
        Self { ahead, ..Self::default() }
    }

    pub(crate) fn add(&mut self, tenant: &str, weight: usize, lane: &str, stand: Stand) {
        if self.lanes.len() < LANES_MAX {
            self.tenants.push(tenant.to_owned());
            self.weights.push(i32::try_from(weight).unwrap_or(1));
            self.lanes.push(lane.to_owned());
            self.stands.push(stand.place(self.ahead));
        }
    }

    /// Tells them, for as long as nobody has to look again.
    pub(crate) async fn publish(
        &self,
        conn: &mut PgConnection,
        queue: &str,
        valid: Duration,
    ) -> Result<(), sqlx::Error> {
        if self.lanes.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "with old as (
                delete from queue.places where queue = $1 and at < clock_timestamp() - interval '5 minutes'
            )
            insert into queue.places (queue, until, tenants, weights, lanes, places)
            values ($1, clock_timestamp() + make_interval(secs => $2), $3, $4, $5, $6) on conflict do nothing",
        )
        .bind(queue)
        .bind(valid.as_secs_f64())
        .bind(&self.tenants)
        .bind(&self.weights)
        .bind(&self.lanes)
        .bind(&self.stands)
        .execute(conn)
        .await?;
        Ok(())
    }

    /// What somebody told last, and for how long it is valid; `None` if that time is over.
    pub(crate) async fn read(
        conn: &mut PgConnection,
        queue: &str,
    ) -> Result<Option<(Self, Duration)>, sqlx::Error> {
        let told: Option<Row> = sqlx::query_as(
            "select tenants, weights, lanes, places, extract(epoch from until - clock_timestamp())::float8 as left
             from queue.places where queue = $1 order by at desc limit 1",
        )
        .bind(queue)
        .fetch_optional(conn)
        .await?;
        Ok(told.filter(|row| row.left > 0.0).map(|row| {
            let Row { tenants, weights, lanes, places, left } = row;
            let ahead = TimeDelta::zero();
            (Self { tenants, weights, lanes, stands: places, ahead }, Duration::from_secs_f64(left))
        }))
    }

    /// The lanes as (tenant, weight, lane, where it stands).
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, usize, &str, Stand)> {
        let lanes = self.tenants.iter().zip(&self.weights).zip(self.lanes.iter().zip(&self.stands));
        lanes.map(|((tenant, weight), (lane, place))| {
            let stand = Stand { last: *place, now: *place };
            (tenant.as_str(), usize::try_from(*weight).unwrap_or(1), lane.as_str(), stand)
        })
    }
}
