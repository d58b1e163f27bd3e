//! Waking claimers after a commit: those of this process at once, the others by one NOTIFY for many enqueues, on a connection
//! of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::runtime::{Shared, lock};

/// NOTIFY takes a lock that all commits share, so a process sends at most one per channel in this time.
const COALESCE: Duration = Duration::from_millis(5);
/// A wake that cannot be sent is dropped: polling finds the job.
const SEND_DEADLINE: Duration = Duration::from_secs(2);
/// How many wakes may wait for the notifier; more are dropped, since one NOTIFY covers them all.
const WAITING_MAX: usize = 1024;

pub(crate) const READY_CHANNEL: &str = "queue_ready";
pub(crate) const GROUPS_CHANNEL: &str = "queue_groups";

/// How many lanes of a queue are named; of more, claimers look for themselves.
const LANES_MAX: usize = 16;
/// The longest text that NOTIFY carries, in bytes, less some for good measure.
const PAYLOAD_MAX: usize = 7_900;

/// The lanes of a queue that got jobs, as (tenant, lane); none: any of them.
type Lanes = BTreeSet<(String, String)>;
/// The queues that got jobs.
pub(crate) type Queues = BTreeMap<String, Lanes>;

/// Which queues got jobs, and whether groups changed. To be sent after the commit; dropping it costs up to a poll.
#[must_use = "send it after the commit, or the job waits for the next poll"]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wake {
    queues: Queues,
    groups: bool,
}

impl Wake {
    /// Nothing to wake.
    pub fn none() -> Self {
        Self::default()
    }

    /// Wakes for these queues.
    pub(crate) fn of(queues: &[String]) -> Self {
        let queues = queues.iter().map(|queue| (queue.clone(), Lanes::new())).collect();
        Self { queues, groups: false }
    }

    pub(crate) fn groups() -> Self {
        Self { groups: true, ..Self::default() }
    }

    /// Says that a lane got a job.
    pub(crate) fn add_job(&mut self, queue: &str, tenant: &str, lane: &str) {
        let Some(lanes) = self.queues.get_mut(queue) else {
            let lanes = Lanes::from([(tenant.to_owned(), lane.to_owned())]);
            self.queues.insert(queue.to_owned(), lanes);
            return;
        };
        if !lanes.is_empty() {
            lanes.insert((tenant.to_owned(), lane.to_owned()));
            if lanes.len() > LANES_MAX {
                lanes.clear();
            }
        }
    }

    /// Takes over what another wake would wake.
    pub fn merge(&mut self, other: Self) {
        for (queue, lanes) in other.queues {
            if lanes.is_empty() {
                self.queues.insert(queue, lanes);
            } else {
                for (tenant, lane) in lanes {
                    self.add_job(&queue, &tenant, &lane);
                }
            }
        }
        self.groups |= other.groups;
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty() && !self.groups
    }

    /// As NOTIFY carries it, with who sends it: without the lanes when they are too long, and empty, which means any queue,
    /// when the queues are.
    fn payload(&self, from: Uuid) -> String {
        let text = |queues: &Queues| {
            serde_json::to_string(&(from, queues)).ok().filter(|text| text.len() <= PAYLOAD_MAX)
        };
        let unnamed = || self.queues.keys().map(|queue| (queue.clone(), Lanes::new())).collect();
        text(&self.queues).or_else(|| text(&unnamed())).unwrap_or_default()
    }
}

/// Reads what [`Wake::payload`] wrote, and who did. `None`: look at everything.
pub(crate) fn read(payload: &str) -> Option<(Uuid, Queues)> {
    serde_json::from_str(payload).ok()
}

/// Sends wakes. One per process; clones share it.
#[derive(Debug, Clone)]
pub struct Notifier {
    sender: Option<mpsc::Sender<Wake>>,
    /// Its name among those that send.
    id: Uuid,
    /// The runtimes that hear of its wakes without NOTIFY.
    near: Arc<Mutex<Vec<Weak<Shared>>>>,
}

impl Notifier {
    /// Starts the task that sends, on the current runtime. It ends when the last clone is dropped. It has a connection
    /// of its own to the pool's database, so that wakes do not wait when the pool is busy.
    pub fn start(pool: &PgPool) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let own = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(SEND_DEADLINE)
            // A wake that fails because the connection is gone is found by a poll.
            .test_before_acquire(false)
            .connect_lazy_with((*pool.connect_options()).clone());
        let id = Uuid::new_v4();
        tokio::spawn(send_all(own, receiver, id));
        Self { sender: Some(sender), id, near: Arc::default() }
    }

    /// A notifier that sends nothing, for databases behind a pooler that does not carry NOTIFY: the claimers of other processes
    /// poll.
    pub fn disabled() -> Self {
        Self { sender: None, id: Uuid::new_v4(), near: Arc::default() }
    }

    /// Lets a runtime hear of its wakes without NOTIFY, which it then need not heed.
    pub(crate) fn tell(&self, runtime: &Arc<Shared>) {
        let mut near = lock(&self.near);
        near.retain(|runtime| runtime.strong_count() > 0);
        near.push(Arc::downgrade(runtime));
    }

    /// Whether a wake that was heard is one of its own.
    pub(crate) fn sent(&self, from: Uuid) -> bool {
        self.id == from
    }

    /// Wakes the runtimes of this process, and queues the wake for sending to the others. Never waits.
    pub fn send(&self, wake: Wake) {
        if wake.is_empty() {
            return;
        }
        let near: Vec<Arc<Shared>> = lock(&self.near).iter().filter_map(Weak::upgrade).collect();
        for runtime in near {
            runtime.hear(&wake.queues);
        }
        if self.sender.as_ref().is_some_and(|sender| sender.try_send(wake).is_err()) {
            tracing::debug!("a wake was dropped; polling will find its jobs");
        }
    }
}

