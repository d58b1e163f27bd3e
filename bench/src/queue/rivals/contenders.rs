//! Who takes part, and how each is built and started.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use tokio::process::Command;

use super::process;

/// How long a build may take.
const BUILD: Duration = Duration::from_secs(1200);
/// Where the rivals' programs are.
const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/rivals");

/// What a contender's program is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// This program.
    Ours,
    Cargo,
    Npm,
}

/// A queue that takes part.
#[derive(Debug)]
pub struct Contender {
    /// What its figures are called after.
    pub name: &'static str,
    /// Its directory; for a crate also the end of its binary's name.
    directory: &'static str,
    kind: Kind,
    /// How many processes serve it best in a drain.
    pub drain_processes: usize,
    /// What its documentation says of the jobs of a killed process, if it takes longer than we wait.
    pub recovery_documented: Option<&'static str>,
}

/// All of them, ours first.
pub const ALL: [Contender; 5] = [
    Contender {
        name: "iris",
        directory: "",
        kind: Kind::Ours,
        drain_processes: 2,
        recovery_documented: None,
    },
    Contender {
        name: "apalis_postgres",
        directory: "apalis-postgres",
        kind: Kind::Cargo,
        drain_processes: 2,
        recovery_documented: None,
    },
    Contender {
        name: "awa",
        directory: "awa",
        kind: Kind::Cargo,
        drain_processes: 1,
        recovery_documented: None,
    },
    Contender {
        name: "graphile_worker",
        directory: "graphile-worker",
        kind: Kind::Npm,
        drain_processes: 4,
        recovery_documented: Some("its documentation says 4 hours"),
    },
    Contender {
        name: "pg_boss",
        directory: "pg-boss",
        kind: Kind::Npm,
        drain_processes: 1,
        recovery_documented: None,
    },
];

/// Where the rivals' crates are built: beside the build of this program.
fn target() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let directory = program.parent().and_then(|profile| profile.parent()).context("the build's directory")?;
    Ok(directory.join("rivals"))
}

impl Contender {
    fn directory(&self) -> PathBuf {
        PathBuf::from(DIRECTORY).join(self.directory)
    }

    /// Builds its program from its lock file, if that is needed.
    pub async fn build(&self) -> anyhow::Result<()> {
        let mut command = match self.kind {
            Kind::Ours => return Ok(()),
            Kind::Cargo => {
                let mut command = Command::new("cargo");
                command
                    .args(["build", "--quiet", "--release", "--locked"])
                    .env("CARGO_TARGET_DIR", target()?);
                command
            }
            // npm leaves a copy of the lock file behind when it is done.
            Kind::Npm if self.is_installed() => return Ok(()),
            Kind::Npm => {
                let mut command = Command::new("npm");
                command.args(["ci", "--no-audit", "--no-fund", "--loglevel=error"]);
                command
            }
        };
        command.current_dir(self.directory());
        process::run(command, BUILD).await.with_context(|| match self.kind {
            Kind::Npm => "it needs npm (with Node.js) and the npm registry, once",
            Kind::Ours | Kind::Cargo => "it needs cargo and crates.io, once",
        })
    }

    fn is_installed(&self) -> bool {
        let changed = |path: &str| std::fs::metadata(self.directory().join(path))?.modified();
        match (changed("package-lock.json"), changed("node_modules/.package-lock.json")) {
            (Ok(locked), Ok(installed)) => installed >= locked,
            _ => false,
        }
    }

    /// The program in that role: `setup`, `producer` or `worker`.
    pub fn command(&self, role: &str, url: &str) -> anyhow::Result<Command> {
        let mut command = match self.kind {
            Kind::Ours => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg(format!("queue-{role}"));
                command
            }
            Kind::Cargo => {
                let binary = format!("rival-{}", self.directory);
                let mut command = Command::new(target()?.join("release").join(binary));
                command.arg(role);
                command
            }
            Kind::Npm => {
                let directory = self.directory();
                // The lock file brings a Node.js for the systems that have it as a package; else the system's is used.
                let mut paths = vec![directory.join("node_modules/.bin")];
                paths.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
                let paths = std::env::join_paths(paths)?;
                let mut command = Command::new("node");
                command.env("PATH", paths).arg(directory.join("main.mjs")).arg(role);
                command
            }
        };
        command.args(["--url", url]);
        Ok(command)
    }

    /// The program as a worker with so many slots, for a goal: `drain`, `pickup` or `recovery`.
    pub fn worker(&self, url: &str, slots: usize, goal: &str) -> anyhow::Result<Command> {
        let mut command = self.command("worker", url)?;
        command.args(["--slots", &slots.to_string()]);
        if self.kind != Kind::Ours {
            command.args(["--goal", goal]);
        }
        Ok(command)
    }
}
