//! Deliveries: made by the relay, read and recorded in batches by the dispatcher, listed by the API.
//!
//! The table is partitioned by id: a look-up by (account, id) goes to one partition, found while the statement runs.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::{
    attempts::{self, NewAttempt},
    page::{Page, Rows},
};
use crate::{
    domain::delivery::{Attempt, Delivery, DeliveryStatus, ErrorClass},
    ids::event_id,
};

/// A delivery to be made of an event for an endpoint.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// The account.
    pub account_id: Uuid,
    /// Its id.
    pub id: Uuid,
    /// To whom.
    pub endpoint_id: Uuid,
    /// Of what.
    pub event_id: Uuid,
    /// The event's type.
    pub kind: String,
    /// Its job.
    pub job_id: Option<Uuid>,
}

/// Makes deliveries, in order, and numbers them per endpoint. The numbers are taken from the endpoints' rows in the order
/// of their keys, so that relays and replays never deadlock.
pub async fn create_many(conn: &mut PgConnection, deliveries: &[NewDelivery]) -> Result<(), sqlx::Error> {
    create(conn, deliveries, false).await
}

/// The same for events that somebody asked to have delivered again.
pub async fn create_again(conn: &mut PgConnection, deliveries: &[NewDelivery]) -> Result<(), sqlx::Error> {
    create(conn, deliveries, true).await
}

