//! API keys.

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::{
    db::api_keys::{self, ApiKey, Created, NewApiKey},
    domain::field::Checks,
};
use utoipa::ToSchema;

use crate::{
    app::App,
    auth::{Caller, Scope},
    envelope::{Data, List},
    error::{ApiError, Code},
    extract::{Body, KeyId, NoFilter, PagingParams, Query},
};

/// A key to be made.
#[derive(Debug, Deserialize, ToSchema)]
pub struct NewKey {
    /// Its label.
    #[schema(min_length = 1, max_length = 200)]
    name: String,
    /// What it may do: any of `read`, `write`, `generate`, `send`, `admin`; `*` is all of them.
    #[schema(example = json!(["read", "write", "generate", "send"]))]
    scopes: Vec<String>,
    /// When it stops to work; never, unless given.
    expires_at: Option<DateTime<Utc>>,
}

/// What to change of a key.
#[derive(Debug, Deserialize, ToSchema)]
pub struct RenamedKey {
    /// Its label.
    #[schema(min_length = 1, max_length = 200)]
    name: String,
}

/// A new key: the only answer with its raw value.
#[derive(Debug, Serialize, ToSchema)]
pub struct CreatedKey {
    /// The raw key. It cannot be read again.
    #[schema(example = "is_live_...")]
    key: String,
    /// What is known of it later.
    #[serde(flatten)]
    info: ApiKey,
}

impl NewKey {
    fn check(&self, now: DateTime<Utc>) -> Result<(), ApiError> {
        let mut checks = Checks::new();
        checks.text("name", &self.name, 1, 200);
        checks.require(!self.scopes.is_empty(), "scopes", "must name at least one scope");
        checks.require(self.scopes.len() <= Scope::NAMES.len(), "scopes", "must name each scope once");
        for (index, scope) in self.scopes.iter().enumerate().take(Scope::NAMES.len()) {
            let known = Scope::NAMES.contains(&scope.as_str());
            checks.require(
                known,
                &format!("scopes[{index}]"),
                "must be read, write, generate, send, admin or *",
            );
        }
        checks.require(self.expires_at.is_none_or(|at| at > now), "expires_at", "must be in the future");
        ApiError::unless_empty(checks.finish())
    }
}

/// Describe the calling key
///
/// Works with every live key, whatever its scopes.
#[utoipa::path(get, path = "/keys/me", responses((status = 200, body = Data<ApiKey>)))]
pub async fn me(caller: Caller) -> Data<ApiKey> {
    Data::ok(caller.key.as_ref().clone())
}

/// List keys
///
/// The keys of the account that are not revoked, never with their raw values.
#[utoipa::path(get, path = "/keys", params(PagingParams), responses((status = 200, body = List<ApiKey>)))]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Query { paging, .. }: Query<NoFilter>,
) -> Result<List<ApiKey>, ApiError> {
    let mut conn = app.connection().await?;
    let rows = api_keys::list(&mut conn, caller.account_id, paging.page).await?;
    let total = paging.total(async || api_keys::count(&mut conn, caller.account_id).await).await?;
    Ok(paging.list(rows, total))
}

/// Create a key
///
/// The raw key is returned once and cannot be read again.
#[utoipa::path(post, path = "/keys", request_body = NewKey, responses((status = 201, body = Data<CreatedKey>)))]
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Body(new): Body<NewKey>,
) -> Result<Data<CreatedKey>, ApiError> {
    new.check(app.clock.now())?;
    let mut tx = app.database.begin().await?;
    let new = NewApiKey { name: &new.name, scopes: &new.scopes, expires_at: new.expires_at };
    let Created::Key(info, key) = api_keys::create(&mut tx, caller.account_id, &new).await? else {
        return Err(ApiError::new(Code::KeyLimitReached));
    };
    let metadata = json!({"name": info.name, "scopes": info.scopes});
    caller.audit(&mut tx, "create_key", "api_key", Some(info.id), metadata).await?;
    tx.commit().await?;
    Ok(Data::created(CreatedKey { key, info }))
}

/// Revoke a key
///
/// It stops to work at once, and for good.
#[utoipa::path(
    delete, path = "/keys/{id}", params(("id" = Uuid, Path, description = "The key")),
    responses((status = 200, body = Data<ApiKey>))
)]
pub async fn revoke(
    State(app): State<App>,
    caller: Caller,
    KeyId(id): KeyId,
) -> Result<Data<ApiKey>, ApiError> {
    let mut tx = app.database.begin().await?;
    let key = api_keys::revoke(&mut tx, caller.account_id, id).await?;
    let key = key.ok_or_else(|| ApiError::new(Code::KeyNotFound))?;
    caller.audit(&mut tx, "revoke_key", "api_key", Some(id), json!({"name": key.name})).await?;
    tx.commit().await?;
    Ok(Data::ok(key))
}

/// Rename a key
///
/// Only its label changes.
#[utoipa::path(
    patch, path = "/keys/{id}", params(("id" = Uuid, Path, description = "The key")), request_body = RenamedKey,
    responses((status = 200, body = Data<ApiKey>))
)]
pub async fn rename(
    State(app): State<App>,
    caller: Caller,
    KeyId(id): KeyId,
    Body(RenamedKey { name }): Body<RenamedKey>,
) -> Result<Data<ApiKey>, ApiError> {
    let mut checks = Checks::new();
    checks.text("name", &name, 1, 200);
    ApiError::unless_empty(checks.finish())?;
    let mut conn = app.connection().await?;
    let key = api_keys::rename(&mut conn, caller.account_id, id, &name).await?;
    key.map(Data::ok).ok_or_else(|| ApiError::new(Code::KeyNotFound))
}

/// Rotate a key
///
/// The key stops to work at once, and a new one with its name, scopes and end takes its place. The raw key is returned once
/// and cannot be read again. A key cannot rotate itself.
#[utoipa::path(
    post, path = "/keys/{id}/rotate", params(("id" = Uuid, Path, description = "The key")),
    responses((status = 201, body = Data<CreatedKey>))
)]
pub async fn rotate(
    State(app): State<App>,
    caller: Caller,
    KeyId(id): KeyId,
) -> Result<Data<CreatedKey>, ApiError> {
    if caller.key.id == id {
        return Err(ApiError::new(Code::Conflict).saying("a key cannot rotate itself: use another one"));
    }
    let mut tx = app.database.begin().await?;
    let rotated = api_keys::rotate(&mut tx, caller.account_id, id).await?;
    let (info, key) = rotated.ok_or_else(|| ApiError::new(Code::KeyNotFound))?;
    if info.expires_at.is_some_and(|at| at <= app.clock.now()) {
        return Err(ApiError::new(Code::Conflict).saying("the key has expired: create another one"));
    }
    let metadata = json!({"name": info.name, "scopes": info.scopes, "rotated": id});
    caller.audit(&mut tx, "create_key", "api_key", Some(info.id), metadata).await?;
    caller.audit(&mut tx, "revoke_key", "api_key", Some(id), json!({"name": info.name})).await?;
    tx.commit().await?;
    Ok(Data::created(CreatedKey { key, info }))
}
