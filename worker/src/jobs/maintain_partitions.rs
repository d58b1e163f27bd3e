//! Makes the history tables' partitions of the days ahead.

use queue::{Job, Outcome};
use shared::{db::partitions, jobs};

use super::{Handled, Shared, finish};

/// How many days ahead partitions exist; a week may pass without a worker.
const DAYS_AHEAD: i32 = 8;

/// Runs the job.
pub async fn run(_payload: jobs::MaintainPartitions, job: Job, ctx: Shared) -> Handled {
    let mut tx = ctx.database.begin().await?;
    let made = partitions::ensure(&mut tx, DAYS_AHEAD).await?;
    for stray in partitions::count_strays(&mut tx).await? {
        // Rows outside all partitions mean that the job has not run for a week, or that ids come from another time.
        metrics::gauge!("iris_partition_strays", "table" => stray.table).set(f64::from(stray.rows));
    }
    let outcome = finish(tx, &job, Outcome::Done).await?;
    if made > 0 {
        tracing::info!(partitions = made, "made");
    }
    Ok(outcome)
}
