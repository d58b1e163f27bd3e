//! What accounts are told of.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection, types::Json};
use url::Url;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    page::{Page, Rows},
    partitions::Expired,
};
use crate::{
    clock::iso_ms,
    domain::{
        discovery::{DiscoveryJob, DiscoveryStatus},
        text_enum,
    },
    ids::new_id,
};

text_enum! {
    /// What an account is told of.
    NotificationType {
        /// A contact answered.
        ReplyReceived = "conversation.reply_received",
        /// A message came back for good.
        MessageBounced = "message.bounced",
        /// A search for contacts has ended.
        DiscoveryCompleted = "discovery.completed",
        /// A search for contacts was given up.
        DiscoveryFailed = "discovery.failed",
        /// An endpoint gets no more deliveries.
        WebhookDisabled = "webhook.disabled",
        /// Deliveries to an endpoint were given up at their age.
        WebhookExpired = "webhook.expired",
    }
}

text_enum! {
    /// What a notification is about.
    ResourceType {
        /// A conversation.
        Conversation = "conversation",
        /// A message.
        Message = "message",
        /// A discovery job.
        DiscoveryJob = "discovery_job",
        /// A webhook endpoint.
        Webhook = "webhook",
    }
}

/// What a notification is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Resource {
    /// Of which kind it is.
    #[serde(rename = "type")]
    pub kind: ResourceType,
    /// Its id.
    pub id: Uuid,
}

/// Something that an account was told of. It holds nothing that a contact wrote or is named by.
#[derive(Debug, Clone, PartialEq, Eq, FromRow, Serialize, ToSchema)]
pub struct Notification {
    /// Its id.
    pub id: Uuid,
    /// What happened.
    #[serde(rename = "type")]
    #[sqlx(rename = "type")]
    pub kind: NotificationType,
    /// In a few words.
    pub title: String,
    /// In a sentence.
    pub body: String,
    /// What it is about.
    #[schema(value_type = Resource)]
    pub resource: Json<Resource>,
    /// Whether somebody has read it.
    pub read: bool,
    /// When it happened.
    #[serde(with = "iso_ms")]
    pub created_at: DateTime<Utc>,
}

/// The columns of a [`Notification`].
macro_rules! columns {
    () => {
        "id, type, title, body, resource, read_at is not null as read, created_at"
    };
}

/// The notifications of an account, the newest first; only those that were read, or were not, if `read` says so.
pub async fn list(
    conn: &mut PgConnection,
    account_id: Uuid,
    read: Option<bool>,
    page: Page,
) -> Result<Rows<Notification>, sqlx::Error> {
    let rows = sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from notifications
         where account_id = $1 and ($2::bool is null or (read_at is not null) = $2) and ($3::uuid is null or id < $3)
         order by id desc limit $4 offset $5"
    ))
    .bind(account_id)
    .bind(read)
    .bind(page.after)
    .bind(page.fetch())
    .bind(page.offset)
    .fetch_all(conn)
    .await?;
    Ok(Rows::cut(rows, &page, |notification: &Notification| notification.id))
}

/// How many notifications [`list`] goes through.
pub async fn count(
    conn: &mut PgConnection,
    account_id: Uuid,
    read: Option<bool>,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select count(*) from notifications
         where account_id = $1 and ($2::bool is null or (read_at is not null) = $2)",
    )
    .bind(account_id)
    .bind(read)
    .fetch_one(conn)
    .await
}

