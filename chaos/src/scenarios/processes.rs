//! Workers that are killed, frozen, or have another's name.

use std::time::{Duration, Instant};

use rand::Rng;

use crate::{
    plan::Scenario,
    run::TWIN,
    scenarios::abort,
    stage::{Findings, Stage},
};

/// How long a worker is frozen: twice what its lease lasts.
const FROZEN: Duration = Duration::from_secs(12);
/// How long a frozen process's last lines may take to be read.
const LAST_LINES: Duration = Duration::from_millis(200);
/// How long workers have to be killed for a job to be given all the crashes that it may have.
const LONG: Duration = Duration::from_secs(300);
/// How long a look at the tables may take.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);
/// Between two freezes, and between the deaths of two twins.
const PAUSE: Duration = Duration::from_secs(5);
/// How many twins die.
const TWINS: u32 = 2;

/// Kills random workers. Where that lasts for long, a job that kills its process is found among all that die for no fault
/// of theirs.
pub async fn run_kills(stage: &Stage, kills: u32, pause: Duration) -> anyhow::Result<Findings> {
    stage.say(&format!("kills {kills} workers, one about every {:.1} s", pause.as_secs_f64()));
    let killing = async {
        for _ in 0..kills {
            stage.fleet.kill(Scenario::Kills.name(), None)?;
            let share = rand::rng().random_range(0.5..1.5);
            tokio::time::sleep(pause.mul_f64(share)).await;
        }
        Ok(())
    };
    let mut findings = if pause * kills > LONG {
        let ((), findings) = tokio::try_join!(killing, abort::run(stage))?;
        findings
    } else {
        killing.await?;
        Findings::default()
    };
    findings.fact("kills", kills);
    Ok(findings)
}

/// Freezes workers, one at a time, until others have taken their jobs, and lets them go on.
pub async fn run_freezes(stage: &Stage, freezes: u32) -> anyhow::Result<Findings> {
    let mut left = 0;
    for n in 1..=freezes {
        stage.say(&format!("freezes a worker for {} s ({n} of {freezes})", FROZEN.as_secs()));
        let frozen_at = Instant::now();
        let process = stage.fleet.freeze()?;
        let fault = stage.ledger.begin_fault(Scenario::Freeze.name(), Some(process)).await?;
        tokio::time::sleep(LAST_LINES).await;
        fault.clock(frozen_at.elapsed()).await?;
        tokio::time::sleep(FROZEN.saturating_sub(frozen_at.elapsed())).await;
        left += still_its_own(stage).await?;
        stage.fleet.thaw(process)?;
        fault.end_after(LAST_LINES).await?;
        tokio::time::sleep(PAUSE).await;
    }
    let mut findings = Findings::default();
    findings.fact("frozen_s", FROZEN.as_secs());
    findings.expect(left == 0, || {
        format!("{left} jobs of frozen workers were not rescued while they were frozen")
    });
    Ok(findings)
}

/// How many jobs run under a lease that is over.
async fn still_its_own(stage: &Stage) -> anyhow::Result<i64> {
    let query = sqlx::query_scalar(
        "select count(*) from queue.running r
         where not exists (select from queue.leases l where l.id = r.lease and l.expires_at > clock_timestamp())",
    );
    Ok(tokio::time::timeout(LOOK_DEADLINE, query.fetch_one(&stage.database.pool)).await??)
}

/// Kills one of two workers with the same name: only its jobs are rescued.
pub async fn run_same_names(stage: &Stage) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let leases: i64 = sqlx::query_scalar(
        "select count(*) from queue.leases where name = $1 and expires_at > clock_timestamp()",
    )
    .bind(TWIN)
    .fetch_one(&stage.database.pool)
    .await?;
    findings.fact("leases_of_one_name", leases);
    findings.expect(leases >= 2, || format!("of two processes of one name {leases} have a lease"));
    for _ in 0..TWINS {
        stage.say("kills one of two workers of the same name");
        stage.fleet.kill(Scenario::SameNames.name(), Some(TWIN))?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(findings)
}
