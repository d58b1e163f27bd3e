//! The processes of a run: each is started again, under its old name, whenever it ends.

use std::{
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use rand::seq::IndexedRandom;
use rustix::process::{Pid, Signal, kill_process};
use tokio_util::sync::CancellationToken;

use crate::ledger::Ledger;

/// How often one looks who has ended.
const LOOK: Duration = Duration::from_millis(10);
/// How long a dead process's last lines may take to be read.
const LAST_LINES: Duration = Duration::from_millis(200);
/// How long lines of a dead process may still count as struck.
const GRACE: Duration = Duration::from_secs(2);
/// How long processes may take to stop when they are asked to.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// The scenario whose job calls abort().
pub const ABORT: &str = "abort";

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Worker,
    Generator { per_second: u32 },
}

/// How a process is started.
#[derive(Debug, Clone)]
pub struct Recipe {
    pub name: &'static str,
    pub role: Role,
    /// The seconds that its clock is ahead, and the library that makes it so.
    pub clock: Option<(i32, PathBuf)>,
}

#[derive(Debug)]
struct Member {
    recipe: Recipe,
    process: u32,
    child: Child,
    /// Killed on purpose: for which scenario, and when.
    killed: Option<(&'static str, Instant)>,
    frozen: bool,
}

/// A process that ended.
struct Ended {
    name: &'static str,
    process: u32,
    status: ExitStatus,
    killed: Option<(&'static str, Instant)>,
}

/// All processes of a run but the database's and the ledger's.
#[derive(Debug)]
pub struct Fleet {
    members: Mutex<Vec<Member>>,
    started: AtomicU32,
    url: String,
    ledger: Arc<Ledger>,
    program: PathBuf,
    /// Who ended although nobody meant it to.
    unexpected: Mutex<Vec<String>>,
    stopping: CancellationToken,
}

impl Fleet {
    /// Starts a process by each recipe.
    pub fn start(url: &str, ledger: Arc<Ledger>, recipes: Vec<Recipe>) -> anyhow::Result<Arc<Self>> {
        let fleet = Arc::new(Self {
            members: Mutex::default(),
            started: AtomicU32::new(1),
            url: url.to_owned(),
            ledger,
            program: std::env::current_exe()?,
            unexpected: Mutex::default(),
            stopping: CancellationToken::new(),
        });
        for recipe in recipes {
            let member = fleet.spawn(recipe)?;
            fleet.members().push(member);
        }
        Ok(fleet)
    }

    fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, recipe: Recipe) -> anyhow::Result<Member> {
        let process = self.started.fetch_add(1, Ordering::Relaxed);
        let mut command = Command::new(&self.program);
        command.arg(if recipe.role == Role::Worker { "worker" } else { "generator" });
        command.args(["--url", &self.url, "--name", recipe.name, "--process", &process.to_string()]);
        command.arg("--ledger").arg(self.ledger.socket());
        match recipe.role {
            Role::Generator { per_second } => {
                command.args(["--per-second", &per_second.to_string()]);
            }
            // Every other start is as if it were alone on its machine, so that its lease has to expire.
            Role::Worker if process.is_multiple_of(2) => {
                command.arg("--unseen");
            }
            Role::Worker => {}
        }
        if let Some((ahead_s, library)) = &recipe.clock {
            // Only the time of day is wrong: a clock that counts from the machine's start cannot be set.
            command.env("LD_PRELOAD", library).env("FAKETIME", format!("{ahead_s:+}"));
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
        }
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().context("a process")?;
        Ok(Member { recipe, process, child, killed: None, frozen: false })
    }

