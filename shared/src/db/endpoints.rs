//! Endpoints, and what their deliveries taught about them.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Tx, notifications,
    page::{Page, Rows},
};
use crate::{
    domain::{
        endpoint::{ENDPOINTS_MAX, Endpoint, IN_FLIGHT_MAX},
        endpoint_headers::SealedHeaders,
    },
    events::EventType,
    jobs::Deliver,
};

/// An endpoint to be registered.
#[derive(Debug)]
pub struct NewEndpoint<'a> {
    /// Its id, made by the caller, who seals the secret for its place.
    pub id: Uuid,
    /// Its URL, checked by [`endpoint_url::parse`](crate::domain::endpoint_url::parse).
    pub url: &'a str,
    /// The event types it hears of.
    pub events: &'a [EventType],
    /// What its owner says about it.
    pub description: Option<&'a str>,
    /// Its secret, sealed for [`secret_place`](crate::domain::endpoint::secret_place).
    pub sealed_secret: &'a [u8],
    /// How many deliveries a second it wants at most.
    pub rate_limit: Option<f64>,
    /// Whether its deliveries are made one after the other.
    pub ordered: bool,
    /// Its own headers, checked by [`endpoint_headers::check`](crate::domain::endpoint_headers::check) and sealed.
    pub headers: &'a SealedHeaders,
}

/// What asking for a new endpoint led to.
#[derive(Debug)]
pub enum Created {
    /// It is registered.
    Endpoint(Box<Endpoint>),
    /// The account has [`ENDPOINTS_MAX`] endpoints.
    LimitReached,
}

/// Changes to an endpoint; what is `None` stays.
#[derive(Debug, Default)]
pub struct EndpointPatch<'a> {
    /// A new URL, checked.
    pub url: Option<&'a str>,
    /// New event types.
    pub events: Option<&'a [EventType]>,
    /// Whether deliveries are made.
    pub enabled: Option<bool>,
    /// A new description, or none.
    pub description: Option<Option<&'a str>>,
    /// Another limit of deliveries a second, or none.
    pub rate_limit: Option<Option<f64>>,
    /// Whether its deliveries are made one after the other.
    pub ordered: Option<bool>,
    /// Other headers of its own, checked and sealed.
    pub headers: Option<&'a SealedHeaders>,
}

/// The public form, from `endpoints e` and `endpoint_health h`.
macro_rules! select_endpoints {
    ($rest:literal) => {
        concat!(
            "select e.id, e.url, e.events, e.enabled, e.description, e.rate_limit, e.ordered, e.created_at,
                (select coalesce(jsonb_object_agg(n, '***'), '{}') from unnest(e.header_names) n) as headers,
                h.last_success_at, h.failing_since, e.disabled_reason
             from endpoints e
             left join endpoint_health h on h.account_id = e.account_id and h.endpoint_id = e.id
             where e.account_id = $1 and e.deleted_at is null ",
            $rest
        )
    };
}

/// Registers an endpoint and caps its lane. The account's row is locked while its endpoints are counted.
pub async fn create(
    conn: &mut PgConnection,
    account_id: Uuid,
    new: &NewEndpoint<'_>,
) -> Result<Created, queue::Error> {
    // Two statements: the second one's snapshot is taken after the lock, and so sees the endpoints made before it.
    sqlx::query("select from accounts where id = $1 for no key update")
        .bind(account_id)
        .execute(&mut *conn)
        .await?;
    if count(conn, account_id).await? >= ENDPOINTS_MAX {
        return Ok(Created::LimitReached);
    }
    sqlx::query(
        "with made as (
            insert into endpoints (account_id, id, url, events, description, secret, rate_limit, header_names, sealed_headers, ordered)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
            returning account_id, id
        )
        insert into endpoint_health (account_id, endpoint_id) select account_id, id from made",
    )
    .bind(account_id)
    .bind(new.id)
    .bind(new.url)
    .bind(names(new.events))
    .bind(new.description)
    .bind(new.sealed_secret)
    .bind(new.rate_limit)
    .bind(&new.headers.names)
    .bind(&new.headers.sealed)
    .bind(new.ordered)
    .execute(&mut *conn)
    .await?;
    let limits = queue::lanes::Limits { cap: Some(IN_FLIGHT_MAX), per_second: new.rate_limit };
    let lane = new.id.to_string();
    queue::lanes::limit(conn, <Deliver as queue::JobKind>::QUEUE, &lane, limits).await?;
    if new.ordered {
        // The lane is new: nothing waits that could be woken.
        let _ = queue::lanes::order(conn, <Deliver as queue::JobKind>::QUEUE, &lane, true).await?;
    }
    let endpoint = find(conn, account_id, new.id).await?.ok_or(sqlx::Error::RowNotFound)?;
    Ok(Created::Endpoint(Box::new(endpoint)))
}

