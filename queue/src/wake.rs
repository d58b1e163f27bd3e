//! Waking claimers after a commit: one NOTIFY for many enqueues, on a connection of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::sync::mpsc;

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

/// Which queues got jobs, and whether groups changed. To be sent after the commit; dropping it costs up to a poll.
#[must_use = "send it after the commit, or the job waits for the next poll"]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wake {
    queues: BTreeMap<String, Lanes>,
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

    /// As NOTIFY carries it: without the lanes when they are too long, and empty, which means any queue, when
    /// the queues are.
    fn payload(&self) -> String {
        let text = |queues: &BTreeMap<String, Lanes>| {
            serde_json::to_string(queues).ok().filter(|text| text.len() <= PAYLOAD_MAX)
        };
        let unnamed = || self.queues.keys().map(|queue| (queue.clone(), Lanes::new())).collect();
        text(&self.queues).or_else(|| text(&unnamed())).unwrap_or_default()
    }
}

/// Reads what [`Wake::payload`] wrote. `None`: look at everything.
pub(crate) fn read(payload: &str) -> Option<BTreeMap<String, Vec<(String, String)>>> {
    serde_json::from_str(payload).ok()
}

/// Sends wakes. One per process; clones share it.
#[derive(Debug, Clone)]
pub struct Notifier {
    sender: Option<mpsc::Sender<Wake>>,
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
        tokio::spawn(send_all(own, receiver));
        Self { sender: Some(sender) }
    }

    /// A notifier that sends nothing, for databases behind a pooler that does not carry NOTIFY: claimers poll.
    pub fn disabled() -> Self {
        Self { sender: None }
    }

    /// Queues a wake for sending. Never waits.
    pub fn send(&self, wake: Wake) {
        if let Some(sender) = &self.sender
            && !wake.is_empty()
            && sender.try_send(wake).is_err()
        {
            tracing::debug!("a wake was dropped; polling will find its jobs");
        }
    }
}

async fn send_all(pool: PgPool, mut receiver: mpsc::Receiver<Wake>) {
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
        .bind(wake.payload())
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
    use super::*;

    fn lanes(wake: &Wake, queue: &str) -> usize {
        read(&wake.payload()).unwrap()[queue].len()
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
        let read_back = read(&wake.payload()).unwrap();
        assert!(read_back.len() == 3 && read_back.values().all(Vec::is_empty));
        for queue in 0..30 {
            wake.add_job(&long(queue), "tenant", "lane");
        }
        assert_eq!(read(&wake.payload()), None, "whoever hears it looks at everything");
    }
}
