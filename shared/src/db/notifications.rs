//! What accounts are told of.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::partitions::Expired;
use crate::ids::new_id;

/// Something that an account is told of.
#[derive(Debug, Clone)]
struct NewNotification {
    account_id: Uuid,
    kind: &'static str,
    title: String,
    body: String,
    resource: Value,
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
            kind: "webhook.disabled",
            title: "A webhook was disabled".into(),
            body: format!("{url} gets no more deliveries: {why}. Enable it again once it works."),
            resource: json!({ "type": "webhook", "id": endpoint_id }),
        }
    }
}

/// The type of the notification that deliveries were given up.
const EXPIRED: &str = "webhook.expired";

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
    .bind(EXPIRED)
    .fetch_all(&mut *conn)
    .await?;
    let hours = age.as_secs() / 3600;
    let told: Vec<NewNotification> = endpoints
        .iter()
        .map(|(account_id, id, url)| NewNotification {
            account_id: *account_id,
            kind: EXPIRED,
            title: "Webhook deliveries were given up".into(),
            body: format!(
                "{url} did not get all of what is older than {hours} hours: it is not tried any more."
            ),
            resource: json!({ "type": "webhook", "id": id }),
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
    .bind(told.iter().map(|new| new.title.as_str()).collect::<Vec<_>>())
    .bind(told.iter().map(|new| new.body.as_str()).collect::<Vec<_>>())
    .bind(told.iter().map(|new| new.resource.clone()).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}
