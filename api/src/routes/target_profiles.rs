//! Whom campaigns look for.

use axum::extract::State;
use serde_json::json;
use shared::{
    db::{campaigns, target_profiles as db},
    domain::target_profile::{NewTargetProfile, TargetProfile},
    engine::target_profiles as engine,
};

use crate::{
    app::App,
    auth::Caller,
    envelope::{Data, List},
    error::{ApiError, Code},
    extract::{Body, CampaignId, NoFilter, PagingParams, Query, TargetProfileId},
};

/// List target profiles
///
/// Whom the campaign looks for, the newest first.
#[utoipa::path(
    get, path = "/campaigns/{id}/target-profiles",
    params(("id" = Uuid, Path, description = "The campaign"), PagingParams),
    responses((status = 200, body = List<TargetProfile>))
)]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    CampaignId(id): CampaignId,
    Query { paging, .. }: Query<NoFilter>,
) -> Result<List<TargetProfile>, ApiError> {
    let mut conn = app.connection().await?;
    campaigns::find(&mut conn, caller.account_id, id)
        .await?
        .ok_or_else(|| ApiError::new(Code::CampaignNotFound))?;
    let rows = db::list(&mut conn, caller.account_id, id, paging.page).await?;
    let total = paging.total(async || db::count(&mut conn, caller.account_id, id).await).await?;
    Ok(paging.list(rows, total))
}

/// Add a target profile
///
/// A kind of contact that `POST /discovery/search-campaign` looks for. A campaign has at most 20.
#[utoipa::path(
    post, path = "/campaigns/{id}/target-profiles", params(("id" = Uuid, Path, description = "The campaign")),
    request_body = NewTargetProfile, responses((status = 201, body = Data<TargetProfile>))
)]
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    CampaignId(id): CampaignId,
    Body(new): Body<NewTargetProfile>,
) -> Result<Data<TargetProfile>, ApiError> {
    ApiError::unless_empty(new.validate())?;
    let mut tx = app.database.begin().await?;
    let profile = engine::create(&mut tx, caller.account_id, id, &new).await?;
    let metadata = json!({"target_profile_id": profile.id, "change": "created"});
    caller.audit(&mut tx, "update_campaign", "campaign", Some(id), metadata).await?;
    tx.commit().await?;
    Ok(Data::created(profile))
}

/// Remove a target profile
#[utoipa::path(
    delete, path = "/campaigns/{id}/target-profiles/{profile_id}",
    params(
        ("id" = Uuid, Path, description = "The campaign"),
        ("profile_id" = Uuid, Path, description = "The target profile")
    ),
    responses((status = 200, body = Data<TargetProfile>))
)]
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    CampaignId(id): CampaignId,
    TargetProfileId(profile_id): TargetProfileId,
) -> Result<Data<TargetProfile>, ApiError> {
    let mut tx = app.database.begin().await?;
    campaigns::lock(&mut tx, caller.account_id, id)
        .await?
        .ok_or_else(|| ApiError::new(Code::CampaignNotFound))?;
    let deleted = db::delete(&mut tx, caller.account_id, id, profile_id).await?;
    let deleted = deleted.ok_or_else(|| ApiError::new(Code::RouteNotFound))?;
    let metadata = json!({"target_profile_id": profile_id, "change": "deleted"});
    caller.audit(&mut tx, "update_campaign", "campaign", Some(id), metadata).await?;
    tx.commit().await?;
    Ok(Data::ok(deleted))
}
