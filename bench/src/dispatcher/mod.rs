//! The dispatcher: how many deliveries it makes, how soon, and what a bad neighbour costs the others. Events are committed
//! by this process while a dispatcher process runs; its requests go to the receivers, a process that verifies each and
//! writes it down. Start reading at [`run`].

mod backlog;
mod cpu;
mod ledger;
mod load;
pub mod receiver;
pub mod requests;
pub mod role;
mod stage;
mod statements;
mod steady;
mod throughput;

use std::time::Duration;

use clap::{Args, ValueEnum, value_parser};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::ledger::{Requests, Verdict};
use crate::{
    report::{Goal, Report},
    server::Server,
};

/// What to measure, and how much of it.
#[derive(Debug, Args)]
pub struct Options {
    /// Print one JSON object as the last line of stdout.
    #[arg(long)]
    json: bool,
    /// Only these parts.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// How many deliveries there are where their rate is measured.
    #[arg(long, default_value_t = 200_000, value_parser = value_parser!(u32).range(100..))]
    events: u32,
    /// How many times the rates and what they are compared with are measured, in turn.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..))]
    rounds: u32,
    /// For how many seconds events come at a steady rate where the time of deliveries is measured.
    #[arg(long, default_value_t = 90, value_parser = value_parser!(u16).range(1..))]
    seconds: u16,
    /// Tell which statements the database's time goes to; it takes some of it. Needs pg_stat_statements.
    #[arg(long)]
    profile: bool,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Deliveries,
    Fanout,
    Latency,
    Poison,
    PoisonMany,
    Ordered,
    Rss,
}

/// Deliveries that should not be as they are, over all parts.
#[derive(Debug, Default)]
pub struct Tally {
    lost: usize,
    duplicates: usize,
    refused: u64,
}

impl Tally {
    fn add(&mut self, verdict: &Verdict, requests: Requests) {
        self.lost += verdict.lost;
        self.duplicates += verdict.duplicates;
        self.refused += requests.refused;
    }

    #[expect(clippy::cast_precision_loss, reason = "counts")]
    fn report(&self, report: &mut Report) {
        report.add("lost", self.lost as f64, Goal::AtMost(0.0));
        report.add("duplicates", self.duplicates as f64, Goal::AtMost(0.0));
        report.add("badly_signed", self.refused as f64, Goal::AtMost(0.0));
    }
}

/// Runs the benchmark on a database of its own.
pub async fn run(options: Options) -> anyhow::Result<()> {
    allow_many_files();
    let config: &[_] = if options.profile { &statements::CONFIG } else { &[] };
    let server = Server::start_with(config).await?;
    let (mut report, mut tally) = (Report::default(), Tally::default());
    let wants = |part| options.only.is_empty() || options.only.contains(&part);
    let (events, rounds) = (usize::try_from(options.events)?, options.rounds);
    let lasting = Duration::from_secs(options.seconds.into());
    if wants(Part::Deliveries) {
        throughput::apart(&server, &mut report, &mut tally, events, rounds).await?;
    }
    if wants(Part::Fanout) {
        throughput::fanned(&server, &mut report, &mut tally, events, rounds).await?;
    }
    if wants(Part::Latency) || wants(Part::Poison) {
        let healthy = steady::healthy(&server, &mut report, &mut tally, lasting).await?;
        if wants(Part::Poison) {
            steady::poisoned(&server, &mut report, &mut tally, &healthy, lasting).await?;
        }
    }
    if wants(Part::PoisonMany) {
        steady::many_poisoned(&server, &mut report, &mut tally, lasting).await?;
    }
    if wants(Part::Ordered) {
        throughput::ordered(&server, &mut report, &mut tally, events).await?;
    }
    if wants(Part::Rss) {
        backlog::measure(&server, &mut report, &mut tally).await?;
    }
    tally.report(&mut report);
    report.print(options.json)
}

/// A thousand endpoints have a port each, and some connections. The other processes inherit it.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the number of open files stays limited");
    }
}