/// Notes that a notification was read, or was not. `None`: the account has no such notification.
pub async fn record_read(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    read: bool,
) -> Result<Option<Notification>, sqlx::Error> {
    sqlx::query_as(concat!(
        "update notifications set read_at = case when $3 then coalesce(read_at, now()) end
         where account_id = $1 and id = $2 returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(id)
    .bind(read)
    .fetch_optional(conn)
    .await
}

/// Notes that every notification of an account was read, and returns of how many that is new.
pub async fn record_all_read(conn: &mut PgConnection, account_id: Uuid) -> Result<u64, sqlx::Error> {
    let done =
        sqlx::query("update notifications set read_at = now() where account_id = $1 and read_at is null")
            .bind(account_id)
            .execute(conn)
            .await?;
    Ok(done.rows_affected())
}

/// Removes a notification. `None`: the account has no such notification.
pub async fn delete(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<Notification>, sqlx::Error> {
    sqlx::query_as(concat!(
        "delete from notifications where account_id = $1 and id = $2 returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// Tells an account what happened in a campaign: that a contact answered, or that a message came back.
pub async fn tell_of_campaign(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Uuid,
    kind: NotificationType,
    resource: Resource,
) -> Result<(), sqlx::Error> {
    let (title, what) = match kind {
        NotificationType::MessageBounced => {
            ("A message came back", "A message of the campaign %s came back for good.")
        }
        _ => ("A contact replied", "A contact of the campaign %s replied."),
    };
    sqlx::query(
        "insert into notifications (account_id, id, type, title, body, resource)
         select $1, $2, $3, $4, format($5, name), $6 from campaigns where account_id = $1 and id = $7",
    )
    .bind(account_id)
    .bind(new_id())
    .bind(kind)
    .bind(title)
    .bind(what)
    .bind(Json(resource))
    .bind(campaign_id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Tells an account how a search for contacts ended.
pub async fn tell_discovered(conn: &mut PgConnection, job: &DiscoveryJob) -> Result<(), sqlx::Error> {
    let (kind, title, body) = if job.status == DiscoveryStatus::Failed {
        let body = "No source could be searched. The discovery job says why.".to_owned();
        (NotificationType::DiscoveryFailed, "A search for contacts failed", body)
    } else {
        let body = format!("{} contacts were found, {} of them new.", job.found, job.new);
        (NotificationType::DiscoveryCompleted, "A search for contacts has ended", body)
    };
    let resource = Resource { kind: ResourceType::DiscoveryJob, id: job.id };
    let told = NewNotification { account_id: job.account_id, kind, title, body, resource };
    create_many(conn, &[told]).await
}

/// Something that an account is told of.
#[derive(Debug, Clone)]
struct NewNotification {
    account_id: Uuid,
    kind: NotificationType,
    title: &'static str,
    body: String,
    resource: Resource,
}

impl NewNotification {
    /// An endpoint was disabled, and why: `failing` or `gone`.
    fn webhook_disabled(account_id: Uuid, endpoint_id: Uuid, url: &str, reason: &str) -> Self {
        let why = match reason {
            "gone" => "it answered every attempt of a delivery with 410 Gone",
            _ => "it has answered nothing with 2xx for too long",
        };
        Self {
            account_id,
            kind: NotificationType::WebhookDisabled,
            title: "A webhook was disabled",
            body: format!("{} gets no more deliveries: {why}. Enable it again once it works.", place_of(url)),
            resource: Resource { kind: ResourceType::Webhook, id: endpoint_id },
        }
    }
}

/// What a URL's reader may see who may not see the URL: paths and queries are secrets of some receivers.
fn place_of(url: &str) -> String {
    let host = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    host.map_or_else(|| "An endpoint".to_owned(), |host| format!("The endpoint at {host}"))
}

/// Removes up to `limit` notifications that are older than `age`, of whichever account, and returns how many there were.
pub async fn delete_old(conn: &mut PgConnection, age: Duration, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "delete from notifications where ctid = any (array(
            select ctid from notifications where created_at < now() - make_interval(secs => $1)
            order by created_at limit $2 for update skip locked))",
    )
    .bind(age.as_secs_f64())
    .bind(limit)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Tells accounts that deliveries to endpoints of theirs were given up at the age of `age`, once a day for an endpoint at most;
/// of an endpoint that was deleted nobody wants to know.
pub async fn tell_expired(
    conn: &mut PgConnection,
    expired: &[Expired],
    age: Duration,
) -> Result<(), sqlx::Error> {
    if expired.is_empty() {
        return Ok(());
    }
    let endpoints: Vec<(Uuid, Uuid, String)> = sqlx::query_as(
        "select e.account_id, e.id, e.url
         from unnest($1::uuid[], $2::uuid[]) as t(account_id, endpoint_id)
         join endpoints e on e.account_id = t.account_id and e.id = t.endpoint_id
         where e.deleted_at is null and not exists (
            select from notifications n
            where n.account_id = e.account_id and n.id >= uuid_v7_floor(now() - interval '1 day') and n.type = $3
                and n.resource ->> 'id' = e.id::text)
         order by e.account_id, e.id limit cardinality($1)",
    )
    .bind(expired.iter().map(|endpoint| endpoint.account_id).collect::<Vec<_>>())
    .bind(expired.iter().map(|endpoint| endpoint.endpoint_id).collect::<Vec<_>>())
    .bind(NotificationType::WebhookExpired)
    .fetch_all(&mut *conn)
    .await?;
    let hours = age.as_secs() / 3600;
    let told: Vec<NewNotification> = endpoints
        .iter()
        .map(|(account_id, id, url)| NewNotification {
            account_id: *account_id,
            kind: NotificationType::WebhookExpired,
            title: "Webhook deliveries were given up",
            body: format!(
                "{} did not get all of what is older than {hours} hours: it is not tried any more.",
                place_of(url)
            ),
            resource: Resource { kind: ResourceType::Webhook, id: *id },
        })
        .collect();
    create_many(conn, &told).await
}

/// Tells accounts that endpoints, given as (account, endpoint, URL), were disabled, and why: `failing` or `gone`.
pub async fn tell_disabled(
    conn: &mut PgConnection,
    disabled: &[(Uuid, Uuid, String)],
    reason: &str,
) -> Result<(), sqlx::Error> {
    let told: Vec<NewNotification> = disabled
        .iter()
        .map(|(account_id, id, url)| NewNotification::webhook_disabled(*account_id, *id, url, reason))
        .collect();
    create_many(conn, &told).await
}

/// Stores notifications.
async fn create_many(conn: &mut PgConnection, told: &[NewNotification]) -> Result<(), sqlx::Error> {
    if told.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into notifications (account_id, id, type, title, body, resource)
         select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::jsonb[])",
    )
    .bind(told.iter().map(|new| new.account_id).collect::<Vec<_>>())
    .bind(told.iter().map(|_| new_id()).collect::<Vec<_>>())
    .bind(told.iter().map(|new| new.kind).collect::<Vec<_>>())
    .bind(told.iter().map(|new| new.title).collect::<Vec<_>>())
    .bind(told.iter().map(|new| new.body.as_str()).collect::<Vec<_>>())
    .bind(told.iter().map(|new| Json(new.resource)).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}
