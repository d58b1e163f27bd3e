//! What a job is to its handler.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rand::Rng;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{CompleteError, Recorded, TraceContext, complete_many, meters::Meters};

/// A kind of job: its payload, the queue it waits in, and how often it is tried.
pub trait JobKind: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The queue's name, at most 64 bytes.
    const QUEUE: &'static str;
    /// How many attempts may end in a retry before the job is dead.
    const MAX_ATTEMPTS: u16 = 10;
}

/// How a run of a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is finished.
    Done,
    /// It failed and is tried again, after the given time or after [`backoff`]. Counts as an attempt.
    Retry {
        /// Why, for the operator.
        error: String,
        /// The delay; `None` lets the queue choose.
        after: Option<Duration>,
    },
    /// It could not run yet and waits. Counts no attempt.
    Snooze {
        /// For how long.
        after: Duration,
    },
    /// It could not run yet and is due at once, at its place in the lane. Counts no attempt.
    Return,
    /// Only a person can mend it.
    Dead {
        /// Why, for the operator.
        error: String,
    },
    /// What it was for is gone.
    Cancelled,
}

impl Outcome {
    /// A retry with the queue's own delay.
    pub fn retry(error: impl std::fmt::Display) -> Self {
        Self::Retry { error: error.to_string(), after: None }
    }

    /// A snooze.
    pub const fn snooze(after: Duration) -> Self {
        Self::Snooze { after }
    }
}

/// The delay before the next try after `attempt` recorded ones: 1 s doubling up to an hour, give or take a fifth.
pub fn backoff(attempt: u32) -> Duration {
    let seconds = f64::from(2_u32.saturating_pow(attempt.min(12)).min(3600));
    Duration::from_secs_f64(seconds * rand::rng().random_range(0.8..1.2))
}

/// The running job, for its handler. Clones are the same run.
#[derive(Debug, Clone)]
pub struct Job {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) id: Uuid,
    pub(crate) run: i32,
    pub(crate) queue: &'static str,
    pub(crate) tenant: String,
    pub(crate) lane: String,
    pub(crate) ordered: bool,
    pub(crate) group: Option<String>,
    pub(crate) epoch: i64,
    pub(crate) attempt: i32,
    pub(crate) crashes: i16,
    pub(crate) max_attempts: i32,
    pub(crate) trace: TraceContext,
    pub(crate) cancelled: CancellationToken,
    pub(crate) protected: AtomicBool,
    /// The outcome that was recorded in a transaction of the handler's.
    pub(crate) recorded: Mutex<Option<&'static str>>,
    pub(crate) meters: Arc<Meters>,
    /// When the runner got it.
    pub(crate) started: OnceLock<Instant>,
    /// Whether the end of this run is in the metrics.
    pub(crate) counted: AtomicBool,
}

impl Job {
    /// The job's id, the same over all its runs.
    pub fn id(&self) -> Uuid {
        self.inner.id
    }

    /// Which start of the job this is; with the id it is the attempt token.
    pub fn run(&self) -> i32 {
        self.inner.run
    }

    /// The queue it came from.
    pub fn queue(&self) -> &'static str {
        self.inner.queue
    }

    /// Whose job it is.
    pub fn tenant(&self) -> &str {
        &self.inner.tenant
    }

    /// Its fairness key.
    pub fn lane(&self) -> &str {
        &self.inner.lane
    }

    /// Whether its lane was ordered when it was claimed: nothing else of the lane runs, and whatever waits does so behind it.
    pub fn is_ordered(&self) -> bool {
        self.inner.ordered
    }

    /// Its cancel key.
    pub fn group(&self) -> Option<&str> {
        self.inner.group.as_deref()
    }

    /// The epoch of its group when it was enqueued.
    pub fn epoch(&self) -> i64 {
        self.inner.epoch
    }

    /// How many attempts were recorded before this run.
    pub fn attempt(&self) -> u32 {
        u32::try_from(self.inner.attempt).unwrap_or_default()
    }

    /// How many times its process died while running it.
    pub fn crashes(&self) -> u32 {
        u32::try_from(self.inner.crashes).unwrap_or_default()
    }

    /// Whether a retry of this run would be one too many.
    pub fn is_last_attempt(&self) -> bool {
        self.inner.attempt + 1 >= self.inner.max_attempts
    }

    /// This run's step of the trace of what enqueued it; of a new trace if that had none.
    pub fn trace(&self) -> TraceContext {
        self.inner.trace
    }

    /// The span of this run's log lines. An apalis worker's handlers are in it; who claims by hand enters it.
    pub fn span(&self) -> tracing::Span {
        let Inner { id, run, queue, trace, .. } = &*self.inner;
        tracing::info_span!("job", queue, %id, run, trace = trace.trace_id())
    }

    /// Cancelled when the job's group is, or when the process gives up waiting at shutdown. The handler is dropped
    /// then, unless it is protected.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.inner.cancelled
    }

    /// Lets the handler finish and report even when the lease lapses or the job is cancelled: for the one stretch of
    /// work whose outcome must not be thrown away.
    pub fn protect(&self) {
        self.inner.protected.store(true, Ordering::Release);
    }

    /// Takes the job out of its group in the caller's transaction, so that no cancel of the group reaches it from then
    /// on, not even when its process dies and it is rescued: for the moment after which somebody must report. A
    /// [`CompleteError::Stale`] says that another run has taken over: roll back.
    pub async fn detach(&self, conn: &mut PgConnection) -> Result<(), CompleteError> {
        let detached = sqlx::query("update queue.running set grp = null where id = $1 and run = $2")
            .bind(self.inner.id)
            .bind(self.inner.run)
            .execute(conn)
            .await?;
        if detached.rows_affected() == 0 { Err(CompleteError::Stale) } else { Ok(()) }
    }

    pub(crate) fn is_protected(&self) -> bool {
        self.inner.protected.load(Ordering::Acquire)
    }

    /// The outcome that the handler recorded itself.
    pub(crate) fn recorded(&self) -> Option<&'static str> {
        *self.inner.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the end of this run, once.
    pub(crate) fn count(&self, outcome: &'static str, ended: Instant) {
        if !self.inner.counted.swap(true, Ordering::AcqRel) {
            let ran = self.inner.started.get().map(|started| ended.saturating_duration_since(*started));
            self.inner.meters.ended(outcome, ran);
        }
    }

    /// Records the outcome in the caller's transaction, so that it commits with the effects or not at all. A
    /// [`CompleteError::Stale`] says that another run has taken over: roll back. After a failed commit return an error
    /// from the handler, never the outcome.
    pub async fn complete(&self, conn: &mut PgConnection, outcome: &Outcome) -> Result<(), CompleteError> {
        let recorded = Recorded::new(self, outcome.clone());
        let label = recorded.label();
        let accepted = complete_many(conn, &[recorded]).await?;
        if accepted.is_empty() {
            return Err(CompleteError::Stale);
        }
        *self.inner.recorded.lock().unwrap_or_else(PoisonError::into_inner) = Some(label);
        Ok(())
    }
}
