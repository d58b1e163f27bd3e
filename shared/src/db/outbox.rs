//! Events not yet relayed.

use sqlx::PgConnection;
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
        "insert into outbox (shard, account_id, event_id, type, resource_id, endpoint_id, body, created_at)
         select shard, account_id, id, type, resource_id, endpoint_id,
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
    .execute(conn)
    .await?;
    Ok(ids)
}
