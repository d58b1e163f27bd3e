//! The simulated outside, as a process of its own: mailboxes with personas and webhook receivers, whose ledgers judge.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context;
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::environment;

/// How long the outside may take to be there.
const START: Duration = Duration::from_secs(10);

/// The mailbox that the people of the outside answer to.
pub const MAILBOX: &str = "iris@iris.example.com";

/// Where the outside listens.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Addresses {
    /// Mail.
    pub smtp: SocketAddr,
    /// Webhooks, and what tests ask.
    pub http: SocketAddr,
}

/// How the outside is started.
#[derive(Debug)]
pub struct Options<'a> {
    /// Where its ledgers and its log go.
    pub directory: &'a Path,
    /// The mailbox that people answer to.
    pub mailbox: &'a str,
    /// What signs their answers.
    pub inbound_secret: &'a str,
    /// Where their answers are handed in.
    pub inbound_url: &'a str,
    /// The length of a day.
    pub day: Duration,
}

/// The running outside. It ends when this is dropped.
#[derive(Debug)]
pub struct World {
    /// Where it listens.
    pub addresses: Addresses,
    child: Child,
}

/// The program, beside our own or where IRIS_WORLD_BIN says.
pub fn program() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("IRIS_WORLD_BIN") {
        return Ok(path.into());
    }
    let ours = std::env::current_exe().context("the program's own path is unknown")?;
    Ok(ours.with_file_name("iris-world"))
}

impl World {
    /// Starts it.
    pub async fn start(options: &Options<'_>) -> anyhow::Result<Self> {
        let program = program()?;
        let log = std::fs::File::create(options.directory.join("world.log"))?;
        let mut command = Command::new(&program);
        for setting in environment::own_settings() {
            command.env_remove(setting);
        }
        let mut child = command
            .arg("--stop-at-eof")
            .args(["--smtp", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .arg("--dir")
            .arg(options.directory)
            .args(["--inbound-url", options.inbound_url])
            .args(["--day-ms", &options.day.as_millis().to_string()])
            .env("IRIS_INBOUND_SECRET", options.inbound_secret)
            .env("IRIS_SMTP_FROM", options.mailbox)
            .env("RUST_LOG", "warn")
            // Held by the child below: it ends with this process, however that ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| {
                format!("{} cannot be started; IRIS_WORLD_BIN names another one", program.display())
            })?;
        let stdout = child.stdout.take().context("the outside has no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = tokio::time::timeout(START, lines.next_line())
            .await
            .context("the outside did not start in time")??;
        let line = line.context("the outside ended at once; see world.log")?;
        Ok(Self { addresses: serde_json::from_str(&line)?, child })
    }

    /// Stops it.
    pub async fn stop(mut self) {
        let _ = self.child.kill().await;
    }
}

/// The fictional venues of Brooklyn, as CSV.
pub async fn places() -> anyhow::Result<Vec<u8>> {
    let output = Command::new(program()?).arg("generate-places").stdin(Stdio::null()).output();
    let output = tokio::time::timeout(START, output).await.context("the venues did not come in time")??;
    anyhow::ensure!(
        output.status.success(),
        "the venues cannot be made: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}
