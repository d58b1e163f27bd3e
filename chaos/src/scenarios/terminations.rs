//! Sessions end in the midst of whatever they do.

use std::time::Duration;

use sqlx::PgConnection;

use crate::{
    database::NAME,
    plan::Scenario,
    stage::{Findings, Stage},
};

/// How many sessions end at a time.
const AT_A_TIME: i64 = 3;
/// How long it may take until whoever had one has noticed.
const NOTICED: Duration = Duration::from_millis(200);
/// Between two times.
const PAUSE: Duration = Duration::from_millis(1300);

/// Ends sessions of workers and generators at random.
pub async fn run(stage: &Stage, times: u32) -> anyhow::Result<Findings> {
    stage.say(&format!("ends sessions at random, {times} times"));
    let mut ours = stage.database.connect().await?;
    let mut ended = 0;
    for _ in 0..times {
        let fault = stage.ledger.begin_fault(Scenario::Terminations.name(), None).await?;
        ended += end_sessions(&mut ours, AT_A_TIME).await?;
        fault.clock(Duration::ZERO).await?;
        fault.end_after(NOTICED).await?;
        tokio::time::sleep(PAUSE).await;
    }
    let mut findings = Findings::default();
    findings.fact("sessions_ended", ended);
    findings.expect(ended > 0, || "no session could be ended".to_owned());
    Ok(findings)
}

/// Ends so many sessions, but none of ours; returns how many there were.
pub async fn end_sessions(ours: &mut PgConnection, count: i64) -> anyhow::Result<i64> {
    let ended = sqlx::query_scalar(
        "select count(*) filter (where pg_terminate_backend(pid)) from (
            select pid from pg_stat_activity
            where backend_type = 'client backend' and application_name <> $1 order by random() limit $2) s",
    )
    .bind(NAME)
    .bind(count)
    .fetch_one(ours)
    .await?;
    Ok(ended)
}
