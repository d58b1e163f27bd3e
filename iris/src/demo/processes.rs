//! The three roles as processes, which can be killed at any moment and are started again.

use std::{
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use rand::seq::IndexedRandom;
use tokio::{
    process::{Child, Command},
    task::{AbortHandle, JoinSet},
};

use crate::environment;

/// The roles, each in a process of its own.
pub const ROLES: [&str; 3] = ["api", "worker", "dispatcher"];
/// How often one is killed.
const KILL_EVERY: Duration = Duration::from_secs(1);
/// How often the processes are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long a role may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(30);

/// The running roles.
#[derive(Debug, Clone)]
pub struct Processes {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    environment: Vec<(String, String)>,
    children: Mutex<Vec<Option<Child>>>,
    kills: AtomicU64,
    worker_memory_kib: AtomicU64,
}

impl Processes {
    /// Starts all roles with the given settings; their logs go to the directory.
    pub fn start(directory: &Path, environment: Vec<(String, String)>) -> anyhow::Result<Self> {
        let inner = Inner {
            directory: directory.to_owned(),
            environment,
            children: Mutex::default(),
            kills: AtomicU64::new(0),
            worker_memory_kib: AtomicU64::new(0),
        };
        let children = ROLES.iter().map(|role| inner.spawn(role).map(Some)).collect::<anyhow::Result<_>>()?;
        *inner.children.lock().unwrap_or_else(PoisonError::into_inner) = children;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Kills a random role every second and starts it again, until aborted.
    pub fn kill_now_and_then(&self) -> AbortHandle {
        let inner = self.inner.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(KILL_EVERY).await;
                let Some(role) = (0..ROLES.len()).collect::<Vec<_>>().choose(&mut rand::rng()).copied()
                else {
                    continue;
                };
                if let Err(error) = inner.kill(role).await {
                    tracing::error!(%error, role = ROLES[role], "a killed role did not start again");
                }
            }
        })
        .abort_handle()
    }

    /// How many roles were killed.
    pub fn kills(&self) -> u64 {
        self.inner.kills.load(Ordering::Relaxed)
    }

    /// The most memory the worker ever had, in MiB.
    pub fn worker_memory_mib(&self) -> f64 {
        let kib = u32::try_from(self.inner.worker_memory_kib.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        f64::from(kib) / 1024.0
    }

    /// Returns when a role has ended by itself.
    pub async fn failed(&self) -> anyhow::Error {
        loop {
            tokio::time::sleep(LOOK).await;
            self.inner.note_memory();
            let mut children = self.inner.children();
            for (role, child) in ROLES.iter().zip(children.iter_mut()) {
                if let Some(child) = child
                    && let Ok(Some(status)) = child.try_wait()
                {
                    let log = self.inner.log(role);
                    return anyhow::anyhow!(
                        "the {role} ended by itself ({status}); its log is {}",
                        log.display()
                    );
                }
            }
        }
    }

    /// Ends all roles as an orchestrator would: SIGTERM, and time to finish.
    pub async fn stop(&self) {
        let children: Vec<Child> = self.inner.children().drain(..).flatten().collect();
        let mut ending = JoinSet::new();
        for mut child in children {
            terminate(&child);
            ending.spawn(async move {
                if tokio::time::timeout(STOP, child.wait()).await.is_err() {
                    let _ = child.kill().await;
                }
            });
        }
        ending.join_all().await;
    }
}

impl Inner {
    fn children(&self) -> std::sync::MutexGuard<'_, Vec<Option<Child>>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, role: &str) -> PathBuf {
        self.directory.join(format!("{role}.log"))
    }

    fn spawn(&self, role: &str) -> anyhow::Result<Child> {
        let log: File = OpenOptions::new().create(true).append(true).open(self.log(role))?;
        let mut command = Command::new(std::env::current_exe()?);
        for setting in environment::own_settings() {
            command.env_remove(setting);
        }
        command
            .args(["--stop-at-eof", role])
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            // Held by the child: it ends with the demo, however that ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("the {role} cannot be started"))
    }

    /// Takes the role out while it is down, so that nobody takes its end for a failure.
    async fn kill(&self, role: usize) -> anyhow::Result<()> {
        self.note_memory();
        let child = self.children().get_mut(role).and_then(Option::take);
        let Some(mut child) = child else { return Ok(()) };
        child.kill().await?;
        self.kills.fetch_add(1, Ordering::Relaxed);
        let again = self.spawn(ROLES[role])?;
        if let Some(place) = self.children().get_mut(role) {
            *place = Some(again);
        }
        Ok(())
    }

    /// Linux tells the most memory a process ever had; elsewhere it stays 0.
    fn note_memory(&self) {
        let worker = self.children().get(1).and_then(|child| child.as_ref().and_then(Child::id));
        let Some(id) = worker else { return };
        let Ok(status) = std::fs::read_to_string(format!("/proc/{id}/status")) else { return };
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
        self.worker_memory_kib.fetch_max(kib.unwrap_or(0), Ordering::Relaxed);
    }
}

fn terminate(child: &Child) {
    let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(id) = id {
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
    }
}
