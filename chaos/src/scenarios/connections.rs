//! The server takes no more connections.

use std::time::{Duration, Instant};

use sqlx::PgConnection;

use crate::{
    plan::Scenario,
    scenarios::{GRACE, terminations::end_sessions},
    stage::{Findings, Stage},
};

/// How long all connections are taken.
const TAKEN: Duration = Duration::from_secs(20);
/// How many sessions end meanwhile, whose owners find no other.
const ENDED: i64 = 12;
/// The pause before a connection is asked for again.
const PAUSE: Duration = Duration::from_millis(20);
/// How long one waits for the load to go on.
const GOES_ON: Duration = Duration::from_secs(10);

/// Takes every free connection, ends some of the others, and takes those as well.
pub async fn run(stage: &Stage) -> anyhow::Result<Findings> {
    stage.say(&format!("takes all connections for {} s", TAKEN.as_secs()));
    let fault = stage.ledger.begin_fault(Scenario::Connections.name(), None).await?;
    // What is needed meanwhile has to be there before.
    let mut ours = stage.database.connect().await?;
    let begun = Instant::now();
    let mut taken: Vec<PgConnection> = Vec::new();
    let (mut refused, mut ended) = (0, 0);
    while begun.elapsed() < TAKEN {
        if let Ok(connection) = stage.database.connect().await {
            taken.push(connection);
            continue;
        }
        refused += 1;
        if ended == 0 {
            ended = end_sessions(&mut ours, ENDED).await?;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let count = taken.len();
    // Closed without a word, as a process that dies would.
    drop(taken);
    stage.database.until_it_writes().await?;
    fault.clock(Duration::ZERO).await?;
    stage.say(&format!("gives {count} connections back"));
    fault.end_after(GRACE).await?;
    tokio::time::sleep(GOES_ON).await;
    let mut findings = Findings::default();
    findings.fact("connections_taken", count);
    findings.fact("sessions_ended", ended);
    findings.expect(refused > 0, || "the server never refused a connection".to_owned());
    Ok(findings)
}
