//! Attempts: one row per HTTP request, never changed.

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

/// No delivery has more attempts than this (its schedule's limit), so that a list of them has a limit too.
const ATTEMPTS_PER_DELIVERY_MAX: usize = 25;

/// Stores attempts.
pub async fn insert_many(conn: &mut PgConnection, attempts: &[NewAttempt]) -> Result<(), sqlx::Error> {
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

/// The attempts of some deliveries of an account, each with its delivery's id; a delivery's are oldest first.
pub async fn list_of(
    conn: &mut PgConnection,
    account_id: Uuid,
    delivery_ids: &[Uuid],
) -> Result<Vec<(Uuid, Attempt)>, sqlx::Error> {
    let limit = delivery_ids.len().saturating_mul(ATTEMPTS_PER_DELIVERY_MAX);
    let rows: Vec<Row> = sqlx::query_as(
        "select delivery_id, number, started_at, duration_ms, status_code, error_class, response_excerpt
         from attempts where account_id = $1 and delivery_id = any($2)
         order by delivery_id, number limit $3",
    )
    .bind(account_id)
    .bind(delivery_ids)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.delivery_id, row.attempt)).collect())
}
