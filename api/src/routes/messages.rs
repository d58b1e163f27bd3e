//! Messages: what waits for approval, and the decision.

use std::collections::BTreeSet;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::{
    db::messages as db,
    domain::{
        field::Checks,
        message::{Message, validate_text},
    },
    engine::{EngineError, messages as engine},
};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    app::App,
    auth::Caller,
    envelope::{Data, List},
    error::ApiError,
    extract::{Body, MessageId, PagingParams, Query},
};

/// The most messages of one bulk decision.
const BULK_IDS_MAX: usize = 500;
/// The longest reason of a rejection in characters.
const REASON_CHARS_MAX: usize = 1000;

/// Which drafts to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PendingFilter {
    /// Only those of this campaign.
    campaign_id: Option<Uuid>,
}

/// Changes to a draft on its approval.
#[derive(Debug, Deserialize, ToSchema)]
pub struct Approve {
    /// Another subject.
    #[schema(max_length = 900)]
    subject: Option<String>,
    /// Another text.
    #[schema(min_length = 1)]
    content: Option<String>,
}

/// Why a draft is rejected.
#[derive(Debug, Deserialize, ToSchema)]
pub struct Reject {
    /// The reason, for its owner.
    #[schema(max_length = 1000)]
    reason: Option<String>,
}

/// A decision about many drafts.
#[derive(Debug, Deserialize, ToSchema)]
pub struct BulkDecision {
    /// The decision.
    action: BulkAction,
    /// The drafts.
    #[schema(min_items = 1, max_items = 500)]
    ids: Vec<Uuid>,
    /// Why they are rejected.
    #[schema(max_length = 1000)]
    reason: Option<String>,
}

/// A decision about many drafts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BulkAction {
    /// They go out.
    Approve,
    /// They never do.
    Reject,
}

/// What became of many drafts.
#[derive(Debug, Serialize, ToSchema)]
pub struct BulkOutcome {
    /// How many were decided.
    succeeded: usize,
    /// How many could not be.
    failed: usize,
    /// Each of them, in the order of the request.
    results: Vec<BulkResult>,
}

/// What became of one of many drafts.
#[derive(Debug, Serialize, ToSchema)]
pub struct BulkResult {
    /// The draft.
    id: Uuid,
    /// Whether it was decided.
    success: bool,
    /// What is it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "approved")]
    status: Option<&'static str>,
    /// Why it could not be decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<BulkError>,
}

/// Why one of many drafts could not be decided.
#[derive(Debug, Serialize, ToSchema)]
pub struct BulkError {
    /// A stable code.
    code: &'static str,
    /// One sentence for a person.
    message: String,
}

/// List drafts
///
/// Those that wait for approval, the newest first.
#[utoipa::path(
    get, path = "/messages/pending", params(PendingFilter, PagingParams),
    responses((status = 200, body = List<Message>))
)]
pub async fn pending(
    State(app): State<App>,
    caller: Caller,
    Query { filter, paging }: Query<PendingFilter>,
) -> Result<List<Message>, ApiError> {
    let mut conn = app.connection().await?;
    let rows = db::list_pending(&mut conn, caller.account_id, filter.campaign_id, paging.page).await?;
    let total = paging
        .total(async || db::count_pending(&mut conn, caller.account_id, filter.campaign_id).await)
        .await?;
    Ok(paging.list(rows, total))
}

/// Approve a draft
///
/// Optionally with edits. It is sent as soon as its step is due and its campaign's window and cap allow it.
#[utoipa::path(
    post, path = "/messages/{id}/approve", params(("id" = Uuid, Path, description = "The message")),
    request_body = Option<Approve>, responses((status = 200, body = Data<Message>))
)]
pub async fn approve(
    State(app): State<App>,
    caller: Caller,
    MessageId(id): MessageId,
    Body(Approve { subject, content }): Body<Approve>,
) -> Result<Data<Message>, ApiError> {
    ApiError::unless_empty(validate_text(subject.as_deref(), content.as_deref()))?;
    let metadata = json!({"edited": subject.is_some() || content.is_some()});
    let mut tx = app.database.begin().await?;
    let edits = engine::Edits { subject, content };
    let message = engine::approve(&mut tx, caller.account_id, id, &edits).await?;
    caller.audit(&mut tx, "approve_message", "message", Some(id), metadata).await?;
    tx.commit().await?;
    Ok(Data::ok(message))
}

