//! What an operator does with single jobs, and with a whole queue.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::Wake;

/// A job as an operator sees it.
#[derive(Debug, Clone, PartialEq, FromRow, Serialize)]
pub struct JobView {
    /// The job's id.
    pub id: Uuid,
    /// Where it waits.
    pub queue: String,
    /// `ready`, `timer`, `held`, `running` or `dead`.
    pub state: String,
    /// Whose it is.
    pub tenant: String,
    /// Its fairness key.
    pub lane: String,
    /// Its cancel key.
    #[serde(rename = "group")]
    pub grp: Option<String>,
    /// Its unique key.
    pub key: Option<String>,
    /// Lower runs first.
    pub priority: i16,
    /// Runs whose outcome was recorded.
    pub attempt: i32,
    /// Deaths of its process since.
    pub crashes: i16,
    /// Starts.
    pub run: i32,
    /// How many attempts it has.
    pub max_attempts: i32,
    /// What it is to do.
    pub payload: String,
    /// The `traceparent` of what enqueued it.
    pub trace: Option<String>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
    /// Since when it is ready, or runs, or is dead; or when it is due. None while it is held.
    pub due_at: Option<DateTime<Utc>>,
    /// Why it is dead: `exhausted`, `crashed`, `refused` or `undecodable`.
    pub reason: Option<String>,
}

/// The job of that id, wherever it is; none once it is finished.
pub async fn find_job(conn: &mut PgConnection, id: Uuid) -> Result<Option<JobView>, sqlx::Error> {
    sqlx::query_as("select * from queue.find_job($1)").bind(id).fetch_optional(conn).await
}

/// Dead jobs, of one queue or of all, the oldest death first, at most `limit`.
pub async fn list_dead(
    conn: &mut PgConnection,
    queue: Option<&str>,
    limit: u32,
) -> Result<Vec<JobView>, sqlx::Error> {
    sqlx::query_as(
        "select j.* from (
            select id, died_at from queue.dead where $1::text is null or queue = $1 order by died_at, id limit $2) d
         cross join lateral queue.find_job(d.id) j
         order by d.died_at, d.id",
    )
    .bind(queue)
    .bind(i64::from(limit))
    .fetch_all(conn)
    .await
}

/// Which dead jobs are meant.
#[derive(Debug, Clone, Copy)]
pub enum Dead<'a> {
    /// These.
    Ids(&'a [Uuid]),
    /// The oldest of a queue, at most so many.
    Queue(&'a str, u32),
}

/// Makes dead jobs ready again in the caller's transaction, with all their attempts ahead of them. A job whose unique key
/// another one has by now stays dead. Returns how many there were.
pub async fn retry_dead(conn: &mut PgConnection, dead: Dead<'_>) -> Result<(u64, Wake), sqlx::Error> {
    let query = sqlx::query_scalar("select * from queue.retry_dead($1, $2, $3)");
    let query = match dead {
        Dead::Ids(ids) => query.bind(Some(ids)).bind(None::<&str>).bind(i32::MAX),
        Dead::Queue(queue, limit) => {
            query.bind(None::<&[Uuid]>).bind(Some(queue)).bind(i32::try_from(limit).unwrap_or(i32::MAX))
        }
    };
    let queues: Vec<String> = query.fetch_all(conn).await?;
    Ok((queues.len() as u64, Wake::of(&queues)))
}

/// Forgets dead jobs in the caller's transaction. Returns how many there were.
pub async fn discard_dead(conn: &mut PgConnection, dead: Dead<'_>) -> Result<u64, sqlx::Error> {
    let query = sqlx::query(
        "delete from queue.dead where id in (
            select id from queue.dead where case when $1::uuid[] is null then queue = $2 else id = any ($1) end
            order by died_at limit $3 for update skip locked)",
    );
    let query = match dead {
        Dead::Ids(ids) => query.bind(Some(ids)).bind(None::<&str>).bind(i64::MAX),
        Dead::Queue(queue, limit) => query.bind(None::<&[Uuid]>).bind(Some(queue)).bind(i64::from(limit)),
    };
    Ok(query.execute(conn).await?.rows_affected())
}

/// Where a job waits.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its queue.
    pub queue: &'a str,
    /// Whose it is.
    pub tenant: &'a str,
    /// Its lane.
    pub lane: &'a str,
}

/// Makes a job that waits for its time due now, in the caller's transaction. The first of an ordered lane waits in its place
/// there while the lane is closed for its sake: the lane is opened. False, and nothing done, if it does not wait for a time:
/// it is ready, runs or is finished, its group is held or cancelled, or somebody is just moving it.
pub async fn bring_forward(
    conn: &mut PgConnection,
    place: Place<'_>,
    id: Uuid,
) -> Result<(bool, Wake), sqlx::Error> {
    let moved = sqlx::query(
        "with waiting as (
            select ctid, grp, epoch from queue.deferred where id = $1 and run_at < 'infinity' for update skip locked
        ), judged as (
            select w.ctid from waiting w cross join lateral queue.group_of(w.grp) g where g.epoch <= w.epoch and not g.held
        ), taken as (
            delete from queue.deferred where ctid = any (array(select ctid from judged)) returning *
        )
        insert into queue.ready (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, rank, last_error)
        select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, queue.rank_of(clock_timestamp(), priority), last_error
        from taken",
    )
    .bind(id)
    .execute(&mut *conn)
    .await?;
    let brought = moved.rows_affected() > 0 || open_for(conn, place, id).await?;
    let mut wake = Wake::none();
    if brought {
        wake.add_job(place.queue, place.tenant, place.lane);
    }
    Ok((brought, wake))
}

/// Whether there still is a job of that id, waiting, running or dead. Of those that are ready only its own lane is read.
pub async fn has_job(conn: &mut PgConnection, place: Place<'_>, id: Uuid) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select queue.has_job($1, $2, $3, $4)")
        .bind(place.queue)
        .bind(place.tenant)
        .bind(place.lane)
        .bind(id)
        .fetch_one(conn)
        .await
}

/// Opens an ordered lane that is closed until its first job, which this must be, may be tried again.
async fn open_for(conn: &mut PgConnection, place: Place<'_>, id: Uuid) -> Result<bool, sqlx::Error> {
    let opened = sqlx::query(
        "update queue.lanes l set closed_until = null, reason = null, updated_at = now()
         where l.queue = $1 and l.lane = $3 and l.ordered and l.reason = 'retry' and l.closed_until > now() and $4 = (
            select r.id from queue.ready r
            where r.queue = $1 and r.tenant = $2 and r.lane = $3 order by r.rank, r.id limit 1)",
    )
    .bind(place.queue)
    .bind(place.tenant)
    .bind(place.lane)
    .bind(id)
    .execute(conn)
    .await?;
    Ok(opened.rows_affected() > 0)
}
