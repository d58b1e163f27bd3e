//! Campaigns.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response,
        sse::{KeepAlive, Sse},
    },
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::{
    db::campaigns as db,
    domain::{
        FieldError,
        campaign::{Approval, Campaign, CampaignStatus, Progress},
    },
    engine::campaigns as engine,
};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    app::App,
    auth::{Caller, Scope},
    envelope::{Data, List},
    error::{ApiError, Code},
    extract::{Body, CampaignId, PagingParams, Query},
    routes::campaign_bodies::{CreateCampaign, UpdateCampaign},
    streams::{self, Look, Snapshot},
};

/// Which campaigns to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CampaignFilter {
    /// Only those with this status.
    status: Option<CampaignStatus>,
}

/// A campaign, and how far it is.
#[derive(Debug, Serialize, ToSchema)]
pub struct CampaignDetails {
    /// The campaign.
    #[serde(flatten)]
    campaign: Campaign,
    /// How far it is.
    progress: Progress,
}

/// List campaigns
///
/// The newest first; deleted ones are hidden.
#[utoipa::path(
    get, path = "/campaigns", params(CampaignFilter, PagingParams), responses((status = 200, body = List<Campaign>))
)]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Query { filter, paging }: Query<CampaignFilter>,
) -> Result<List<Campaign>, ApiError> {
    let mut conn = app.connection().await?;
    let rows = db::list(&mut conn, caller.account_id, filter.status, paging.page).await?;
    let total = paging.total(async || db::count(&mut conn, caller.account_id, filter.status).await).await?;
    Ok(paging.list(rows, total))
}

/// Create a campaign
///
/// A draft, unless `status` is `active`, which starts it at once.
#[utoipa::path(
    post, path = "/campaigns", request_body = CreateCampaign, responses((status = 201, body = Data<Campaign>))
)]
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Body(body): Body<CreateCampaign>,
) -> Result<Data<Campaign>, ApiError> {
    let new = body.into_new();
    refuse(new.validate())?;
    require_send_for_auto(&caller, Some(new.approval))?;
    let mut tx = app.database.begin().await?;
    let campaign = engine::create(&mut tx, caller.account_id, &new).await?;
    let metadata = json!({"name": campaign.name, "status": campaign.status});
    caller.audit(&mut tx, "create_campaign", "campaign", Some(campaign.id), metadata).await?;
    tx.commit().await?;
    Ok(Data::created(campaign))
}

/// Get a campaign
///
/// With its progress in numbers.
#[utoipa::path(
    get, path = "/campaigns/{id}", params(("id" = Uuid, Path, description = "The campaign")),
    responses((status = 200, body = Data<CampaignDetails>))
)]
pub async fn get(
    State(app): State<App>,
    caller: Caller,
    CampaignId(id): CampaignId,
) -> Result<Data<CampaignDetails>, ApiError> {
    let mut conn = app.connection().await?;
    find_details(&mut conn, caller.account_id, id).await.map(Data::ok)
}

/// Update a campaign
///
/// Fields that are absent stay; null empties those that may be empty. `status` starts (`active`), pauses (`paused`),
/// resumes (`active`) or ends (`completed`) it.
#[utoipa::path(
    patch, path = "/campaigns/{id}", params(("id" = Uuid, Path, description = "The campaign")),
    request_body = UpdateCampaign, responses((status = 200, body = Data<Campaign>))
)]
pub async fn update(
    State(app): State<App>,
    caller: Caller,
    CampaignId(id): CampaignId,
    Body(body): Body<UpdateCampaign>,
) -> Result<Data<Campaign>, ApiError> {
    let patch = body.into_patch();
    ApiError::unless_empty(patch.validate())?;
    require_send_for_auto(&caller, patch.approval)?;
    let mut tx = app.database.begin().await?;
    let campaign = engine::update(&mut tx, caller.account_id, id, &patch).await?;
    let metadata = json!({"name": campaign.name, "status": campaign.status});
    caller.audit(&mut tx, "update_campaign", "campaign", Some(id), metadata).await?;
    tx.commit().await?;
    Ok(Data::ok(campaign))
}

/// Delete a campaign
///
/// Its status becomes `deleted`; what it was still to send is cancelled.
#[utoipa::path(
    delete, path = "/campaigns/{id}", params(("id" = Uuid, Path, description = "The campaign")),
    responses((status = 200, body = Data<Campaign>))
)]
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    CampaignId(id): CampaignId,
) -> Result<Data<Campaign>, ApiError> {
    let mut tx = app.database.begin().await?;
    let campaign = engine::delete(&mut tx, caller.account_id, id).await?;
    caller.audit(&mut tx, "delete_campaign", "campaign", Some(id), json!({"name": campaign.name})).await?;
    tx.commit().await?;
    Ok(Data::ok(campaign))
}

/// Follow a campaign
///
/// Server-sent events named `progress`, each with the campaign's status and numbers, whenever they change. The event's
/// id names its numbers: a client that comes back with `Last-Event-ID` hears again only when they are others. Once the
/// campaign has completed the stream ends, and coming back is answered with 204, which tells browsers to stop.
#[utoipa::path(
    get, path = "/campaigns/{id}/progress",
    params(
        ("id" = Uuid, Path, description = "The campaign"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was received")
    ),
    responses(
        (status = 200, content_type = "text/event-stream", body = String),
        (status = 204, description = "The campaign has completed and the client has its last numbers")
    )
)]
pub async fn progress(
    State(app): State<App>,
    caller: Caller,
    CampaignId(id): CampaignId,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let last_id = headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let account_id = caller.account_id;
    let follow = Follow { app: app.clone(), caller, campaign_id: id };
    let first = follow.look().await?;
    if first.is_last && last_id.as_ref() == Some(&first.id) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let place = app.streams.take(account_id)?;
    let events = streams::changes(app.shutdown, place, last_id, first, follow);
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

/// Follows a campaign's numbers, for as long as the key of who asked works.
struct Follow {
    app: App,
    caller: Caller,
    campaign_id: Uuid,
}

impl Look for Follow {
    const EVENT: &'static str = "progress";

    async fn look(&self) -> Result<Snapshot, ApiError> {
        let mut conn = self.app.connection().await?;
        self.caller.check_still_live(&mut conn).await?;
        let CampaignDetails { campaign, progress } =
            find_details(&mut conn, self.caller.account_id, self.campaign_id).await?;
        let data = json!({"id": campaign.id, "status": campaign.status, "progress": progress});
        Snapshot::new(&data, campaign.status == CampaignStatus::Completed)
    }
}

async fn find_details(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<CampaignDetails, ApiError> {
    let campaign = db::find(conn, account_id, id).await?;
    let campaign = campaign.ok_or_else(|| ApiError::new(Code::CampaignNotFound))?;
    let progress = db::progress(conn, account_id, id).await?;
    Ok(CampaignDetails { campaign, progress })
}

/// A status that no campaign begins with has a code of its own, which wins over what else is wrong.
fn refuse(wrong: Vec<FieldError>) -> Result<(), ApiError> {
    if wrong.iter().any(|error| error.field == "status") {
        return Err(ApiError::new(Code::CampaignTransitionInvalid).with_details(wrong));
    }
    ApiError::unless_empty(wrong)
}

/// Who lets drafts go out unseen approves them all.
fn require_send_for_auto(caller: &Caller, approval: Option<Approval>) -> Result<(), ApiError> {
    if approval == Some(Approval::Auto) { caller.require(Scope::Send) } else { Ok(()) }
}
