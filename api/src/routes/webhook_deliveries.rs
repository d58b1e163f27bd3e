//! Deliveries that are made again: one, or all of a time.

use std::time::Duration;

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use shared::{
    config::given_up_at,
    db::{
        endpoints,
        redeliveries::{self, Redelivered},
        replays::{self, NewReplay},
    },
    domain::{delivery::Delivery, field::Checks, replay::Replay},
    ids::new_id,
};
use utoipa::ToSchema;

use super::webhooks::parse_events;
use crate::{
    app::App,
    auth::Caller,
    envelope::Data,
    error::{ApiError, Code},
    extract::{Body, DeliveryId, ReplayId, WebhookId},
};

/// What a disabled endpoint's owner is told.
const DISABLED: &str = "the webhook is disabled";

/// Which events to deliver again.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ReplayWebhook {
    /// Events that happened from this time on.
    since: DateTime<Utc>,
    /// Up to this time; until now, unless given.
    until: Option<DateTime<Utc>>,
    /// Of these types; of those that the endpoint hears of, unless given.
    #[schema(min_items = 1, max_items = 16, example = json!(["message.sent"]))]
    events: Option<Vec<String>>,
    /// Only those whose last delivery to the endpoint is exhausted or cancelled.
    #[serde(default)]
    failed_only: bool,
}

impl ReplayWebhook {
    /// The types it names, if it names any.
    fn check(&self, now: DateTime<Utc>, age_max: Duration) -> Result<Option<Vec<String>>, ApiError> {
        let mut checks = Checks::new();
        checks.require(self.since <= now, "since", "must not be in the future");
        if (now - self.since).to_std().is_ok_and(|age| age > age_max) {
            let hours = age_max.as_secs() / 3600;
            checks.fail("since", format!("must be within the last {hours} hours, for what is older goes"));
        }
        checks.require(self.until.is_none_or(|until| until > self.since), "until", "must be after since");
        let mut wrong = checks.finish();
        let events = self.events.as_ref().map(|names| parse_events(names, &mut wrong));
        ApiError::unless_empty(wrong)?;
        Ok(events.map(|events| events.iter().map(|kind| kind.as_str().to_owned()).collect()))
    }
}

/// How old what is delivered again may be: what is older is about to be given up with its history.
fn age_max(app: &App) -> Duration {
    given_up_at(app.history_keep)
}

/// Make a delivery again
///
/// One that was never acknowledged is made again under its own id: at once, and with all its retries ahead of it. If it was
/// waiting for its next attempt, that is made now, and the retries go on as they were. Of an acknowledged one the event is
/// delivered once more, under a new id; the answer is that new delivery.
#[utoipa::path(
    post, path = "/webhooks/{id}/deliveries/{delivery_id}/redeliver",
    params(("id" = Uuid, Path, description = "The endpoint"), ("delivery_id" = Uuid, Path, description = "The delivery")),
    responses((status = 200, body = Data<Delivery>))
)]
pub async fn redeliver(
    State(app): State<App>,
    caller: Caller,
    WebhookId(id): WebhookId,
    DeliveryId(delivery_id): DeliveryId,
) -> Result<Data<Delivery>, ApiError> {
    let mut tx = app.database.begin().await?;
    match redeliveries::redeliver(&mut tx, caller.account_id, id, delivery_id, age_max(&app)).await? {
        Redelivered::Delivery(delivery) => {
            tx.commit().await?;
            Ok(Data::ok(*delivery))
        }
        Redelivered::EndpointNotFound => Err(ApiError::new(Code::WebhookNotFound)),
        Redelivered::DeliveryNotFound => Err(ApiError::new(Code::DeliveryNotFound)),
        Redelivered::EndpointDisabled => Err(ApiError::new(Code::Conflict).saying(DISABLED)),
        Redelivered::EventGone => {
            Err(ApiError::new(Code::Conflict).saying("the event is older than what is kept"))
        }
    }
}

/// Replay events to a webhook endpoint
///
/// A job goes through the events of a time and delivers them once more, behind what waits already. What was never
/// acknowledged is made again under its own id, what was acknowledged under a new one, what was never made for this endpoint
/// is made, and what waits is left alone. Poll the replay to see how far it is. An endpoint has one at a time.
#[utoipa::path(
    post, path = "/webhooks/{id}/replay", params(("id" = Uuid, Path, description = "The endpoint")),
    request_body = ReplayWebhook, responses((status = 202, body = Data<Replay>))
)]
pub async fn replay(
    State(app): State<App>,
    caller: Caller,
    WebhookId(id): WebhookId,
    Body(asked): Body<ReplayWebhook>,
) -> Result<Data<Replay>, ApiError> {
    let events = asked.check(app.clock.now(), age_max(&app))?;
    let mut tx = app.database.begin().await?;
    let endpoint = endpoints::find(&mut tx, caller.account_id, id).await?;
    let endpoint = endpoint.ok_or_else(|| ApiError::new(Code::WebhookNotFound))?;
    if !endpoint.enabled {
        return Err(ApiError::new(Code::Conflict).saying(DISABLED));
    }
    let new = NewReplay {
        id: new_id(),
        endpoint_id: id,
        since: asked.since,
        until: asked.until,
        events: &events.unwrap_or(endpoint.events),
        failed_only: asked.failed_only,
    };
    let replay = replays::create(&mut tx, caller.account_id, &new).await?;
    let busy = || ApiError::new(Code::Conflict).saying("another replay of the webhook has not ended");
    let replay = replay.ok_or_else(busy)?;
    tx.commit().await?;
    Ok(Data::accepted(replay))
}

/// Get a replay
///
/// How far it is, also once its endpoint is deleted.
#[utoipa::path(
    get, path = "/webhooks/{id}/replay/{replay_id}",
    params(("id" = Uuid, Path, description = "The endpoint"), ("replay_id" = Uuid, Path, description = "The replay")),
    responses((status = 200, body = Data<Replay>))
)]
pub async fn get_replay(
    State(app): State<App>,
    caller: Caller,
    WebhookId(id): WebhookId,
    ReplayId(replay_id): ReplayId,
) -> Result<Data<Replay>, ApiError> {
    let mut conn = app.connection().await?;
    let replay = replays::find(&mut conn, caller.account_id, id, replay_id).await?;
    replay.map(Data::ok).ok_or_else(|| ApiError::new(Code::ReplayNotFound))
}
