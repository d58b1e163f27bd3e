//! The programs of the benchmark, ours and the rivals', and what is said to them: one line at a time. `bench/rivals/README.md`
//! describes the protocol. Nothing here waits without a deadline.

use std::{process::Stdio, time::Duration};

use anyhow::Context;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// How long a program may take to make its tables, or to say that it is ready.
const START: Duration = Duration::from_secs(30);
/// How long it may take to enqueue a backlog.
const FILL: Duration = Duration::from_secs(120);
/// How long it may take to answer.
const ANSWER: Duration = Duration::from_secs(20);
/// How long it may take to end; then it is killed.
const END: Duration = Duration::from_secs(5);

/// A running program. It is killed when this is dropped.
pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

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
    /// Starts a program, which is ready when this returns.
    pub async fn start(mut command: Command) -> anyhow::Result<Self> {
        let what = format!("{:?}", command.as_std());
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn();
        let mut child = spawned.with_context(|| what.clone())?;
        let input = child.stdin.take().context("its input")?;
        let output = BufReader::new(child.stdout.take().context("its output")?).lines();
        let mut process = Self { child, input: Some(input), output };
        let line = process.line(START).await.with_context(|| format!("{what} did not start"))?;
        anyhow::ensure!(line == "ready", "{what} said {line} instead of ready");
        Ok(process)
    }

    /// Says a line.
    pub async fn say(&mut self, line: &str) -> anyhow::Result<()> {
        let input = self.input.as_mut().context("it was stopped")?;
        let said = async {
            input.write_all(format!("{line}\n").as_bytes()).await?;
            input.flush().await
        };
        Ok(timeout(ANSWER, said).await??)
    }

    /// The next line that it says.
    pub async fn line(&mut self, deadline: Duration) -> anyhow::Result<String> {
        timeout(deadline, self.output.next_line()).await.context("no answer in time")??.context("it ended")
    }

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

    /// Kills it, without a chance to say anything.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        Ok(timeout(END, self.child.kill()).await??)
    }

    /// Lets it end, by force if it does not.
    pub async fn stop(mut self) {
        self.input.take();
        if timeout(END, self.child.wait()).await.is_err() {
            let _ = self.kill().await;
        }
    }
}