async fn create(conn: &mut PgConnection, deliveries: &[NewDelivery], again: bool) -> Result<(), sqlx::Error> {
    if deliveries.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "with input as materialized (
            select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $7::uuid[])
                with ordinality as t(account_id, id, endpoint_id, event_id, type, job_id, n)
        ), counted as materialized (
            select account_id, endpoint_id, count(*) as amount from input group by account_id, endpoint_id
        ), numbered as (
            insert into endpoint_numbers (account_id, endpoint_id, last_number)
            select account_id, endpoint_id, amount from counted order by account_id, endpoint_id
            on conflict (account_id, endpoint_id)
                do update set last_number = endpoint_numbers.last_number + excluded.last_number
            returning account_id, endpoint_id, last_number
        )
        insert into deliveries (account_id, id, endpoint_id, event_id, type, again, job_id, number)
        select i.account_id, i.id, i.endpoint_id, i.event_id, i.type, $6, i.job_id,
            b.last_number - c.amount + row_number() over (partition by i.account_id, i.endpoint_id order by i.n)
        from input i
        join counted c on c.account_id = i.account_id and c.endpoint_id = i.endpoint_id
        join numbered b on b.account_id = i.account_id and b.endpoint_id = i.endpoint_id",
    )
    .bind(deliveries.iter().map(|d| d.account_id).collect::<Vec<_>>())
    .bind(deliveries.iter().map(|d| d.id).collect::<Vec<_>>())
    .bind(deliveries.iter().map(|d| d.endpoint_id).collect::<Vec<_>>())
    .bind(deliveries.iter().map(|d| d.event_id).collect::<Vec<_>>())
    .bind(deliveries.iter().map(|d| d.kind.as_str()).collect::<Vec<_>>())
    .bind(again)
    .bind(deliveries.iter().map(|d| d.job_id).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// What an attempt needs to know.
#[derive(Debug, FromRow)]
pub struct DueDelivery {
    /// The account.
    pub account_id: Uuid,
    /// The delivery.
    pub id: Uuid,
    /// To whom.
    pub endpoint_id: Uuid,
    /// How many attempts were made before.
    pub attempts: i32,
    /// How many of them its schedule of retries does not count, since it was begun anew after them.
    pub retries_from: i32,
    /// Where it goes.
    pub url: String,
    /// Its endpoint's secret, sealed.
    pub sealed_secret: Vec<u8>,
    /// The secret before that one, while it is still signed with.
    pub sealed_old_secret: Option<Vec<u8>>,
    /// Its endpoint's own headers, sealed.
    pub sealed_headers: Option<Vec<u8>>,
    /// Whether its endpoint is enabled and not deleted.
    pub open: bool,
    /// The event's bytes; none once its history was dropped.
    pub body: Option<String>,
    /// When the event happened; none when somebody asked for the delivery later.
    pub event_created_at: Option<DateTime<Utc>>,
    /// The database's time at which this was read.
    pub read_at: DateTime<Utc>,
}

/// Reads what a batch of pending deliveries, named by account and id, needs for an attempt. A delivery that is no longer
/// pending is left out.
pub async fn list_due(
    conn: &mut PgConnection,
    ids: &[(Uuid, Uuid)],
) -> Result<Vec<DueDelivery>, sqlx::Error> {
    sqlx::query_as("select * from deliveries_due($1, $2)")
        .bind(ids.iter().map(|(account_id, _)| *account_id).collect::<Vec<_>>())
        .bind(ids.iter().map(|(_, id)| *id).collect::<Vec<_>>())
        .fetch_all(conn)
        .await
}

/// What became of a delivery in one run of its job.
#[derive(Debug, Clone)]
pub struct DeliveryChange {
    /// The account.
    pub account_id: Uuid,
    /// The delivery.
    pub id: Uuid,
    /// The job of the run; kept with the delivery while that is pending.
    pub job_id: Uuid,
    /// Where it stands now.
    pub status: DeliveryStatus,
    /// The attempt, if one was made.
    pub attempt: Option<NewAttempt>,
    /// After which time the next attempt is due, when it stays pending.
    pub next_after: Option<Duration>,
}

/// Records what became of deliveries. An attempt that succeeded is written with its delivery, the others into rows of their
/// own.
pub async fn record_many(conn: &mut PgConnection, changes: &[DeliveryChange]) -> Result<(), sqlx::Error> {
    if changes.is_empty() {
        return Ok(());
    }
    let attempts = || changes.iter().map(|change| change.attempt.as_ref());
    let succeeded = || attempts().map(|attempt| attempt.filter(|attempt| attempt.error_class.is_none()));
    sqlx::query(
        "update deliveries d set status = t.status, attempts = d.attempts + t.attempted::int,
            next_attempt_at = now() + make_interval(secs => t.next_after),
            job_id = case when t.status = 'pending' then t.job_id end,
            finished_at = case when t.status <> 'pending' then now() end,
            last_status_code = case when t.attempted then t.status_code else d.last_status_code end,
            last_error_class = case when t.attempted then t.error_class else d.last_error_class end,
            acknowledged_at = t.acknowledged_at, acknowledged_ms = t.acknowledged_ms, response_excerpt = t.excerpt
         from unnest($1::uuid[], $2::uuid[], $3::text[], $4::bool[], $5::int4[], $6::text[], $7::float8[], $8::uuid[],
            $9::timestamptz[], $10::int4[], $11::text[])
            as t(account_id, id, status, attempted, status_code, error_class, next_after, job_id, acknowledged_at,
                acknowledged_ms, excerpt)
         where d.account_id = t.account_id and d.id = t.id",
    )
    .bind(changes.iter().map(|c| c.account_id).collect::<Vec<_>>())
    .bind(changes.iter().map(|c| c.id).collect::<Vec<_>>())
    .bind(changes.iter().map(|c| c.status.as_str()).collect::<Vec<_>>())
    .bind(attempts().map(|a| a.is_some()).collect::<Vec<_>>())
    .bind(attempts().map(|a| a.and_then(|a| a.status_code)).collect::<Vec<_>>())
    .bind(attempts().map(|a| a.and_then(|a| a.error_class).map(ErrorClass::as_str)).collect::<Vec<_>>())
    .bind(changes.iter().map(|c| c.next_after.map(|after| after.as_secs_f64())).collect::<Vec<_>>())
    .bind(changes.iter().map(|c| c.job_id).collect::<Vec<_>>())
    .bind(succeeded().map(|a| a.map(|a| a.started_at)).collect::<Vec<_>>())
    .bind(succeeded().map(|a| a.map(|a| a.duration_ms)).collect::<Vec<_>>())
    .bind(succeeded().map(|a| a.and_then(|a| a.response_excerpt.as_deref())).collect::<Vec<_>>())
    .execute(&mut *conn)
    .await?;
    let failed: Vec<&NewAttempt> =
        attempts().flatten().filter(|attempt| attempt.error_class.is_some()).collect();
    attempts::insert_many(conn, &failed).await
}

/// Has the rest of the transaction look rows up by their keys. Plans of the batch statements outlive the time when the
/// tables were empty and reading them whole was cheapest.
pub async fn look_up_by_key(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "select set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
            set_config('enable_mergejoin', 'off', true), set_config('enable_material', 'off', true)",
    )
    .execute(conn)
    .await?;
    Ok(())
}

