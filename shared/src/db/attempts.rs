//! Attempts that failed: one row per HTTP request, never changed. The one that succeeded is a part of its delivery.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::{
    domain::delivery::{Attempt, ErrorClass},
    ids::new_id,
};

/// One attempt to be stored.
#[derive(Debug, Clone)]
pub struct NewAttempt {
    /// The account.
    pub account_id: Uuid,
    /// Its delivery.
    pub delivery_id: Uuid,
    /// 1 is the first.
    pub number: i32,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// How long it took.
    pub duration_ms: i32,
    /// The answer's status.
    pub status_code: Option<i32>,
    /// Why it failed.
    pub error_class: Option<ErrorClass>,
    /// The beginning of the answer's body.
    pub response_excerpt: Option<String>,
}

/// A delivery that is made again and again may have any number of attempts; a list shows the last ones, more than a
/// schedule of retries has.
const ATTEMPTS_PER_DELIVERY_MAX: i64 = 50;

/// Stores attempts.
pub async fn insert_many(conn: &mut PgConnection, attempts: &[&NewAttempt]) -> Result<(), sqlx::Error> {
    if attempts.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into attempts (account_id, id, delivery_id, number, started_at, duration_ms, status_code, error_class,
            response_excerpt)
         select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::int4[], $5::timestamptz[], $6::int4[], $7::int4[],
            $8::text[], $9::text[])",
    )
    .bind(attempts.iter().map(|a| a.account_id).collect::<Vec<_>>())
    .bind(attempts.iter().map(|_| new_id()).collect::<Vec<_>>())
    .bind(attempts.iter().map(|a| a.delivery_id).collect::<Vec<_>>())
    .bind(attempts.iter().map(|a| a.number).collect::<Vec<_>>())
    .bind(attempts.iter().map(|a| a.started_at).collect::<Vec<_>>())
    .bind(attempts.iter().map(|a| a.duration_ms).collect::<Vec<_>>())
    .bind(attempts.iter().map(|a| a.status_code).collect::<Vec<_>>())
    .bind(attempts.iter().map(|a| a.error_class.map(ErrorClass::as_str)).collect::<Vec<_>>())
    .bind(attempts.iter().map(|a| a.response_excerpt.as_deref()).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

#[derive(FromRow)]
struct Row {
    delivery_id: Uuid,
    #[sqlx(flatten)]
    attempt: Attempt,
}

/// The last attempts of some deliveries of an account, each with its delivery's id; a delivery's are oldest first.
pub async fn list_of(
    conn: &mut PgConnection,
    account_id: Uuid,
    delivery_ids: &[Uuid],
) -> Result<Vec<(Uuid, Attempt)>, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "select a.* from unnest($2::uuid[]) as t(delivery_id)
         cross join lateral (
            select delivery_id, number, started_at, duration_ms, status_code, error_class, response_excerpt
            from attempts where account_id = $1 and delivery_id = t.delivery_id order by number desc limit $3) a
         order by a.delivery_id, a.number",
    )
    .bind(account_id)
    .bind(delivery_ids)
    .bind(ATTEMPTS_PER_DELIVERY_MAX)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.delivery_id, row.attempt)).collect())
}
