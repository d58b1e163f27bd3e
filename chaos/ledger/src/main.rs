//! The ledger of a chaos run. Workers and generators write a line to its socket for each thing they did, at the moment
//! they did it; whoever breaks things writes when each fault begins and ends. From these lines alone it derives what was
//! lost, done twice or accepted too late, and how long the recovery took. It uses no crate of ours, so that what judges
//! the queue shares nothing with it.
//!
//! Start reading at `line.rs` (what can be said), then `book.rs` (what it means), then `verdict.rs` (what comes of it).

mod book;
mod fault;
mod job;
mod line;
mod verdict;

#[cfg(test)]
mod tests;

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use anyhow::Context;
use clap::Parser;

use book::{Book, Limits};
use line::Line;

/// Writes down what the processes of a chaos run say they did, and judges it.
#[derive(Debug, Parser)]
#[command(name = "iris-chaos-ledger", version)]
struct Options {
    /// The unix socket on which it listens; it must not exist yet.
    #[arg(long)]
    socket: PathBuf,
    /// How many attempts of a job may fail.
    #[arg(long)]
    attempts_max: u32,
    /// How many processes may die under a job before it is dead.
    #[arg(long)]
    crashes_max: u32,
}

/// Listens until its input ends.
fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let listener = UnixListener::bind(&options.socket)
        .with_context(|| format!("cannot listen on {}", options.socket.display()))?;
    let limits = Limits { attempts_max: options.attempts_max, crashes_max: options.crashes_max };
    let book = Arc::new(Mutex::new(Book::new(limits)));
    std::thread::spawn(move || accept(&listener, &book));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn accept(listener: &UnixListener, book: &Arc<Mutex<Book>>) {
    for stream in listener.incoming().flatten() {
        let book = book.clone();
        std::thread::spawn(move || {
            if let Err(error) = listen(&stream, &book) {
                eprintln!("ledger: {error:#}");
                // A line that nobody understands is a defect of the run: nothing that follows could be trusted.
                lock(&book).spoil(format!("{error:#}"));
            }
        });
    }
}

/// Takes lines until the other end is gone.
fn listen(stream: &UnixStream, book: &Mutex<Book>) -> anyhow::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut process = None;
    let mut text = String::new();
    loop {
        text.clear();
        // A process killed amid a write leaves a line without an end, which says nothing.
        let read = reader.read_line(&mut text);
        if read.is_err() || !text.ends_with('\n') {
            return Ok(());
        }
        let line: Line = text.trim_end().parse().with_context(|| format!("the line {text:?}"))?;
        if let Line::Hello { process: said, .. } = &line {
            process = Some(*said);
        }
        let answer = lock(book).apply(&line, process.unwrap_or_default(), Instant::now());
        if let Some(answer) = answer {
            writeln!(&mut &*stream, "{answer}").context("its answer")?;
        }
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}
