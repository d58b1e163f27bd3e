//! What a worker process costs that has nothing to do.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use embedded::start_throwaway_with;
use sqlx::PgPool;

use super::{jobs, worker::Worker};
use crate::report::{Goal, Report};

/// How long the worker settles, and how long it is watched then.
const SETTLING: Duration = Duration::from_secs(12);
const WATCHED: Duration = Duration::from_secs(60);
/// The slots of the worker.
const SLOTS: usize = 100;
/// The server says every statement that it is given, whether prepared or not. Each line names its database's client.
const CONFIG: [(&str, &str); 2] = [("log_statement", "all"), ("log_line_prefix", "%a|")];
/// How a line of a statement begins, after the name of a worker's connections.
const STATEMENTS: [&str; 2] = ["bench|LOG:  statement: ", "bench|LOG:  execute "];

/// On a server of its own, for one that says every statement is slower.
pub async fn measure(report: &mut Report) -> anyhow::Result<()> {
    let server = tokio::task::spawn_blocking(|| start_throwaway_with(&CONFIG)).await??;
    let pool = PgPool::connect(server.url()).await?;
    jobs::reset(&pool).await?;
    let data: String = sqlx::query_scalar("show data_directory").fetch_one(&pool).await?;
    let log = Path::new(&data).parent().context("the server's home")?.join("log");
    let mut worker = Worker::start(server.url(), SLOTS, false).await?;
    worker.begin().await?;
    tokio::time::sleep(SETTLING).await;
    let watched = Watched::begin(log, worker.cpu())?;
    tokio::time::sleep(WATCHED).await;
    let (cpu_percent, per_second) = watched.end(worker.cpu())?;
    report.add("idle_cpu_percent", cpu_percent, Goal::AtMost(1.0));
    report.add("idle_queries_per_second", per_second, Goal::AtMost(5.0));
    worker.stop().await?;
    pool.close().await;
    tokio::task::spawn_blocking(|| server.stop()).await??;
    Ok(())
}

struct Watched {
    log: PathBuf,
    log_bytes: u64,
    cpu: Duration,
    since: Instant,
}

impl Watched {
    fn begin(log: PathBuf, cpu: Duration) -> anyhow::Result<Self> {
        let log_bytes = log.metadata().context("the server's log")?.len();
        Ok(Self { log, log_bytes, cpu, since: Instant::now() })
    }

    /// The share of a core in percent, and the statements a second, since the beginning.
    fn end(self, cpu: Duration) -> anyhow::Result<(f64, f64)> {
        let seconds = self.since.elapsed().as_secs_f64();
        let mut file = File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.log_bytes))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let is_statement = |line: &&str| STATEMENTS.iter().any(|beginning| line.starts_with(beginning));
        let statements = u32::try_from(text.lines().filter(is_statement).count())?;
        anyhow::ensure!(statements > 0, "the server's log names no statement of the worker");
        let cpu = cpu.saturating_sub(self.cpu).as_secs_f64();
        Ok((cpu / seconds * 100.0, f64::from(statements) / seconds))
    }
}
