//! A process's own line to the ledger. Each line leaves it by one write, so that a kill takes none back.

use std::{
    io::Write,
    os::unix::net::UnixStream,
    path::Path,
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use queue::{Job, Outcome};

/// Tells the ledger what its process does.
#[derive(Debug)]
pub struct Scribe {
    stream: Mutex<UnixStream>,
}

impl Scribe {
    /// Connects, and says who it is.
    pub fn connect(socket: &Path, process: u32, name: &str) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket).context("the ledger")?;
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
            Outcome::Snooze { .. } | Outcome::Dead { .. } | Outcome::Cancelled => return,
        };
        self.write(&format!("{word} {} {}\n", job.id(), job.run()));
    }

    /// Its outcome was refused.
    pub fn refused(&self, job: &Job) {
        self.write(&format!("stale {} {}\n", job.id(), job.run()));
    }
}
