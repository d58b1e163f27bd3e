//! The state that both servers share.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::hooks::Hooks;
use crate::journal::Journal;
use crate::replies::{Inbound, Replies};
use crate::smtp::Behaviour;
use crate::smtp::body;
use crate::smtp::ledger::Ledger;

/// What a world is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The length of a simulated day.
    pub day: Duration,
    /// Whether all raw bodies are kept.
    pub keep_raw: bool,
    /// Where answers are posted.
    pub inbound: Inbound,
}

/// The ledger files.
pub struct Journals {
    /// One line per accepted body and recipient.
    pub smtp: Journal,
    /// One line per answer that was accepted, refused or lost.
    pub replies: Journal,
    /// One line per webhook attempt.
    pub hooks: Journal,
}

/// The simulated outside.
pub struct World {
    /// The length of a simulated day.
    pub day: Duration,
    /// What the SMTP server saw.
    pub smtp: Mutex<Ledger>,
    /// How the SMTP server misbehaves.
    pub smtp_behaviour: watch::Sender<Behaviour>,
    /// The memory of unfinished bodies.
    pub body_budget: Arc<Semaphore>,
    /// What personas send back.
    pub replies: Replies,
    /// The webhook receivers.
    pub hooks: Mutex<Hooks>,
    /// The ledger files.
    pub journals: Journals,
    /// Ends everything.
    pub stop: CancellationToken,
}

/// The tasks that write the ledger files; they end after the world stopped and the last record is on disk.
pub type Writers = [Writer; 3];

type Writer = JoinHandle<std::io::Result<()>>;

impl World {
    /// Opens the ledger files in `dir` and makes an empty world.
    pub async fn open(
        dir: &Path,
        settings: Settings,
        stop: CancellationToken,
    ) -> anyhow::Result<(Arc<Self>, Writers)> {
        tokio::fs::create_dir_all(dir).await.with_context(|| format!("creating {}", dir.display()))?;
        let (smtp, smtp_writer) = journal(dir, "smtp.jsonl", &stop).await?;
        let (replies, replies_writer) = journal(dir, "replies.jsonl", &stop).await?;
        let (hooks, hooks_writer) = journal(dir, "hooks.jsonl", &stop).await?;
        let world = Self {
            day: settings.day,
            smtp: Mutex::new(Ledger::new(settings.keep_raw)),
            smtp_behaviour: watch::Sender::new(Behaviour::default()),
            body_budget: body::budget(),
            replies: Replies::new(settings.inbound)?,
            hooks: Mutex::new(Hooks::default()),
            journals: Journals { smtp, replies, hooks },
            stop,
        };
        Ok((Arc::new(world), [smtp_writer, replies_writer, hooks_writer]))
    }
}

async fn journal(dir: &Path, name: &str, stop: &CancellationToken) -> anyhow::Result<(Journal, Writer)> {
    let path = dir.join(name);
    Journal::open(&path, stop.clone()).await.with_context(|| format!("opening {}", path.display()))
}

/// Locks a mutex. A panic elsewhere must not turn every later test into a second failure, so poison is ignored.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
