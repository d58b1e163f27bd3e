//! The loops of a runtime. Each goes on for ever, through every outage of the database, until the runtime stops.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::FutureExt;
use rand::Rng;
use sqlx::{
    PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Error,
    backend::panic_text,
    beat::Lease,
    chores::cancel,
    claim::{Raw, Row, Slot},
    complete::{Recorded, complete_many},
    rota::{Room, Rota},
    runtime::{Made, STATEMENT_DEADLINE, Shared, Slots, Tracked, lock},
    wake::{self, GROUPS_CHANNEL, READY_CHANNEL},
};

/// The most jobs of one claim.
const CLAIM_MAX: usize = 500;
/// How long the completer gathers outcomes, and how many it writes at once.
const GATHER: Duration = Duration::from_millis(3);
const COMPLETE_MAX: usize = 1000;
/// How long the listener may hear nothing before its connection is tried.
const SILENCE: Duration = Duration::from_secs(30);

/// The pause after the `failures`-th failure in a row: 50 ms doubling to 2 s, with jitter, so that replicas do not
/// come back together.
pub(crate) fn pause(failures: u32) -> Duration {
    let longest = Duration::from_millis(50 * 2_u64.pow(failures.min(6))).min(Duration::from_secs(2));
    longest.mul_f64(rand::rng().random_range(0.5..1.0))
}

/// Runs a statement under the runtime's deadline.
pub(crate) async fn within<T>(statement: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(STATEMENT_DEADLINE, statement).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Error::Deadline(STATEMENT_DEADLINE)),
    }
}

/// Does some work of the queue's own, and makes an error of a panic: a loop that ended with one would leave a process that
/// keeps its lease and does nothing.
pub(crate) fn unpanicked<T>(
    work: impl Future<Output = Result<T, Error>>,
) -> impl Future<Output = Result<T, Error>> {
    let caught = std::panic::AssertUnwindSafe(Box::pin(work)).catch_unwind();
    caught
        .map(|done| done.unwrap_or_else(|panic| Err(Error::Panicked(panic_text(panic.as_ref()).to_owned()))))
}

pub(crate) async fn sleep_unless(stop: &CancellationToken, duration: Duration) {
    let _ = tokio::time::timeout(duration, stop.cancelled()).await;
}

/// The connection of a loop that needs one all the time: a pool would try it out before and after each statement.
#[derive(Default)]
struct Kept(Option<PoolConnection<Postgres>>);

impl Kept {
    async fn connection(&mut self, pool: &PgPool) -> Result<&mut PgConnection, sqlx::Error> {
        match &mut self.0 {
            Some(connection) => Ok(connection),
            empty => Ok(empty.insert(pool.acquire().await?)),
        }
    }

    /// Closes the connection: after an error, or a statement that was not waited for, nobody knows what it is good for.
    fn give_up(&mut self) {
        drop(self.0.take().map(PoolConnection::detach));
    }
}

/// What the claimer knows of one queue.
#[derive(Default)]
struct Queue {
    rota: Rota,
    /// Whether another claim may find jobs without a wake.
    more: bool,
    /// Not before this time is there another claim: one failed, or another claimer had the lane.
    not_before: Option<Instant>,
    /// Until then free slots are gathered, unless half of those are free that nothing slow occupies: there is more than the last
    /// claim brought.
    gathers_until: Option<Instant>,
    /// Not before this time is there another look while known lanes have jobs.
    next_look: Option<Instant>,
    /// Failures in a row.
    failures: u32,
}

/// The pause before a lane that another claimer held is tried again, up to twice as long.
const CONTENDED: Duration = Duration::from_millis(10);
/// How long free slots are gathered at most, and otherwise as long as the last claim took, while more waits than there are slots
/// for: what a claim costs is less for each job the more it brings.
const GATHER_SLOTS_MAX: Duration = Duration::from_millis(10);
/// How many times as long as a claim with a look took there is no other look, while known lanes have jobs: wakes that name no
/// lanes, or lanes that are not known, come all the time then.
const LOOK_TIMES: u32 = 2;
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Claims for all queues, never more than their free slots.
pub(crate) async fn claim_all(shared: Arc<Shared>) {
    let mut queues: HashMap<&'static str, Queue> = HashMap::default();
    let mut kept = Kept::default();
    while !shared.is_stopping() {
        let (wanted, next) = wanted(&shared, &queues);
        if wanted.is_empty() {
            let pause = next.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
            let woken = async {
                tokio::select! { () = shared.work.notified() => {}, () = shared.stopping.cancelled() => {} }
            };
            let _ = tokio::time::timeout(pause, woken).await;
        }
        for name in wanted {
            let queue = queues.entry(name).or_default();
            match unpanicked(claim_one(&shared, name, queue, &mut kept)).await {
                Ok(()) => queue.failures = 0,
                Err(error) => {
                    if matches!(error, Error::Panicked(_)) {
                        // Whatever it was at is half done; a new look knows.
                        kept.give_up();
                        *queue = Queue { more: true, failures: queue.failures, ..Queue::default() };
                        shared.unheard.store(true, Ordering::Release);
                    }
                    queue.failures += 1;
                    queue.not_before = Some(Instant::now() + pause(queue.failures));
                    if !matches!(error, Error::LeaseLapsed) {
                        tracing::warn!(queue = name, %error, "a claim failed");
                    }
                }
            }
        }
    }
}

