//! A dispatcher process, as `iris dispatcher` is one, or one that makes answers up instead of requests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use clap::Args;
use dispatcher::{Answer, DispatcherConfig, Requester, SigningKey};
use shared::{config::BaseConfig, db::deliveries::DueDelivery};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::stage::Stage;
use crate::{clock::now_us, process::Process};

/// How long a dispatcher may take to have its lease.
const START: Duration = Duration::from_secs(30);
/// How often one looks whether it has.
const LOOK: Duration = Duration::from_millis(10);
/// How long it may take to finish what is under way, less than what a process has to end.
const SHUTDOWN: &str = "4s";
/// Where the receivers are.
const RECEIVERS: &str = "127.0.0.0/8";
/// The answer that is made up: what the receivers answer.
const MADE_UP_STATUS: u16 = 200;
const MADE_UP_EXCERPT: &str = "ok";
const MADE_UP_DURATION: Duration = Duration::from_millis(1);

/// How a dispatcher process is started.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    base: BaseConfig,
    #[command(flatten)]
    dispatcher: DispatcherConfig,
    /// Whether answers are made up.
    #[arg(long)]
    made_up: bool,
}

/// Dispatches until its input ends. Each line of its input is answered with how many answers were made up, and when the
/// last one was, in microseconds since 1970.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let Options { base, dispatcher, made_up } = options;
    let answers = Answers::default();
    let shutdown = CancellationToken::new();
    let running = if made_up {
        tokio::spawn(dispatcher::run_with(answers.clone(), dispatcher, base, shutdown.clone()))
    } else {
        tokio::spawn(dispatcher::run(dispatcher, base, shutdown.clone()))
    };
    println!("ready");
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    while input.next_line().await?.is_some() {
        let (made, last_us) = (&answers.0.made, &answers.0.last_us);
        println!("{} {}", made.load(Ordering::Relaxed), last_us.load(Ordering::Relaxed));
    }
    shutdown.cancel();
    running.await?
}

/// Answers every request at once, as a good receiver does.
#[derive(Debug, Clone, Default)]
struct Answers(Arc<Made>);

#[derive(Debug, Default)]
struct Made {
    made: AtomicU64,
    last_us: AtomicI64,
}

impl Requester for Answers {
    async fn request(
        &self,
        _due: &DueDelivery,
        _key: &SigningKey,
        _started_at: DateTime<Utc>,
        _body: Bytes,
    ) -> Answer {
        self.0.last_us.fetch_max(now_us(), Ordering::Relaxed);
        self.0.made.fetch_add(1, Ordering::Relaxed);
        Answer {
            status_code: Some(MADE_UP_STATUS),
            error_class: None,
            excerpt: Some(MADE_UP_EXCERPT.to_owned()),
            retry_after: None,
            duration: MADE_UP_DURATION,
        }
    }
}

/// The command that runs this program as one of the processes that work on a stage's database.
pub fn command(stage: &Stage, name: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg(name)
        .env("DATABASE_URL", &stage.url)
        .env("IRIS_SECRET_KEY", &stage.secret_key)
        .env("IRIS_WEBHOOK_ALLOW", RECEIVERS)
        .env("IRIS_ADMIN_ADDR", "127.0.0.1:0")
        .env("IRIS_SHUTDOWN", SHUTDOWN);
    Ok(command)
}

/// A running dispatcher process.
pub struct Dispatcher {
    process: Process,
}

impl Dispatcher {
    /// Starts one, which has its lease when this returns.
    pub async fn start(stage: &Stage, made_up: bool) -> anyhow::Result<Self> {
        let mut command = command(stage, "dispatcher-role")?;
        if made_up {
            command.arg("--made-up");
        }
        let process = Process::start(command).await?;
        let began = Instant::now();
        loop {
            let leased: bool = sqlx::query_scalar("select exists (select from queue.leases)")
                .fetch_one(stage.database.pool())
                .await?;
            if leased {
                return Ok(Self { process });
            }
            anyhow::ensure!(
                began.elapsed() < START,
                "the dispatcher has no lease after {} s",
                START.as_secs()
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// How many answers it made up, and when the last one.
    pub async fn made_up(&mut self) -> anyhow::Result<(u64, i64)> {
        let line = self.process.ask("").await?;
        let (made, last_us) =
            line.split_once(' ').with_context(|| format!("{line} is not what was asked"))?;
        Ok((made.parse()?, last_us.parse()?))
    }

    /// The process, for its costs.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Lets it finish what is under way and end.
    pub async fn stop(self) {
        self.process.stop().await;
    }
}
