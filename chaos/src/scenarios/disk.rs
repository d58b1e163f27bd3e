//! The disk under the database is full, and then it is not.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Write},
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    database::Disk,
    plan::Scenario,
    scenarios::GRACE,
    stage::{Findings, Stage},
};

/// How long it stays full.
const FULL: Duration = Duration::from_secs(10);
/// How often it is filled again with what became free meanwhile.
const REFILL: Duration = Duration::from_millis(100);
/// How much is written at a time; the last pieces are small, so that nothing stays free.
const PIECES: [usize; 2] = [1 << 20, 4096];
/// How long one waits for the load to go on.
const GOES_ON: Duration = Duration::from_secs(15);

/// Fills the disk and frees it again; starts the server if it ended for that.
pub async fn run(stage: &Stage, disk: &Disk) -> anyhow::Result<Findings> {
    stage.say(&format!("fills the disk for {} s", FULL.as_secs()));
    let fault = stage.ledger.begin_fault(Scenario::DiskFull.name(), None).await?;
    let begun = Instant::now();
    let path = disk.ballast();
    let before = count_acknowledged(stage).await?;
    let mut bytes = 0;
    while begun.elapsed() < FULL {
        let path = path.clone();
        bytes += tokio::task::spawn_blocking(move || fill(&path)).await??;
        tokio::time::sleep(REFILL).await;
    }
    let during = count_acknowledged(stage).await? - before;
    std::fs::remove_file(&path)?;
    // PostgreSQL ends itself when it cannot write its log; who runs it starts it again.
    let restarted = stage.database.resume().await?;
    stage.database.until_it_writes().await?;
    fault.clock(Duration::ZERO).await?;
    stage.say("the disk is free again");
    fault.end_after(GRACE).await?;
    tokio::time::sleep(GOES_ON).await;
    let mut findings = Findings::default();
    findings.fact("filled_mb", bytes >> 20);
    findings.fact("server_had_ended", restarted);
    findings.fact("acknowledged_while_full", during);
    findings.expect(bytes > 0, || "the disk could not be filled".to_owned());
    Ok(findings)
}

async fn count_acknowledged(stage: &Stage) -> anyhow::Result<u64> {
    Ok(stage.ledger.status().await?.acknowledged)
}

/// Writes until nothing more fits; returns how many bytes that were.
fn fill(path: &Path) -> anyhow::Result<u64> {
    let mut file: File = OpenOptions::new().append(true).create(true).open(path)?;
    let mut bytes = 0;
    for piece in PIECES {
        let zeros = vec![0; piece];
        loop {
            match file.write(&zeros) {
                Ok(0) => break,
                Ok(written) => bytes += written as u64,
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(bytes)
}
