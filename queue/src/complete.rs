//! How a run ends: its outcome recorded, fenced by the attempt token.

use std::collections::HashSet;

use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Job, Outcome, backoff};

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
}

/// Errors kept with a job are cut here; the log has them whole.
const ERROR_CHARS_MAX: usize = 1000;

impl Recorded {
    /// The outcome of this run of the job.
    pub fn new(job: &Job, outcome: Outcome) -> Self {
        let blank =
            Self { id: job.id(), run: job.run(), outcome: "done", delay_ms: 0, error: None, reason: None };
        match outcome {
            Outcome::Done => blank,
            Outcome::Cancelled => Self { outcome: "cancelled", ..blank },
            Outcome::Snooze { after } => Self { outcome: "snooze", delay_ms: millis(after), ..blank },
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

    /// Gives a job that was never started back: no attempt is counted.
    pub(crate) fn handed_back(job: &Job) -> Self {
        Self::lost(job.id(), job.run())
    }

    /// A job claimed without its process hearing of it.
    pub(crate) fn lost(id: Uuid, run: i32) -> Self {
        Self { id, run, outcome: "handback", delay_ms: 0, error: None, reason: None }
    }

    /// A payload that its kind cannot read.
    pub(crate) fn undecodable(job: &Job, error: &serde_json::Error) -> Self {
        Self {
            id: job.id(),
            run: job.run(),
            outcome: "dead",
            delay_ms: 0,
            error: Some(cut(&error.to_string())),
            reason: Some("undecodable"),
        }
    }

    /// The attempt token: the job, and which run of it this is about.
    pub fn token(&self) -> (Uuid, i32) {
        (self.id, self.run)
    }

    pub(crate) fn label(&self) -> &'static str {
        self.outcome
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
