//! What is set for a lane: its cap, its rate, and whether it is open. One row; no job is touched.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::{Error, Wake};

/// The limits of a lane, over all replicas.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// How many of its jobs may run at once.
    pub cap: Option<i32>,
    /// How many of its jobs may start in a second.
    pub per_second: Option<f64>,
}

/// Sets the limits of a lane, in the caller's transaction. Jobs that run already count for a new cap.
pub async fn limit(conn: &mut PgConnection, queue: &str, lane: &str, limits: Limits) -> Result<(), Error> {
    sqlx::query(
        "with counted as (
            update queue.running set capped = true where queue = $1 and lane = $2 and not capped
         )
         insert into queue.lanes (queue, lane, cap, per_second) values ($1, $2, $3, $4)
         on conflict (queue, lane) do update
            set cap = $3, per_second = $4, next_at = least(lanes.next_at, now()), counted_from = '-infinity',
                updated_at = now()",
    )
    .bind(queue)
    .bind(lane)
    .bind(limits.cap)
    .bind(limits.per_second)
    .execute(conn)
    .await?;
    Ok(())
}

/// Sets how many jobs of a lane may start in a second, over all replicas; its cap stays.
pub async fn rate(
    conn: &mut PgConnection,
    queue: &str,
    lane: &str,
    per_second: Option<f64>,
) -> Result<Wake, Error> {
    sqlx::query(
        "insert into queue.lanes (queue, lane, per_second) values ($1, $2, $3)
         on conflict (queue, lane) do update
            set per_second = $3, next_at = least(lanes.next_at, now()), updated_at = now()",
    )
    .bind(queue)
    .bind(lane)
    .bind(per_second)
    .execute(conn)
    .await?;
    Ok(Wake::of(&[queue.to_owned()]))
}

/// Says whether the jobs of a lane run one after the other in the order of their places: none is claimed while one runs, and
/// while one has to wait so do those behind it. Jobs that run already are waited for.
pub async fn order(conn: &mut PgConnection, queue: &str, lane: &str, ordered: bool) -> Result<Wake, Error> {
    sqlx::query(
        "with counted as (
            update queue.running set capped = true where $3 and queue = $1 and lane = $2 and not capped
         )
         insert into queue.lanes (queue, lane, ordered) values ($1, $2, $3)
         on conflict (queue, lane) do update
            set ordered = $3, counted_from = '-infinity', updated_at = now()",
    )
    .bind(queue)
    .bind(lane)
    .bind(ordered)
    .execute(conn)
    .await?;
    Ok(Wake::of(&[queue.to_owned()]))
}

/// Closes a lane for a while, with the reason that its waiting work shows. A later end wins over an earlier one.
pub async fn close(
    conn: &mut PgConnection,
    queue: &str,
    lane: &str,
    delay: Duration,
    reason: &str,
) -> Result<DateTime<Utc>, Error> {
    let until: (DateTime<Utc>,) = sqlx::query_as(
        "insert into queue.lanes (queue, lane, closed_until, reason) values ($1, $2, now() + make_interval(secs => $3), $4)
         on conflict (queue, lane) do update set reason = case when lanes.closed_until > excluded.closed_until then lanes.reason else $4 end,
            closed_until = greatest(lanes.closed_until, excluded.closed_until), updated_at = now()
         returning closed_until",
    )
    .bind(queue)
    .bind(lane)
    .bind(delay.as_secs_f64())
    .bind(reason)
    .fetch_one(conn)
    .await?;
    Ok(until.0)
}

/// What holds for a lane from now on.
#[derive(Debug, Clone, Copy)]
pub struct State<'a> {
    /// The lane.
    pub lane: &'a str,
    /// How many of its jobs may run at once.
    pub cap: Option<i32>,
    /// Whether they take so long that all such lanes together get at most half of a process's slots.
    pub slow: bool,
    /// For how long it is closed, and why; `None` opens it.
    pub closed: Option<(Duration, &'a str)>,
}

