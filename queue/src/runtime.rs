//! One runtime per process: the lease, one claimer for all queues, the completer, cancellation and hand-back.

use std::{
    collections::{HashMap, HashSet},
    marker::PhantomData,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    Backend, Error, Job, JobKind, Notifier, Schedule, Source,
    beat::{Beat, Heart},
    chores,
    claim::{Raw, SlowSlots},
    complete::Recorded,
    meters::Meters,
    neighbours::Identity,
    tick,
    wake::Queues,
};

/// What a runtime needs to know.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// The process's name in the list of leases; it need not be unique.
    pub name: String,
    /// How to reach the database. The runtime opens at most six connections: for its beats, to listen, to claim,
    /// to complete, for its chores, and to vacuum.
    pub connect: PgConnectOptions,
    /// The process's notifier: what is sent by it, or by its clones, wakes this runtime at once.
    pub notifier: Notifier,
    /// Whether the others on this machine may see at once that this process died, and this one that they did. Otherwise
    /// its jobs are given back when its lease expires, as they are on other machines.
    pub seen_by_neighbours: bool,
    /// Whether to listen for the wakes of other processes; without it their jobs are found by polling once a second.
    pub listen: bool,
    /// The periodic jobs.
    pub schedules: Vec<Schedule>,
}

/// One connection to claim, one to complete, one for the chores, one to vacuum.
const POOL: u32 = 4;
/// How long a statement of the runtime may take before it is given up and its connection closed.
pub(crate) const STATEMENT_DEADLINE: Duration = Duration::from_secs(5);
/// How much of a shutdown is kept for recording outcomes.
const RECORDING_MAX: Duration = Duration::from_secs(2);
/// How many lanes are expected before everything is looked at instead.
const EXPECTED_MAX: usize = 200;
/// Outcomes that may wait for the completer before handlers wait for it.
const OUTCOMES_WAITING_MAX: usize = 10_000;

/// The slots of one queue.
#[derive(Clone)]
pub(crate) struct Slots {
    pub(crate) total: usize,
    pub(crate) free: Arc<Semaphore>,
    pub(crate) slow: Arc<SlowSlots>,
    /// How many jobs of an ordered lane share a slot.
    pub(crate) unit: usize,
    pub(crate) sender: mpsc::UnboundedSender<Raw>,
    /// Whether there may be ready jobs that the claimer does not know of: set by wakes and polls, and cleared by a look at
    /// the table.
    pub(crate) look: Arc<AtomicBool>,
    /// The lanes, as (tenant, lane), that may have something to claim: they got a job, or one of a capped lane has ended.
    pub(crate) expected: Arc<Mutex<HashSet<(String, String)>>>,
    pub(crate) meters: Arc<Meters>,
}

impl Slots {
    /// Whether something happened since the last claim that may have brought jobs.
    pub(crate) fn has_news(&self) -> bool {
        self.look.load(Ordering::Acquire) || !lock(&self.expected).is_empty()
    }
}

/// What the tasks of a runtime share.
pub(crate) struct Shared {
    pub(crate) heart: Arc<Heart>,
    /// Which process of its machine this is, if its neighbours may know.
    pub(crate) identity: Option<Identity>,
    pub(crate) pool: PgPool,
    pub(crate) connect: PgConnectOptions,
    pub(crate) notifier: Notifier,
    pub(crate) queues: Mutex<HashMap<&'static str, Slots>>,
    /// Every job this process claimed and whose outcome is not recorded yet.
    pub(crate) tracked: Mutex<HashMap<Uuid, Job>>,
    pub(crate) untracked: Notify,
    pub(crate) outcomes: mpsc::Sender<(Recorded, Tracked)>,
    pub(crate) work: Notify,
    /// How many runs ended since the dead rows were last looked at.
    pub(crate) ended: AtomicU32,
    /// Set when a claim failed, which may have moved jobs all the same.
    pub(crate) unheard: AtomicBool,
    pub(crate) stopping: CancellationToken,
    pub(crate) stopped: CancellationToken,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// Locks a mutex, also after a panic: it guards plain values here, which no panic leaves half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    pub(crate) fn queues(&self) -> MutexGuard<'_, HashMap<&'static str, Slots>> {
        lock(&self.queues)
    }

    pub(crate) fn tracked(&self) -> MutexGuard<'_, HashMap<Uuid, Job>> {
        lock(&self.tracked)
    }

    /// Lets the claimer look at a queue.
    pub(crate) fn mark(&self, queue: &str) {
        if let Some(slots) = self.queues().get(queue) {
            slots.look.store(true, Ordering::Release);
            self.work.notify_one();
        }
    }

    /// Lets the claimer look at one lane of a queue.
    pub(crate) fn expect(&self, queue: &str, tenant: String, lane: String) {
        if let Some(slots) = self.queues().get(queue) {
            let mut expected = lock(&slots.expected);
            expected.insert((tenant, lane));
            if expected.len() > EXPECTED_MAX {
                expected.clear();
                slots.look.store(true, Ordering::Release);
            }
            self.work.notify_one();
        }
    }

    /// Lets the claimer look where a wake says that there are jobs.
    pub(crate) fn hear(&self, queues: &Queues) {
        for (queue, lanes) in queues {
            if lanes.is_empty() {
                self.mark(queue);
            }
            for (tenant, lane) in lanes {
                self.expect(queue, tenant.clone(), lane.clone());
            }
        }
    }

    /// Lets the claimer look at all queues.
    pub(crate) fn mark_all(&self) {
        for slots in self.queues().values() {
            slots.look.store(true, Ordering::Release);
        }
        self.work.notify_one();
    }

    pub(crate) fn track(self: &Arc<Self>, job: &Job, made: Made) -> Tracked {
        self.tracked().insert(job.id(), job.clone());
        Tracked { job: job.clone(), made, confirm: None, shared: self.clone() }
    }
}

