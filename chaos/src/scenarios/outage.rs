//! PostgreSQL goes away and comes back.

use std::time::{Duration, Instant};

use embedded::Interruption;

use crate::{
    plan::Scenario,
    scenarios::GRACE,
    stage::{Findings, Stage},
};

/// Its main process is killed; the next start recovers.
pub const KILL: Interruption = Interruption::Kill;
/// It is stopped as an operator would.
pub const STOP: Interruption = Interruption::Stop;

/// How long one waits for the load to go on.
const GOES_ON: Duration = Duration::from_secs(10);

/// Ends the server and starts it again after so many seconds.
pub async fn run(
    stage: &Stage,
    scenario: Scenario,
    seconds: u64,
    how: Interruption,
) -> anyhow::Result<Findings> {
    stage.say(&format!("PostgreSQL is away for {seconds} s ({how:?})"));
    let fault = stage.ledger.begin_fault(scenario.name(), None).await?;
    let begun = Instant::now();
    stage.database.interrupt(how).await?;
    tokio::time::sleep(Duration::from_secs(seconds).saturating_sub(begun.elapsed())).await;
    let resumed = stage.database.resume().await?;
    stage.database.until_it_writes().await?;
    fault.clock(Duration::ZERO).await?;
    let away = begun.elapsed();
    stage.say(&format!("PostgreSQL is back after {:.1} s", away.as_secs_f64()));
    fault.end_after(GRACE).await?;
    tokio::time::sleep(GOES_ON).await;
    let mut findings = Findings::default();
    findings.fact("how", format!("{how:?}").to_lowercase());
    findings.fact("away_ms", u64::try_from(away.as_millis())?);
    findings.expect(resumed, || "the server was not gone".to_owned());
    Ok(findings)
}
