//! The benchmarks. Each starts a PostgreSQL of its own with its default durability, measures, and prints figures beside
//! the goals that they are held against; nothing fails on a figure, for machines differ. `queue/` measures the durable
//! queue, `dispatcher/` the webhook dispatcher. Start reading at [`queue::run`].

mod clock;
mod dispatcher;
mod process;
mod queue;
mod report;
mod server;

use clap::{Parser, Subcommand};

/// Measures iris. The figures come as a table, or with --json as one object on the last line.
#[derive(Debug, Parser)]
#[command(name = "iris-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The durable queue, beside the plainest queue that the database can have.
    Queue(queue::Options),
    /// One worker process of a benchmark; runs until its input ends.
    #[command(hide = true)]
    QueueWorker(queue::worker::Options),
    /// Makes the queue's tables for a benchmark.
    #[command(hide = true)]
    QueueSetup(queue::rivals::ours::Options),
    /// One process of a benchmark that enqueues; runs until its input ends.
    #[command(hide = true)]
    QueueProducer(queue::rivals::ours::Options),
    /// The webhook dispatcher, beside what its halves can do.
    Dispatcher(dispatcher::Options),
    /// One dispatcher process of a benchmark; runs until its input ends.
    #[command(hide = true)]
    DispatcherRole(Box<dispatcher::role::Options>),
    /// Makes the requests of a benchmark without a database behind them.
    #[command(hide = true)]
    DispatcherRequests(Box<dispatcher::requests::Options>),
    /// The receivers of a benchmark; run until their input ends.
    #[command(hide = true)]
    DispatcherReceiver,
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    let cli = Cli::parse();
    // Receivers need little, and a thread more would take more from the others than it gives them.
    let mut runtime = match cli.command {
        Command::DispatcherReceiver => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Queue(options) => queue::run(options).await,
            Command::QueueWorker(options) => queue::worker::run(options).await,
            Command::QueueSetup(options) => queue::rivals::ours::setup(options).await,
            Command::QueueProducer(options) => queue::rivals::ours::produce(options).await,
            Command::Dispatcher(options) => dispatcher::run(options).await,
            Command::DispatcherRole(options) => dispatcher::role::run(*options).await,
            Command::DispatcherRequests(options) => dispatcher::requests::run(*options).await,
            Command::DispatcherReceiver => dispatcher::receiver::run().await,
        }
    })
}
