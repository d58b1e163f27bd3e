//! What the account is told of.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use shared::db::notifications::{self as db, Notification};
use utoipa::{IntoParams, ToSchema};

use crate::{
    app::App,
    auth::Caller,
    envelope::{Data, List},
    error::{ApiError, Code},
    extract::{Body, NotificationId, PagingParams, Query},
};

/// Which notifications to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct NotificationParams {
    /// Only those that were read, or only those that were not.
    read: Option<bool>,
}

/// What to change of a notification.
#[derive(Debug, Deserialize, ToSchema)]
pub struct UpdateNotification {
    /// Whether it was read.
    read: bool,
}

/// How many notifications were marked as read.
#[derive(Debug, Serialize, ToSchema)]
pub struct AllRead {
    /// Those that were not before.
    updated: u64,
}

/// List notifications
///
/// The newest first.
#[utoipa::path(
    get, path = "/notifications", params(NotificationParams, PagingParams),
    responses((status = 200, body = List<Notification>))
)]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Query { filter: NotificationParams { read }, paging }: Query<NotificationParams>,
) -> Result<List<Notification>, ApiError> {
    let mut conn = app.connection().await?;
    let rows = db::list(&mut conn, caller.account_id, read, paging.page).await?;
    let total = paging.total(async || db::count(&mut conn, caller.account_id, read).await).await?;
    Ok(paging.list(rows, total))
}

/// Update a notification
///
/// Marks it as read, or as not read.
#[utoipa::path(
    patch, path = "/notifications/{id}", params(("id" = uuid::Uuid, Path, description = "The notification")),
    request_body = UpdateNotification, responses((status = 200, body = Data<Notification>))
)]
pub async fn update(
    State(app): State<App>,
    caller: Caller,
    NotificationId(id): NotificationId,
    Body(UpdateNotification { read }): Body<UpdateNotification>,
) -> Result<Data<Notification>, ApiError> {
    let mut conn = app.connection().await?;
    let notification = db::record_read(&mut conn, caller.account_id, id, read).await?;
    notification.map(Data::ok).ok_or_else(|| ApiError::new(Code::RouteNotFound))
}

/// Delete a notification
#[utoipa::path(
    delete, path = "/notifications/{id}", params(("id" = uuid::Uuid, Path, description = "The notification")),
    responses((status = 200, body = Data<Notification>))
)]
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    NotificationId(id): NotificationId,
) -> Result<Data<Notification>, ApiError> {
    let mut conn = app.connection().await?;
    let notification = db::delete(&mut conn, caller.account_id, id).await?;
    notification.map(Data::ok).ok_or_else(|| ApiError::new(Code::RouteNotFound))
}

/// Mark all notifications as read
#[utoipa::path(post, path = "/notifications/read-all", responses((status = 200, body = Data<AllRead>)))]
pub async fn read_all(State(app): State<App>, caller: Caller) -> Result<Data<AllRead>, ApiError> {
    let mut conn = app.connection().await?;
    let updated = db::record_all_read(&mut conn, caller.account_id).await?;
    Ok(Data::ok(AllRead { updated }))
}
