//! Claimed jobs on their way from the claimer to whoever runs them.

use std::{
    marker::PhantomData,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Job, JobKind, TraceContext,
    beat::Lease,
    complete::{Recorded, Unconfirmed},
    job::Inner,
    meters::Meters,
    runtime::{Made, Shared, Tracked},
};

/// A job as `queue.take` returns it.
#[derive(Debug, FromRow)]
pub(crate) struct Row {
    /// What became of it: `claimed`; `removed` with its group, or parked; or there is no job, but its lane is `held by
    /// another` claimer, or `full`.
    pub(crate) fate: String,
    pub(crate) id: Uuid,
    pub(crate) tenant: String,
    pub(crate) lane: String,
    grp: Option<String>,
    epoch: i64,
    attempt: i32,
    crashes: i16,
    run: i32,
    max_attempts: i32,
    pub(crate) payload: String,
    trace: Option<String>,
    pub(crate) capped: bool,
    pub(crate) ordered: bool,
    /// Whether its lane is slow.
    pub(crate) slow: bool,
    pub(crate) rank: DateTime<Utc>,
    pub(crate) priority: i16,
    /// How long after its place in the lane it was claimed.
    after_rank_seconds: f64,
}

/// What a point of priority is worth in seconds, as `queue.rank_of` has it.
const PRIORITY_SECONDS: f64 = 60.0;

impl Row {
    /// How long it had been ready when it was claimed, by the database's clock.
    pub(crate) fn waited(&self) -> Duration {
        let seconds = self.after_rank_seconds + f64::from(self.priority) * PRIORITY_SECONDS;
        Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default()
    }

    /// What its end makes room for.
    pub(crate) fn made(&self) -> Made {
        if self.capped { Made::Lane(Arc::default()) } else { Made::Nothing }
    }

    /// When it was claimed, by the database's clock.
    pub(crate) fn claimed_at(&self) -> DateTime<Utc> {
        let after = Duration::try_from_secs_f64(self.after_rank_seconds.abs()).unwrap_or_default();
        if self.after_rank_seconds < 0.0 { self.rank - after } else { self.rank + after }
    }

    pub(crate) fn split(self, queue: &'static str, meters: &Arc<Meters>) -> (Job, String) {
        let inner = Inner {
            id: self.id,
            run: self.run,
            queue,
            tenant: self.tenant,
            lane: self.lane,
            ordered: self.ordered,
            group: self.grp,
            epoch: self.epoch,
            attempt: self.attempt,
            crashes: self.crashes,
            max_attempts: self.max_attempts,
            trace: TraceContext::continued(self.trace.as_deref()),
            cancelled: CancellationToken::new(),
            protected: AtomicBool::new(false),
            recorded: Mutex::default(),
            meters: meters.clone(),
            started: OnceLock::new(),
            counted: AtomicBool::new(false),
        };
        (Job { inner: Arc::new(inner) }, self.payload)
    }
}

/// A job that was claimed and waits for its runner.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) job: Job,
    pub(crate) payload: String,
    /// How long it had been ready when it was claimed, and when that was.
    pub(crate) waited: Duration,
    pub(crate) claimed_at: Instant,
    pub(crate) lease: Arc<Lease>,
    pub(crate) slot: Arc<Slot>,
    pub(crate) tracked: Tracked,
    /// What comes after it in its unit.
    pub(crate) rest: Vec<Raw>,
}

/// The slots of one queue that are occupied by what is slow.
#[derive(Debug, Default)]
pub(crate) struct SlowSlots {
    /// Those of jobs of slow lanes, and of jobs that turned out slow.
    all: AtomicUsize,
    /// The former alone.
    claimed: AtomicUsize,
}

/// One of so many slots is left to slow lanes, however many jobs of others turn out slow.
const LEFT_TO_SLOW: usize = 16;

