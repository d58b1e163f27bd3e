//! `iris queue …`: what an operator asks of the durable queue.

use std::fmt::Write as _;

use anyhow::Context;
use queue::{
    Depth, depths, lanes,
    operate::{Dead, JobView, discard_dead, find_job, list_dead, retry_dead},
};
use serde::Serialize;
use shared::{Database, clock};
use uuid::Uuid;

use crate::cli::{DeadJobs, Paused, QueueCommand};

/// How many dead jobs one command takes.
const DEAD_MAX: u32 = 10_000;
/// How much of an error a line shows.
const ERROR_CHARS_MAX: usize = 100;

/// Runs a command and prints what it finds.
pub async fn run(database: &Database, command: QueueCommand, json: bool) -> anyhow::Result<()> {
    match command {
        QueueCommand::List { dead: false, queue, .. } => {
            let mut conn = database.pool().acquire().await?;
            let mut found = depths(&mut conn).await?;
            found.retain(|depth| queue.as_ref().is_none_or(|queue| *queue == depth.queue));
            print(json, &found, table_of_depths)
        }
        QueueCommand::List { queue, limit, .. } => {
            let mut conn = database.pool().acquire().await?;
            print(json, &list_dead(&mut conn, queue.as_deref(), limit).await?, table_of_jobs)
        }
        QueueCommand::Show { id } => {
            let mut conn = database.pool().acquire().await?;
            let job = find_job(&mut conn, id)
                .await?
                .with_context(|| format!("no unfinished job has the id {id}"))?;
            print(json, &[job], |jobs| jobs.iter().map(describe).collect())
        }
        QueueCommand::Retry(jobs) => retry(database, &jobs).await,
        QueueCommand::Discard(jobs) => {
            let mut tx = database.begin().await?;
            let count = discard_dead(&mut tx, meant(&jobs)).await?;
            tx.commit().await?;
            println!("{count} dead jobs forgotten");
            Ok(())
        }
        QueueCommand::Pause(paused) => pause(database, &paused, true).await,
        QueueCommand::Resume(paused) => pause(database, &paused, false).await,
    }
}

async fn retry(database: &Database, jobs: &DeadJobs) -> anyhow::Result<()> {
    let mut tx = database.begin().await?;
    let (count, wake) = retry_dead(&mut tx, meant(jobs)).await?;
    tx.wake(wake);
    tx.commit().await?;
    println!("{count} jobs are ready again");
    Ok(())
}

async fn pause(database: &Database, paused: &Paused, pause: bool) -> anyhow::Result<()> {
    let mut tx = database.begin().await?;
    let wake = match &paused.lane {
        Some(lane) => lanes::pause(&mut tx, &paused.queue, lane, pause).await?,
        None => lanes::pause_queue(&mut tx, &paused.queue, pause).await?,
    };
    tx.wake(wake);
    tx.commit().await?;
    let what = paused.lane.as_ref().map_or(String::new(), |lane| format!(", lane {lane}"));
    println!("{}{what} {}", paused.queue, if pause { "is paused" } else { "goes on" });
    Ok(())
}

fn meant(jobs: &DeadJobs) -> Dead<'_> {
    match &jobs.queue {
        Some(queue) => Dead::Queue(queue, DEAD_MAX),
        None => Dead::Ids(&jobs.ids),
    }
}

fn print<T: Serialize>(json: bool, rows: &[T], table: impl FnOnce(&[T]) -> String) -> anyhow::Result<()> {
    if !json {
        print!("{}", table(rows));
        return Ok(());
    }
    for row in rows {
        println!("{}", serde_json::to_string(row)?);
    }
    Ok(())
}

fn table_of_depths(depths: &[Depth]) -> String {
    let mut text = format!(
        "{:<24}{:>9}{:>10}{:>8}{:>8}{:>9}{:>8}{:>8}{:>7}{:>9}  \n",
        "QUEUE", "READY", "THROTTLED", "CLOSED", "PAUSED", "RUNNING", "TIMERS", "HELD", "DEAD", "OLDEST"
    );
    for depth in depths {
        let oldest = depth.oldest_seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.0} s"));
        let note = if depth.claimed { "" } else { "nobody claims it" };
        let _ = writeln!(
            text,
            "{:<24}{:>9}{:>10}{:>8}{:>8}{:>9}{:>8}{:>8}{:>7}{:>9}  {note}",
            depth.queue,
            depth.ready,
            depth.throttled,
            depth.closed,
            depth.paused,
            depth.running,
            depth.timers,
            depth.held,
            depth.dead,
            oldest
        );
    }
    text
}

fn table_of_jobs(jobs: &[JobView]) -> String {
    let mut text = String::new();
    for job in jobs {
        let died = job.due_at.map(clock::iso).unwrap_or_default();
        let error: String =
            job.last_error.iter().flat_map(|error| error.chars()).take(ERROR_CHARS_MAX).collect();
        let reason = job.reason.as_deref().unwrap_or_default();
        let _ = writeln!(text, "{}  {:<20} {reason:<12} {died}  {error}", job.id, job.queue);
    }
    text
}

fn describe(job: &JobView) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let id: Uuid = job.id;
    let rows = [
        ("id", id.to_string()),
        ("queue", job.queue.clone()),
        ("state", job.state.clone()),
        ("reason", or_none(&job.reason)),
        ("tenant", job.tenant.clone()),
        ("lane", job.lane.clone()),
        ("group", or_none(&job.grp)),
        ("key", or_none(&job.key)),
        ("priority", job.priority.to_string()),
        ("attempts", format!("{} of {}", job.attempt, job.max_attempts)),
        ("crashes", job.crashes.to_string()),
        ("starts", job.run.to_string()),
        ("enqueued", clock::iso(job.created_at)),
        ("due", job.due_at.map_or("-".to_owned(), clock::iso)),
        ("trace", or_none(&job.trace)),
        ("last error", or_none(&job.last_error)),
        ("payload", job.payload.clone()),
    ];
    rows.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name:<12}{value}");
        text
    })
}