/// Sets cap, slowness and closing of lanes, whatever they were; the rest stays. The rows are locked in the order of their
/// names. A lane must be named once.
pub async fn set(conn: &mut PgConnection, queue: &str, states: &[State<'_>]) -> Result<Wake, Error> {
    if states.is_empty() {
        return Ok(Wake::none());
    }
    sqlx::query(
        "with free as materialized (
            select t.lane from unnest($2::text[], $3::int4[]) as t(lane, cap)
            where t.cap is not null and not exists (
                select 1 from queue.lanes l
                where l.queue = $1 and l.lane = t.lane and l.guarded)
        ), counted as (
            -- Where there were no limits, what runs is not counted yet; else there is nothing to read.
            update queue.running r set capped = true
            where exists (select 1 from free) and r.queue = $1 and r.lane in (select lane from free) and not r.capped
        )
        insert into queue.lanes (queue, lane, cap, closed_until, reason, slow)
        select $1, lane, cap, now() + make_interval(secs => closed_for), reason, slow
        from unnest($2::text[], $3::int4[], $4::float8[], $5::text[], $6::bool[]) as t(lane, cap, closed_for, reason, slow)
        order by lane
        on conflict (queue, lane) do update
            set cap = excluded.cap, closed_until = excluded.closed_until, reason = excluded.reason, slow = excluded.slow,
                counted_from = case when lanes.guarded then lanes.counted_from else '-infinity' end,
                updated_at = now()",
    )
    .bind(queue)
    .bind(states.iter().map(|state| state.lane).collect::<Vec<_>>())
    .bind(states.iter().map(|state| state.cap).collect::<Vec<_>>())
    .bind(states.iter().map(|state| state.closed.map(|(delay, _)| delay.as_secs_f64())).collect::<Vec<_>>())
    .bind(states.iter().map(|state| state.closed.map(|(_, reason)| reason)).collect::<Vec<_>>())
    .bind(states.iter().map(|state| state.slow).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(Wake::of(&[queue.to_owned()]))
}

/// Slows lanes down that have limits: so many of their jobs at once, and only in the slots that slow lanes may have. Whether they
/// are closed stays as it is. The rows are locked in the order of their names.
pub async fn slow_down(
    conn: &mut PgConnection,
    queue: &str,
    lanes: &[String],
    cap: i32,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "with known as materialized (
            select lane from queue.lanes
            where queue = $1 and lane = any ($2) and guarded order by lane for no key update
        )
        update queue.lanes l set cap = $3, slow = true, updated_at = now()
        from known k where l.queue = $1 and l.lane = k.lane",
    )
    .bind(queue)
    .bind(lanes)
    .bind(cap)
    .execute(conn)
    .await?;
    Ok(())
}

/// Opens a lane that was closed.
pub async fn open(conn: &mut PgConnection, queue: &str, lane: &str) -> Result<Wake, Error> {
    sqlx::query(
        "update queue.lanes set closed_until = null, reason = null, updated_at = now() where queue = $1 and lane = $2",
    )
    .bind(queue)
    .bind(lane)
    .execute(conn)
    .await?;
    Ok(Wake::of(&[queue.to_owned()]))
}

/// Pauses or resumes a lane; a paused one stays so until it is resumed.
pub async fn pause(conn: &mut PgConnection, queue: &str, lane: &str, paused: bool) -> Result<Wake, Error> {
    sqlx::query(
        "insert into queue.lanes (queue, lane, paused) values ($1, $2, $3)
         on conflict (queue, lane) do update set paused = $3, updated_at = now()",
    )
    .bind(queue)
    .bind(lane)
    .bind(paused)
    .execute(conn)
    .await?;
    Ok(Wake::of(&[queue.to_owned()]))
}

/// Pauses or resumes a whole queue, over all replicas. What runs goes on.
pub async fn pause_queue(conn: &mut PgConnection, queue: &str, paused: bool) -> Result<Wake, Error> {
    pause(conn, queue, WHOLE_QUEUE, paused).await
}

/// The lane whose row is about the whole queue: no job can be in it, for names are not empty.
const WHOLE_QUEUE: &str = "";

/// Sets how much of the slots a tenant gets beside the others: 1 (the default) to 100.
pub async fn weigh(conn: &mut PgConnection, tenant: &str, weight: i32) -> Result<(), Error> {
    sqlx::query(
        "insert into queue.tenants (tenant, weight) values ($1, $2) on conflict (tenant) do update set weight = $2",
    )
    .bind(tenant)
    .bind(weight)
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets a lane that no longer exists.
pub async fn remove(conn: &mut PgConnection, queue: &str, lane: &str) -> Result<(), Error> {
    sqlx::query("delete from queue.lanes where queue = $1 and lane = $2")
        .bind(queue)
        .bind(lane)
        .execute(conn)
        .await?;
    Ok(())
}
