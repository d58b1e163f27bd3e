//! What accounts are told of.

use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

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
