//! The ledger's process, and what is said to it by whoever breaks things.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    process::{Child, Command},
    sync::Mutex,
};

use crate::jobs::ATTEMPTS_MAX;

/// The ledger's program, which lies beside this one.
const PROGRAM: &str = "iris-chaos-ledger";
/// How long it may take to listen, and to answer.
const START_DEADLINE: Duration = Duration::from_secs(10);
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// A running ledger. It ends with this value.
#[derive(Debug)]
pub struct Ledger {
    /// Its input stays open for as long as this lives.
    _process: Child,
    socket: PathBuf,
    control: Mutex<BufReader<UnixStream>>,
    faults: AtomicU32,
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
        let connect = async {
            loop {
                if let Ok(stream) = UnixStream::connect(&socket).await {
                    return stream;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let stream = tokio::time::timeout(START_DEADLINE, connect).await.context("the ledger's start")?;
        let control = Mutex::new(BufReader::new(stream));
        Ok(Arc::new(Self { _process: process, socket, control, faults: AtomicU32::new(0) }))
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Says something that needs no answer.
    pub async fn tell(&self, lines: &str) -> anyhow::Result<()> {
        let mut control = self.control.lock().await;
        let written = control.get_mut().write_all(lines.as_bytes());
        Ok(tokio::time::timeout(ANSWER_DEADLINE, written).await.context("the ledger")??)
    }

    async fn ask(&self, line: &str) -> anyhow::Result<String> {
        let mut control = self.control.lock().await;
        let asked = async {
            control.get_mut().write_all(line.as_bytes()).await?;
            let mut answer = String::new();
            control.read_line(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = tokio::time::timeout(ANSWER_DEADLINE, asked).await.context("the ledger")??;
        anyhow::ensure!(answer.ends_with('\n'), "the ledger is gone");
        Ok(answer.trim_end().to_owned())
    }

    /// A fault begins: of one process, or of all.
    pub async fn begin_fault(
        self: &Arc<Self>,
        scenario: &str,
        process: Option<u32>,
    ) -> anyhow::Result<Fault> {
        let number = self.faults.fetch_add(1, Ordering::Relaxed);
        let struck = process.map_or_else(|| "all".to_owned(), |process| process.to_string());
        self.ask(&format!("fault {number} begin {scenario} {struck}\n")).await?;
        Ok(Fault { number, ledger: self.clone() })
    }

    pub async fn status(&self) -> anyhow::Result<Status> {
        let answer = self.ask("status\n").await?;
        let mut counts = answer.split(' ').map(str::parse);
        let mut next = || counts.next().context("a count")?.context("a number");
        Ok(Status { enqueued: next()?, acknowledged: next()? })
    }

    /// What it makes of all that it was told.
    pub async fn report(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.ask("report\n").await?)?)
    }
}

/// A fault that the ledger knows of.
#[derive(Debug)]
pub struct Fault {
    number: u32,
    ledger: Arc<Ledger>,
}

impl Fault {
    /// The recovery is measured from so long ago.
    pub async fn clock(&self, ago: Duration) -> anyhow::Result<()> {
        self.ledger.ask(&format!("fault {} clock {}\n", self.number, ago.as_millis())).await?;
        Ok(())
    }

    /// What starts from now on is not struck.
    pub async fn end(self) -> anyhow::Result<()> {
        self.ledger.ask(&format!("fault {} end\n", self.number)).await?;
        Ok(())
    }

    /// The same after a while, for what is on its way still.
    pub async fn end_after(self, grace: Duration) -> anyhow::Result<()> {
        tokio::time::sleep(grace).await;
        self.end().await
    }
}
