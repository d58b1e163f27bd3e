//! How a run ends: its outcome recorded, fenced by the attempt token.

use std::{collections::HashSet, time::Instant};

use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Job, Outcome, backoff, meters::STALE};

/// Why an outcome was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum CompleteError {
    /// The job is no longer running under this token: it was rescued, and runs or ran elsewhere.
    #[error("the attempt token is stale")]
    Stale,
    /// The database refused or was not there.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Why an outcome that was handed to the completer was not recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unconfirmed {
    /// The job is no longer running under this token: it was rescued, and runs or ran elsewhere.
    #[error("the attempt token is stale")]
    Stale,
    /// The runtime stopped first; the job runs again.
    #[error("the runtime stopped before the outcome was recorded")]
    Stopped,
}

/// An outcome of one run, ready to be recorded.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub(crate) id: Uuid,
    pub(crate) run: i32,
    outcome: &'static str,
    delay_ms: i64,
    error: Option<String>,
    reason: Option<&'static str>,
    /// Whose run it was, where that is known.
    job: Option<Job>,
    /// When the handler ended.
    ended: Instant,
}

/// Errors kept with a job are cut here; the log has them whole.
const ERROR_CHARS_MAX: usize = 1000;

impl Recorded {
    /// The outcome of this run of the job, which has ended now.
    pub fn new(job: &Job, outcome: Outcome) -> Self {
        let blank = Self { job: Some(job.clone()), ..Self::blank(job.id(), job.run(), "done") };
        match outcome {
            Outcome::Done => blank,
            Outcome::Cancelled => Self { outcome: "cancelled", ..blank },
            Outcome::Snooze { after } => Self { outcome: "snooze", delay_ms: millis(after), ..blank },
            Outcome::Return => Self { outcome: "return", ..blank },
            Outcome::Retry { error, after } => Self {
                outcome: "retry",
                delay_ms: millis(after.unwrap_or_else(|| backoff(job.attempt()))),
                error: Some(cut(&error)),
                ..blank
            },
            Outcome::Dead { error } => {
                Self { outcome: "dead", error: Some(cut(&error)), reason: Some("refused"), ..blank }
            }
        }
    }

    fn blank(id: Uuid, run: i32, outcome: &'static str) -> Self {
        Self { id, run, outcome, delay_ms: 0, error: None, reason: None, job: None, ended: Instant::now() }
    }

    /// Gives a job that was never started back: no attempt is counted.
    pub(crate) fn handed_back(job: &Job) -> Self {
        Self { job: Some(job.clone()), ..Self::blank(job.id(), job.run(), "handback") }
    }

    /// A job claimed without its process hearing of it: given back, to wait anew.
    pub(crate) fn lost(id: Uuid, run: i32) -> Self {
        Self::blank(id, run, "lost")
    }

    /// A payload that its kind cannot read.
    pub(crate) fn undecodable(job: &Job, error: &serde_json::Error) -> Self {
        Self {
            job: Some(job.clone()),
            error: Some(cut(&error.to_string())),
            reason: Some("undecodable"),
            ..Self::blank(job.id(), job.run(), "dead")
        }
    }

    /// The attempt token: the job, and which run of it this is about.
    pub fn token(&self) -> (Uuid, i32) {
        (self.id, self.run)
    }

    /// Counts it in the metrics, once the transaction in which [`complete_many`] accepted it, or did not, has committed.
    /// Outcomes that are recorded in any other way are counted by themselves.
    pub fn count(&self, accepted: bool) {
        if let Some(job) = &self.job {
            // One that a transaction of the handler's has recorded already is not accepted again.
            let outcome = if accepted { self.label() } else { job.recorded().unwrap_or(STALE) };
            job.count(outcome, self.ended);
        }
    }

    /// The same for an outcome that waited for the completer.
    pub(crate) fn count_completed(&self, accepted: bool) {
        self.count(accepted);
        if let Some(job) = &self.job {
            job.inner.meters.completed(self.ended.elapsed());
        }
    }

    /// What it is to the metrics: the retry that is one too many makes the job dead.
    pub(crate) fn label(&self) -> &'static str {
        let is_last = self.job.as_ref().is_some_and(Job::is_last_attempt);
        if self.outcome == "retry" && is_last { "dead" } else { self.outcome }
    }
}

/// What the database can keep of an error.
fn cut(error: &str) -> String {
    error.chars().filter(|c| *c != '\0').take(ERROR_CHARS_MAX).collect()
}

fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).min(MILLIS_MAX)
}

/// Ten years: beyond what a timer is for, within what an interval holds.
const MILLIS_MAX: i64 = 10 * 365 * 86_400_000;

/// Records many outcomes with one statement and returns the tokens of those that were accepted; the others are stale.
/// After the commit, [`Recorded::count`] puts them into the metrics.
pub async fn complete_many(
    conn: &mut PgConnection,
    outcomes: &[Recorded],
) -> Result<HashSet<(Uuid, i32)>, sqlx::Error> {
    if outcomes.is_empty() {
        return Ok(HashSet::new());
    }
    let accepted: Vec<(Uuid, i32)> = sqlx::query_as("select * from queue.complete($1, $2, $3, $4, $5, $6)")
        .bind(outcomes.iter().map(|o| o.id).collect::<Vec<_>>())
        .bind(outcomes.iter().map(|o| o.run).collect::<Vec<_>>())
        .bind(outcomes.iter().map(|o| o.outcome).collect::<Vec<_>>())
        .bind(outcomes.iter().map(|o| o.delay_ms).collect::<Vec<_>>())
        .bind(outcomes.iter().map(|o| o.error.clone()).collect::<Vec<_>>())
        .bind(outcomes.iter().map(|o| o.reason).collect::<Vec<_>>())
        .fetch_all(conn)
        .await?;
    Ok(accepted.into_iter().collect())
}
