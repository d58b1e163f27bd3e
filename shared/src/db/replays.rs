//! Replays: asked for by the API, gone through by the worker, a batch of events in each transaction.

use std::time::Duration;

use chrono::{DateTime, Utc};
use queue::{EnqueueError, NewJob};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::Tx;
use crate::{
    domain::{
        delivery::DeliveryStatus,
        replay::{Replay, ReplayStatus},
    },
    ids::floor_before,
    jobs,
};

/// A replay to be made.
#[derive(Debug)]
pub struct NewReplay<'a> {
    /// Its id.
    pub id: Uuid,
    /// To whom.
    pub endpoint_id: Uuid,
    /// When the first events happened.
    pub since: DateTime<Utc>,
    /// When the last ones did; now, if that is earlier or none is given.
    pub until: Option<DateTime<Utc>>,
    /// Their types.
    pub events: &'a [String],
    /// Whether only what failed is delivered again.
    pub failed_only: bool,
}

/// By how much the time in an event's id may differ from the time at which it happened: the former is the process's and
/// that of the moment, the latter the database's and that of its transaction's beginning.
const CLOCKS_APART: Duration = Duration::from_secs(300);

/// The columns of a [`Replay`].
macro_rules! columns {
    () => {
        "id, status, since, until, events, failed_only, scanned, created, created_at, finished_at"
    };
}

/// Begins a replay, with its job. `None`: another one of the endpoint has not ended.
pub async fn create(
    tx: &mut Tx,
    account_id: Uuid,
    new: &NewReplay<'_>,
) -> Result<Option<Replay>, EnqueueError> {
    let replay: Option<Replay> = sqlx::query_as(concat!(
        "insert into replays (account_id, id, endpoint_id, since, until, events, failed_only, scanned_to)
         values ($1, $2, $3, date_trunc('milliseconds', $4), date_trunc('milliseconds', least($5, now())), $6, $7,
            uuid_v7_floor($4 - make_interval(secs => $8)))
         on conflict (account_id, endpoint_id) where status in ('queued', 'running') do nothing
         returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(new.id)
    .bind(new.endpoint_id)
    .bind(new.since)
    .bind(new.until)
    .bind(new.events)
    .bind(new.failed_only)
    .bind(CLOCKS_APART.as_secs_f64())
    .fetch_optional(&mut **tx)
    .await?;
    if replay.is_some() {
        tx.enqueue(&[job(account_id, new.endpoint_id, new.id)?]).await?;
    }
    Ok(replay)
}

/// The job that goes through the next batch.
pub fn job(account_id: Uuid, endpoint_id: Uuid, replay_id: Uuid) -> Result<NewJob, EnqueueError> {
    let payload = jobs::Replay { account_id, replay_id };
    Ok(NewJob::new(&payload, account_id.to_string())?.lane(endpoint_id.to_string()))
}

/// A replay of an endpoint, also of one that was deleted since.
pub async fn find(
    conn: &mut PgConnection,
    account_id: Uuid,
    endpoint_id: Uuid,
    id: Uuid,
) -> Result<Option<Replay>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from replays where account_id = $1 and endpoint_id = $2 and id = $3"
    ))
    .bind(account_id)
    .bind(endpoint_id)
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// A replay that has not ended, as its job needs it.
#[derive(Debug, FromRow)]
pub struct Unfinished {
    /// To whom.
    pub endpoint_id: Uuid,
    /// Whether only what failed is delivered again.
    pub failed_only: bool,
    since: DateTime<Utc>,
    until: DateTime<Utc>,
    events: Vec<String>,
    scanned_to: Uuid,
    /// Above every event that happened until then.
    ends_before: Uuid,
}

/// Locks a replay that has not ended, and says that it runs.
pub async fn lock_unfinished(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<Unfinished>, sqlx::Error> {
    sqlx::query_as(
        "update replays set status = 'running'
         where account_id = $1 and id = $2 and status in ('queued', 'running')
         returning endpoint_id, failed_only, since, until, events, scanned_to,
            uuid_v7_floor(until + make_interval(secs => $3)) as ends_before",
    )
    .bind(account_id)
    .bind(id)
    .bind(CLOCKS_APART.as_secs_f64())
    .fetch_optional(conn)
    .await
}

/// An event that a replay looked at.
#[derive(Debug, FromRow)]
pub struct Scanned {
    /// The event.
    pub event_id: Uuid,
    /// Its type.
    #[sqlx(rename = "type")]
    pub kind: String,
    /// Whether it happened in the time that is replayed.
    pub within: bool,
    /// Whether it did and is of a type that is; never a test event.
    pub wanted: bool,
    /// Of a wanted one, the newest delivery to the endpoint, if there is any,
    delivery_id: Option<Uuid>,
    /// and where that stands.
    status: Option<DeliveryStatus>,
}

impl Scanned {
    /// The newest delivery of the event to the endpoint, and where it stands.
    pub fn newest(&self) -> Option<(Uuid, DeliveryStatus)> {
        self.delivery_id.zip(self.status)
    }
}

/// Looks at the next events of the account, at most `limit`; fewer of them are the last. Wants the keys looked up
/// ([`look_up_by_key`](super::deliveries::look_up_by_key)).
pub async fn scan(
    conn: &mut PgConnection,
    account_id: Uuid,
    replay: &Unfinished,
    limit: i64,
) -> Result<Vec<Scanned>, sqlx::Error> {
    sqlx::query_as(
        // A time is given as events tell theirs, in milliseconds. A delivery is made after its event, so older partitions
        // are passed by; the innermost offset keeps its query to the index by event, whatever the statistics say of others.
        "with looked as materialized (
            select v.id, v.type, date_trunc('milliseconds', v.created_at) between $4 and $5 as within,
                v.endpoint_id is null and v.type = any ($6) as meant
            from events v where v.account_id = $1 and v.id > $2 and v.id < $3
            order by v.id limit $7
         )
         select l.id as event_id, l.type, l.within, l.within and l.meant as wanted, d.id as delivery_id, d.status
         from looked l
         left join lateral (
            select d.id, d.status
            from (select * from deliveries d where d.account_id = $1 and d.event_id = l.id and d.id > $9 offset 0) d
            where l.within and l.meant and d.endpoint_id = $8 order by d.number desc limit 1) d on true
         order by l.id",
    )
    .bind(account_id)
    .bind(replay.scanned_to)
    .bind(replay.ends_before)
    .bind(replay.since)
    .bind(replay.until)
    .bind(&replay.events)
    .bind(limit)
    .bind(replay.endpoint_id)
    .bind(floor_before(replay.scanned_to, CLOCKS_APART))
    .fetch_all(conn)
    .await
}

/// Records that a locked replay has looked at events up to one, so many of them of its time, and has made so many deliveries.
pub async fn record_progress(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    scanned_to: Uuid,
    scanned: i64,
    created: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update replays set scanned_to = $3, scanned = scanned + $4, created = created + $5
         where account_id = $1 and id = $2",
    )
    .bind(account_id)
    .bind(id)
    .bind(scanned_to)
    .bind(scanned)
    .bind(created)
    .execute(conn)
    .await?;
    Ok(())
}

/// Ends a replay that has not ended.
pub async fn record_end(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    status: ReplayStatus,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update replays set status = $3, finished_at = now()
         where account_id = $1 and id = $2 and status in ('queued', 'running')",
    )
    .bind(account_id)
    .bind(id)
    .bind(status)
    .execute(conn)
    .await?;
    Ok(())
}
