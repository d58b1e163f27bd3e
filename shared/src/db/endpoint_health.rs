//! What the deliveries taught about endpoints: how they answer, and their circuits.

use std::time::Duration;

use chrono::{DateTime, Utc};
use queue::lanes;
use rand::Rng;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::notifications;
use crate::{
    domain::{
        circuit::{CircuitPolicy, Standing, Verdict},
        endpoint::IN_FLIGHT_MAX,
    },
    jobs::Deliver,
};

/// What a batch of attempts taught about one endpoint.
#[derive(Debug, Clone)]
pub struct HealthChange {
    /// The account.
    pub account_id: Uuid,
    /// The endpoint.
    pub endpoint_id: Uuid,
    /// Whether any attempt of the batch succeeded.
    pub succeeded: bool,
    /// How many attempts failed after the last one that succeeded, or in all.
    pub failures: u32,
    /// When the first of those began, and the last.
    pub failing: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// Whether any of those was not answered in time.
    pub timed_out: bool,
    /// For how long the deliveries of an ordered endpoint wait for the first of them to be tried again.
    pub holds: Option<Duration>,
}

/// Why the lane of an endpoint whose circuit is open is closed.
pub const CIRCUIT_REASON: &str = "circuit";
/// Why the lane of an ordered endpoint whose first delivery failed is closed.
pub const RETRY_REASON: &str = "retry";
/// The `disabled_reason` of an endpoint that answered nothing with 2xx for too long.
const FAILING_REASON: &str = "failing";

/// An endpoint's health as it is stored.
#[derive(Debug, FromRow)]
struct Health {
    account_id: Uuid,
    endpoint_id: Uuid,
    /// Whether the endpoint is enabled and not deleted.
    enabled: bool,
    consecutive_failures: i32,
    failing_since: Option<DateTime<Utc>>,
    last_success_at: Option<DateTime<Utc>>,
    slow: bool,
    opened_at: Option<DateTime<Utc>>,
    probes: i32,
    probe_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
}

/// Records what attempts taught, opens and closes circuits, and disables what has failed for too long. One change per
/// endpoint. The lanes of those that are `gone`, which are disabled already, are opened. An endpoint that goes on succeeding is
/// written at most once a second; rows are locked in the order of their keys, and lanes after them, so that dispatchers never
/// deadlock. Returns what to wake, and which endpoints were disabled.
pub async fn record(
    conn: &mut PgConnection,
    changes: &[HealthChange],
    gone: &[Uuid],
    policy: &CircuitPolicy,
) -> Result<(queue::Wake, Vec<Uuid>), queue::Error> {
    let mut known = lock(conn, changes).await?;
    let mut effects = Effects::default();
    for health in &mut known {
        let change = changes.iter().find(|change| {
            (change.account_id, change.endpoint_id) == (health.account_id, health.endpoint_id)
        });
        if let Some(change) = change {
            let spread = rand::rng().random_range(-1.0..=1.0);
            effects.add(health.learn(change, policy, spread), health);
        }
    }
    store(conn, &known).await?;
    effects.lanes.extend(gone.iter().map(|id| (id.to_string(), OPEN)));
    let states: Vec<lanes::State<'_>> = effects
        .lanes
        .iter()
        .map(|(lane, pace)| lanes::State {
            lane,
            cap: Some(if pace.slow { 1 } else { IN_FLIGHT_MAX }),
            slow: pace.slow,
            closed: pace.closed,
        })
        .collect();
    let wake = lanes::set(conn, <Deliver as queue::JobKind>::QUEUE, &states).await?;
    let disabled = disable(conn, &effects.failed).await?;
    Ok((wake, disabled))
}

/// What follows from changes of health outside of their rows.
#[derive(Default)]
struct Effects {
    /// What the lanes are set to.
    lanes: Vec<(String, Pace)>,
    /// (account, endpoint) of those to be disabled.
    failed: Vec<(Uuid, Uuid)>,
}

impl Effects {
    fn add(&mut self, followed: Followed, health: &Health) {
        if !health.enabled {
            return;
        }
        match followed {
            Followed::Nothing => {}
            Followed::Lane(pace) => self.lanes.push((health.endpoint_id.to_string(), pace)),
            Followed::Disable => {
                self.lanes.push((health.endpoint_id.to_string(), OPEN));
                self.failed.push((health.account_id, health.endpoint_id));
            }
        }
    }
}

/// What follows from one change.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Followed {
    Nothing,
    /// The endpoint's lane is set to this.
    Lane(Pace),
    Disable,
}

