//! Secrets of webhook endpoints.

use std::{ops::RangeInclusive, time::Duration};

use axum::extract::State;
use serde::Deserialize;
use serde_json::json;
use shared::{
    db::endpoints as db,
    domain::{
        endpoint::{new_secret, secret_place},
        field::Checks,
    },
};
use utoipa::ToSchema;

use super::webhooks::CreatedWebhook;
use crate::{
    app::App,
    auth::Caller,
    envelope::Data,
    error::{ApiError, Code},
    extract::{Body, WebhookId},
};

/// For how many seconds a replaced secret may still be signed with: up to a week.
const OVERLAPS: RangeInclusive<i64> = 0..=604_800;

/// How to replace a secret.
#[derive(Debug, Deserialize, ToSchema)]
pub struct RotateSecret {
    /// For how many seconds deliveries are signed with the old secret too; with 0 it is dead at once.
    #[schema(minimum = 0, maximum = 604_800, default = 0)]
    overlap_seconds: Option<i64>,
}

impl RotateSecret {
    fn overlap(&self) -> Result<Duration, ApiError> {
        let seconds = self.overlap_seconds.unwrap_or_default();
        let mut checks = Checks::new();
        checks.require(OVERLAPS.contains(&seconds), "overlap_seconds", "must be between 0 and 604800");
        ApiError::unless_empty(checks.finish())?;
        Ok(Duration::from_secs(seconds.unsigned_abs()))
    }
}

/// Replace the secret of a webhook endpoint
///
/// The new secret is returned once, and signs every attempt from now on. During an overlap `Webhook-Signature` has a second
/// signature by the old one, which libraries of Standard Webhooks accept; `X-Iris-Signature` has only the new one's.
#[utoipa::path(
    post, path = "/webhooks/{id}/rotate-secret", params(("id" = Uuid, Path, description = "The endpoint")),
    request_body = Option<RotateSecret>, responses((status = 200, body = Data<CreatedWebhook>))
)]
pub async fn rotate(
    State(app): State<App>,
    caller: Caller,
    WebhookId(id): WebhookId,
    Body(asked): Body<RotateSecret>,
) -> Result<Data<CreatedWebhook>, ApiError> {
    let overlap = asked.overlap()?;
    let secret = new_secret();
    let sealed_secret = app.secret_key.seal(&secret_place(id), &secret)?;
    let mut tx = app.database.begin().await?;
    let endpoint = db::rotate_secret(&mut tx, caller.account_id, id, &sealed_secret, overlap).await?;
    let endpoint = endpoint.ok_or_else(|| ApiError::new(Code::WebhookNotFound))?;
    let metadata = json!({"url": endpoint.url, "secret": "rotated", "overlap_seconds": overlap.as_secs()});
    caller.audit(&mut tx, "update_webhook", "webhook", Some(id), metadata).await?;
    tx.commit().await?;
    Ok(Data::ok(CreatedWebhook { endpoint, secret }))
}
