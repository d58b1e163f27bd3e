//! API keys: stored as SHA-256, shown once.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    accounts,
    page::{Page, Rows},
};
use crate::{
    clock::{iso_ms, iso_ms_option},
    ids::{hash_api_key, new_api_key, new_id},
};

/// The most keys of an account that are neither revoked nor expired.
pub const LIVE_KEYS_MAX: i64 = 25;

/// How much of a key is kept in clear, so that people can tell their keys apart.
const PREFIX_CHARS: usize = 12;

/// A key of an account, without its secret.
#[derive(Debug, Clone, Serialize, FromRow, ToSchema)]
pub struct ApiKey {
    /// The key's id.
    pub id: Uuid,
    /// The account it opens.
    #[serde(skip)]
    #[schema(ignore)]
    pub account_id: Uuid,
    /// The label its owner gave it.
    pub name: String,
    /// Its first 12 characters.
    pub prefix: String,
    /// What it may do: `read`, `write`, `generate`, `send`, `admin`, or `*` for all of them.
    pub scopes: Vec<String>,
    /// When it stops to work, if ever.
    #[serde(serialize_with = "iso_ms_option::serialize")]
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was last used, to the minute.
    #[serde(serialize_with = "iso_ms_option::serialize")]
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it was created.
    #[serde(serialize_with = "iso_ms::serialize")]
    pub created_at: DateTime<Utc>,
}

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewApiKey<'a> {
    /// Its label.
    pub name: &'a str,
    /// What it may do.
    pub scopes: &'a [String],
    /// When it stops to work, if ever.
    pub expires_at: Option<DateTime<Utc>>,
}

/// What asking for a new key led to.
#[derive(Debug)]
pub enum Created {
    /// The key, and its raw value, which cannot be read again.
    Key(ApiKey, String),
    /// The account has [`LIVE_KEYS_MAX`] live keys.
    LimitReached,
}

/// What a presented key turned out to be.
#[derive(Debug)]
pub enum Presented {
    /// It works.
    Live(ApiKey),
    /// No account has it.
    Unknown,
    /// It was live once.
    Expired,
    /// Its account revoked it.
    Revoked,
}

#[derive(FromRow)]
struct PresentedRow {
    #[sqlx(flatten)]
    key: ApiKey,
    expired: bool,
    revoked: bool,
}

/// Looks up the key with this hash. Its use is noted at most once a minute, in the same statement, so that a busy key
/// does not write a row per request.
pub async fn find_presented(conn: &mut PgConnection, hash: &[u8]) -> Result<Presented, sqlx::Error> {
    let row: Option<PresentedRow> = sqlx::query_as(
        // skip locked: of many requests in the same moment one notes the use and none waits for it.
        "with used as (
            update api_keys set last_used_at = now()
            where (account_id, id) in (
                select account_id, id from api_keys
                where hash = $1 and revoked_at is null
                    and (last_used_at is null or last_used_at < now() - interval '1 minute')
                for update skip locked)
            returning id, last_used_at)
         select k.id, k.account_id, k.name, k.prefix, k.scopes, k.expires_at, k.created_at,
            coalesce(u.last_used_at, k.last_used_at) as last_used_at,
            coalesce(k.expires_at <= now(), false) as expired, k.revoked_at is not null as revoked
         from api_keys k left join used u on u.id = k.id
         where k.hash = $1",
    )
    .bind(hash)
    .fetch_optional(conn)
    .await?;
    Ok(match row {
        None => Presented::Unknown,
        Some(row) if row.revoked => Presented::Revoked,
        Some(row) if row.expired => Presented::Expired,
        Some(row) => Presented::Live(row.key),
    })
}

/// The keys of an account that are not revoked, newest first.
pub async fn list(
    conn: &mut PgConnection,
    account_id: Uuid,
    page: Page,
) -> Result<Rows<ApiKey>, sqlx::Error> {
    let rows = sqlx::query_as(
        "select id, account_id, name, prefix, scopes, expires_at, last_used_at, created_at
         from api_keys
         where account_id = $1 and revoked_at is null and ($2::uuid is null or id < $2)
         order by id desc offset $3 limit $4",
    )
    .bind(account_id)
    .bind(page.after)
    .bind(page.offset)
    .bind(page.fetch())
    .fetch_all(conn)
    .await?;
    Ok(Rows::cut(rows, &page, |key: &ApiKey| key.id))
}

/// How many keys [`list`] goes through.
pub async fn count(conn: &mut PgConnection, account_id: Uuid) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from api_keys where account_id = $1 and revoked_at is null")
        .bind(account_id)
        .fetch_one(conn)
        .await
}

/// Makes a key. The account's row is locked while its live keys are counted.
pub async fn create(
    conn: &mut PgConnection,
    account_id: Uuid,
    new: &NewApiKey<'_>,
) -> Result<Created, sqlx::Error> {
    // Two statements: the second one's snapshot is taken after the lock, and so sees the keys made before it.
    sqlx::query("select from accounts where id = $1 for update").bind(account_id).execute(&mut *conn).await?;
    let live: i64 = sqlx::query_scalar(
        "select count(*) from api_keys
         where account_id = $1 and revoked_at is null and (expires_at is null or expires_at > now())",
    )
    .bind(account_id)
    .fetch_one(&mut *conn)
    .await?;
    if live >= LIVE_KEYS_MAX {
        return Ok(Created::LimitReached);
    }
    let raw = new_api_key();
    let key = sqlx::query_as(
        "insert into api_keys (account_id, id, name, prefix, hash, scopes, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7)
         returning id, account_id, name, prefix, scopes, expires_at, last_used_at, created_at",
    )
    .bind(account_id)
    .bind(new_id())
    .bind(new.name)
    .bind(&raw[..PREFIX_CHARS])
    .bind(hash_api_key(&raw))
    .bind(new.scopes)
    .bind(new.expires_at)
    .fetch_one(conn)
    .await?;
    Ok(Created::Key(key, raw))
}

/// Revokes a key for good. `None`: the account has no such key, or it is revoked already.
pub async fn revoke(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<ApiKey>, sqlx::Error> {
    sqlx::query_as(
        "update api_keys set revoked_at = now()
         where account_id = $1 and id = $2 and revoked_at is null
         returning id, account_id, name, prefix, scopes, expires_at, last_used_at, created_at",
    )
    .bind(account_id)
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// The first admin key of an installation, shown once: made when no key of any account is live, in the first account.
/// `None`: there is a live key.
pub async fn bootstrap(conn: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    let account = accounts::ensure_first(conn).await?;
    let any_live: bool = sqlx::query_scalar(
        "select exists (select from api_keys
            where revoked_at is null and (expires_at is null or expires_at > now()))",
    )
    .fetch_one(&mut *conn)
    .await?;
    if any_live {
        return Ok(None);
    }
    let new = NewApiKey { name: "first admin key", scopes: &["*".to_owned()], expires_at: None };
    match create(conn, account.id, &new).await? {
        Created::Key(_, raw) => Ok(Some(raw)),
        Created::LimitReached => Ok(None),
    }
}
