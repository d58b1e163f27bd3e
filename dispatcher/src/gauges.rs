//! What waits, as gauges.

use std::time::Duration;

use shared::{
    Database,
    db::{endpoint_health, outbox, undelivered},
};
use tokio_util::sync::CancellationToken;

/// How often they are set, and how long that may take.
const MEASURE: Duration = Duration::from_secs(10);

/// Sets them until `stop`.
pub async fn run(database: Database, stop: CancellationToken) {
    while !stop.is_cancelled() {
        match tokio::time::timeout(MEASURE, measure(&database)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "what waits was not measured"),
            Err(_) => tracing::debug!("what waits was not measured in time"),
        }
        let _ = tokio::time::timeout(MEASURE, stop.cancelled()).await;
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
async fn measure(database: &Database) -> Result<(), sqlx::Error> {
    let mut conn = database.pool().acquire().await?;
    let depth = outbox::depth(&mut conn).await?;
    metrics::gauge!("outbox_events").set(depth.events as f64);
    metrics::gauge!("outbox_oldest_seconds").set(depth.oldest.as_secs_f64());
    let open = endpoint_health::count_open(&mut conn).await?;
    metrics::gauge!("webhook_circuits_open").set(open as f64);
    for waiting in undelivered::measure(&mut conn).await? {
        metrics::gauge!("webhook_oldest_undelivered_seconds", "state" => waiting.state)
            .set(waiting.oldest.as_secs_f64());
        metrics::gauge!("webhook_endpoints_waiting", "state" => waiting.state).set(waiting.endpoints as f64);
    }
    Ok(())
}
