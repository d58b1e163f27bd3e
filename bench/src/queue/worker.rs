//! A worker process, as `iris worker` is one: the queue's runtime behind apalis's `WorkerBuilder`.

use std::{
    process::Stdio,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use apalis::prelude::{BoxDynError, Data, WorkerBuilder};
use clap::Args;
use queue::{Notifier, Outcome, Runtime, RuntimeConfig};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::mpsc,
};

use super::jobs::Work;
use crate::{clock::now_us, process};

/// How a worker process is started.
#[derive(Debug, Args)]
pub struct Options {
    /// The database.
    #[arg(long)]
    url: String,
    /// How many jobs it runs at once.
    #[arg(long)]
    slots: usize,
    /// Whether its neighbours may not see that it died.
    #[arg(long)]
    unseen: bool,
    /// Whether it only polls.
    #[arg(long)]
    poll: bool,
}

/// Starts, says `ready`, begins at the first line of its input, prints the number and the start (in microseconds since
/// 1970) of each job that asks for it, and ends with its input.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let pool = PgPoolOptions::new().max_connections(1).connect(&options.url).await?;
    let runtime = Runtime::start(RuntimeConfig {
        name: "bench".into(),
        connect: PgConnectOptions::from_str(&options.url)?,
        notifier: Notifier::start(&pool),
        seen_by_neighbours: !options.unseen,
        listen: !options.poll,
        schedules: Vec::new(),
    })?;
    while !runtime.is_ready() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    println!("ready");
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    input.next_line().await?;
    let (starts, mut started) = mpsc::unbounded_channel::<(u32, i64)>();
    let seen = Arc::new(Seen { ran: AtomicU32::new(0), starts: starts.clone() });
    let worker = WorkerBuilder::new("work")
        .backend(runtime.backend::<Work>(options.slots))
        .data(seen.clone())
        .build(handle);
    let worker = tokio::spawn(worker.run());
    tokio::spawn(async move {
        let mut output = tokio::io::stdout();
        while let Some((n, at)) = started.recv().await {
            if output.write_all(format!("{n} {at}\n").as_bytes()).await.is_err()
                || output.flush().await.is_err()
            {
                return;
            }
        }
    });
    // Each further line asks how many jobs there were.
    while input.next_line().await?.is_some() {
        starts.send((seen.ran.load(Ordering::Relaxed), 0))?;
    }
    runtime.shutdown(Duration::from_secs(2)).await;
    worker.abort();
    Ok(())
}

/// What the handlers share.
#[derive(Debug)]
struct Seen {
    ran: AtomicU32,
    starts: mpsc::UnboundedSender<(u32, i64)>,
}

async fn handle(work: Work, seen: Data<Arc<Seen>>) -> Result<Outcome, BoxDynError> {
    seen.ran.fetch_add(1, Ordering::Relaxed);
    if work.tell {
        let _ = seen.starts.send((work.n, now_us()));
    }
    if work.ms > 0 {
        tokio::time::sleep(Duration::from_millis(work.ms.into())).await;
    }
    Ok(Outcome::Done)
}

/// A running worker process.
pub struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    starts: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts a worker process, which has its lease when this returns.
    pub async fn start(url: &str, slots: usize, poll: bool) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["queue-worker", "--url", url, "--slots", &slots.to_string()]);
        if poll {
            command.arg("--poll");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let input = child.stdin.take().context("its input")?;
        let mut starts = BufReader::new(child.stdout.take().context("its output")?).lines();
        anyhow::ensure!(starts.next_line().await?.as_deref() == Some("ready"), "the worker did not start");
        Ok(Self { child, input: Some(input), starts })
    }

    /// Lets it begin.
    pub async fn begin(&mut self) -> anyhow::Result<()> {
        let input = self.input.as_mut().context("it was stopped")?;
        input.write_all(b"\n").await?;
        Ok(input.flush().await?)
    }

    /// The next job that told its start: its number, and when that was. An error after ten seconds without one.
    pub async fn next_start(&mut self) -> anyhow::Result<(u32, i64)> {
        let line = tokio::time::timeout(Duration::from_secs(10), self.starts.next_line()).await??;
        let line = line.context("the worker ended")?;
        let (n, at) = line.split_once(' ').context("a start")?;
        Ok((n.parse()?, at.parse()?))
    }

    /// How many jobs it ran since it began. Not for one whose jobs tell their starts.
    pub async fn count(&mut self) -> anyhow::Result<u32> {
        self.begin().await?;
        Ok(self.next_start().await?.0)
    }

    /// How long it has computed since it started.
    pub fn cpu(&self) -> Duration {
        self.child.id().map_or(Duration::ZERO, process::cpu)
    }

    /// The most memory it ever had, in MiB.
    pub fn memory_mib(&self) -> f64 {
        self.child.id().map_or(0.0, process::memory_mib)
    }

    /// Lets it finish what runs and end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.input.take();
        tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await??;
        Ok(())
    }
}
