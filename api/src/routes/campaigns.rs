//! Campaigns.

use std::collections::HashMap;

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
    db::{campaigns as db, channel_accounts, contacts as contacts_db, enrolments, page::Rows},
    domain::{
        FieldError,
        campaign::{Approval, Campaign, CampaignStatus, Progress},
        contact::Contact,
        enrolment::{Enrolment, EnrolmentStatus},
        preflight::Preflight,
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

/// A contact in a campaign, and where it stands there.
#[derive(Debug, Serialize, ToSchema)]
pub struct EnrolledContact {
    /// The contact.
    #[serde(flatten)]
    contact: Contact,
    /// Its passage through the campaign.
    enrolment: Enrolment,
}

/// Which contacts of a campaign to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EnrolmentFilter {
    /// Only those whose passage stands there.
    status: Option<EnrolmentStatus>,
}

/// List the contacts of a campaign
///
/// Each with where it stands, the newest contact first; deleted ones are hidden.
#[utoipa::path(
    get, path = "/campaigns/{id}/contacts",
    params(("id" = Uuid, Path, description = "The campaign"), EnrolmentFilter, PagingParams),
    responses((status = 200, body = List<EnrolledContact>))
)]
pub async fn contacts(
    State(app): State<App>,
    caller: Caller,
    CampaignId(id): CampaignId,
    Query { filter: EnrolmentFilter { status }, paging }: Query<EnrolmentFilter>,
) -> Result<List<EnrolledContact>, ApiError> {
    let account_id = caller.account_id;
    let mut conn = app.connection().await?;
    db::find(&mut conn, account_id, id).await?.ok_or_else(|| ApiError::new(Code::CampaignNotFound))?;
    let Rows { rows, next } =
        enrolments::list_by_campaign(&mut conn, account_id, id, status, paging.page).await?;
    let total =
        paging.total(async || enrolments::count_by_campaign(&mut conn, account_id, id, status).await).await?;
    let ids: Vec<Uuid> = rows.iter().map(|enrolment| enrolment.contact_id).collect();
    let found = contacts_db::get_many(&mut conn, account_id, &ids).await?;
    let mut found: HashMap<Uuid, Contact> = found.into_iter().map(|contact| (contact.id, contact)).collect();
    // One that was deleted between the two looks is left out.
    let enrolled = rows.into_iter().filter_map(|enrolment| {
        let contact = found.remove(&enrolment.contact_id)?;
        Some(EnrolledContact { contact, enrolment })
    });
    Ok(paging.list(Rows { rows: enrolled.collect(), next }, total))
}

/// Check a campaign before it starts
///
/// What would stop or spoil it, the worst first. Nothing changes.
#[utoipa::path(
    get, path = "/campaigns/{id}/preflight", params(("id" = Uuid, Path, description = "The campaign")),
    responses((status = 200, body = Data<Preflight>))
)]
pub async fn preflight(
    State(app): State<App>,
    caller: Caller,
    CampaignId(id): CampaignId,
) -> Result<Data<Preflight>, ApiError> {
    let account_id = caller.account_id;
    let mut conn = app.connection().await?;
    let campaign = db::find(&mut conn, account_id, id).await?;
    let campaign = campaign.ok_or_else(|| ApiError::new(Code::CampaignNotFound))?;
    let accounts = channel_accounts::list(&mut conn, account_id).await?;
    let channels = Preflight::channels(&campaign, &accounts);
    let reach = enrolments::count_reach(&mut conn, account_id, id, &channels).await?;
    Ok(Data::ok(Preflight::of(&campaign, reach, &accounts)))
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
