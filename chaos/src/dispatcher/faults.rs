//! What is broken while events flow: processes die at random, and now and then PostgreSQL goes away.

use std::time::{Duration, Instant};

use embedded::Interruption;
use rand::Rng;

use super::Stage;
use crate::stage::Findings;

/// About how long it is between two kills; a rescuer has to live for a lease's length.
const KILL_PAUSE: Duration = Duration::from_secs(4);
/// How long after PostgreSQL is back what it kept from being recorded may take.
const GRACE: Duration = Duration::from_secs(1);
/// From how many minutes on the outages are long.
const LONG_MINUTES: u32 = 5;

/// One outage of PostgreSQL: what it is called, how it begins and how long it lasts.
type Outage = (&'static str, Interruption, u64);

const SHORT: &[Outage] = &[("stop_5s", Interruption::Kill, 5), ("stop_8s", Interruption::Stop, 8)];
const LONG: &[Outage] = &[
    ("stop_5s", Interruption::Kill, 5),
    ("stop_20s", Interruption::Stop, 20),
    ("stop_40s", Interruption::Kill, 40),
];

/// Breaks things for so many minutes, and tells what each outage was.
pub async fn run(stage: &Stage, minutes: u32) -> anyhow::Result<Vec<(&'static str, Findings)>> {
    let length = Duration::from_secs(u64::from(minutes) * 60);
    let outages = if minutes < LONG_MINUTES { SHORT } else { LONG };
    let until = Instant::now() + length;
    let ((), found) = tokio::try_join!(kill(stage, until), go_away(stage, outages, length))?;
    Ok(found)
}

async fn kill(stage: &Stage, until: Instant) -> anyhow::Result<()> {
    stage.say(&format!("kills dispatchers and the API, one about every {} s", KILL_PAUSE.as_secs()));
    loop {
        let pause = KILL_PAUSE.mul_f64(rand::rng().random_range(0.5..1.5));
        if Instant::now() + pause > until {
            tokio::time::sleep(until.saturating_duration_since(Instant::now())).await;
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        stage.roles.kill_one().await?;
    }
}

/// Spreads outages over the time that there is.
async fn go_away(
    stage: &Stage,
    outages: &[Outage],
    length: Duration,
) -> anyhow::Result<Vec<(&'static str, Findings)>> {
    let begun = Instant::now();
    let parts = u32::try_from(outages.len())? + 1;
    let mut found = Vec::new();
    for (n, (name, how, seconds)) in (1..).zip(outages) {
        let due = length * n / parts;
        tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
        found.push((*name, interrupt(stage, name, *how, Duration::from_secs(*seconds)).await?));
    }
    Ok(found)
}

async fn interrupt(stage: &Stage, name: &str, how: Interruption, away: Duration) -> anyhow::Result<Findings> {
    stage.say(&format!("PostgreSQL is away for {} s ({how:?})", away.as_secs()));
    let fault = stage.receivers.control.begin_fault(name, "recording").await?;
    let begun = Instant::now();
    stage.database.interrupt(how).await?;
    tokio::time::sleep(away.saturating_sub(begun.elapsed())).await;
    let resumed = stage.database.resume().await?;
    stage.database.until_it_writes().await?;
    let took = begun.elapsed();
    stage.say(&format!("PostgreSQL is back after {:.1} s", took.as_secs_f64()));
    fault.end_after(GRACE).await?;
    let mut findings = Findings::default();
    findings.fact("how", format!("{how:?}").to_lowercase());
    findings.fact("away_ms", u64::try_from(took.as_millis())?);
    findings.expect(resumed, || "the server was not gone".to_owned());
    Ok(findings)
}
