//! The ways to break things, one after the other; a held transaction and wrong clocks last for the whole run.

mod abort;
mod connections;
mod disk;
mod held;
mod outage;
mod processes;
mod terminations;

use std::time::Duration;

use serde_json::Value;

use crate::{
    plan::{Plan, Scenario},
    report::Report,
    run::{AHEAD, BEHIND, CLOCK_AHEAD_S},
    stage::{Findings, Stage},
};

/// For how long after a fault of all what is on its way may still fail for it.
const GRACE: Duration = Duration::from_secs(1);
/// The pause between two scenarios.
const PAUSE: Duration = Duration::from_secs(3);

/// Runs the scenarios of the plan.
pub async fn run_all(stage: &Stage, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let holder = plan.has(Scenario::HeldTransaction).then(|| held::Holder::start(stage));
    for scenario in &plan.scenarios {
        let findings = match scenario {
            Scenario::HeldTransaction | Scenario::Clock => continue,
            Scenario::Abort => abort::run(stage).await?,
            Scenario::SameNames => processes::run_same_names(stage).await?,
            Scenario::Kills => processes::run_kills(stage, plan.kills, plan.kill_pause).await?,
            Scenario::Freeze => processes::run_freezes(stage, plan.freezes).await?,
            Scenario::Stop5s => outage::run(stage, *scenario, 5, outage::KILL).await?,
            Scenario::Stop20s => outage::run(stage, *scenario, 20, outage::STOP).await?,
            Scenario::Stop40s => outage::run(stage, *scenario, 40, outage::KILL).await?,
            Scenario::Stop120s => outage::run(stage, *scenario, 120, outage::STOP).await?,
            Scenario::Terminations => terminations::run(stage, plan.terminations).await?,
            Scenario::Connections => connections::run(stage).await?,
            Scenario::DiskFull => {
                let Some(disk) = stage.database.disk() else {
                    report.skip(*scenario, "a disk that can be filled needs root and its mounts");
                    continue;
                };
                disk::run(stage, disk).await?
            }
        };
        report.ran(*scenario, findings);
        tokio::time::sleep(PAUSE).await;
    }
    if let Some(holder) = holder {
        report.ran(Scenario::HeldTransaction, holder.stop(stage).await?);
    }
    Ok(())
}

/// Whether the wrong clocks were as wrong as they were meant to be, and their processes worked.
pub fn judge_clock(plan: &Plan, verdict: &Value, report: &mut Report) {
    if !plan.has(Scenario::Clock) {
        return;
    }
    if plan.faketime.is_none() {
        report.skip(Scenario::Clock, "libfaketime is not installed");
        return;
    }
    let mut findings = Findings::default();
    let expected = i64::from(CLOCK_AHEAD_S);
    for (name, ahead) in [(AHEAD, expected), (BEHIND, -expected)] {
        let said = &verdict["names"][name];
        findings.fact(name, said.clone());
        let is = said["clock_ahead_s"].as_i64().unwrap_or_default();
        findings.expect((is - ahead).abs() < 60, || format!("the clock of {name} is {is} s ahead"));
    }
    let acknowledged = verdict["names"][AHEAD]["acknowledged"].as_u64().unwrap_or_default();
    findings.expect(acknowledged > 0, || format!("{AHEAD} did nothing"));
    report.ran(Scenario::Clock, findings);
}