/// What the end of a job makes room for, besides its slot.
#[derive(Debug, Clone)]
pub(crate) enum Made {
    /// Nothing.
    Nothing,
    /// Its lane, whose running jobs are counted: for a unit, once all of its jobs have ended.
    Lane(Arc<()>),
}

/// Keeps a claimed job known to its process until its outcome is recorded. Dropping it wakes the claimer, for a slot is
/// free; the end of a job in a capped lane has made room there as well.
#[derive(Debug)]
pub(crate) struct Tracked {
    job: Job,
    made: Made,
    /// Who waits to hear whether the outcome was accepted.
    confirm: Option<oneshot::Sender<bool>>,
    shared: Arc<Shared>,
}

impl Tracked {
    /// Hands an outcome to the completer and waits until it is recorded. False: the token is stale. None: the runtime
    /// stopped before it was recorded.
    pub(crate) async fn confirm(mut self, recorded: Recorded) -> Option<bool> {
        let (sender, receiver) = oneshot::channel();
        self.confirm = Some(sender);
        self.record(recorded).await;
        receiver.await.ok()
    }

    /// Tells whoever waits that the outcome was recorded, or was stale.
    pub(crate) fn recorded(mut self, accepted: bool) {
        if let Some(confirm) = self.confirm.take() {
            let _ = confirm.send(accepted);
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.shared.is_stopping()
    }

    /// Hands an outcome to the completer; waits while too many wait there.
    pub(crate) async fn record(self, recorded: Recorded) {
        let outcomes = self.shared.outcomes.clone();
        // The completer ends only after all tracked jobs: a refusal means that the process is being torn down.
        let _ = outcomes.send((recorded, self)).await;
    }

    /// The same from where one cannot wait.
    pub(crate) fn record_soon(self, recorded: Recorded) {
        let outcomes = self.shared.outcomes.clone();
        if let Err(mpsc::error::TrySendError::Full(pair)) = outcomes.try_send((recorded, self)) {
            tokio::spawn(async move { outcomes.send(pair).await });
        }
    }

    /// The job's outcome was recorded elsewhere, or belongs to another run.
    pub(crate) fn forget(self) {
        drop(self);
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        if let Some(outcome) = self.job.recorded() {
            self.job.count(outcome, Instant::now());
        }
        let mut tracked = self.shared.tracked();
        if tracked.get(&self.job.id()).is_some_and(|job| job.run() == self.job.run()) {
            tracked.remove(&self.job.id());
        }
        drop(tracked);
        self.shared.ended.fetch_add(1, Ordering::Relaxed);
        self.shared.untracked.notify_one();
        let lane_has_room = match std::mem::replace(&mut self.made, Made::Nothing) {
            Made::Lane(unit) => Arc::into_inner(unit).is_some(),
            Made::Nothing => false,
        };
        if lane_has_room {
            let (tenant, lane) = (self.job.tenant().to_owned(), self.job.lane().to_owned());
            self.shared.expect(self.job.queue(), tenant, lane);
        } else {
            self.shared.work.notify_one();
        }
    }
}

/// The queue's work in one process.
pub struct Runtime {
    shared: Arc<Shared>,
    tasks: TaskTracker,
    claimer: Option<tokio::task::JoinHandle<()>>,
    beat: Option<std::thread::JoinHandle<()>>,
    beat_stop: CancellationToken,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

impl Runtime {
    /// Starts beating, claiming and completing on the current tokio runtime. The database need not be there yet.
    pub fn start(config: RuntimeConfig) -> Result<Self, Error> {
        let connect = config.connect.application_name(&config.name).options([("statement_timeout", "5s")]);
        let pool = PgPoolOptions::new()
            .max_connections(POOL)
            .acquire_timeout(STATEMENT_DEADLINE)
            .connect_lazy_with(connect.clone());
        let (outcomes, receiver) = mpsc::channel(OUTCOMES_WAITING_MAX);
        let shared = Arc::new(Shared {
            heart: Arc::new(Heart::default()),
            identity: config.seen_by_neighbours.then(Identity::own).flatten(),
            pool,
            connect: connect.clone(),
            notifier: config.notifier,
            queues: Mutex::default(),
            tracked: Mutex::default(),
            untracked: Notify::new(),
            outcomes,
            work: Notify::new(),
            ended: AtomicU32::new(0),
            unheard: AtomicBool::new(false),
            stopping: CancellationToken::new(),
            stopped: CancellationToken::new(),
        });
        let beat_stop = CancellationToken::new();
        let (waker, known) = (shared.clone(), shared.clone());
        let beat = Beat {
            connect,
            name: config.name,
            heart: shared.heart.clone(),
            identity: shared.identity.clone(),
            stop: beat_stop.clone(),
            beating: Box::new(move || waker.mark_all()),
            queues: Box::new(move || known.queues().keys().copied().collect()),
        };
        let beat = beat.start().map_err(sqlx::Error::Io)?;
        let tasks = TaskTracker::new();
        let claimer = Some(tasks.spawn(tick::claim_all(shared.clone())));
        tasks.spawn(tick::complete_all(shared.clone(), receiver));
        chores::start(&tasks, &shared, config.schedules);
        shared.notifier.tell(&shared);
        if config.listen {
            tasks.spawn(tick::listen(shared.clone()));
        }
        Ok(Self { shared, tasks, claimer, beat: Some(beat), beat_stop })
    }

