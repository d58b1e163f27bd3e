//! Open connections between two messages, per mailbox, and how well each mailbox does.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;

use super::{connection::Connection, server::Server};

/// Servers close connections that carry nothing; many do so after a minute.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Servers count messages per connection; 100 is below the limits that are common.
const CARRIED_MAX: u32 = 100;
/// How many idle connections of one mailbox are kept.
const IDLE_PER_MAILBOX_MAX: usize = 32;
/// How many idle connections are kept in all.
const IDLE_TOTAL_MAX: usize = 512;
/// The first wait of a mailbox that cannot send; it doubles up to [`WAIT_MAX`].
const WAIT_MIN: Duration = Duration::from_secs(1);
/// The longest wait of a mailbox that cannot send.
const WAIT_MAX: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Idle {
    connection: Connection,
    server: Server,
    since: Instant,
}

/// A mailbox that could not send.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    wait: Duration,
    until: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    idle: HashMap<Uuid, Vec<Idle>>,
    troubles: HashMap<Uuid, Trouble>,
}

/// The idle connections of a worker.
#[derive(Debug, Default)]
pub struct Pool {
    inner: Mutex<Inner>,
}

impl Pool {
    /// The connection of a mailbox that was used last, if one is fresh and leads to the same server.
    pub fn take(&self, mailbox: Uuid, server: &Server) -> Option<Connection> {
        let mut inner = self.lock();
        let idle = inner.idle.get_mut(&mailbox)?;
        while let Some(last) = idle.pop() {
            if last.since.elapsed() < IDLE_MAX && last.server == *server {
                return Some(last.connection);
            }
        }
        None
    }

    /// Keeps a connection that is in step for the next message, or closes it if it has carried enough.
    pub fn put(&self, mailbox: Uuid, server: &Server, connection: Connection) {
        if connection.carried() >= CARRIED_MAX {
            tokio::spawn(connection.quit());
            return;
        }
        let mut inner = self.lock();
        if inner.idle.values().map(Vec::len).sum::<usize>() >= IDLE_TOTAL_MAX {
            return;
        }
        let idle = inner.idle.entry(mailbox).or_default();
        if idle.len() < IDLE_PER_MAILBOX_MAX {
            idle.push(Idle { connection, server: server.clone(), since: Instant::now() });
        }
    }

    /// Takes out the connections that have been idle for too long, to be closed.
    pub fn expired(&self) -> Vec<Connection> {
        let mut inner = self.lock();
        let mut expired = Vec::new();
        for idle in inner.idle.values_mut() {
            // The oldest are in front.
            let fresh = idle.iter().position(|idle| idle.since.elapsed() < IDLE_MAX).unwrap_or(idle.len());
            expired.extend(idle.drain(..fresh).map(|idle| idle.connection));
        }
        inner.idle.retain(|_, idle| !idle.is_empty());
        let now = Instant::now();
        inner.troubles.retain(|_, trouble| trouble.until + WAIT_MAX > now);
        expired
    }

    /// Notes that a mailbox cannot send, and says how long to leave it alone. Many failures at one time count as one.
    pub fn trouble(&self, mailbox: Uuid) -> Duration {
        let now = Instant::now();
        let mut inner = self.lock();
        let trouble = inner
            .troubles
            .entry(mailbox)
            .and_modify(|trouble| {
                if trouble.until <= now {
                    trouble.wait = (trouble.wait * 2).min(WAIT_MAX);
                    trouble.until = now + trouble.wait;
                }
            })
            .or_insert(Trouble { wait: WAIT_MIN, until: now + WAIT_MIN });
        trouble.until.saturating_duration_since(now).max(Duration::from_millis(100))
    }

    /// Notes that a mailbox can send.
    pub fn well(&self, mailbox: Uuid) {
        self.lock().troubles.remove(&mailbox);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn troubles_double_and_are_forgotten() {
        let pool = Pool::default();
        let mailbox = Uuid::now_v7();
        assert_eq!(pool.trouble(mailbox), Duration::from_secs(1));
        assert_eq!(pool.trouble(mailbox), Duration::from_secs(1), "at the same time it is the same trouble");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pool.trouble(mailbox), Duration::from_secs(2));
        for _ in 0..20 {
            tokio::time::advance(WAIT_MAX).await;
            assert!(pool.trouble(mailbox) <= WAIT_MAX);
        }
        pool.well(mailbox);
        assert_eq!(pool.trouble(mailbox), WAIT_MIN);
    }
}
