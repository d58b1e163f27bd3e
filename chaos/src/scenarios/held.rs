//! A transaction that stays open: nothing that dies meanwhile can be removed.

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;

use crate::stage::{Findings, Stage};

/// How often one looks whether it is still open, and how long it may take to say so.
const LOOK: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(5);

/// Holds a transaction open, and opens another when PostgreSQL went away under it.
#[derive(Debug)]
pub struct Holder {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Held>,
}

#[derive(Debug, Default)]
struct Held {
    transactions: u32,
    whole: Duration,
    longest: Duration,
}

impl Holder {
    /// Starts holding.
    pub fn start(stage: &Stage) -> Self {
        stage.say("opens a transaction that stays open");
        let stop = CancellationToken::new();
        let task = tokio::spawn(hold(stage.clone(), stop.clone()));
        Self { stop, task }
    }

    /// Lets it go.
    pub async fn stop(self, stage: &Stage) -> anyhow::Result<Findings> {
        self.stop.cancel();
        let held = self.task.await?;
        stage.say(&format!("ends the open transaction, {} s old at most", held.longest.as_secs()));
        let mut findings = Findings::default();
        findings.fact("held_s", held.whole.as_secs());
        findings.fact("longest_s", held.longest.as_secs());
        findings.fact("transactions", held.transactions);
        findings.expect(held.transactions > 0, || "no transaction could be opened".to_owned());
        Ok(findings)
    }
}

async fn hold(stage: Stage, stop: CancellationToken) -> Held {
    let mut held = Held::default();
    while !stop.is_cancelled() {
        if let Ok(mut connection) = open(&stage).await {
            held.transactions += 1;
            let begun = Instant::now();
            while !stop.is_cancelled() && is_open(&mut connection).await {
                let _ = tokio::time::timeout(LOOK, stop.cancelled()).await;
            }
            held.whole += begun.elapsed();
            held.longest = held.longest.max(begun.elapsed());
        } else {
            let _ = tokio::time::timeout(LOOK, stop.cancelled()).await;
        }
    }
    held
}

/// A connection in a transaction that has a snapshot and a number.
async fn open(stage: &Stage) -> anyhow::Result<PgConnection> {
    let mut connection = stage.database.connect().await?;
    let begin = sqlx::raw_sql("begin isolation level repeatable read; select pg_current_xact_id()");
    tokio::time::timeout(DEADLINE, begin.execute(&mut connection)).await??;
    Ok(connection)
}

async fn is_open(connection: &mut PgConnection) -> bool {
    matches!(tokio::time::timeout(DEADLINE, connection.ping()).await, Ok(Ok(())))
}
