//! `with-postgres -- command args…` runs a command with a private `PostgreSQL` of its own.
//!
//! The command finds the server in `IRIS_TEST_DATABASE_URL`; its exit status is the one of this program. The server
//! ends with the command, and with this program however that ends.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("with-postgres: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run() -> anyhow::Result<u8> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(separator), Some(program)) = (arguments.next(), arguments.next()) else {
        bail!("usage: with-postgres -- command args…");
    };
    if separator != "--" {
        bail!("usage: with-postgres -- command args…");
    }
    // Caught from the beginning: one that comes while the server starts is for the command as well.
    let signals = Signals::catch()?;
    let server = tokio::task::spawn_blocking(embedded::start_throwaway).await??;
    let mut command = Command::new(&program);
    command.args(arguments).env("IRIS_TEST_DATABASE_URL", server.url());
    let child = command.spawn().with_context(|| format!("run {}", program.display()))?;
    let status = signals.forward_to(child).await?;
    tokio::task::spawn_blocking(|| server.stop()).await??;
    Ok(code_of(status))
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn catch() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the command, which decides what a signal means: this program ends when it does.
    async fn forward_to(mut self, mut child: Child) -> anyhow::Result<ExitStatus> {
        loop {
            let received = tokio::select! {
                status = child.wait() => return Ok(status?),
                _ = self.terminate.recv() => Signal::TERM,
                _ = self.interrupt.recv() => Signal::INT,
            };
            let process = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
            if let Some(process) = process {
                kill_process(process, received)?;
            }
        }
    }
}

/// The exit code as a shell says it: 128 and the signal's number for a command that was killed.
fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}
