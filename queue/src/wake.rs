//! Waking claimers after a commit: one NOTIFY for many enqueues, on a connection of its own.

use std::{collections::BTreeSet, time::Duration};

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

/// Which queues got jobs, and whether groups changed. To be sent after the commit; dropping it costs up to a poll.
#[must_use = "send it after the commit, or the job waits for the next poll"]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wake {
    queues: BTreeSet<String>,
    groups: bool,
}

impl Wake {
    /// Nothing to wake.
    pub fn none() -> Self {
        Self::default()
    }

    /// Wakes for these queues.
    pub(crate) fn of(queues: &[String]) -> Self {
        let mut wake = Self::none();
        for queue in queues {
            wake.add(queue);
        }
        wake
    }

    pub(crate) fn groups() -> Self {
        Self { groups: true, ..Self::default() }
    }

    pub(crate) fn add(&mut self, queue: &str) {
        if !self.queues.contains(queue) {
            self.queues.insert(queue.to_owned());
        }
    }

    /// Takes over what another wake would wake.
    pub fn merge(&mut self, other: Self) {
        self.queues.extend(other.queues);
        self.groups |= other.groups;
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty() && !self.groups
    }
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
        let queues = wake.queues.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        let send = sqlx::query(
            "select case when $1 <> '' then pg_notify($2, $1) end, case when $3 then pg_notify($4, '') end",
        )
        .bind(queues)
        .bind(READY_CHANNEL)
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
