//! What became of deliveries, written in batches: the jobs' ends, the deliveries, their attempts and the endpoints'
//! health, in one transaction.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use chrono::{DateTime, Utc};
use queue::{Outcome, Recorded, complete_many};
use rand::Rng;
use shared::{
    Database,
    db::{
        attempts::NewAttempt,
        deliveries::{self, DeliveryChange},
        endpoint_health::{self, HealthChange},
        endpoints,
    },
    domain::{
        circuit::CircuitPolicy,
        delivery::{DeliveryStatus, ErrorClass, ORDERED_RETRY_AFTER_MAX, RetrySchedule, parse_retry_after},
    },
};
use sqlx::error::DatabaseError;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    deliver::{End, Sent},
    http_client::Answer,
};

/// How long outcomes are gathered, and how many are written at once.
const GATHER: Duration = Duration::from_millis(3);
const RECORD_MAX: usize = 200;
/// How long writing a batch may take.
const RECORD_DEADLINE: Duration = Duration::from_secs(20);
/// The pause before a batch is tried again, give or take a half.
const RETRY: Duration = Duration::from_millis(500);
/// The status that says "for ever" (RFC 9110, section 15.5.11).
const GONE: u16 = 410;

/// What follows from failures.
#[derive(Debug, Clone)]
pub struct Policy {
    /// When a delivery is attempted again.
    pub retries: RetrySchedule,
    /// When its endpoint is left alone.
    pub circuit: CircuitPolicy,
}

/// How long slow endpoints are gathered, and how long marking them may take.
const SLOW_GATHER: Duration = Duration::from_millis(100);
const SLOW_MAX: usize = 500;
const SLOW_DEADLINE: Duration = Duration::from_secs(5);

/// Marks endpoints, given as (account, endpoint), whose requests take long, until every sender is gone. One that could not be
/// marked is named by its next request.
pub async fn mark_slow(database: Database, mut slow: mpsc::Receiver<(Uuid, Uuid)>) {
    let mut found = Vec::new();
    while slow.recv_many(&mut found, SLOW_MAX).await > 0 {
        tokio::time::sleep(SLOW_GATHER).await;
        while found.len() < SLOW_MAX
            && let Ok(more) = slow.try_recv()
        {
            found.push(more);
        }
        found.sort_unstable();
        found.dedup();
        let mark = async {
            let mut tx = database.begin().await?;
            endpoint_health::mark_slow(&mut tx, &found).await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(())
        };
        match tokio::time::timeout(SLOW_DEADLINE, mark).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "slow endpoints were not marked"),
            Err(_) => tracing::warn!(deadline = ?SLOW_DEADLINE, "slow endpoints were not marked in time"),
        }
        found.clear();
    }
}

/// Records what was sent, until every sender is gone. What cannot be written is kept and tried again for ever, or until
/// `give_up`; whether it still counts is for the job's token to say.
pub async fn run(
    database: Database,
    policy: Policy,
    mut sent: mpsc::Receiver<Sent>,
    give_up: CancellationToken,
) {
    while let Some(first) = sent.recv().await {
        let mut batch = vec![first];
        let gather = tokio::time::sleep(GATHER);
        tokio::pin!(gather);
        while batch.len() < RECORD_MAX {
            tokio::select! {
                biased;
                more = sent.recv() => match more { Some(more) => batch.push(more), None => break },
                () = &mut gather => break,
            }
        }
        let rows: Vec<Row> = batch.iter().map(|sent| Row::new(sent, &policy.retries)).collect();
        let refused = record_all(&database, &rows, &policy.circuit, &give_up).await;
        for Sent { claimed, .. } in batch {
            // The others' slots are free now.
            if refused.contains(&(claimed.job.id(), claimed.job.run())) {
                claimed.finish(Outcome::Dead { error: "its outcome cannot be recorded".into() }).await;
            }
        }
    }
}

