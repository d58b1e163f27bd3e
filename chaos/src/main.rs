//! Chaos: real processes and a real PostgreSQL under a load of jobs, while processes are killed and frozen, the database
//! goes away and connections end. A ledger that shares no code with us hears of every start, effect and acknowledgement,
//! and says what was lost, done twice or accepted too late. Start reading at [`run::run`], then `scenarios/`; for the
//! dispatcher of webhooks at [`dispatcher::run`].

mod control;
mod database;
mod dispatcher;
mod fleet;
mod generator;
mod jobs;
mod ledger;
mod namespaces;
mod plan;
mod report;
mod run;
mod scenarios;
mod scribe;
mod stage;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Breaks the machine under iris on purpose. Progress is told on stderr; exits 0 when every goal was reached.
#[derive(Debug, Parser)]
#[command(name = "iris-chaos", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The durable queue.
    Queue(run::Options),
    /// The dispatcher of webhooks.
    Dispatcher(dispatcher::Options),
    /// One worker process of a run; ends with its input.
    #[command(hide = true)]
    Worker(worker::Options),
    /// One process that enqueues; ends with its input.
    #[command(hide = true)]
    Generator(generator::Options),
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    // What fails in workers and generators fails on purpose; only the ledger says whether it did harm.
    let level = match cli.command {
        Command::Queue(_) | Command::Dispatcher(_) => tracing::Level::WARN,
        _ => tracing::Level::ERROR,
    };
    let level = if std::env::var_os("IRIS_CHAOS_LOG").is_some() { tracing::Level::INFO } else { level };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).init();
    match &cli.command {
        Command::Queue(options) => namespaces::enter(options.namespaces()),
        Command::Dispatcher(_) => namespaces::enter(dispatcher::namespaces()),
        Command::Worker(_) | Command::Generator(_) => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Queue(options) => run::run(options).await.map(exit_code),
            Command::Dispatcher(options) => dispatcher::run(options).await.map(exit_code),
            Command::Worker(options) => worker::run(options).await.map(|()| ExitCode::SUCCESS),
            Command::Generator(options) => generator::run(options).await.map(|()| ExitCode::SUCCESS),
        }
    })
}

fn exit_code(reached: bool) -> ExitCode {
    if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
