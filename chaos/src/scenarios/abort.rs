//! A job that kills whoever runs it: it has to end dead, and nobody else with it.

use std::time::{Duration, Instant};

use queue::{CRASHES_MAX, Enqueued, NewJob};

use crate::{
    jobs::Aborting,
    stage::{Findings, Stage},
};

/// How long it may take until it is dead: each crash costs a lease, and it is kept back the longer the more there were.
const DEAD_DEADLINE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(200);

/// Enqueues one and waits until it is dead.
pub async fn run(stage: &Stage) -> anyhow::Result<Findings> {
    stage.say("enqueues a job that aborts its process");
    let mut findings = Findings::default();
    let begun = Instant::now();
    let mut tx = stage.database.pool.begin().await?;
    let (outcomes, _) = queue::enqueue(&mut tx, &[NewJob::new(&Aborting {}, "tenant-0")?]).await?;
    let [Enqueued::Added(id)] = outcomes[..] else { anyhow::bail!("the job was not enqueued") };
    stage.ledger.tell(&format!("culprit {id}\nenqueued {id}\n")).await?;
    tx.commit().await?;
    while begun.elapsed() < DEAD_DEADLINE {
        let dead: Option<(String, i16)> =
            sqlx::query_as("select reason, crashes from queue.dead where id = $1")
                .bind(id)
                .fetch_optional(&stage.database.pool)
                .await?;
        if let Some((reason, crashes)) = dead {
            stage.say(&format!("the job is dead after {crashes} crashes: {reason}"));
            findings.fact("crashes", crashes);
            findings.fact("dead_after_ms", u64::try_from(begun.elapsed().as_millis())?);
            findings.expect(reason == "crashed", || format!("it is dead for another reason: {reason}"));
            findings.expect(i32::from(crashes) <= CRASHES_MAX, || format!("it crashed {crashes} times"));
            return Ok(findings);
        }
        tokio::time::sleep(LOOK).await;
    }
    findings.problems.push(format!("the job that aborts is not dead after {DEAD_DEADLINE:?}"));
    Ok(findings)
}
