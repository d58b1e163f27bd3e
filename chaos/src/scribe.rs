//! A process's own line to the ledger. Each line leaves it by one write, so that a kill takes none back.

use std::{
    io::Write,
    os::unix::net::UnixStream,
    path::PathBuf,
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use clap::Args;
use queue::{Job, Outcome};
use sqlx::postgres::PgConnectOptions;

/// Who a process is, and where its database and its ledger are.
#[derive(Debug, Args)]
pub struct Identity {
    /// The database.
    #[arg(long)]
    url: String,
    /// What it calls itself.
    #[arg(long)]
    pub name: String,
    /// Which start of a process it is.
    #[arg(long)]
    process: u32,
    /// The ledger's socket.
    #[arg(long)]
    ledger: PathBuf,
}

impl Identity {
    /// How to reach the database, under its own name.
    pub fn database(&self) -> anyhow::Result<PgConnectOptions> {
        Ok(PgConnectOptions::from_str(&self.url)?.application_name(&self.name))
    }
}

/// Tells the ledger what its process does.
#[derive(Debug)]
pub struct Scribe {
    stream: Mutex<UnixStream>,
}

impl Scribe {
    /// Connects, and says who it is.
    pub fn connect(identity: &Identity) -> anyhow::Result<Self> {
        let Identity { ledger, process, name, .. } = identity;
        let stream = UnixStream::connect(ledger).context("the ledger")?;
        let scribe = Self { stream: Mutex::new(stream) };
        // Its own clock, which may have been set wrong on purpose.
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        scribe.write(&format!("hello {process} {name} {unix_ms}\n"));
        Ok(scribe)
    }

    /// Writes whole lines. Without its ledger a process is worth nothing, so it ends.
    pub fn write(&self, lines: &str) {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = stream.write_all(lines.as_bytes()) {
            eprintln!("the ledger is gone: {error}");
            std::process::exit(1);
        }
    }

    /// A handler begins.
    pub fn start(&self, job: &Job) {
        self.write(&format!("start {} {} {} {}\n", job.id(), job.run(), job.attempt(), job.crashes()));
    }

    /// Its effect happens.
    pub fn effect(&self, job: &Job) {
        self.write(&format!("effect {} {}\n", job.id(), job.run()));
    }

    /// Its outcome was accepted.
    pub fn accepted(&self, job: &Job, outcome: &Outcome) {
        let word = match outcome {
            Outcome::Done => "ack",
            Outcome::Retry { .. } => "fail",
            Outcome::Snooze { .. } | Outcome::Return | Outcome::Dead { .. } | Outcome::Cancelled => return,
        };
        self.write(&format!("{word} {} {}\n", job.id(), job.run()));
    }

    /// Its outcome was refused.
    pub fn refused(&self, job: &Job) {
        self.write(&format!("stale {} {}\n", job.id(), job.run()));
    }
}
