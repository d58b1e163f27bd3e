//! The roles of iris, each a process of its own: killed on purpose, and started again whenever one ends.

use std::{
    fs::read_to_string,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use rand::Rng;
use tokio::{
    process::{Child, Command},
    sync::Mutex,
};
use tokio_util::sync::CancellationToken;

use crate::control::Control;

/// The program, which lies beside this one.
const PROGRAM: &str = "iris";
/// Every process and its role.
const MEMBERS: [(&str, &str); 3] =
    [("dispatcher-1", DISPATCHER), ("dispatcher-2", DISPATCHER), ("api", "api")];
const DISPATCHER: &str = "dispatcher";
/// How often one looks who has ended, and how much memory they have.
const LOOK: Duration = Duration::from_millis(100);
/// How long a command may take, and a role to stop when it is asked to.
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// The settings of iris that are about this machine.
const OF_THE_MACHINE: [&str; 2] = ["IRIS_HOME", "IRIS_PG_BIN"];

#[derive(Debug)]
struct Member {
    name: &'static str,
    role: &'static str,
    child: Child,
}

/// The processes of iris.
#[derive(Debug)]
pub struct Roles {
    program: Program,
    control: Arc<Control>,
    members: Mutex<Vec<Member>>,
    started: AtomicU32,
    /// The most memory that a dispatcher ever had, in KiB.
    memory_kib: AtomicU64,
    /// Who ended although nobody meant it to.
    unexpected: Mutex<Vec<String>>,
    stopping: CancellationToken,
}

/// The program, and the settings it is given.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Program {
    /// The one beside this program.
    pub fn find(environment: Vec<(&'static str, String)>) -> anyhow::Result<Self> {
        Ok(Self { path: std::env::current_exe()?.with_file_name(PROGRAM), environment })
    }

    /// With nothing of the settings of whoever runs this.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        let inherited = std::env::vars_os().map(|(name, _)| name);
        for name in inherited.filter(|name| is_setting(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        // What fails here fails on purpose; only the receivers say whether it did harm.
        let log = if std::env::var_os("IRIS_CHAOS_LOG").is_some() { "info" } else { "off" };
        command.env("IRIS_LOG", log);
        command
    }

    /// Runs a command and returns what it prints.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = self.command();
        let output = command.args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(COMMAND_DEADLINE, output).await.context("it does not end")?;
        let output = output.with_context(|| format!("cannot run {}", self.path.display()))?;
        if !output.status.success() {
            bail!("iris {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

fn is_setting(name: &str) -> bool {
    name == "DATABASE_URL" || (name.starts_with("IRIS_") && !OF_THE_MACHINE.contains(&name))
}

impl Roles {
    /// Starts all of them.
    pub async fn start(program: Program, control: Arc<Control>) -> anyhow::Result<Arc<Self>> {
        let roles = Arc::new(Self {
            program,
            control,
            members: Mutex::default(),
            started: AtomicU32::new(0),
            memory_kib: AtomicU64::new(0),
            unexpected: Mutex::default(),
            stopping: CancellationToken::new(),
        });
        for (name, role) in MEMBERS {
            let child = roles.spawn(role)?;
            roles.members.lock().await.push(Member { name, role, child });
        }
        Ok(roles)
    }

    fn spawn(&self, role: &str) -> anyhow::Result<Child> {
        let started = self.started.fetch_add(1, Ordering::Relaxed);
        let mut command = self.program.command();
        command.args(["--stop-at-eof", role]);
        // Every other start is as if it were alone on its machine, so that its lease has to expire.
        command.env("IRIS_SEEN_BY_NEIGHBOURS", if started.is_multiple_of(2) { "true" } else { "false" });
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true).spawn();
        child.with_context(|| format!("the {role} cannot be started"))
    }

    /// Starts whoever ends again, and looks how much memory they have, until all are stopped.
    pub async fn watch(self: Arc<Self>) -> anyhow::Result<()> {
        while !self.stopping.is_cancelled() {
            for member in self.members.lock().await.iter_mut() {
                self.note_memory(member);
                if let Some(status) = member.child.try_wait()? {
                    let what = format!("{} ended by itself: {status}", member.name);
                    self.unexpected.lock().await.push(what);
                    member.child = self.spawn(member.role)?;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Kills a random one and starts it again.
    pub async fn kill_one(&self) -> anyhow::Result<()> {
        let mut members = self.members.lock().await;
        let chosen = rand::rng().random_range(0..members.len());
        let member = &mut members[chosen];
        self.note_memory(member);
        let (scenario, struck) = match member.role {
            DISPATCHER => (KILL_DISPATCHER, "dispatcher"),
            _ => (KILL_API, "nothing"),
        };
        let fault = self.control.begin_fault(scenario, struck).await?;
        member.child.kill().await?;
        member.child = self.spawn(member.role)?;
        fault.end().await
    }

    /// On Linux a process's own peak is known, so that none is missed between two looks.
    fn note_memory(&self, member: &Member) {
        if member.role != DISPATCHER {
            return;
        }
        let Some(status) = member.child.id().and_then(|id| read_to_string(format!("/proc/{id}/status")).ok())
        else {
            return;
        };
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
        self.memory_kib.fetch_max(kib.unwrap_or(0), Ordering::Relaxed);
    }

    /// The most memory that a dispatcher ever had, in MiB; none where the system does not tell.
    pub fn memory_mib(&self) -> Option<u64> {
        let kib = self.memory_kib.load(Ordering::Relaxed);
        (kib > 0).then(|| kib.div_ceil(1024))
    }

    /// Who ended although nobody meant it to.
    pub async fn unexpected_ends(&self) -> Vec<String> {
        self.unexpected.lock().await.clone()
    }

    /// Ends all of them as an operator would: they finish what is under way.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.stopping.cancel();
        let mut members: Vec<Member> = self.members.lock().await.drain(..).collect();
        for member in &mut members {
            self.note_memory(member);
            drop(member.child.stdin.take());
        }
        for mut member in members {
            let ended = tokio::time::timeout(STOP_DEADLINE, member.child.wait()).await;
            let status = ended.with_context(|| format!("{} did not stop", member.name))??;
            ensure!(status.success(), "{} did not stop as it should: {status}", member.name);
        }
        Ok(())
    }
}

/// The scenarios of kills.
pub const KILL_DISPATCHER: &str = "kill_dispatcher";
pub const KILL_API: &str = "kill_api";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_do_not_see_the_settings_of_whoever_runs_this() {
        assert!(is_setting("DATABASE_URL") && is_setting("IRIS_WEBHOOK_ALLOW"));
        for name in ["PATH", "IRIS_PG_BIN", "SSL_CERT_FILE"] {
            assert!(!is_setting(name), "{name}");
        }
    }
}
