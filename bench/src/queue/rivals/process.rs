//! The programs of the benchmark, ours and the rivals', and what is said to them: one line at a time. `bench/rivals/README.md`
//! describes the protocol. Nothing here waits without a deadline.

use std::{process::Stdio, time::Duration};

use anyhow::Context;
use tokio::{process::Command, time::timeout};

use crate::process::ANSWER;
pub use crate::process::Process;

/// How long it may take to enqueue a backlog.
const FILL: Duration = Duration::from_secs(120);

/// Runs a program to its end.
pub async fn run(mut command: Command, deadline: Duration) -> anyhow::Result<()> {
    let what = format!("{:?}", command.as_std());
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).spawn();
    let mut child = child.with_context(|| what.clone())?;
    let status = timeout(deadline, child.wait()).await.with_context(|| format!("{what} took too long"))??;
    anyhow::ensure!(status.success(), "{what} failed: {status}");
    Ok(())
}

impl Process {
    /// Lets a worker begin.
    pub async fn begin(&mut self) -> anyhow::Result<()> {
        self.say("").await
    }

    /// The next job that told its start: its number, and when that was in microseconds since 1970.
    pub async fn next_start(&mut self, deadline: Duration) -> anyhow::Result<(u32, i64)> {
        let line = self.line(deadline).await?;
        let (n, at) = line.split_once(' ').with_context(|| format!("not a start: {line}"))?;
        Ok((n.parse()?, at.parse()?))
    }

    /// How many jobs a worker ran, and when it started the first in microseconds since 1970; 0 if it does not say. Not for
    /// one whose jobs tell their starts.
    pub async fn ran(&mut self) -> anyhow::Result<(u32, i64)> {
        self.say("").await?;
        self.next_start(ANSWER).await
    }

    /// Lets a producer enqueue a backlog.
    pub async fn fill(&mut self, jobs: u32, ms: u32, tell: bool) -> anyhow::Result<()> {
        self.say(&format!("fill {jobs} {ms} {}", u8::from(tell))).await?;
        let line = self.line(FILL).await.context("while it enqueued")?;
        anyhow::ensure!(line == "filled", "{line} instead of filled");
        Ok(())
    }

    /// Lets a producer enqueue one job that tells its start; when it was committed.
    pub async fn one(&mut self, n: u32) -> anyhow::Result<i64> {
        self.say(&format!("one {n}")).await?;
        Ok(self.next_start(ANSWER).await?.1)
    }

    /// Whether a producer finds no job that is ready or running.
    pub async fn idle(&mut self) -> anyhow::Result<bool> {
        self.say("idle").await?;
        Ok(self.line(ANSWER).await? == "idle")
    }
}
