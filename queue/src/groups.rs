//! Cancel, hold and release every job of a group and of the groups below it.

use sqlx::PgConnection;

use crate::{Error, Wake};

/// Cancels all jobs of the group `prefix` and below, in the caller's transaction. What waits is removed; what runs is
/// told by its cancellation token; what moves between tables meanwhile, or is enqueued later by a job of before, is
/// stopped by the raised epoch. Returns how many waiting jobs were removed.
pub async fn cancel(conn: &mut PgConnection, prefix: &str) -> Result<(u64, Wake), Error> {
    let row: (i64,) = sqlx::query_as(
        "with raised as (
            insert into queue.groups (prefix, epoch, held) values ($1, 1, false)
            on conflict (prefix) do update set epoch = groups.epoch + 1, held = false, updated_at = now()
        ), waiting as (
            delete from queue.ready where grp = $1 or (grp >= $1 || '/' and grp < $1 || '0') returning queue, key, id
        ), timers as (
            delete from queue.deferred where grp = $1 or (grp >= $1 || '/' and grp < $1 || '0') returning queue, key, id
        ), removed as (
            select * from waiting union all select * from timers
        ), unkeyed as (
            delete from queue.keys k using removed r where k.queue = r.queue and k.key = r.key and k.job_id = r.id
        )
        select count(*) from removed",
    )
    .bind(prefix)
    .fetch_one(conn)
    .await?;
    Ok((u64::try_from(row.0).unwrap_or_default(), Wake::groups()))
}

/// Holds all jobs of the group and below: what is due waits, what runs goes on. Timers keep their time.
pub async fn hold(conn: &mut PgConnection, prefix: &str) -> Result<(), Error> {
    sqlx::query(
        "with held as (
            insert into queue.groups (prefix, held) values ($1, true)
            on conflict (prefix) do update set held = true, updated_at = now()
        ), taken as (
            delete from queue.ready where grp = $1 or (grp >= $1 || '/' and grp < $1 || '0') returning *
        )
        insert into queue.deferred (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, ready_at, last_error, run_at)
        select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, ready_at, last_error, 'infinity' from taken",
    )
    .bind(prefix)
    .execute(conn)
    .await?;
    Ok(())
}

/// Releases what [`hold`] held: jobs that became due meanwhile may run now.
pub async fn release(conn: &mut PgConnection, prefix: &str) -> Result<Wake, Error> {
    let queues: Vec<(String,)> = sqlx::query_as(
        "with released as (
            update queue.groups set held = false, updated_at = now() where prefix = $1
        ), due as (
            delete from queue.deferred
            where run_at = 'infinity' and (grp = $1 or (grp >= $1 || '/' and grp < $1 || '0')) returning *
        ), moved as (
            insert into queue.ready (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
                max_attempts, payload, trace, created_at, ready_at, last_error)
            select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
                max_attempts, payload, trace, created_at, ready_at, last_error from due
            returning ready.queue
        )
        select distinct queue from moved",
    )
    .bind(prefix)
    .fetch_all(conn)
    .await?;
    let mut wake = Wake::none();
    for (queue,) in &queues {
        wake.add(queue);
    }
    Ok(wake)
}