    /// Starts whoever ends again, and tells the ledger, until the fleet stops.
    pub async fn watch(self: Arc<Self>) -> anyhow::Result<()> {
        while !self.stopping.is_cancelled() {
            for ended in self.replace_ended()? {
                self.report(ended).await?;
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    fn replace_ended(&self) -> anyhow::Result<Vec<Ended>> {
        let mut ended = Vec::new();
        for member in self.members().iter_mut() {
            let Some(status) = member.child.try_wait()? else { continue };
            let successor = self.spawn(member.recipe.clone())?;
            let former = std::mem::replace(member, successor);
            let Member { recipe, process, killed, .. } = former;
            ended.push(Ended { name: recipe.name, process, status, killed });
        }
        Ok(ended)
    }

    async fn report(&self, ended: Ended) -> anyhow::Result<()> {
        let (scenario, at) = match ended.killed {
            Some(killed) => killed,
            None if ended.status.signal() == Some(Signal::ABORT.as_raw()) => (ABORT, Instant::now()),
            None => {
                let what = format!("{} ended by itself: {}", ended.name, ended.status);
                self.unexpected.lock().unwrap_or_else(PoisonError::into_inner).push(what);
                return Ok(());
            }
        };
        let fault = self.ledger.begin_fault(scenario, Some(ended.process)).await?;
        tokio::spawn(async move {
            tokio::time::sleep(LAST_LINES).await;
            fault.clock(at.elapsed()).await?;
            fault.end_after(GRACE).await
        });
        Ok(())
    }

    /// Kills a worker: any, or one of a name.
    pub fn kill(&self, scenario: &'static str, name: Option<&str>) -> anyhow::Result<()> {
        let mut members = self.members();
        let mut able: Vec<&mut Member> = members
            .iter_mut()
            .filter(|member| member.recipe.role == Role::Worker && member.killed.is_none() && !member.frozen)
            .filter(|member| name.is_none_or(|name| member.recipe.name == name))
            .collect();
        ensure!(!able.is_empty(), "there is no worker to kill");
        let chosen = rand::Rng::random_range(&mut rand::rng(), 0..able.len());
        let member = able.swap_remove(chosen);
        member.killed = Some((scenario, Instant::now()));
        Ok(member.child.kill()?)
    }

    /// Freezes a worker; returns its number for [`Fleet::thaw`].
    pub fn freeze(&self) -> anyhow::Result<u32> {
        let mut members = self.members();
        let able: Vec<usize> = (0..members.len())
            .filter(|place| members[*place].recipe.role == Role::Worker && members[*place].killed.is_none())
            .collect();
        let place = *able.choose(&mut rand::rng()).context("there is no worker to freeze")?;
        let member = &mut members[place];
        kill_process(pid_of(&member.child)?, Signal::STOP)?;
        member.frozen = true;
        Ok(member.process)
    }

    /// Lets a frozen worker go on.
    pub fn thaw(&self, process: u32) -> anyhow::Result<()> {
        let mut members = self.members();
        let frozen = members.iter_mut().find(|member| member.process == process);
        let member = frozen.context("the frozen worker is gone")?;
        member.frozen = false;
        Ok(kill_process(pid_of(&member.child)?, Signal::CONT)?)
    }

    /// Who ended although nobody meant it to.
    pub fn unexpected_ends(&self) -> Vec<String> {
        self.unexpected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the generators, which enqueue nothing more when this returns.
    pub async fn stop_generators(&self) -> anyhow::Result<()> {
        let generators = self.take(|role| role != Role::Worker);
        wait_for(generators).await
    }

    /// Ends the workers as an operator would: they hand back what they did not start.
    pub async fn stop_workers(&self) -> anyhow::Result<()> {
        self.stopping.cancel();
        let workers = self.take(|role| role == Role::Worker);
        wait_for(workers).await
    }

    /// Takes processes out, so that they are not started again.
    fn take(&self, which: impl Fn(Role) -> bool) -> Vec<Member> {
        let mut members = self.members();
        let (taken, kept) = members.drain(..).partition(|member| which(member.recipe.role));
        *members = kept;
        taken
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for member in self.members().iter_mut() {
            let _ = member.child.kill();
            let _ = member.child.wait();
        }
    }
}

fn pid_of(child: &Child) -> anyhow::Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process id")
}

/// Ends the input of processes, and waits until they have ended as they should.
async fn wait_for(mut members: Vec<Member>) -> anyhow::Result<()> {
    for member in &mut members {
        drop(member.child.stdin.take());
    }
    let deadline = Instant::now() + STOP_DEADLINE;
    while let Some(member) = members.last_mut() {
        if let Some(status) = member.child.try_wait()? {
            ensure!(status.success(), "{} did not stop as it should: {status}", member.recipe.name);
            members.pop();
        } else if Instant::now() > deadline {
            let name = member.recipe.name;
            for mut member in members {
                let _ = member.child.kill();
                let _ = member.child.wait();
            }
            anyhow::bail!("{name} did not stop within {STOP_DEADLINE:?}");
        } else {
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(())
}