#[derive(FromRow)]
struct Row {
    id: Uuid,
    event_id: Uuid,
    #[sqlx(rename = "type")]
    kind: String,
    status: DeliveryStatus,
    #[sqlx(rename = "attempts")]
    made: i32,
    created_at: DateTime<Utc>,
    next_attempt_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    acknowledged_at: Option<DateTime<Utc>>,
    acknowledged_ms: Option<i32>,
    last_status_code: Option<i32>,
    response_excerpt: Option<String>,
}

/// The public form, without its attempts.
macro_rules! select_deliveries {
    ($rest:literal) => {
        concat!(
            "select id, event_id, type, status, attempts, created_at, next_attempt_at, finished_at, acknowledged_at,
                acknowledged_ms, last_status_code, response_excerpt from deliveries ",
            $rest
        )
    };
}

/// The deliveries to an endpoint, newest first, each with its attempts.
pub async fn list(
    conn: &mut PgConnection,
    account_id: Uuid,
    endpoint_id: Uuid,
    page: Page,
) -> Result<Rows<Delivery>, sqlx::Error> {
    let rows = sqlx::query_as(select_deliveries!(
        "where account_id = $1 and endpoint_id = $2 and ($3::uuid is null or id < $3)
         order by id desc offset $4 limit $5"
    ))
    .bind(account_id)
    .bind(endpoint_id)
    .bind(page.after)
    .bind(page.offset)
    .bind(page.fetch())
    .fetch_all(&mut *conn)
    .await?;
    let Rows { rows, next } = Rows::cut(rows, &page, |row: &Row| row.id);
    Ok(Rows { rows: with_attempts(conn, account_id, rows).await?, next })
}

/// How many deliveries [`list`] goes through.
pub async fn count(conn: &mut PgConnection, account_id: Uuid, endpoint_id: Uuid) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from deliveries where account_id = $1 and endpoint_id = $2")
        .bind(account_id)
        .bind(endpoint_id)
        .fetch_one(conn)
        .await
}

/// The delivery of an event to an endpoint: how the answer to a test event is found. The newest, if it was redelivered.
pub async fn find_of_event(
    conn: &mut PgConnection,
    account_id: Uuid,
    endpoint_id: Uuid,
    event_id: Uuid,
) -> Result<Option<Delivery>, sqlx::Error> {
    let rows = sqlx::query_as(select_deliveries!(
        "where account_id = $1 and event_id = $2 and endpoint_id = $3 order by id desc limit 1"
    ))
    .bind(account_id)
    .bind(event_id)
    .bind(endpoint_id)
    .fetch_all(&mut *conn)
    .await?;
    Ok(with_attempts(conn, account_id, rows).await?.pop())
}

/// A delivery, if the account has it.
pub async fn find(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<Delivery>, sqlx::Error> {
    let rows = sqlx::query_as(select_deliveries!("where account_id = $1 and id = $2"))
        .bind(account_id)
        .bind(id)
        .fetch_all(&mut *conn)
        .await?;
    Ok(with_attempts(conn, account_id, rows).await?.pop())
}

async fn with_attempts(
    conn: &mut PgConnection,
    account_id: Uuid,
    rows: Vec<Row>,
) -> Result<Vec<Delivery>, sqlx::Error> {
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let mut attempts: HashMap<Uuid, Vec<Attempt>> = HashMap::new();
    for (delivery_id, attempt) in attempts::list_of(conn, account_id, &ids).await? {
        attempts.entry(delivery_id).or_default().push(attempt);
    }
    let mut until = |row: &Row| {
        let mut made = attempts.remove(&row.id).unwrap_or_default();
        // An attempt that was recorded after the row was read would contradict it.
        made.retain(|attempt| attempt.number <= row.made);
        made.extend(row.acknowledged_at.map(|started_at| Attempt {
            number: row.made,
            started_at,
            duration_ms: row.acknowledged_ms.unwrap_or_default(),
            status_code: row.last_status_code,
            error_class: None,
            response_excerpt: row.response_excerpt.clone(),
        }));
        made
    };
    let delivery = |row: Row| Delivery {
        attempts: until(&row),
        id: row.id,
        event_id: event_id(row.event_id),
        event: row.kind,
        status: row.status,
        created_at: row.created_at,
        next_attempt_at: row.next_attempt_at,
        finished_at: row.finished_at,
    };
    Ok(rows.into_iter().map(delivery).collect())
}
