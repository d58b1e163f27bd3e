//! Events not yet relayed.

use std::time::Duration;

use queue::TraceContext;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::{
    events::NewEvent,
    ids::{event_id, new_id},
};

/// In how many shards the outbox is relayed, each by one relay at a time.
pub const SHARDS: i16 = 16;

/// The shard of an account's events: the last bits of its id.
pub fn shard_of(account_id: Uuid) -> i16 {
    i16::from(account_id.as_bytes()[15] % 16)
}

/// Appends events in the transaction that makes them true; the only way into the outbox. Call it after the resource's
/// row lock, so that the events of one resource are numbered in commit order. The body is written here, once, with the
/// database's time, and every attempt of every delivery sends these bytes. Returns the events' ids, in order.
pub async fn append(conn: &mut PgConnection, events: &[NewEvent]) -> Result<Vec<Uuid>, sqlx::Error> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = events.iter().map(|_| new_id()).collect();
    sqlx::query(
        // json_build_object is not used: it would reformat what serde wrote.
        "insert into outbox (shard, account_id, event_id, type, resource_id, endpoint_id, trace, body, created_at)
         select shard, account_id, id, type, resource_id, endpoint_id, $9,
            format('{\"id\":\"%s\",\"event\":\"%s\",\"timestamp\":\"%s\",\"created_at\":\"%s\",\"data\":%s}',
                public_id, type, at, at, data), now()
         from unnest($1::int2[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::uuid[], $7::uuid[], $8::text[])
            with ordinality as t(shard, account_id, id, public_id, type, resource_id, endpoint_id, data, n),
            to_char(now() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') as at
         order by n",
    )
    .bind(events.iter().map(|e| shard_of(e.account_id)).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.account_id).collect::<Vec<_>>())
    .bind(&ids)
    .bind(ids.iter().map(|id| event_id(*id)).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.kind.as_str()).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.resource_id).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.only_endpoint).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.data.to_string()).collect::<Vec<_>>())
    .bind(TraceContext::current().map(|trace| trace.to_string()))
    .execute(conn)
    .await?;
    Ok(ids)
}

/// The shards that have events, and how many each, counted up to `events_max`.
pub async fn list_filled_shards(
    conn: &mut PgConnection,
    events_max: i64,
) -> Result<Vec<(i16, i64)>, sqlx::Error> {
    sqlx::query_as("select * from outbox_filled_shards($1, $2)")
        .bind(i32::from(SHARDS))
        .bind(events_max)
        .fetch_all(conn)
        .await
}

/// The first number of the relays' advisory locks, so that they are nobody else's ("iris" in ASCII).
const LOCK_NAMESPACE: i32 = 0x6972_6973;

/// After how long without a statement a relay's transaction is ended: one whose process was stopped keeps its shards from the
/// others.
const RELAY_IDLE_TIMEOUT: &str = "10s";
/// How long a relay waits for a row: one that is held shall not hold up the other shards.
const RELAY_LOCK_TIMEOUT: &str = "1s";

/// Takes the right to relay shards until the transaction ends; returns those of them that no other relay has. What the others
/// relayed is seen by the next statement only. The transaction's commit does not wait for the disk: one that a crash of the
/// server undoes puts its events back into the outbox, and none of its deliveries was claimed, for the claim's own commit would
/// have written it with what came before.
pub async fn try_lock_shards(conn: &mut PgConnection, shards: &[i16]) -> Result<Vec<i16>, sqlx::Error> {
    let (locked, _): (Vec<i16>, String) = sqlx::query_as(
        // Plans of the relay's statements outlive the time when the tables were empty and reading them whole was cheapest.
        "select array(select s from unnest($2::int2[]) as s where pg_try_advisory_xact_lock($1, s)),
            set_config('enable_seqscan', 'off', true) || set_config('synchronous_commit', 'off', true)
                || set_config('idle_in_transaction_session_timeout', $3, true) || set_config('lock_timeout', $4, true)",
    )
    .bind(LOCK_NAMESPACE)
    .bind(shards)
    .bind(RELAY_IDLE_TIMEOUT)
    .bind(RELAY_LOCK_TIMEOUT)
    .fetch_one(conn)
    .await?;
    Ok(locked)
}