/// How an endpoint's lane is served.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pace {
    /// One at a time, and only in the slots that slow lanes may have.
    slow: bool,
    /// Not at all for so long, and why.
    closed: Option<(Duration, &'static str)>,
}

/// The pace of the lane of an endpoint that is disabled: what waits there is cancelled when its turn comes.
const OPEN: Pace = Pace { slow: false, closed: None };

impl Health {
    /// Takes a change in, and says what follows.
    fn learn(&mut self, change: &HealthChange, policy: &CircuitPolicy, spread: f64) -> Followed {
        let (was_slow, was_open) = (self.slow, self.opened_at.is_some());
        if change.succeeded {
            self.last_success_at = Some(self.now);
            (self.consecutive_failures, self.failing_since, self.slow) = (0, None, false);
            (self.opened_at, self.probes, self.probe_at) = (None, 0, None);
        }
        self.consecutive_failures =
            self.consecutive_failures.saturating_add(i32::try_from(change.failures).unwrap_or(i32::MAX));
        self.failing_since = self.failing_since.or(change.failing.map(|(first, _)| first));
        self.slow |= change.timed_out;
        let tried = |probe_at: DateTime<Utc>| change.failing.is_some_and(|(_, last)| last >= probe_at);
        let standing = Standing {
            failures: self.consecutive_failures.unsigned_abs(),
            failing_for: self.failing_since.map(|since| (self.now - since).to_std().unwrap_or_default()),
            open: self.opened_at.map(|_| self.probes.unsigned_abs()),
            try_failed: self.probe_at.is_some_and(tried),
        };
        let held = change.holds.map(|hold| (hold, RETRY_REASON));
        match policy.judge(standing, spread) {
            Verdict::Pause(pause) => {
                let pause = pause.max(change.holds.unwrap_or_default());
                self.probes = if self.opened_at.is_some() { self.probes.saturating_add(1) } else { 0 };
                self.opened_at.get_or_insert(self.now);
                self.probe_at = Some(self.now + pause);
                Followed::Lane(Pace { slow: true, closed: Some((pause, CIRCUIT_REASON)) })
            }
            Verdict::Disable => Followed::Disable,
            Verdict::Closed if held.is_some() || was_open || was_slow != self.slow => {
                Followed::Lane(Pace { slow: self.slow, closed: held })
            }
            Verdict::Open | Verdict::Closed => Followed::Nothing,
        }
    }
}

/// Marks endpoints, given as (account, endpoint), as slow before a request to them has timed out, until a success: one at a
/// time, in half of the slots. Those whose circuit is open are served so already.
pub async fn mark_slow(conn: &mut PgConnection, endpoints: &[(Uuid, Uuid)]) -> Result<(), sqlx::Error> {
    let marked: Vec<(Uuid,)> = sqlx::query_as(
        "with fast as materialized (
            select h.account_id, h.endpoint_id
            from unnest($1::uuid[], $2::uuid[]) as t(account_id, endpoint_id)
            join endpoint_health h on h.account_id = t.account_id and h.endpoint_id = t.endpoint_id
            join endpoints e on e.account_id = t.account_id and e.id = t.endpoint_id
            where not h.slow and h.opened_at is null and e.enabled and e.deleted_at is null
            order by h.account_id, h.endpoint_id for no key update of h
        )
        update endpoint_health h set slow = true
        from fast f where h.account_id = f.account_id and h.endpoint_id = f.endpoint_id
        returning h.endpoint_id",
    )
    .bind(endpoints.iter().map(|(account_id, _)| *account_id).collect::<Vec<_>>())
    .bind(endpoints.iter().map(|(_, endpoint_id)| *endpoint_id).collect::<Vec<_>>())
    .fetch_all(&mut *conn)
    .await?;
    let lanes: Vec<String> = marked.into_iter().map(|(id,)| id.to_string()).collect();
    lanes::slow_down(conn, <Deliver as queue::JobKind>::QUEUE, &lanes, 1).await
}

/// How many circuits are open.
pub async fn count_open(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select count(*) from endpoint_health h
         join endpoints e on e.account_id = h.account_id and e.id = h.endpoint_id
         where h.opened_at is not null and e.enabled and e.deleted_at is null",
    )
    .fetch_one(conn)
    .await
}

