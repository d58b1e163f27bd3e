//! The line protocol of the benchmark's programs, for those in Rust. `../README.md` describes it. Start reading at
//! [`serve`].

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Stdin},
    sync::mpsc,
};

/// How many jobs one call enqueues.
const BATCH: u32 = 5_000;

/// A job of the benchmark.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Work {
    /// Its number.
    pub n: u32,
    /// How long its handler waits.
    pub ms: u32,
    /// Whether the worker says when it started.
    pub tell: bool,
}

/// What a worker is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// To work off a backlog as fast as it can.
    Drain,
    /// To start single jobs soon.
    Pickup,
    /// To take over the jobs of a process that was killed.
    Recovery,
}

/// A queue.
pub trait Queue: Sized {
    /// Makes the tables, in an empty database.
    fn setup(url: &str) -> impl Future<Output = anyhow::Result<()>>;
    /// Connects to enqueue.
    fn producer(url: &str) -> impl Future<Output = anyhow::Result<Self>>;
    /// Enqueues jobs the fastest way there is.
    fn fill(&mut self, jobs: Vec<Work>) -> impl Future<Output = anyhow::Result<()>>;
    /// Enqueues and commits one job the usual way.
    fn one(&mut self, job: Work) -> impl Future<Output = anyhow::Result<()>>;
    /// Whether no job is ready or running.
    fn idle(&mut self) -> impl Future<Output = anyhow::Result<bool>>;
    /// Connects to work; runs jobs from the moment at which `begin` resolves, until it is dropped.
    fn work(
        url: &str,
        slots: usize,
        goal: Goal,
        seen: Arc<Seen>,
        begin: Begin,
    ) -> impl Future<Output = anyhow::Result<()>>;
}

/// What handlers tell the benchmark.
#[derive(Debug)]
pub struct Seen {
    ran: AtomicU32,
    lines: mpsc::UnboundedSender<String>,
}

impl Seen {
    /// Runs the handler of a job.
    pub async fn handle(&self, job: Work) {
        self.ran.fetch_add(1, Ordering::Relaxed);
        if job.tell {
            let _ = self.lines.send(format!("{} {}", job.n, now_us()));
        }
        if job.ms > 0 {
            tokio::time::sleep(Duration::from_millis(job.ms.into())).await;
        }
    }
}

/// When to begin.
#[derive(Debug)]
pub struct Begin {
    input: mpsc::Receiver<()>,
    lines: mpsc::UnboundedSender<String>,
}

impl Begin {
    /// Says that the worker is ready, and waits until it may begin. An error if it may not.
    pub async fn wait(mut self) -> anyhow::Result<()> {
        self.lines.send("ready".into())?;
        self.input.recv().await.context("the input ended")
    }
}

/// Plays the role that the command line names.
pub async fn serve<Q: Queue>() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let role = args.next().unwrap_or_default();
    let mut options = HashMap::new();
    while let (Some(name), Some(value)) = (args.next(), args.next()) {
        options.insert(name, value);
    }
    let url = options.get("--url").context("--url")?;
    let input = BufReader::new(tokio::io::stdin());
    match role.as_str() {
        "setup" => Q::setup(url).await,
        "producer" => produce(Q::producer(url).await?, input).await,
        "worker" => {
            let slots = options.get("--slots").context("--slots")?.parse()?;
            let goal = match options.get("--goal").map(String::as_str) {
                Some("drain") => Goal::Drain,
                Some("pickup") => Goal::Pickup,
                _ => Goal::Recovery,
            };
            work::<Q>(url, slots, goal, input).await
        }
        _ => anyhow::bail!("usage: setup | producer | worker --url URL [--slots N --goal GOAL]"),
    }
}

async fn produce<Q: Queue>(mut queue: Q, input: BufReader<Stdin>) -> anyhow::Result<()> {
    let mut lines = input.lines();
    println!("ready");
    while let Some(line) = lines.next_line().await? {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["fill", jobs, ms, tell] => {
                let (jobs, ms, tell) = (jobs.parse()?, ms.parse()?, *tell == "1");
                for from in (0..jobs).step_by(BATCH as usize) {
                    let batch = from..jobs.min(from + BATCH);
                    queue.fill(batch.map(|n| Work { n, ms, tell }).collect()).await?;
                }
                println!("filled");
            }
            ["one", n] => {
                queue.one(Work { n: n.parse()?, ms: 0, tell: true }).await?;
                println!("{n} {}", now_us());
            }
            ["idle"] => println!("{}", if queue.idle().await? { "idle" } else { "busy" }),
            _ => anyhow::bail!("unknown command: {line}"),
        }
    }
    Ok(())
}

async fn work<Q: Queue>(url: &str, slots: usize, goal: Goal, input: BufReader<Stdin>) -> anyhow::Result<()> {
    let (lines, mut said) = mpsc::unbounded_channel::<String>();
    let (begin, began) = mpsc::channel(1);
    let seen = Arc::new(Seen { ran: AtomicU32::new(0), lines: lines.clone() });
    tokio::spawn(async move {
        let mut output = tokio::io::stdout();
        while let Some(line) = said.recv().await {
            if output.write_all(format!("{line}\n").as_bytes()).await.is_err()
                || output.flush().await.is_err()
            {
                return;
            }
        }
    });
    let begin_when_told = Begin { input: began, lines: lines.clone() };
    let asked = async {
        let mut input = input.lines();
        let mut begun = false;
        while input.next_line().await?.is_some() {
            if begun {
                lines.send(format!("{} 0", seen.ran.load(Ordering::Relaxed)))?;
            } else {
                begun = true;
                begin.send(()).await?;
            }
        }
        anyhow::Ok(())
    };
    tokio::select! {
        ended = Q::work(url, slots, goal, seen.clone(), begin_when_told) => ended,
        ended = asked => ended,
    }
}

/// The machine's clock, in microseconds since 1970.
fn now_us() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_micros()
}