/// Waits for the right to change what a shard holds, which its relay takes meanwhile for another one's, until the transaction
/// ends. A relay that came to a row whose body is just being written anew would leave it for later, after those that follow it.
pub async fn lock_shard(conn: &mut PgConnection, shard: i16) -> Result<(), sqlx::Error> {
    sqlx::query("select pg_advisory_xact_lock($1, $2)")
        .bind(LOCK_NAMESPACE)
        .bind(i32::from(shard))
        .execute(conn)
        .await?;
    Ok(())
}

/// One event that was taken from the outbox and one endpoint that hears of it.
#[derive(Debug, Clone, FromRow)]
pub struct Taken {
    /// The account.
    pub account_id: Uuid,
    /// The event.
    pub event_id: Uuid,
    /// Its type.
    #[sqlx(rename = "type")]
    pub kind: String,
    /// Who hears of it; none for an event that nobody subscribed to.
    pub endpoint_id: Option<Uuid>,
    /// The trace of what made it true, as a `traceparent`.
    pub trace: Option<String>,
    /// Whether it was meant for this endpoint alone: somebody waits for the outcome of a test.
    pub test: bool,
}

/// Moves visible events from the outbox to the history: of each shard up to so many, in the order of their numbers. Returns
/// them with the endpoints that are subscribed at this moment. A test event goes to its endpoint whatever that one's state
/// is, so that its delivery tells what became of it. Only under the shards' locks.
pub async fn take(conn: &mut PgConnection, shards: &[(i16, i64)]) -> Result<Vec<Taken>, sqlx::Error> {
    let (shards, limits): (Vec<i16>, Vec<i64>) = shards.iter().copied().unzip();
    sqlx::query_as(
        "with taken as (
            delete from outbox where ctid = any (array(
                select x.ctid from unnest($1::int2[], $2::int8[]) as s(shard, events) cross join lateral (
                    select o.ctid from outbox o where o.shard = s.shard order by o.number limit s.events) x))
            returning *
        ), kept as (
            insert into events (account_id, id, type, resource_id, body, created_at, endpoint_id)
            select account_id, event_id, type, resource_id, body, created_at, endpoint_id from taken
        )
        select t.account_id, t.event_id, t.type, e.id as endpoint_id, t.trace, t.endpoint_id is not null as test
        from taken t
        left join endpoints e on e.account_id = t.account_id and case when t.endpoint_id is not null
            then e.id = t.endpoint_id
            else e.enabled and e.deleted_at is null and t.type = any (e.events) end
        order by t.shard, t.number, e.id",
    )
    .bind(shards)
    .bind(limits)
    .fetch_all(conn)
    .await
}

/// Beyond this the outbox's events are not counted.
const DEPTH_MAX: i64 = 100_000;

/// How much waits to be relayed.
#[derive(Debug, Clone, Copy)]
pub struct Depth {
    /// How many events, up to 100,000.
    pub events: i64,
    /// The age of the oldest.
    pub oldest: Duration,
}

/// How much waits to be relayed.
pub async fn depth(conn: &mut PgConnection) -> Result<Depth, sqlx::Error> {
    let (events, seconds): (i64, f64) = sqlx::query_as(
        "select (select count(*) from (select from outbox limit $1) counted),
            coalesce(extract(epoch from now() - min(o.created_at)), 0)::float8
         from generate_series(0, $2 - 1) as s(shard)
         cross join lateral (
            select created_at from outbox o where o.shard = s.shard order by number limit 1) o",
    )
    .bind(DEPTH_MAX)
    .bind(i32::from(SHARDS))
    .fetch_one(conn)
    .await?;
    Ok(Depth { events, oldest: Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default() })
}
