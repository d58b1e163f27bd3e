//! The durable queue: how close it comes to the database's own limit, and whether its promises of fairness hold at speed.

mod drain;
mod enqueue;
mod idle;
mod jobs;
mod pickup;
mod reference;
pub mod rivals;
mod timers;
pub mod worker;

use clap::{Args, ValueEnum};

use crate::{report::Report, server::Server};

/// What to measure, and how much of it.
#[derive(Debug, Args)]
pub struct Options {
    /// Print one JSON object as the last line of stdout.
    #[arg(long)]
    json: bool,
    /// Only these parts.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// How many jobs a drain has.
    #[arg(long, default_value_t = 200_000)]
    jobs: u32,
    /// How many times each drain and its reference are run, in turn.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Measure other queues beside ours instead, as bench/rivals/README.md says.
    #[arg(long)]
    rivals: bool,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Drain,
    Enqueue,
    Pickup,
    Timers,
    Idle,
}

/// Runs the benchmark on a database of its own.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let server = Server::start().await?;
    let mut report = Report::default();
    if options.rivals {
        let complete = rivals::measure(&server, &mut report, options.jobs, options.rounds).await?;
        report.print(options.json)?;
        anyhow::ensure!(complete, "not every rival was measured; the notes say why");
        return Ok(());
    }
    let wants = |part| options.only.is_empty() || options.only.contains(&part);
    if wants(Part::Drain) {
        drain::measure(&server, &mut report, options.jobs, options.rounds).await?;
    }
    if wants(Part::Enqueue) {
        enqueue::measure(&server, &mut report, options.rounds).await?;
    }
    if wants(Part::Pickup) {
        pickup::measure(&server, &mut report).await?;
    }
    if wants(Part::Timers) {
        timers::measure(&server, &mut report, options.rounds).await?;
    }
    if wants(Part::Idle) {
        idle::measure(&mut report).await?;
    }
    report.print(options.json)
}
