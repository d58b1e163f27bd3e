//! One whole campaign on real parts: real processes, a real PostgreSQL, real SMTP and HTTP conversations. The ledgers of
//! the simulated outside judge it, and any number that does not add up fails it.
//!
//! `stage.rs` brings up the parts, `script.rs` is what a customer would do, `watch.rs` waits until nothing can happen
//! any more, and `verdict.rs` does the accounts.

mod client;
mod processes;
mod script;
mod stage;
mod verdict;
mod watch;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use shared::telemetry::LogConfig;

use crate::local::{Local, PRIVATE};

/// What is played.
#[derive(Debug, Args)]
pub struct Options {
    /// How many contacts the campaign has. 50 are discovered, the others imported.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(50..=20_000))]
    pub contacts: u32,

    /// Kills -9 a random role every second while the campaign runs, and starts it again.
    #[arg(long)]
    pub kill: bool,

    /// Prints the table as one JSON object, the last line of stdout.
    #[arg(long)]
    pub json: bool,

    /// A PostgreSQL on which the demo makes a database of its own, as a URL. Without it iris starts a private one.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,

    #[command(flatten)]
    pub log: LogConfig,
}

/// A day of the demo's sequence.
const DAY: Duration = Duration::from_secs(1);

/// Plays it. Succeeds when every count adds up.
pub async fn run(options: Options, local: Option<Local>) -> anyhow::Result<ExitCode> {
    let local = match local {
        Some(local) => local,
        None => Local::find()?,
    };
    let private = options.database_url == PRIVATE;
    let postgres = if private { Some(local.start_postgres().await?) } else { None };
    let server =
        postgres.as_ref().map_or(options.database_url.as_str(), |postgres| postgres.url()).to_owned();
    let played = play(&options, &local, &server).await;
    if let Some(postgres) = postgres {
        postgres.stop().await;
    }
    let verdict = played?;
    if options.json {
        println!("{}", serde_json::to_string(&verdict.table)?);
    } else {
        verdict.print();
    }
    if verdict.wrong.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    for wrong in &verdict.wrong {
        eprintln!("iris: does not add up: {wrong}");
    }
    Ok(ExitCode::FAILURE)
}

async fn play(options: &Options, local: &Local, server: &str) -> anyhow::Result<verdict::Verdict> {
    let stage = stage::Stage::set(local, server, DAY).await?;
    let stopped = crate::roles::stop_signal()?;
    let result = tokio::select! {
        result = act(options, &stage) => result,
        () = stopped.cancelled() => Err(anyhow::anyhow!("stopped before the campaign was over")),
    };
    let logs = stage.directory.display().to_string();
    stage.strike().await;
    result.map_err(|error| error.context(format!("the logs of the roles are in {logs}")))
}

async fn act(options: &Options, stage: &stage::Stage) -> anyhow::Result<verdict::Verdict> {
    let started = Instant::now();
    let campaign = script::open(stage, options.contacts).await?;
    let killing = options.kill.then(|| stage.processes.kill_now_and_then());
    let patience = watch::patience(options.contacts);
    let played = async {
        tokio::time::timeout(patience, script::run(stage, &campaign, options.contacts))
            .await
            .context("the drafts to be approved did not come in time")??;
        watch::until_quiet(stage, &campaign, started + patience).await
    };
    let played = tokio::select! {
        played = played => played,
        failed = stage.processes.failed() => Err(failed),
        never = watch::show(stage, &campaign, options.contacts) => match never {},
    };
    if let Some(killing) = killing {
        killing.abort();
    }
    played?;
    let seconds = started.elapsed().as_secs_f64();
    verdict::judge(stage, &campaign, options, seconds).await
}