    /// The jobs of kind `J`, of which this process runs at most `slots` at once. One source per kind. Its metrics go to
    /// the recorder that is installed by now.
    pub fn source<J: JobKind>(&self, slots: usize) -> Source<J> {
        self.source_of_units(slots, 1)
    }

    /// The same for who runs up to `unit` jobs of an ordered lane one after the other in one slot:
    /// [`Claimed::take_rest`](crate::Claimed::take_rest).
    pub fn source_of_units<J: JobKind>(&self, slots: usize, unit: usize) -> Source<J> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let slots = Slots {
            total: slots,
            free: Arc::new(Semaphore::new(slots)),
            slow: Arc::default(),
            unit,
            sender,
            look: Arc::new(AtomicBool::new(true)),
            expected: Arc::default(),
            meters: Arc::new(Meters::new(J::QUEUE)),
        };
        self.shared.queues().insert(J::QUEUE, slots);
        self.shared.work.notify_one();
        Source { receiver, shared: self.shared.clone(), kind: PhantomData }
    }

    /// The same as an apalis backend.
    pub fn backend<J: JobKind>(&self, slots: usize) -> Backend<J> {
        Backend::new(self.source(slots))
    }

    /// Whether the process holds a lease, and so can work.
    pub fn is_ready(&self) -> bool {
        self.shared.heart.lease().is_some()
    }

    /// Stops: claims nothing more, hands back what was not started, waits for what runs, drops the rest (no attempt
    /// counted) unless it is protected, records the outcomes and gives up the lease. A tenth of `deadline`, at most
    /// 2 s, is kept for recording; it is exceeded only by what a database that does not answer costs, 5 s at most.
    pub async fn shutdown(mut self, deadline: Duration) {
        let ends = tokio::time::Instant::now() + deadline;
        let recording = (deadline / 10).min(RECORDING_MAX);
        self.shared.stopping.cancel();
        // Without their senders the sources end, and hand back what is still in them.
        self.shared.queues().clear();
        self.shared.work.notify_one();
        // A claim on its way brings jobs that are to be handed back as well.
        if let Some(claimer) = self.claimer.take() {
            let _ = tokio::time::timeout_at(ends, claimer).await;
        }
        if tokio::time::timeout_at(ends - recording, self.drained()).await.is_err() {
            let left: Vec<Job> = self.shared.tracked().values().cloned().collect();
            tracing::warn!(
                jobs = left.len(),
                "the deadline of the shutdown has come; dropping what still runs"
            );
            for job in left {
                job.cancelled().cancel();
            }
            let _ = tokio::time::timeout_at(ends, self.drained()).await;
        }
        self.shared.stopped.cancel();
        self.tasks.close();
        let stopped = async {
            self.tasks.wait().await;
            self.beat_stop.cancel();
            if let Some(beat) = self.beat.take() {
                let _ = tokio::task::spawn_blocking(move || beat.join()).await;
            }
            self.shared.pool.close().await;
        };
        let _ = tokio::time::timeout(STATEMENT_DEADLINE, stopped).await;
        self.beat_stop.cancel();
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    async fn drained(&self) {
        while !self.shared.tracked().is_empty() {
            let changed = self.shared.untracked.notified();
            let _ = tokio::time::timeout(Duration::from_millis(50), changed).await;
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.shared.stopping.cancel();
        self.shared.stopped.cancel();
        self.beat_stop.cancel();
    }
}