impl SlowSlots {
    /// How many slots are occupied by what is slow.
    pub(crate) fn occupied(&self) -> usize {
        self.all.load(Ordering::Acquire)
    }

    /// How many more of `total` slots jobs of slow lanes may have: what is slow has half of all at most. A process of one slot
    /// has half of it to spare for half of the time.
    pub(crate) fn free_of(&self, total: usize) -> usize {
        let left = (total / LEFT_TO_SLOW).max(1).saturating_sub(self.claimed.load(Ordering::Acquire));
        (total / 2).max(1).saturating_sub(self.occupied()).max(left)
    }
}

/// Counts a slot among those of what is slow until it is dropped.
#[derive(Debug)]
struct SlowSlot {
    slots: Arc<SlowSlots>,
    claimed: bool,
}

impl SlowSlot {
    fn new(slots: Arc<SlowSlots>, claimed: bool) -> Self {
        slots.all.fetch_add(1, Ordering::AcqRel);
        slots.claimed.fetch_add(usize::from(claimed), Ordering::AcqRel);
        Self { slots, claimed }
    }
}

impl Drop for SlowSlot {
    fn drop(&mut self) {
        self.slots.all.fetch_sub(1, Ordering::AcqRel);
        self.slots.claimed.fetch_sub(usize::from(self.claimed), Ordering::AcqRel);
    }
}

/// A slot of the process that a job occupies, or a whole unit of an ordered lane. Once it is free again it wakes the claimer.
#[derive(Debug)]
pub(crate) struct Slot {
    free: Option<OwnedSemaphorePermit>,
    /// Set while it is one of those of what is slow.
    slow: OnceLock<SlowSlot>,
    slow_slots: Arc<SlowSlots>,
    queue: &'static str,
    shared: Arc<Shared>,
}

impl Slot {
    /// A slot that is free no more, for a job of a slow lane or of another.
    pub(crate) fn new(
        free: OwnedSemaphorePermit,
        is_slow: bool,
        slow_slots: Arc<SlowSlots>,
        queue: &'static str,
        shared: Arc<Shared>,
    ) -> Self {
        let slow = OnceLock::new();
        if is_slow {
            slow.get_or_init(|| SlowSlot::new(slow_slots.clone(), true));
        }
        Self { free: Some(free), slow, slow_slots, queue, shared }
    }

    fn slow_down(&self) {
        self.slow.get_or_init(|| SlowSlot::new(self.slow_slots.clone(), false));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        drop(self.free.take());
        if self.slow.take().is_some() {
            // Any slow lane may go on.
            self.shared.mark(self.queue);
        } else {
            self.shared.work.notify_one();
        }
    }
}

/// A claimed job with its payload. It occupies a slot until it is dropped.
#[derive(Debug)]
pub struct Claimed<J> {
    /// The job.
    pub job: Job,
    /// Its payload.
    pub payload: J,
    lease: Arc<Lease>,
    slot: Arc<Slot>,
    tracked: Tracked,
    rest: Vec<Claimed<J>>,
}

impl<J> Claimed<J> {
    /// Whether it may be started: its lease holds and nobody has cancelled it.
    pub fn may_start(&self) -> bool {
        !self.lease.has_lapsed() && !self.job.cancelled().is_cancelled()
    }

    /// Hands its outcome to the completer, which records it within milliseconds. For outcomes that are not recorded
    /// in a transaction of the caller's.
    pub async fn finish(self, outcome: crate::Outcome) {
        let recorded = Recorded::new(&self.job, outcome);
        self.tracked.record(recorded).await;
    }

    /// The same, and waits until it is recorded.
    pub async fn confirm(self, outcome: crate::Outcome) -> Result<(), Unconfirmed> {
        let recorded = Recorded::new(&self.job, outcome);
        match self.tracked.confirm(recorded).await {
            Some(true) => Ok(()),
            Some(false) => Err(Unconfirmed::Stale),
            None => Err(Unconfirmed::Stopped),
        }
    }