/// Reject a draft
///
/// It is never sent; its step is skipped.
#[utoipa::path(
    post, path = "/messages/{id}/reject", params(("id" = Uuid, Path, description = "The message")),
    request_body = Option<Reject>, responses((status = 200, body = Data<Message>))
)]
pub async fn reject(
    State(app): State<App>,
    caller: Caller,
    MessageId(id): MessageId,
    Body(Reject { reason }): Body<Reject>,
) -> Result<Data<Message>, ApiError> {
    let mut checks = Checks::new();
    checks.optional_text("reason", reason.as_deref(), REASON_CHARS_MAX);
    ApiError::unless_empty(checks.finish())?;
    let mut tx = app.database.begin().await?;
    let message = engine::reject(&mut tx, &app.clock, caller.account_id, id, reason.as_deref()).await?;
    caller.audit(&mut tx, "reject_message", "message", Some(id), json!({"reason": reason})).await?;
    tx.commit().await?;
    Ok(Data::ok(message))
}

/// Approve or reject many drafts
///
/// Up to 500 at once, together; one that cannot be decided does not keep the others from it.
#[utoipa::path(
    post, path = "/messages/bulk", request_body = BulkDecision, responses((status = 200, body = Data<BulkOutcome>))
)]
pub async fn bulk(
    State(app): State<App>,
    caller: Caller,
    Body(decision): Body<BulkDecision>,
) -> Result<Data<BulkOutcome>, ApiError> {
    decision.check()?;
    let BulkDecision { action, ids, reason } = decision;
    let mut tx = app.database.begin().await?;
    let (results, audited) = match action {
        BulkAction::Approve => {
            (engine::approve_many(&mut tx, caller.account_id, &ids).await?, "approve_message")
        }
        BulkAction::Reject => {
            let reason = reason.as_deref();
            let account_id = caller.account_id;
            (engine::reject_many(&mut tx, &app.clock, account_id, &ids, reason).await?, "reject_message")
        }
    };
    let outcome = BulkOutcome::new(results)?;
    let decided: Vec<Uuid> =
        outcome.results.iter().filter(|result| result.success).map(|result| result.id).collect();
    caller.audit(&mut tx, audited, "message", None, json!({"ids": decided, "reason": reason})).await?;
    tx.commit().await?;
    Ok(Data::ok(outcome))
}

impl BulkDecision {
    fn check(&self) -> Result<(), ApiError> {
        let mut checks = Checks::new();
        checks.require((1..=BULK_IDS_MAX).contains(&self.ids.len()), "ids", "must have 1 to 500 ids");
        let distinct: BTreeSet<_> = self.ids.iter().collect();
        checks.require(distinct.len() == self.ids.len(), "ids", "must not repeat an id");
        checks.optional_text("reason", self.reason.as_deref(), REASON_CHARS_MAX);
        ApiError::unless_empty(checks.finish())
    }
}

impl BulkOutcome {
    /// Fails as a whole when one failed by no fault of its own.
    fn new(decided: Vec<(Uuid, Result<Message, EngineError>)>) -> Result<Self, ApiError> {
        let mut results = Vec::with_capacity(decided.len());
        for (id, outcome) in decided {
            results.push(match outcome.map_err(ApiError::from) {
                Ok(message) => {
                    BulkResult { id, success: true, status: Some(message.status.as_str()), error: None }
                }
                Err(error) if error.code().status() >= 500 => return Err(error),
                Err(error) => {
                    let info = BulkError { code: error.code().as_str(), message: error.message().to_owned() };
                    BulkResult { id, success: false, status: None, error: Some(info) }
                }
            });
        }
        let succeeded = results.iter().filter(|result| result.success).count();
        Ok(Self { succeeded, failed: results.len() - succeeded, results })
    }
}