/// The queues that may have ready jobs and have a free slot, but for those that have to wait, and until when.
fn wanted(shared: &Shared, known: &HashMap<&'static str, Queue>) -> (Vec<&'static str>, Option<Instant>) {
    let (mut wanted, mut next) = (Vec::new(), None::<Instant>);
    let now = Instant::now();
    let mut queues = shared.queues();
    queues.retain(|_, slots| !slots.sender.is_closed());
    for (name, slots) in queues.iter() {
        let known = known.get(name);
        let may_have = slots.has_news() || known.is_some_and(|queue| queue.more);
        if !may_have || slots.free.available_permits() == 0 {
            continue;
        }
        let quick = slots.total.saturating_sub(slots.slow.occupied());
        let gathers = slots.free.available_permits() < quick.div_ceil(2);
        let waits = known.and_then(|queue| queue.not_before.max(queue.gathers_until.filter(|_| gathers)));
        match waits.filter(|at| *at > now) {
            Some(at) => next = Some(next.map_or(at, |next| next.min(at))),
            None => wanted.push(*name),
        }
    }
    (wanted, next)
}

async fn claim_one(
    shared: &Arc<Shared>,
    name: &'static str,
    queue: &mut Queue,
    kept: &mut Kept,
) -> Result<(), Error> {
    let Some(slots) = shared.queues().get(name).cloned() else {
        return Ok(());
    };
    let Slots { free, unit, look, expected, .. } = &slots;
    let Some(lease) = shared.heart.lease() else {
        // The first beat marks all queues.
        return Err(Error::LeaseLapsed);
    };
    let limit = free.available_permits().min(CLAIM_MAX);
    let Ok(permits) = free.clone().try_acquire_many_owned(u32::try_from(limit).unwrap_or_default()) else {
        return Ok(());
    };
    let is_spared = queue.more && queue.next_look.is_some_and(|at| Instant::now() < at);
    for (tenant, lane) in lock(expected).drain() {
        queue.rota.expect(&tenant, &lane);
    }
    // Cleared before the look, so that a wake that comes during it is not lost.
    let looks = !is_spared && (look.swap(false, Ordering::AcqRel) | queue.rota.wants_look());
    let started = Instant::now();
    let claim = async {
        let conn = kept.connection(&shared.pool).await?;
        let room = Room { slots: limit, slow: slots.slow.free_of(slots.total), unit: *unit };
        queue.rota.claim(conn, lease.id, name, room, looks).await
    };
    let claims = match within(claim).await {
        Ok(claims) => claims,
        Err(error) => {
            kept.give_up();
            look.store(true, Ordering::Release);
            let lapsed = matches!(&error, Error::Database(sqlx::Error::Database(e)) if e.code().as_deref() == Some("QL001"));
            if lapsed {
                return Err(Error::LeaseLapsed);
            }
            shared.unheard.store(true, Ordering::Release);
            return Err(error);
        }
    };
    let took = started.elapsed();
    slots.meters.claimed(took);
    queue.more = claims.more || claims.contended;
    queue.gathers_until =
        (claims.more && !claims.rows.is_empty()).then(|| Instant::now() + took.min(GATHER_SLOTS_MAX));
    if looks {
        queue.next_look = Some(Instant::now() + (took * LOOK_TIMES).min(LOOK_PAUSE_MAX));
    }
    queue.not_before =
        claims.contended.then(|| Instant::now() + CONTENDED.mul_f64(rand::rng().random_range(1.0..2.0)));
    if claims.contended {
        look.store(true, Ordering::Release);
    }
    hand_out(shared, name, &slots, permits, &lease, claims.rows);
    Ok(())
}

/// Gives claimed jobs a slot each, or each unit of an ordered lane one, and sends them to their runners.
fn hand_out(
    shared: &Arc<Shared>,
    name: &'static str,
    slots: &Slots,
    mut permits: OwnedSemaphorePermit,
    lease: &Arc<Lease>,
    rows: Vec<Row>,
) {
    let claimed_at = std::time::Instant::now();
    let mut units: HashMap<String, (Raw, Arc<()>)> = HashMap::new();
    for row in rows {
        let (made, waited) = (row.made(), row.waited());
        let (ordered, is_slow) = (row.ordered, row.slow);
        let (job, payload) = row.split(name, &slots.meters);
        let follow = |slot: &Arc<Slot>, made: Made| {
            let tracked = shared.track(&job, made);
            let (lease, slot, rest) = (lease.clone(), slot.clone(), Vec::new());
            Raw { job: job.clone(), payload, waited, claimed_at, lease, slot, tracked, rest }
        };
        if ordered && let Some((first, unit)) = units.get_mut(job.lane()) {
            let next = follow(&first.slot, Made::Lane(unit.clone()));
            first.rest.push(next);
            continue;
        }
        let Some(free) = permits.split(1) else { break };
        let slot = Arc::new(Slot::new(free, is_slow, slots.slow.clone(), name, shared.clone()));
        if ordered {
            let unit = Arc::new(());
            let first = follow(&slot, Made::Lane(unit.clone()));
            units.insert(job.lane().to_owned(), (first, unit));
        } else if let Err(mpsc::error::SendError(raw)) = slots.sender.send(follow(&slot, made)) {
            raw.hand_back();
        }
    }
    for (raw, _) in units.into_values() {
        if let Err(mpsc::error::SendError(raw)) = slots.sender.send(raw) {
            raw.hand_back();
        }
    }
}

