//! API keys: stored as SHA-256, shown once.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    accounts,
    page::{Page, Rows},
    rate_windows::{Charged, Window},
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

/// The columns of an [`ApiKey`].
macro_rules! columns {
    () => {
        "id, account_id, name, prefix, scopes, expires_at, last_used_at, created_at"
    };
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

impl PresentedRow {
    fn judged(self) -> Presented {
        if self.revoked {
            Presented::Revoked
        } else if self.expired {
            Presented::Expired
        } else {
            Presented::Live(self.key)
        }
    }
}

#[derive(FromRow)]
struct ChargedRow {
    #[sqlx(flatten)]
    presented: PresentedRow,
    at: Option<DateTime<Utc>>,
    refused: Option<bool>,
    starts: Option<Vec<DateTime<Utc>>>,
    counts: Option<Vec<i32>>,
}

impl ChargedRow {
    /// What the key turned out to be, and, if it works, what its windows said.
    fn judged(self) -> (Presented, Option<Charged>) {
        let charged = match (self.at, self.refused, self.starts, self.counts) {
            (Some(at), Some(refused), Some(starts), Some(counts)) => {
                Some(Charged { at, refused, starts, counts })
            }
            _ => None,
        };
        (self.presented.judged(), charged)
    }
}

/// The key with the hash `$1`. Its use is noted at most once a minute, in the same statement, so that a busy key does not
/// write a row per request.
macro_rules! presented {
    ($charge:literal, $columns:literal, $join:literal) => {
        concat!(
            // skip locked: of many requests in the same moment one notes the use and none waits for it.
            "with used as (
                update api_keys set last_used_at = now()
                where (account_id, id) in (
                    select account_id, id from api_keys
                    where hash = $1 and revoked_at is null
                        and (last_used_at is null or last_used_at < now() - interval '1 minute')
                    for update skip locked)
                returning id, last_used_at)",
            $charge,
            "select k.id, k.account_id, k.name, k.prefix, k.scopes, k.expires_at, k.created_at,
                coalesce(u.last_used_at, k.last_used_at) as last_used_at,
                coalesce(k.expires_at <= now(), false) as expired, k.revoked_at is not null as revoked",
            $columns,
            " from api_keys k left join used u on u.id = k.id",
            $join,
            " where k.hash = $1"
        )
    };
}

/// Looks up the key with this hash, and charges nothing for it.
pub async fn find_presented(conn: &mut PgConnection, hash: &[u8]) -> Result<Presented, sqlx::Error> {
    let row: Option<PresentedRow> =
        sqlx::query_as(presented!("", "", "")).bind(hash).fetch_optional(conn).await?;
    Ok(row.map_or(Presented::Unknown, PresentedRow::judged))
}

/// Looks up the key with this hash and, if it works, charges a request to its windows: to each that applies, or to none if
/// one of them is full. The windows of a key are always the same ones in the same order.
pub async fn find_charged(
    conn: &mut PgConnection,
    hash: &[u8],
    windows: &[Window],
) -> Result<(Presented, Option<Charged>), sqlx::Error> {
    let row: Option<ChargedRow> = sqlx::query_as(presented!(
        // The row of the windows is locked, and read again, before the sub-select looks at it.
        ", charged as (
            insert into rate_windows as w (key_id, at, refused, starts, counts)
            select id, clock_timestamp(), false, array_fill(clock_timestamp(), array[cardinality($2)]), $4::boolean[]::int[]
            from api_keys where hash = $1 and revoked_at is null and (expires_at is null or expires_at > now())
            on conflict (key_id) do update set (at, refused, starts, counts) = (
                select excluded.at, bool_or(c.is_full),
                    array_agg(case when c.counts and c.is_over then excluded.at else c.start end order by c.place),
                    array_agg(case when not c.counts then c.count when c.is_over then 1 else c.count + 1 end
                        order by c.place)
                from (
                    select t.place, coalesce(t.start, excluded.at) as start, coalesce(t.count, 0) as count, t.is_over,
                        t.applies and not t.is_over and t.count >= t.max as is_full,
                        t.applies and not bool_or(t.applies and not t.is_over and t.count >= t.max) over () as counts
                    from (
                        select u.*, coalesce(u.count = 0 or u.start + make_interval(secs => u.length) <= excluded.at, true) as is_over
                        from unnest(w.starts, w.counts, $2::int[], $3::float8[], $4::boolean[]) with ordinality
                            as u(start, count, max, length, applies, place)
                        where u.max is not null
                    ) t
                ) c)
            returning key_id, at, refused, starts, counts)",
        ", c.at, c.refused, c.starts, c.counts",
        " left join charged c on c.key_id = k.id"
    ))
    .bind(hash)
    .bind(windows.iter().map(|window| window.requests_max).collect::<Vec<_>>())
    .bind(windows.iter().map(|window| window.length.as_secs_f64()).collect::<Vec<_>>())
    .bind(windows.iter().map(|window| window.applies).collect::<Vec<_>>())
    .fetch_optional(conn)
    .await?;
    Ok(row.map_or((Presented::Unknown, None), ChargedRow::judged))
}

/// The keys of an account that are not revoked, newest first.
pub async fn list(
    conn: &mut PgConnection,
    account_id: Uuid,
    page: Page,
) -> Result<Rows<ApiKey>, sqlx::Error> {
    let rows = sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from api_keys
             where account_id = $1 and revoked_at is null and ($2::uuid is null or id < $2)
             order by id desc offset $3 limit $4"
    ))
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
    let (key, raw) = insert(conn, account_id, new).await?;
    Ok(Created::Key(key, raw))
}

/// Stores a new key and returns it with its raw value.
async fn insert(
    conn: &mut PgConnection,
    account_id: Uuid,
    new: &NewApiKey<'_>,
) -> Result<(ApiKey, String), sqlx::Error> {
    let raw = new_api_key();
    let key = sqlx::query_as(concat!(
        "insert into api_keys (account_id, id, name, prefix, hash, scopes, expires_at)
             values ($1, $2, $3, $4, $5, $6, $7) returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(new_id())
    .bind(new.name)
    .bind(&raw[..PREFIX_CHARS])
    .bind(hash_api_key(&raw))
    .bind(new.scopes)
    .bind(new.expires_at)
    .fetch_one(conn)
    .await?;
    Ok((key, raw))
}

/// Gives a key another label. `None`: the account has no such key, or it is revoked.
pub async fn rename(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    name: &str,
) -> Result<Option<ApiKey>, sqlx::Error> {
    sqlx::query_as(concat!(
        "update api_keys set name = $3 where account_id = $1 and id = $2 and revoked_at is null returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(id)
    .bind(name)
    .fetch_optional(conn)
    .await
}

/// Revokes a key and makes one with the same name, scopes and end, so that the account has no more than before. `None`: the
/// account has no such key, or it is revoked.
pub async fn rotate(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<(ApiKey, String)>, sqlx::Error> {
    let Some(old) = revoke(conn, account_id, id).await? else { return Ok(None) };
    let new = NewApiKey { name: &old.name, scopes: &old.scopes, expires_at: old.expires_at };
    insert(conn, account_id, &new).await.map(Some)
}

/// Revokes a key for good. `None`: the account has no such key, or it is revoked already.
pub async fn revoke(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<ApiKey>, sqlx::Error> {
    sqlx::query_as(concat!(
        "with revoked as (
                update api_keys set revoked_at = now()
                where account_id = $1 and id = $2 and revoked_at is null returning ",
        columns!(),
        "), uncounted as (
                delete from rate_windows where key_id in (select id from revoked)
            )
            select * from revoked"
    ))
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
