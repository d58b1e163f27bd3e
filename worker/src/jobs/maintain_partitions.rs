//! Makes the history tables' partitions of the days ahead.

use queue::{Job, Outcome};
use shared::{db::partitions, jobs};
use sqlx::PgConnection;

use super::{Handled, Shared, finish};

/// How many days ahead partitions exist; a week may pass without a worker.
const DAYS_AHEAD: i32 = 8;

/// Runs the job.
pub async fn run(_payload: jobs::MaintainPartitions, job: Job, ctx: Shared) -> Handled {
    // Before anything else, so that the alarm does not hang on what it warns of.
    let mut conn = ctx.database.pool().acquire().await?;
    show_strays(&mut conn).await?;
    drop(conn);
    for table in partitions::TABLES {
        let mut tx = ctx.database.begin().await?;
        let made = partitions::ensure(&mut tx, table, DAYS_AHEAD).await?;
        tx.commit().await?;
        if made > 0 {
            tracing::info!(table, partitions = made, "made");
        }
    }
    let mut tx = ctx.database.begin().await?;
    show_strays(&mut tx).await?;
    finish(tx, &job, Outcome::Done).await
}

/// Shows how many rows lie outside all partitions: the job has not run for a week, or ids come from another time.
async fn show_strays(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    for stray in partitions::count_strays(conn).await? {
        if stray.rows > 0 {
            tracing::warn!(table = stray.table, rows = stray.rows, "rows lie outside all partitions");
        }
        metrics::gauge!("iris_partition_strays", "table" => stray.table).set(f64::from(stray.rows));
    }
    Ok(())
}