/// What one run of a job changes.
#[derive(Debug, Clone)]
struct Row {
    job: Recorded,
    endpoint_id: Uuid,
    delivery: DeliveryChange,
    /// How long its ordered endpoint waits for it.
    holds: Option<Duration>,
}

impl Row {
    fn new(sent: &Sent, schedule: &RetrySchedule) -> Self {
        match &sent.end {
            End::Cancelled => Self {
                job: Recorded::new(&sent.claimed.job, Outcome::Done),
                endpoint_id: sent.due.endpoint_id,
                delivery: DeliveryChange {
                    account_id: sent.due.account_id,
                    id: sent.due.id,
                    job_id: sent.claimed.job.id(),
                    status: DeliveryStatus::Cancelled,
                    attempt: None,
                    next_after: None,
                },
                holds: None,
            },
            End::Attempted { started_at, answer } => Self::attempted(sent, *started_at, answer, schedule),
        }
    }

    fn attempted(sent: &Sent, started_at: DateTime<Utc>, answer: &Answer, schedule: &RetrySchedule) -> Self {
        let number = sent.due.attempts + 1;
        let tried = usize::try_from(number - sent.due.retries_from).unwrap_or(usize::MAX);
        let spread = rand::rng().random_range(-1.0..=1.0);
        let retry_after =
            answer.retry_after.as_deref().and_then(|value| parse_retry_after(value, started_at));
        // Others wait behind it.
        let ordered = sent.claimed.job.is_ordered();
        let retry_after =
            if ordered { retry_after.map(|after| after.min(ORDERED_RETRY_AFTER_MAX)) } else { retry_after };
        let next_after = answer.error_class.and_then(|_| schedule.next(tried, retry_after, spread));
        let status = match (answer.error_class, next_after) {
            (None, _) => DeliveryStatus::Succeeded,
            (Some(_), Some(_)) => DeliveryStatus::Pending,
            (Some(_), None) => DeliveryStatus::Exhausted,
        };
        Self {
            // The delivery's own schedule says when, so the queue counts no attempt. In an ordered lane it keeps its place.
            job: Recorded::new(
                &sent.claimed.job,
                match next_after {
                    None => Outcome::Done,
                    Some(_) if ordered => Outcome::Return,
                    Some(after) => Outcome::snooze(after),
                },
            ),
            holds: next_after.filter(|_| ordered),
            endpoint_id: sent.due.endpoint_id,
            delivery: DeliveryChange {
                account_id: sent.due.account_id,
                id: sent.due.id,
                job_id: sent.claimed.job.id(),
                status,
                attempt: Some(NewAttempt {
                    account_id: sent.due.account_id,
                    delivery_id: sent.due.id,
                    number,
                    started_at,
                    duration_ms: i32::try_from(answer.duration.as_millis()).unwrap_or(i32::MAX),
                    status_code: answer.status_code.map(i32::from),
                    error_class: answer.error_class,
                    response_excerpt: answer.excerpt.clone(),
                }),
                next_after,
            },
        }
    }
}

/// Records a batch, however long the database is away. A batch that the database refuses for what is in it is split
/// until the row that offends stands alone. Returns the tokens of such rows.
async fn record_all(
    database: &Database,
    rows: &[Row],
    circuit: &CircuitPolicy,
    give_up: &CancellationToken,
) -> HashSet<(Uuid, i32)> {
    let mut refused = HashSet::new();
    let mut waiting = vec![rows];
    while let Some(rows) = waiting.pop() {
        match tokio::time::timeout(RECORD_DEADLINE, record(database, rows, circuit)).await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) if is_about_content(&error) => {
                tracing::error!(%error, outcomes = rows.len(), "the database refuses outcomes of deliveries");
                match rows {
                    [row] => _ = refused.insert(row.job.token()),
                    rows => {
                        let (left, right) = rows.split_at(rows.len() / 2);
                        waiting.extend([right, left]);
                    }
                }
                continue;
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, outcomes = rows.len(), "outcomes were not recorded; trying again");
            }
            Err(_) => {
                tracing::warn!(deadline = ?RECORD_DEADLINE, "outcomes were not recorded in time; trying again");
            }
        }
        waiting.push(rows);
        let pause = RETRY.mul_f64(rand::rng().random_range(0.5..1.5));
        if tokio::time::timeout(pause, give_up.cancelled()).await.is_ok() {
            tracing::warn!("stopped before all outcomes were recorded; their deliveries are made again");
            break;
        }
    }
    refused
}

