//! The iris binary: every role, the operator commands and the demo.
//!
//! `cli.rs` lists the commands and their settings, `local.rs` is what iris brings along when it is given no database,
//! `up.rs` runs everything in one process, and `demo/` plays one whole campaign against the simulated outside and
//! judges it. Start reading at [`main`].

mod cli;
mod demo;
mod environment;
mod local;
mod places;
mod queue_command;
mod roles;
mod up;
mod world;

use std::{process::ExitCode, time::Duration};

use cli::Command;

/// How long threads may take once everything else has ended.
const THREADS_DEADLINE: Duration = Duration::from_secs(1);

/// How many threads may wait for what blocks, names that are resolved above all: a dispatcher has up to 5,000 requests under
/// way, and names whose servers do not answer shall not keep the others from being resolved.
const THREADS_MAX: usize = 6_000;

fn main() -> ExitCode {
    // What was asked for goes to stdout, everything else to stderr, and a failure is one line.
    match start() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("iris: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<ExitCode> {
    let (command, local) = match cli::parse()? {
        cli::Parsed::Run { command, local, stop_at_eof } => {
            if stop_at_eof {
                environment::terminate_at_eof();
            }
            (*command, local)
        }
        cli::Parsed::Answered(code) => return Ok(code),
    };
    shared::telemetry::init_log(command.log())?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    environment::allow_open_files();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(THREADS_MAX).build()?;
    let ran = runtime.block_on(run(command, local));
    // A thread that waits for a dead connection must not keep a process that has ended.
    runtime.shutdown_timeout(THREADS_DEADLINE);
    ran
}

async fn run(command: Command, local: Option<local::Local>) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(options) => return demo::run(options, local).await,
        Command::Up(config) => up::run(*config, local).await?,
        Command::Api(config) => roles::api(*config, local).await?,
        Command::Worker(config) => roles::worker(*config, local).await?,
        Command::Dispatcher(config) => roles::dispatcher(*config, local).await?,
        Command::Migrate(config) => roles::migrate(config, local).await?,
        Command::Keys(config) => roles::keys(config, local).await?,
        Command::Places(config) => roles::places(config, local).await?,
        Command::Queue(config) => roles::queue(config, local).await?,
    }
    Ok(ExitCode::SUCCESS)
}
