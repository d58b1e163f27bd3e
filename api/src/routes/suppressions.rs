//! What is never written to.

use std::collections::BTreeSet;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use shared::{
    db::suppressions::{self as db, Suppression, SuppressionFilter, SuppressionKind, SuppressionReason},
    domain::field::Checks,
};
use utoipa::{IntoParams, ToSchema};

use crate::{
    app::App,
    auth::Caller,
    envelope::{Data, List},
    error::{ApiError, Code},
    extract::{Body, DETAILS_MAX, PagingParams, Query, SuppressionId},
};

/// The most values of one request.
const VALUES_MAX: usize = 1000;

/// Which suppressions to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SuppressionParams {
    /// Only those of this kind.
    kind: Option<SuppressionKind>,
    /// Only those for this reason.
    reason: Option<SuppressionReason>,
}

/// Values that are never to be written to.
#[derive(Debug, Deserialize, ToSchema)]
pub struct NewSuppressions {
    /// What they are.
    kind: SuppressionKind,
    /// Addresses, domains or handles.
    #[schema(min_items = 1, max_items = 1000, example = json!(["alex@example.com"]))]
    values: Vec<String>,
    /// Why; `manual` when absent. `erased` is not for requests.
    reason: Option<SuppressionReason>,
}

impl NewSuppressions {
    /// The values in their stored form, each once, and the reason.
    fn checked(&self) -> Result<(Vec<String>, SuppressionReason), ApiError> {
        let mut checks = Checks::new();
        checks.require((1..=VALUES_MAX).contains(&self.values.len()), "values", "must have 1 to 1000 items");
        let (mut stored, mut wrong) = (BTreeSet::new(), 0);
        for (index, value) in self.values.iter().enumerate().take(VALUES_MAX) {
            if let Some(value) = self.kind.normalise(value) {
                stored.insert(value);
            } else if wrong < DETAILS_MAX {
                wrong += 1;
                let reason = format!("must be an address of the kind {}", self.kind);
                checks.fail(&format!("values[{index}]"), reason);
            }
        }
        let reason = self.reason.unwrap_or(SuppressionReason::Manual);
        checks.require(
            reason != SuppressionReason::Erased,
            "reason",
            "must not be erased: erase the contact",
        );
        ApiError::unless_empty(checks.finish())?;
        Ok((stored.into_iter().collect(), reason))
    }
}

/// What became of values that are never to be written to.
#[derive(Debug, Serialize, ToSchema)]
pub struct Suppressed {
    /// How many were suppressed before.
    known: usize,
    /// Those that are new.
    added: Vec<Suppression>,
}

/// List suppressions
///
/// Addresses, domains and handles that are never written to, the newest first.
#[utoipa::path(
    get, path = "/suppressions", params(SuppressionParams, PagingParams),
    responses((status = 200, body = List<Suppression>))
)]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Query { filter: SuppressionParams { kind, reason }, paging }: Query<SuppressionParams>,
) -> Result<List<Suppression>, ApiError> {
    let filter = SuppressionFilter { kind, reason };
    let mut conn = app.connection().await?;
    let rows = db::list(&mut conn, caller.account_id, filter, paging.page).await?;
    let total = paging.total(async || db::count(&mut conn, caller.account_id, filter).await).await?;
    Ok(paging.list(rows, total))
}

/// Suppress addresses
///
/// One or many of a kind. What is suppressed already stays as it is; what waits to be sent there is not sent.
#[utoipa::path(
    post, path = "/suppressions", request_body = NewSuppressions,
    responses((status = 201, body = Data<Suppressed>))
)]
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Body(new): Body<NewSuppressions>,
) -> Result<Data<Suppressed>, ApiError> {
    let (values, reason) = new.checked()?;
    let mut conn = app.connection().await?;
    let added = db::insert_many(&mut conn, caller.account_id, new.kind, &values, reason).await?;
    Ok(Data::created(Suppressed { known: values.len() - added.len(), added }))
}

/// Lift a suppression
///
/// The value may be written to again. The status of its contact stays as it is.
#[utoipa::path(
    delete, path = "/suppressions/{id}", params(("id" = uuid::Uuid, Path, description = "The suppression")),
    responses((status = 200, body = Data<Suppression>))
)]
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    SuppressionId(id): SuppressionId,
) -> Result<Data<Suppression>, ApiError> {
    let mut conn = app.connection().await?;
    let deleted = db::delete(&mut conn, caller.account_id, id).await?;
    deleted.map(Data::ok).ok_or_else(|| ApiError::new(Code::RouteNotFound))
}