async fn send_all(pool: PgPool, mut receiver: mpsc::Receiver<Wake>, from: Uuid) {
    while let Some(mut wake) = receiver.recv().await {
        while let Ok(more) = receiver.try_recv() {
            wake.merge(more);
        }
        // Its commit writes nothing that must last, so that it need not wait for the disk.
        let send = sqlx::query(
            "select set_config('synchronous_commit', 'off', true), case when $1 then pg_notify($2, $3) end,
                case when $4 then pg_notify($5, '') end",
        )
        .bind(!wake.queues.is_empty())
        .bind(READY_CHANNEL)
        .bind(wake.payload(from))
        .bind(wake.groups)
        .bind(GROUPS_CHANNEL)
        .execute(&pool);
        match tokio::time::timeout(SEND_DEADLINE, send).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a wake was not sent; polling will find its jobs"),
            Err(_) => tracing::debug!("a wake was not sent in time; polling will find its jobs"),
        }
        tokio::time::sleep(COALESCE).await;
    }
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgConnectOptions;

    use super::*;
    use crate::{JobKind, Runtime, RuntimeConfig, testing::Nothing};

    /// What the claimer is to look at, which it does not as long as it has no database.
    fn expected(runtime: &Runtime) -> Vec<(String, String)> {
        let slots = runtime.shared().queues()[Nothing::QUEUE].clone();
        lock(&slots.expected).iter().cloned().collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_enqueues_and_claims_need_not_hear_of_it_from_the_database() {
        let nowhere = PgConnectOptions::new().host("127.0.0.1").port(1);
        let pool = PgPoolOptions::new().connect_lazy_with(nowhere.clone());
        let (own, another) = (Notifier::start(&pool), Notifier::disabled());
        let runtime = Runtime::start(RuntimeConfig {
            name: "near".into(),
            connect: nowhere,
            notifier: own.clone(),
            seen_by_neighbours: false,
            listen: true,
            schedules: Vec::new(),
        })
        .unwrap();
        let source = runtime.source::<Nothing>(1);
        let job = ("tenant".to_owned(), "lane".to_owned());
        for notifier in [&another, &own] {
            let mut wake = Wake::none();
            wake.add_job(Nothing::QUEUE, &job.0, &job.1);
            notifier.send(wake);
            let heard = if notifier.sent(own.id) { vec![job.clone()] } else { Vec::new() };
            assert_eq!(expected(&runtime), heard);
        }
        assert!(!another.sent(own.id));
        drop((runtime, source));
    }

    fn lanes(wake: &Wake, queue: &str) -> usize {
        read(&wake.payload(Uuid::max())).unwrap().1[queue].len()
    }

    #[test]
    fn a_few_lanes_are_named_and_of_more_none() {
        let mut wake = Wake::none();
        for n in 0..LANES_MAX {
            wake.add_job("mail", "tenant", &format!("lane-{n}"));
            wake.add_job("mail", "tenant", "lane-0");
        }
        assert_eq!(lanes(&wake, "mail"), LANES_MAX);
        let mut more = Wake::none();
        more.add_job("mail", "another", "lane-0");
        more.add_job("fax", "tenant", "lane-0");
        wake.merge(more);
        assert_eq!((lanes(&wake, "mail"), lanes(&wake, "fax")), (0, 1));
        wake.add_job("mail", "tenant", "lane-0");
        assert_eq!(lanes(&wake, "mail"), 0, "the other lanes are not forgotten");
        wake.merge(Wake::of(&["fax".into()]));
        assert_eq!(lanes(&wake, "fax"), 0);
    }

    #[test]
    fn a_wake_that_is_too_long_says_less() {
        let mut wake = Wake::none();
        let long = |n: usize| format!("{}{n:02}", "\u{1}".repeat(62));
        for queue in 0..3 {
            for n in 0..LANES_MAX {
                wake.add_job(&long(queue), &long(n), &long(n));
            }
        }
        let (from, queues) = read(&wake.payload(Uuid::max())).unwrap();
        assert!(from == Uuid::max() && queues.len() == 3 && queues.values().all(Lanes::is_empty));
        for queue in 0..30 {
            wake.add_job(&long(queue), "tenant", "lane");
        }
        assert_eq!(read(&wake.payload(Uuid::max())), None, "whoever hears it looks at everything");
    }
}
