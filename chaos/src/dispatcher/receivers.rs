//! The receivers' process: where its endpoints are, and what is said to it by whoever breaks things.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::control::Control;

/// The receivers' program, which lies beside this one.
const PROGRAM: &str = "iris-chaos-receivers";
/// How long it may take to open everything.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// The running receivers. They end with this value.
#[derive(Debug)]
pub struct Receivers {
    /// Its input stays open for as long as this lives.
    _process: Child,
    /// Where they are.
    pub layout: Layout,
    /// What the dispatchers have to trust.
    pub authority: PathBuf,
    pub control: Arc<Control>,
}

/// Where the endpoints are.
#[derive(Debug, Deserialize)]
pub struct Layout {
    /// What has to be in the allow-list.
    pub allow: String,
    /// Addresses that have to be ours.
    pub addresses: Vec<String>,
    pub endpoints: Vec<Endpoint>,
    /// Endpoints that this run does without.
    pub left_out: Vec<String>,
}

/// An endpoint to be registered.
#[derive(Debug, Clone, Deserialize)]
pub struct Endpoint {
    pub name: String,
    pub url: String,
    pub events: Vec<String>,
    /// Whether it wants its deliveries one after the other.
    pub ordered: bool,
    /// Whether what the API shows of its deliveries is wanted in the end.
    pub listed: bool,
}

/// How far the load has come.
#[derive(Debug, Clone, Copy)]
pub struct Status {
    pub acknowledged: u64,
    pub requests: u64,
    /// What was acknowledged and has not arrived everywhere.
    pub missing: u64,
}

impl Receivers {
    /// Starts them; in a network of our own with all endpoints.
    pub async fn start(directory: &Path, own_network: bool) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?.with_file_name(PROGRAM);
        let (socket, authority) = (directory.join("receivers"), directory.join("authority.pem"));
        let mut command = Command::new(&program);
        command.arg("--socket").arg(&socket).arg("--authority").arg(&authority);
        if own_network {
            command.arg("--own-network");
        }
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let mut line = String::new();
        let mut output = BufReader::new(process.stdout.take().context("the receivers' output")?);
        tokio::time::timeout(START_DEADLINE, output.read_line(&mut line))
            .await
            .context("the receivers")??;
        let layout = serde_json::from_str(&line).context("where the receivers are")?;
        let control = Control::connect(&socket).await.context("the receivers' start")?;
        Ok(Self { _process: process, layout, authority, control })
    }

    pub async fn status(&self) -> anyhow::Result<Status> {
        let answer = self.control.ask("status\n").await.context("the receivers")?;
        let mut counts = answer.split(' ').map(str::parse);
        let mut next = || counts.next().context("a count")?.context("a number");
        Ok(Status { acknowledged: next()?, requests: next()?, missing: next()? })
    }

    /// What they make of all that they got.
    pub async fn report(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.control.ask("report\n").await.context("the receivers")?)?)
    }
}