/// Whether trying again is of no use: a data exception or a constraint (SQLSTATE classes 22 and 23).
fn is_about_content(error: &queue::Error) -> bool {
    let queue::Error::Database(error) = error else { return false };
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}

/// Writes a batch in one transaction. The jobs come first: a row whose token is stale belongs to a run elsewhere, and
/// nothing of it is written.
async fn record(database: &Database, rows: &[Row], circuit: &CircuitPolicy) -> Result<(), queue::Error> {
    let mut tx = database.begin().await?;
    deliveries::look_up_by_key(&mut tx).await?;
    let jobs: Vec<Recorded> = rows.iter().map(|row| row.job.clone()).collect();
    let accepted = complete_many(&mut tx, &jobs).await?;
    let rows: Vec<&Row> = rows.iter().filter(|row| accepted.contains(&row.job.token())).collect();
    let changes: Vec<DeliveryChange> = rows.iter().map(|row| row.delivery.clone()).collect();
    deliveries::record_many(&mut tx, &changes).await?;
    let gone = endpoints::disable_gone(&mut tx, &gone(&rows)).await?;
    let (wake, failing) = endpoint_health::record(&mut tx, &health(&rows), &gone, circuit).await?;
    tx.wake(wake);
    tx.commit().await?;
    for job in &jobs {
        job.count(accepted.contains(&job.token()));
    }
    for (endpoints, reason) in [(gone, "gone"), (failing, "failing")] {
        for endpoint_id in endpoints {
            tracing::info!(%endpoint_id, reason, "an endpoint was disabled");
        }
    }
    let stale = jobs.len() - rows.len();
    if stale > 0 {
        metrics::counter!("delivery_outcomes_stale_total").increment(stale as u64);
    }
    for row in rows {
        metrics::counter!("delivery_outcomes_total", "status" => row.delivery.status.as_str()).increment(1);
    }
    Ok(())
}

/// The exhausted deliveries whose last answer was 410.
fn gone(rows: &[&Row]) -> Vec<(Uuid, Uuid, Uuid)> {
    let ended = rows.iter().map(|row| (&row.delivery, row.endpoint_id));
    ended
        .filter(|(delivery, _)| {
            let status_code = delivery.attempt.as_ref().and_then(|attempt| attempt.status_code);
            delivery.status == DeliveryStatus::Exhausted && status_code == Some(i32::from(GONE))
        })
        .map(|(delivery, endpoint_id)| (delivery.account_id, endpoint_id, delivery.id))
        .collect()
}

/// One change per endpoint, of its attempts in the order in which they ended.
fn health(rows: &[&Row]) -> Vec<HealthChange> {
    let mut changes: HashMap<(Uuid, Uuid), HealthChange> = HashMap::new();
    for row in rows {
        let Some(attempt) = &row.delivery.attempt else { continue };
        let key = (attempt.account_id, row.endpoint_id);
        let fresh = |succeeded| HealthChange {
            account_id: attempt.account_id,
            endpoint_id: row.endpoint_id,
            succeeded,
            failures: 0,
            failing: None,
            timed_out: false,
            holds: None,
        };
        let change = changes.entry(key).or_insert_with(|| fresh(false));
        if attempt.error_class.is_none() {
            *change = fresh(true);
        } else {
            let (first, last) = change.failing.unwrap_or((attempt.started_at, attempt.started_at));
            change.failures += 1;
            change.failing = Some((first, last.max(attempt.started_at)));
            change.holds = row.holds;
            change.timed_out |= attempt.error_class == Some(ErrorClass::Timeout);
        }
    }
    changes.into_values().collect()
}
