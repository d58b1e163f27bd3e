//! `iris-world` is the outside world in one process: people with mailboxes behind an SMTP server, and webhook
//! receivers behind an HTTP server. Their ledgers judge whether anything was lost or came twice. It shares no code with
//! what it judges. Start reading at `smtp/session.rs` for mail, at `hooks/mod.rs` for webhooks, and at `http/mod.rs`
//! for what tests can ask and change.

mod clock;
mod digest;
mod generate;
mod hooks;
mod http;
mod journal;
mod mail;
mod persona;
mod replies;
mod sign;
mod smtp;
#[cfg(test)]
mod testing;
mod world;

use std::io::{IsTerminal as _, Read as _, Write as _, stdin, stdout};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use url::Url;

use crate::generate::{contacts, places};
use crate::replies::Inbound;
use crate::world::{Settings, World};

/// How long requests under way may take after a signal.
const STOP_MAX: Duration = Duration::from_secs(2);

/// The simulated outside world: mailboxes with personas, webhook receivers, and ledgers of what came.
#[derive(Debug, Parser)]
#[command(name = "iris-world", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes 2,000 fictional Brooklyn venues as CSV.
    GeneratePlaces,
    /// Writes contacts with unique addresses.
    GenerateContacts {
        /// How many.
        #[arg(long)]
        count: u64,
        /// How they are written.
        #[arg(long, value_enum, default_value = "csv")]
        format: contacts::Format,
    },
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Where the SMTP server listens; port 0 takes a free one.
    #[arg(long, env = "IRIS_WORLD_SMTP", default_value = "127.0.0.1:0")]
    smtp: SocketAddr,
    /// Where the HTTP server listens; port 0 takes a free one.
    #[arg(long, env = "IRIS_WORLD_HTTP", default_value = "127.0.0.1:0")]
    http: SocketAddr,
    /// The directory of the ledger files.
    #[arg(long, env = "IRIS_WORLD_DIR", default_value = "world-ledger")]
    dir: PathBuf,
    /// Where answers are posted; `PUT /inbound` sets it later.
    #[arg(long, env = "IRIS_WORLD_INBOUND_URL")]
    inbound_url: Option<Url>,
    /// The secret that signs answers.
    #[arg(long, env = "IRIS_INBOUND_SECRET", default_value = "", hide_env_values = true)]
    inbound_secret: String,
    /// The mailbox that answers go to; without it, the sender of the message answered.
    #[arg(long, env = "IRIS_SMTP_FROM")]
    mailbox: Option<String>,
    /// The length of a simulated day in milliseconds.
    #[arg(long, env = "IRIS_WORLD_DAY_MS", default_value_t = 1_000)]
    day_ms: u64,
    /// A file that gets the line of JSON once both servers listen.
    #[arg(long, env = "IRIS_WORLD_READY_FILE")]
    ready_file: Option<PathBuf>,
    /// Keeps raw bodies up to 1 GiB instead of the last 2,000.
    #[arg(long, env = "IRIS_WORLD_KEEP_RAW")]
    keep_raw: bool,
    /// Stops when stdin ends, which it does when the process that started this one is gone.
    #[arg(long)]
    stop_at_eof: bool,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::GeneratePlaces) => places::write(stdout().lock()),
        Some(Command::GenerateContacts { count, format }) => contacts::write(stdout().lock(), count, format),
        None => tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(cli.serve)),
    }
}

async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    install_tls();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let stop = CancellationToken::new();
    let ended = if args.stop_at_eof { stdin_end() } else { CancellationToken::new() };
    let settings = Settings {
        day: Duration::from_millis(args.day_ms),
        keep_raw: args.keep_raw,
        inbound: Inbound { url: args.inbound_url, secret: args.inbound_secret, mailbox: args.mailbox },
    };
    let (world, writers) = World::open(&args.dir, settings, stop.clone()).await?;
    let smtp = TcpListener::bind(args.smtp).await.with_context(|| format!("binding {}", args.smtp))?;
    let http = TcpListener::bind(args.http).await.with_context(|| format!("binding {}", args.http))?;
    announce(smtp.local_addr()?, http.local_addr()?, args.ready_file.as_deref())?;

    let smtp = tokio::spawn(smtp::serve(smtp, world.clone()));
    let http = tokio::spawn(http::serve(http, world));
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        () = ended.cancelled() => tracing::info!("stdin has ended: stopping"),
    }
    stop.cancel();
    let ended = tokio::time::timeout(STOP_MAX, async {
        smtp.await?;
        http.await??;
        for writer in writers {
            writer.await??;
        }
        anyhow::Ok(())
    });
    ended.await.unwrap_or_else(|_| {
        tracing::warn!("requests were still under way after {STOP_MAX:?}");
        Ok(())
    })
}

/// Cancelled when stdin ends. A thread reads it, for such a read cannot be called off.
fn stdin_end() -> CancellationToken {
    let ended = CancellationToken::new();
    let seen = ended.clone();
    std::thread::spawn(move || {
        let mut input = [0; 64];
        while stdin().read(&mut input).is_ok_and(|bytes| bytes > 0) {}
        seen.cancel();
    });
    ended
}

/// The HTTP client needs a TLS provider even for plain URLs. A second call, as tests make, changes nothing.
fn install_tls() {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("the TLS provider is installed already");
    }
}

/// Prints where the servers listen, and puts the same line into the ready file in one step, so that nobody reads half.
fn announce(smtp: SocketAddr, http: SocketAddr, ready_file: Option<&Path>) -> anyhow::Result<()> {
    let line = format!("{}\n", json!({ "smtp": smtp.to_string(), "http": http.to_string() }));
    if let Some(path) = ready_file {
        let partial = path.with_added_extension("partial");
        std::fs::write(&partial, &line).with_context(|| format!("writing {}", partial.display()))?;
        std::fs::rename(&partial, path).with_context(|| format!("writing {}", path.display()))?;
    }
    let mut out = stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()?;
    Ok(())
}