/// The endpoints of an account, newest first.
pub async fn list(
    conn: &mut PgConnection,
    account_id: Uuid,
    page: Page,
) -> Result<Rows<Endpoint>, sqlx::Error> {
    let rows = sqlx::query_as(select_endpoints!(
        "and ($2::uuid is null or e.id < $2) order by e.id desc offset $3 limit $4"
    ))
    .bind(account_id)
    .bind(page.after)
    .bind(page.offset)
    .bind(page.fetch())
    .fetch_all(conn)
    .await?;
    Ok(Rows::cut(rows, &page, |endpoint: &Endpoint| endpoint.id))
}

/// How many endpoints [`list`] goes through.
pub async fn count(conn: &mut PgConnection, account_id: Uuid) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from endpoints where account_id = $1 and deleted_at is null")
        .bind(account_id)
        .fetch_one(conn)
        .await
}

/// An endpoint, if the account has it.
pub async fn find(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<Endpoint>, sqlx::Error> {
    sqlx::query_as(select_endpoints!("and e.id = $2")).bind(account_id).bind(id).fetch_optional(conn).await
}

/// The sealed headers of an endpoint, if the account has it and it has any.
pub async fn sealed_headers(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<Vec<u8>>, sqlx::Error> {
    let found: Option<(Option<Vec<u8>>,)> = sqlx::query_as(
        "select sealed_headers from endpoints where account_id = $1 and id = $2 and deleted_at is null for no key update",
    )
    .bind(account_id)
    .bind(id)
    .fetch_optional(conn)
    .await?;
    Ok(found.and_then(|(sealed,)| sealed))
}

/// Changes an endpoint. What waits for one that is disabled is cancelled when its turn comes. Enabling it forgets why it was disabled, and so does another URL what failed before: its circuit
/// is closed. `None`: the account has no such endpoint.
pub async fn update(
    tx: &mut Tx,
    account_id: Uuid,
    id: Uuid,
    patch: &EndpointPatch<'_>,
) -> Result<Option<Endpoint>, queue::Error> {
    sqlx::query(
        "with changed as (
            update endpoints set url = coalesce($3, url), events = coalesce($4, events),
                enabled = coalesce($5, enabled), description = case when $6 then $7 else description end,
                rate_limit = case when $8 then $9 else rate_limit end, header_names = coalesce($10, header_names),
                sealed_headers = case when $10 is null then sealed_headers else $12 end,
                ordered = coalesce($11, ordered),
                disabled_reason = case when $5 then null else disabled_reason end, updated_at = now()
            where account_id = $1 and id = $2 and deleted_at is null
            returning account_id, id
        )
        update endpoint_health h set consecutive_failures = 0, failing_since = null, slow = false, opened_at = null,
            probes = 0, probe_at = null
        from changed c where ($5 or $3 is not null) and h.account_id = c.account_id and h.endpoint_id = c.id",
    )
    .bind(account_id)
    .bind(id)
    .bind(patch.url)
    .bind(patch.events.map(names))
    .bind(patch.enabled)
    .bind(patch.description.is_some())
    .bind(patch.description.flatten())
    .bind(patch.rate_limit.is_some())
    .bind(patch.rate_limit.flatten())
    .bind(patch.headers.map(|headers| &headers.names))
    .bind(patch.ordered)
    .bind(patch.headers.and_then(|headers| headers.sealed.as_deref()))
    .execute(&mut **tx)
    .await?;
    let endpoint = find(tx, account_id, id).await?;
    let lane = id.to_string();
    if let (Some(_), Some(per_second)) = (&endpoint, patch.rate_limit) {
        let wake = queue::lanes::rate(tx, <Deliver as queue::JobKind>::QUEUE, &lane, per_second).await?;
        tx.wake(wake);
    }
    if let (Some(_), Some(ordered)) = (&endpoint, patch.ordered) {
        let wake = queue::lanes::order(tx, <Deliver as queue::JobKind>::QUEUE, &lane, ordered).await?;
        tx.wake(wake);
    }
    if endpoint.is_some() && (patch.enabled.is_some() || patch.url.is_some()) {
        let wake = queue::lanes::set(tx, <Deliver as queue::JobKind>::QUEUE, &[open_lane(&lane)]).await?;
        tx.wake(wake);
    }
    Ok(endpoint)
}

/// Gives an endpoint another secret, sealed. The one before it is signed with too for `overlap`, and not at all without
/// one; what was before that is gone. `None`: the account has no such endpoint.
pub async fn rotate_secret(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    sealed_secret: &[u8],
    overlap: Duration,
) -> Result<Option<Endpoint>, sqlx::Error> {
    sqlx::query(
        "update endpoints set secret = $3, old_secret = case when $4 then secret end,
            old_secret_until = case when $4 then now() + make_interval(secs => $5) end, updated_at = now()
         where account_id = $1 and id = $2 and deleted_at is null",
    )
    .bind(account_id)
    .bind(id)
    .bind(sealed_secret)
    .bind(!overlap.is_zero())
    .bind(overlap.as_secs_f64())
    .execute(&mut *conn)
    .await?;
    find(conn, account_id, id).await
}

/// Deletes an endpoint softly: what waits for it is cancelled when its turn comes. `None`: the account has no such
/// endpoint.
pub async fn delete(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<Endpoint>, queue::Error> {
    let Some(endpoint) = find(conn, account_id, id).await? else {
        return Ok(None);
    };
    let deleted = sqlx::query(
        "update endpoints set deleted_at = now(), enabled = false, updated_at = now()
         where account_id = $1 and id = $2 and deleted_at is null",
    )
    .bind(account_id)
    .bind(id)
    .execute(&mut *conn)
    .await?;
    if deleted.rows_affected() == 0 {
        return Ok(None);
    }
    // Whoever records attempts of it just now writes the lane's row before it goes, and not after.
    sqlx::query("select from endpoint_health where account_id = $1 and endpoint_id = $2 for no key update")
        .bind(account_id)
        .bind(id)
        .execute(&mut *conn)
        .await?;
    queue::lanes::remove(conn, <Deliver as queue::JobKind>::QUEUE, &id.to_string()).await?;
    Ok(Some(Endpoint { enabled: false, ..endpoint }))
}

/// The `disabled_reason` of an endpoint that answered every attempt of a delivery with 410.
const GONE_REASON: &str = "gone";

/// Disables the endpoints of exhausted deliveries whose every attempt was answered with 410 Gone, and tells their accounts.
/// Takes (account, endpoint, delivery) and returns the endpoints it disabled, whose lanes are to be opened.
pub async fn disable_gone(
    conn: &mut PgConnection,
    exhausted: &[(Uuid, Uuid, Uuid)],
) -> Result<Vec<Uuid>, sqlx::Error> {
    if exhausted.is_empty() {
        return Ok(Vec::new());
    }
    let disabled: Vec<(Uuid, Uuid, String)> = sqlx::query_as(
        "with gone as materialized (
            select e.account_id, e.id
            from unnest($1::uuid[], $2::uuid[], $3::uuid[]) as t(account_id, endpoint_id, delivery_id)
            join endpoints e on e.account_id = t.account_id and e.id = t.endpoint_id
            where e.enabled and not exists (
                select from attempts a where a.account_id = t.account_id and a.delivery_id = t.delivery_id
                    and a.status_code is distinct from 410)
            order by e.account_id, e.id for no key update of e
        )
        update endpoints e set enabled = false, disabled_reason = $4, updated_at = now()
        from gone g where e.account_id = g.account_id and e.id = g.id
        returning e.account_id, e.id, e.url",
    )
    .bind(exhausted.iter().map(|(account_id, _, _)| *account_id).collect::<Vec<_>>())
    .bind(exhausted.iter().map(|(_, endpoint_id, _)| *endpoint_id).collect::<Vec<_>>())
    .bind(exhausted.iter().map(|(_, _, delivery_id)| *delivery_id).collect::<Vec<_>>())
    .bind(GONE_REASON)
    .fetch_all(&mut *conn)
    .await?;
    notifications::tell_disabled(conn, &disabled, GONE_REASON).await?;
    Ok(disabled.into_iter().map(|(_, id, _)| id).collect())
}

/// The state of an endpoint's lane that nothing is the matter with.
fn open_lane(lane: &str) -> queue::lanes::State<'_> {
    queue::lanes::State { lane, cap: Some(IN_FLIGHT_MAX), slow: false, closed: None }
}

fn names(events: &[EventType]) -> Vec<&'static str> {
    events.iter().map(|kind| kind.as_str()).collect()
}
