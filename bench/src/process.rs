//! The processes of a benchmark, and what is said to them: one line at a time. Nothing here waits without a deadline.

use std::{fs, process::Stdio, time::Duration};

use anyhow::Context;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// How long a program may take to say that it is ready.
const START: Duration = Duration::from_secs(30);
/// How long it may take to answer.
pub const ANSWER: Duration = Duration::from_secs(20);
/// How long it may take to end; then it is killed.
const END: Duration = Duration::from_secs(8);
/// In what Linux counts a process's time, on every architecture that PostgreSQL runs on.
const TICKS_PER_SECOND: u32 = 100;

/// A running program. It is killed when this is dropped.
pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
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

    /// What it answers to a line.
    pub async fn ask(&mut self, line: &str) -> anyhow::Result<String> {
        self.say(line).await?;
        self.line(ANSWER).await
    }

    /// How long it has computed.
    pub fn cpu(&self) -> Duration {
        self.child.id().map_or(Duration::ZERO, cpu)
    }

    /// The most memory it ever had, in MiB.
    pub fn memory_mib(&self) -> f64 {
        self.child.id().map_or(0.0, memory_mib)
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

/// How long a process has computed since it started (Linux; nothing elsewhere).
pub fn cpu(id: u32) -> Duration {
    stat(id).map_or(Duration::ZERO, |stat| stat.own)
}

/// How long a process has computed, with its children, also those that have ended (Linux; nothing elsewhere).
pub fn cpu_of_family(id: u32) -> Duration {
    let Some(parent) = stat(id) else { return Duration::ZERO };
    let ids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let children = ids.filter_map(stat).filter(|child| child.parent == id);
    parent.own + parent.ended_children + children.map(|child| child.own).sum::<Duration>()
}

/// Whose child a process is (Linux; nobody's elsewhere).
pub fn parent(id: u32) -> Option<u32> {
    stat(id).map(|stat| stat.parent)
}

/// The most memory a process ever had, in MiB (Linux; 0 elsewhere).
pub fn memory_mib(id: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok();
    let peak = status.as_deref().and_then(|s| s.lines().find_map(|line| line.strip_prefix("VmHWM:")));
    let kib: f64 = peak.and_then(|kib| kib.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0.0);
    kib / 1024.0
}

/// What the system says of a process.
struct Stat {
    parent: u32,
    own: Duration,
    ended_children: Duration,
}

fn stat(id: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name in parentheses may have spaces; what follows are the fields from the third on (proc_pid_stat(5)).
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks =
        |number: usize| fields.get(number - 3).and_then(|ticks| ticks.parse::<u32>().ok()).unwrap_or(0);
    let time = |a, b| Duration::from_secs(1) * (ticks(a) + ticks(b)) / TICKS_PER_SECOND;
    Some(Stat { parent: ticks(4), own: time(14, 15), ended_children: time(16, 17) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_is_its_parents_child_and_has_used_memory() {
        let own = std::process::id();
        assert!(memory_mib(own) > 0.1);
        let parent = parent(own).unwrap();
        assert!(parent > 0 && parent != own);
        assert!(cpu_of_family(parent) >= cpu(own));
    }
}