    /// Counts the job's slot among those that slow lanes may have, for the job turns out to take long: so that its lane, once
    /// that is slow ([`lanes::slow_down`](crate::lanes::slow_down)), and others like it get no more than half of all.
    pub fn slow_down(&self) {
        self.slot.slow_down();
    }

    /// Takes out what comes after it in its unit, in order: jobs of an ordered lane that were claimed together for a source
    /// that asks for units. They are to be run one after the other, and once one of them has to wait, the others must end
    /// with [`Outcome::Return`](crate::Outcome::Return). All share one slot.
    pub fn take_rest(&mut self) -> Vec<Self> {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn into_parts(self) -> (Job, J, Running) {
        (self.job, self.payload, Running { lease: self.lease, tracked: self.tracked, slot: self.slot })
    }
}

/// What a running job holds besides its payload.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) lease: Arc<Lease>,
    pub(crate) slot: Arc<Slot>,
    pub(crate) tracked: Tracked,
}

/// The claimed jobs of one queue. Jobs that are still in it when it is dropped, or when the runtime stops, are handed
/// back without an attempt counted.
#[derive(Debug)]
pub struct Source<J> {
    pub(crate) receiver: mpsc::UnboundedReceiver<Raw>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) kind: PhantomData<fn() -> J>,
}

impl<J: JobKind> Source<J> {
    /// The next claimed job; `None` once the runtime is stopping.
    pub async fn next(&mut self) -> Option<Claimed<J>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next claimed job if one is there already.
    pub fn try_next(&mut self) -> Option<Claimed<J>> {
        while let Ok(raw) = self.receiver.try_recv() {
            if let Some(claimed) = self.decode(raw) {
                return Some(claimed);
            }
        }
        None
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Claimed<J>>> {
        loop {
            match self.receiver.poll_recv(cx) {
                Poll::Ready(Some(raw)) => {
                    if let Some(claimed) = self.decode(raw) {
                        return Poll::Ready(Some(claimed));
                    }
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Reads the payload. What cannot be read is dead at once, and what follows it in its unit takes its place; what comes
    /// when the runtime stops is handed back.
    fn decode(&self, raw: Raw) -> Option<Claimed<J>> {
        if self.shared.is_stopping() {
            raw.hand_back();
            return None;
        }
        let mut unit = raw.unit().filter_map(|raw| match serde_json::from_str(&raw.payload) {
            Ok(payload) => Some(raw.start(payload)),
            Err(error) => {
                tracing::error!(queue = J::QUEUE, id = %raw.job.id(), %error, "a payload cannot be read");
                let recorded = Recorded::undecodable(&raw.job, &error);
                raw.tracked.record_soon(recorded);
                None
            }
        });
        let mut first = unit.next()?;
        first.rest = unit.collect();
        Some(first)
    }
}

impl Raw {
    fn start<J>(self, payload: J) -> Claimed<J> {
        let Self { job, lease, slot, tracked, waited, claimed_at, .. } = self;
        let now = Instant::now();
        job.inner.meters.picked_up(waited + now.saturating_duration_since(claimed_at));
        let _ = job.inner.started.set(now);
        Claimed { job, payload, lease, slot, tracked, rest: Vec::new() }
    }

    /// The jobs of its unit, itself the first.
    fn unit(mut self) -> impl Iterator<Item = Self> {
        let rest = std::mem::take(&mut self.rest);
        std::iter::once(self).chain(rest)
    }

    pub(crate) fn hand_back(self) {
        for raw in self.unit() {
            let recorded = Recorded::handed_back(&raw.job);
            raw.tracked.record_soon(recorded);
        }
    }
}

impl<J> Drop for Source<J> {
    fn drop(&mut self) {
        self.receiver.close();
        while let Ok(raw) = self.receiver.try_recv() {
            raw.hand_back();
        }
    }
}
