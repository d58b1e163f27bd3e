//! Makes the history tables' partitions of the days ahead, and drops those whose time is up.

use std::time::Duration;

use queue::{Job, Outcome};
use shared::{
    config::given_up_at,
    db::{notifications, partitions},
    jobs,
};
use sqlx::PgConnection;

use super::{Handled, Shared, finish};

/// How long a run may take: reading a large day takes its time.
pub const DEADLINE: Duration = Duration::from_secs(1800);
/// How many days ahead partitions exist; a week may pass without a worker.
const DAYS_AHEAD: i32 = 8;
/// How much of a day one statement looks through for what is still pending: 64 MiB.
const BLOCKS: i32 = 8192;
/// How many rows outside all days one statement deletes, and how many statements a run has for that; the next run goes on.
const STRAYS: i32 = 10_000;
const STRAYS_ROUNDS_MAX: i32 = 1000;
/// How long accounts can read what they were told.
const NOTIFICATIONS_KEEP: Duration = Duration::from_secs(90 * 86_400);

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
    expire_deliveries(&ctx).await?;
    for table in partitions::TABLES {
        drop_days(&ctx, table).await?;
        delete_strays(&ctx, table).await?;
    }
    delete_notifications(&ctx).await?;
    let mut tx = ctx.database.begin().await?;
    show_strays(&mut tx).await?;
    finish(tx, &job, Outcome::Done).await
}

/// Gives up what is still to be delivered a day before its history goes, and tells the accounts. Those of a day that goes now
/// are among them, so that none ever goes unseen.
async fn expire_deliveries(ctx: &Shared) -> Result<(), sqlx::Error> {
    let age = given_up_at(ctx.history_keep);
    let mut conn = ctx.database.pool().acquire().await?;
    let mut days = partitions::list_ended(&mut conn, partitions::DELIVERIES, age).await?;
    drop(conn);
    days.push(partitions::default_of(partitions::DELIVERIES));
    for day in days {
        let mut first_block = 0;
        loop {
            let mut tx = ctx.database.begin().await?;
            if first_block >= partitions::count_blocks(&mut tx, &day).await? {
                break;
            }
            let expired = partitions::expire_deliveries(&mut tx, &day, age, first_block, BLOCKS).await?;
            notifications::tell_expired(&mut tx, &expired, age).await?;
            tx.commit().await?;
            for endpoint in &expired {
                tracing::warn!(
                    account_id = %endpoint.account_id, endpoint_id = %endpoint.endpoint_id,
                    deliveries = endpoint.deliveries, "deliveries were given up with their history"
                );
            }
            let deliveries: i64 = expired.iter().map(|endpoint| endpoint.deliveries).sum();
            metrics::counter!("webhook_deliveries_expired_total").increment(deliveries.unsigned_abs());
            first_block += i64::from(BLOCKS);
        }
    }
    Ok(())
}

/// Removes notifications that nobody will look at any more.
async fn delete_notifications(ctx: &Shared) -> Result<(), sqlx::Error> {
    let mut conn = ctx.database.pool().acquire().await?;
    for _ in 0..STRAYS_ROUNDS_MAX {
        let deleted = notifications::delete_old(&mut conn, NOTIFICATIONS_KEEP, i64::from(STRAYS)).await?;
        if deleted < u64::from(STRAYS.unsigned_abs()) {
            break;
        }
    }
    Ok(())
}

/// Drops the days of a table whose time is up, each in its own transaction. What somebody uses stays until the next run.
async fn drop_days(ctx: &Shared, table: &'static str) -> Result<(), sqlx::Error> {
    let mut conn = ctx.database.pool().acquire().await?;
    let days = partitions::list_ended(&mut conn, table, ctx.history_keep).await?;
    drop(conn);
    let mut late = 0_u32;
    for day in days {
        let mut tx = ctx.database.begin().await?;
        let dropped = partitions::drop_day(&mut tx, &day).await?;
        tx.commit().await?;
        if dropped {
            tracing::info!(partition = day, "dropped");
        } else {
            late += 1;
            tracing::warn!(partition = day, "is in use and not dropped yet");
        }
    }
    metrics::gauge!("iris_partitions_late", "table" => table).set(f64::from(late));
    Ok(())
}

/// Deletes what is too old and lies outside all days.
async fn delete_strays(ctx: &Shared, table: &'static str) -> Result<(), sqlx::Error> {
    for _ in 0..STRAYS_ROUNDS_MAX {
        let mut tx = ctx.database.begin().await?;
        let deleted = partitions::delete_strays(&mut tx, table, ctx.history_keep, STRAYS).await?;
        tx.commit().await?;
        if deleted > 0 {
            tracing::info!(table, rows = deleted, "deleted outside all days");
        }
        if deleted < STRAYS {
            break;
        }
    }
    Ok(())
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