/// Locks the rows of the endpoints that there is something to write about.
async fn lock(conn: &mut PgConnection, changes: &[HealthChange]) -> Result<Vec<Health>, sqlx::Error> {
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_as(
        "select h.account_id, h.endpoint_id, e.enabled and e.deleted_at is null as enabled,
            h.consecutive_failures, h.failing_since, h.last_success_at, h.slow, h.opened_at, h.probes, h.probe_at, now() as now
         from unnest($1::uuid[], $2::uuid[], $3::int4[]) as s(account_id, endpoint_id, failures)
         join endpoint_health h on h.account_id = s.account_id and h.endpoint_id = s.endpoint_id
         join endpoints e on e.account_id = s.account_id and e.id = s.endpoint_id
         where s.failures > 0 or h.consecutive_failures > 0 or h.slow or h.opened_at is not null
            or h.last_success_at is null or h.last_success_at < now() - interval '1 second'
         order by h.account_id, h.endpoint_id for no key update of h",
    )
    .bind(changes.iter().map(|change| change.account_id).collect::<Vec<_>>())
    .bind(changes.iter().map(|change| change.endpoint_id).collect::<Vec<_>>())
    .bind(changes.iter().map(|change| i32::try_from(change.failures).unwrap_or(i32::MAX)).collect::<Vec<_>>())
    .fetch_all(conn)
    .await
}

