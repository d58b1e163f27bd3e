//! Searches for contacts.

use std::collections::BTreeMap;

use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::page::{Page, Rows};
use crate::domain::discovery::{Criteria, DiscoveryJob};

/// The columns of a [`DiscoveryJob`].
macro_rules! columns {
    () => {
        "account_id, id, status, campaign_id, criteria, found, new, duplicates, suppressed, by_source, contact_ids,
         error, created_at, finished_at"
    };
}

/// How a search went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Contacts returned by the sources, each counted once.
    pub found: i32,
    /// Those not known before.
    pub new: i32,
    /// Those known.
    pub duplicates: i32,
    /// Those never to be written to.
    pub suppressed: i32,
    /// Contacts by source.
    pub by_source: BTreeMap<String, i32>,
    /// The contacts stored, in the order found.
    pub contact_ids: Vec<Uuid>,
}

/// Writes a queued job.
pub async fn insert(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    campaign_id: Option<Uuid>,
    criteria: &[Criteria],
) -> Result<DiscoveryJob, sqlx::Error> {
    sqlx::query_as(concat!(
        "insert into discovery_jobs (account_id, id, campaign_id, criteria) values ($1, $2, $3, $4) returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(id)
    .bind(campaign_id)
    .bind(Json(criteria))
    .fetch_one(conn)
    .await
}

/// A discovery job.
pub async fn find(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<DiscoveryJob>, sqlx::Error> {
    sqlx::query_as(concat!("select ", columns!(), " from discovery_jobs where account_id = $1 and id = $2"))
        .bind(account_id)
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// The discovery jobs of an account, newest first.
pub async fn list(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Option<Uuid>,
    page: Page,
) -> Result<Rows<DiscoveryJob>, sqlx::Error> {
    let rows = sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from discovery_jobs
         where account_id = $1 and ($2::uuid is null or campaign_id = $2) and ($3::uuid is null or id < $3)
         order by id desc limit $4 offset $5"
    ))
    .bind(account_id)
    .bind(campaign_id)
    .bind(page.after)
    .bind(page.fetch())
    .bind(page.offset)
    .fetch_all(conn)
    .await?;
    Ok(Rows::cut(rows, &page, |job: &DiscoveryJob| job.id))
}

/// How many jobs [`list`] has in all.
pub async fn count(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Option<Uuid>,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select count(*) from discovery_jobs where account_id = $1 and ($2::uuid is null or campaign_id = $2)",
    )
    .bind(account_id)
    .bind(campaign_id)
    .fetch_one(conn)
    .await
}

/// Locks a job that has not ended.
pub async fn lock_unfinished(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<DiscoveryJob>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from discovery_jobs
         where account_id = $1 and id = $2 and status in ('queued', 'running') for no key update"
    ))
    .bind(account_id)
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// Marks a job as running; None when it has ended or does not exist.
pub async fn record_running(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<DiscoveryJob>, sqlx::Error> {
    sqlx::query_as(concat!(
        "update discovery_jobs set status = 'running'
         where account_id = $1 and id = $2 and status in ('queued', 'running') returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// Ends a locked job with what it found.
pub async fn record_completed(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    tally: &Tally,
) -> Result<DiscoveryJob, sqlx::Error> {
    sqlx::query_as(concat!(
        "update discovery_jobs set status = 'completed', finished_at = now(), found = $3, new = $4, duplicates = $5,
            suppressed = $6, by_source = $7, contact_ids = $8
         where account_id = $1 and id = $2 returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(id)
    .bind(tally.found)
    .bind(tally.new)
    .bind(tally.duplicates)
    .bind(tally.suppressed)
    .bind(Json(&tally.by_source))
    .bind(&tally.contact_ids)
    .fetch_one(conn)
    .await
}

/// Ends a job that was given up; None when it has ended or does not exist.
pub async fn record_failed(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    error: &str,
) -> Result<Option<DiscoveryJob>, sqlx::Error> {
    sqlx::query_as(concat!(
        "update discovery_jobs set status = 'failed', finished_at = now(), error = $3
         where account_id = $1 and id = $2 and status in ('queued', 'running') returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(id)
    .bind(error)
    .fetch_optional(conn)
    .await
}
