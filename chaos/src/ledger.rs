//! The ledger's process, and what is said to it by whoever breaks things.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use anyhow::Context;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::{
    control::{Control, Fault},
    jobs::ATTEMPTS_MAX,
};

/// The ledger's program, which lies beside this one.
const PROGRAM: &str = "iris-chaos-ledger";

/// A running ledger. It ends with this value.
#[derive(Debug)]
pub struct Ledger {
    /// Its input stays open for as long as this lives.
    _process: Child,
    socket: PathBuf,
    control: Arc<Control>,
}

/// How far the load has come.
#[derive(Debug, Clone, Copy)]
pub struct Status {
    pub enqueued: u64,
    pub acknowledged: u64,
}

impl Ledger {
    /// Starts one that listens in the directory.
    pub async fn start(directory: &Path) -> anyhow::Result<Arc<Self>> {
        let program = std::env::current_exe()?.with_file_name(PROGRAM);
        let socket = directory.join("ledger");
        let process = Command::new(&program)
            .arg("--socket")
            .arg(&socket)
            .args(["--attempts-max", &ATTEMPTS_MAX.to_string()])
            .args(["--crashes-max", &queue::CRASHES_MAX.to_string()])
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let control = Control::connect(&socket).await.context("the ledger's start")?;
        Ok(Arc::new(Self { _process: process, socket, control }))
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Says something that needs no answer.
    pub async fn tell(&self, lines: &str) -> anyhow::Result<()> {
        self.control.tell(lines).await.context("the ledger")
    }

    /// A fault begins: of one process, or of all.
    pub async fn begin_fault(&self, scenario: &str, process: Option<u32>) -> anyhow::Result<Fault> {
        let struck = process.map_or_else(|| "all".to_owned(), |process| process.to_string());
        self.control.begin_fault(scenario, &struck).await.context("the ledger")
    }

    pub async fn status(&self) -> anyhow::Result<Status> {
        let answer = self.control.ask("status\n").await.context("the ledger")?;
        let mut counts = answer.split(' ').map(str::parse);
        let mut next = || counts.next().context("a count")?.context("a number");
        Ok(Status { enqueued: next()?, acknowledged: next()? })
    }

    /// What it makes of all that it was told.
    pub async fn report(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.control.ask("report\n").await.context("the ledger")?)?)
    }
}
