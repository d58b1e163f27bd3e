//! What a dispatcher needs of memory when much waits.

use std::time::Duration;

use dispatcher::relay::relay_shards;
use shared::db::outbox::SHARDS;

use super::{
    Tally,
    role::Dispatcher,
    stage::{Shape, Stage},
};
use crate::{
    report::{Goal, Report},
    server::Server,
};

/// An account all of whose events go to a hundred endpoints.
const SHAPE: Shape = Shape { accounts: 1, endpoints: 100, types: 1, hanging: 0, ordered: false };
/// How many deliveries wait.
const WAITING: usize = 1_000_000;
/// How many events are relayed at once.
const RELAYED: usize = 50;
/// How long the dispatcher works on them.
const WATCHED: Duration = Duration::from_secs(30);

/// Lets a dispatcher loose on a million deliveries.
pub async fn measure(server: &Server, report: &mut Report, tally: &mut Tally) -> anyhow::Result<()> {
    let mut stage = Stage::set(server, SHAPE).await?;
    stage.producer().pour(WAITING / SHAPE.fanout()).await?;
    let mut waiting = 0;
    while waiting < WAITING {
        let before = waiting;
        for shard in 0..SHARDS {
            waiting += relay_shards(&stage.database, &[(shard, RELAYED)]).await?[0].deliveries;
        }
        anyhow::ensure!(waiting > before, "{waiting} deliveries were relayed, and no more");
    }
    sqlx::query("checkpoint").execute(&server.pool).await?;
    let dispatcher = Dispatcher::start(&stage, false).await?;
    tokio::time::sleep(WATCHED).await;
    let memory = dispatcher.process().memory_mib();
    dispatcher.stop().await;
    let requests = stage.receivers.count().await?;
    tally.refused += requests.refused;
    report.add("rss_mb_max", memory, Goal::AtMost(150.0));
    report.note(format!(
        "rss: {waiting} deliveries waited, of which {} were made in {} s",
        requests.answered,
        WATCHED.as_secs()
    ));
    stage.clear().await?;
    Ok(())
}