async fn store(conn: &mut PgConnection, known: &[Health]) -> Result<(), sqlx::Error> {
    if known.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update endpoint_health h
         set consecutive_failures = s.failures, failing_since = s.failing_since, last_success_at = s.last_success_at,
            slow = s.slow, opened_at = s.opened_at, probes = s.probes, probe_at = s.probe_at
         from unnest($1::uuid[], $2::uuid[], $3::int4[], $4::timestamptz[], $5::timestamptz[], $6::bool[], $7::timestamptz[],
            $8::int4[], $9::timestamptz[])
            as s(account_id, endpoint_id, failures, failing_since, last_success_at, slow, opened_at, probes, probe_at)
         where h.account_id = s.account_id and h.endpoint_id = s.endpoint_id",
    )
    .bind(known.iter().map(|health| health.account_id).collect::<Vec<_>>())
    .bind(known.iter().map(|health| health.endpoint_id).collect::<Vec<_>>())
    .bind(known.iter().map(|health| health.consecutive_failures).collect::<Vec<_>>())
    .bind(known.iter().map(|health| health.failing_since).collect::<Vec<_>>())
    .bind(known.iter().map(|health| health.last_success_at).collect::<Vec<_>>())
    .bind(known.iter().map(|health| health.slow).collect::<Vec<_>>())
    .bind(known.iter().map(|health| health.opened_at).collect::<Vec<_>>())
    .bind(known.iter().map(|health| health.probes).collect::<Vec<_>>())
    .bind(known.iter().map(|health| health.probe_at).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Disables endpoints, given as (account, endpoint), and tells their accounts. Returns which were enabled until now.
/// One that somebody is just changing is left until its next failure, for that one may wait for the row of its health.
async fn disable(conn: &mut PgConnection, failed: &[(Uuid, Uuid)]) -> Result<Vec<Uuid>, sqlx::Error> {
    if failed.is_empty() {
        return Ok(Vec::new());
    }
    let disabled: Vec<(Uuid, Uuid, String)> = sqlx::query_as(
        "with free as materialized (
            select e.account_id, e.id
            from unnest($1::uuid[], $2::uuid[]) as t(account_id, id)
            join endpoints e on e.account_id = t.account_id and e.id = t.id
            where e.enabled for no key update of e skip locked
        )
        update endpoints e set enabled = false, disabled_reason = $3, updated_at = now()
        from free f where e.account_id = f.account_id and e.id = f.id
        returning e.account_id, e.id, e.url",
    )
    .bind(failed.iter().map(|(account_id, _)| *account_id).collect::<Vec<_>>())
    .bind(failed.iter().map(|(_, id)| *id).collect::<Vec<_>>())
    .bind(FAILING_REASON)
    .fetch_all(&mut *conn)
    .await?;
    notifications::tell_disabled(conn, &disabled, FAILING_REASON).await?;
    Ok(disabled.into_iter().map(|(_, id, _)| id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap_or_default()
    }

    fn healthy() -> Health {
        Health {
            account_id: Uuid::nil(),
            endpoint_id: Uuid::nil(),
            enabled: true,
            consecutive_failures: 0,
            failing_since: None,
            last_success_at: None,
            slow: false,
            opened_at: None,
            probes: 0,
            probe_at: None,
            now: at(0),
        }
    }

    fn failed(count: u32, first: i64, last: i64) -> HealthChange {
        HealthChange {
            account_id: Uuid::nil(),
            endpoint_id: Uuid::nil(),
            succeeded: false,
            failures: count,
            failing: Some((at(first), at(last))),
            timed_out: false,
            holds: None,
        }
    }

    fn succeeded() -> HealthChange {
        HealthChange { succeeded: true, failing: None, ..failed(0, 0, 0) }
    }

    fn lane(slow: bool, pause: Option<u64>) -> Followed {
        let closed = pause.map(|seconds| (Duration::from_secs(seconds), CIRCUIT_REASON));
        Followed::Lane(Pace { slow, closed })
    }

    #[test]
    fn a_circuit_opens_is_tried_and_closes() {
        let (policy, mut health) = (CircuitPolicy::default(), healthy());
        let mut learn = |now, change: &HealthChange| {
            health.now = at(now);
            health.learn(change, &policy, 0.0)
        };
        assert_eq!(learn(1, &failed(9, 0, 1)), Followed::Nothing);
        assert_eq!(learn(11, &failed(1, 11, 11)), lane(true, Some(30)));
        // What was under way when it opened says nothing new; the try does.
        assert_eq!(learn(40, &failed(5, 10, 11)), Followed::Nothing);
        assert_eq!(learn(42, &failed(1, 41, 41)), lane(true, Some(60)));
        assert_eq!(learn(103, &failed(1, 102, 102)), lane(true, Some(120)));
        assert_eq!(learn(230, &succeeded()), lane(false, None));
        assert_eq!(learn(231, &succeeded()), Followed::Nothing);
        assert_eq!((health.consecutive_failures, health.failing_since), (0, None));
        assert_eq!((health.opened_at, health.probes, health.probe_at), (None, 0, None));
    }

    #[test]
    fn a_timeout_leaves_one_at_a_time_until_a_success() {
        let (policy, mut health) = (CircuitPolicy::default(), healthy());
        let timed_out = HealthChange { timed_out: true, ..failed(1, 0, 0) };
        assert_eq!(health.learn(&timed_out, &policy, 0.0), lane(true, None));
        assert_eq!(health.learn(&timed_out, &policy, 0.0), Followed::Nothing);
        assert_eq!(health.learn(&failed(1, 0, 0), &policy, 0.0), Followed::Nothing);
        assert_eq!(health.learn(&succeeded(), &policy, 0.0), lane(false, None));
        let after = HealthChange { succeeded: true, ..timed_out };
        assert_eq!(health.learn(&after, &policy, 0.0), lane(true, None), "it came after the success");
    }

    #[test]
    fn an_ordered_endpoint_waits_for_its_first_delivery() {
        let (policy, mut health) = (CircuitPolicy::default(), healthy());
        let hold = Duration::from_secs(300);
        let waiting = |change: HealthChange| HealthChange { holds: Some(hold), ..change };
        let waits = |slow| Followed::Lane(Pace { slow, closed: Some((hold, RETRY_REASON)) });
        assert_eq!(health.learn(&waiting(failed(1, 0, 0)), &policy, 0.0), waits(false));
        assert_eq!(
            health.learn(&waiting(HealthChange { timed_out: true, ..failed(1, 0, 0) }), &policy, 0.0),
            waits(true)
        );
        assert_eq!(health.learn(&succeeded(), &policy, 0.0), lane(false, None));
        health.now = at(60);
        let opened = Followed::Lane(Pace { slow: true, closed: Some((hold, CIRCUIT_REASON)) });
        assert_eq!(health.learn(&waiting(failed(10, 20, 60)), &policy, 0.0), opened, "the longer of the two");
        assert_eq!(health.probe_at, Some(at(360)));
    }

    #[test]
    fn five_days_without_a_success_are_the_end() {
        let (policy, mut health) = (CircuitPolicy::default(), healthy());
        health.failing_since = Some(at(-5 * 24 * 3600));
        assert_eq!(health.learn(&failed(8, 0, 0), &policy, 0.0), Followed::Nothing, "too few to say");
        health.consecutive_failures = 9;
        assert_eq!(health.learn(&failed(1, 0, 0), &policy, 0.0), Followed::Disable);
        health.failing_since = Some(at(1 - 5 * 24 * 3600));
        assert_eq!(health.learn(&failed(1, 0, 0), &policy, 0.0), lane(true, Some(30)));
    }
}