/// Records outcomes in batches. One that cannot be written is kept and tried again: it is accepted as long as its
/// attempt token is current.
pub(crate) async fn complete_all(shared: Arc<Shared>, mut receiver: mpsc::Receiver<(Recorded, Tracked)>) {
    let mut batch: Vec<(Recorded, Tracked)> = Vec::new();
    let mut kept = Kept::default();
    loop {
        let first = tokio::select! {
            biased;
            first = receiver.recv() => first,
            () = shared.stopped.cancelled() => None,
        };
        let Some(first) = first else { return };
        batch.push(first);
        let gather = tokio::time::sleep(GATHER);
        tokio::pin!(gather);
        while batch.len() < COMPLETE_MAX {
            tokio::select! {
                biased;
                more = receiver.recv() => match more { Some(more) => batch.push(more), None => break },
                () = &mut gather => break,
            }
        }
        batch.sort_by_key(|(recorded, _)| recorded.id);
        let outcomes: Vec<Recorded> = batch.iter().map(|(recorded, _)| recorded.clone()).collect();
        let Some(accepted) = write(&shared, &outcomes, &mut kept).await else {
            batch.clear();
            continue;
        };
        for (recorded, tracked) in batch.drain(..) {
            tracked.recorded(accepted.contains(&recorded.token()));
        }
    }
}

/// Returns the tokens that were accepted; `None` when the runtime stopped first.
async fn write(shared: &Shared, outcomes: &[Recorded], kept: &mut Kept) -> Option<HashSet<(Uuid, i32)>> {
    let mut failures = 0;
    loop {
        let complete = async { complete_many(kept.connection(&shared.pool).await?, outcomes).await };
        match unpanicked(within(complete)).await {
            Ok(accepted) => {
                for outcome in outcomes {
                    outcome.count_completed(accepted.contains(&outcome.token()));
                }
                return Some(accepted);
            }
            Err(error) => {
                kept.give_up();
                tracing::warn!(%error, outcomes = outcomes.len(), "outcomes were not recorded; trying again");
                failures += 1;
            }
        }
        if shared.stopped.is_cancelled() {
            tracing::warn!(
                outcomes = outcomes.len(),
                "stopped before outcomes were recorded; their jobs run again"
            );
            return None;
        }
        sleep_unless(&shared.stopped, pause(failures)).await;
    }
}

/// Listens for wakes on a connection of its own. After every (re)connection all queues are looked at, for wakes of
/// the meantime are lost.
pub(crate) async fn listen(shared: Arc<Shared>) {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(STATEMENT_DEADLINE)
        .connect_lazy_with(shared.connect.clone());
    let mut failures = 0;
    while !shared.is_stopping() {
        let listened = tokio::select! {
            listened = unpanicked(listen_once(&shared, &pool)) => listened,
            () = shared.stopping.cancelled() => return,
        };
        if let Err(error) = listened {
            tracing::warn!(%error, "listening for wakes failed; polling meanwhile");
            failures += 1;
        } else {
            failures = 0;
        }
        sleep_unless(&shared.stopping, pause(failures)).await;
    }
}

/// Returns when the connection is lost.
async fn listen_once(shared: &Arc<Shared>, pool: &sqlx::PgPool) -> Result<(), Error> {
    let mut listener = within(PgListener::connect_with(pool)).await?;
    within(listener.listen_all([READY_CHANNEL, GROUPS_CHANNEL])).await?;
    shared.mark_all();
    loop {
        let Ok(received) = tokio::time::timeout(SILENCE, listener.try_recv()).await else {
            // A connection whose other end is gone without a word stays silent for ever.
            within(sqlx::query("select 1").execute(&mut listener)).await?;
            continue;
        };
        let Some(notification) = received? else { return Ok(()) };
        if notification.channel() == GROUPS_CHANNEL {
            if let Err(error) = cancel(shared).await {
                tracing::debug!(%error, "cancelled groups were not read; the next look finds them");
            }
        } else {
            match wake::read(notification.payload()) {
                // What is enqueued here was heard of here.
                Some((from, _)) if shared.notifier.sent(from) => {}
                Some((_, queues)) => shared.hear(&queues),
                None => shared.mark_all(),
            }
        }
    }
}
