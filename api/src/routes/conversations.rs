//! Conversations.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use shared::{
    db::{contacts, conversations as db, messages},
    domain::{
        Channel,
        contact::Contact,
        conversation::{Conversation, ConversationStatus},
        message::Message,
    },
};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    app::App,
    auth::Caller,
    envelope::{Data, List},
    error::{ApiError, Code},
    extract::{ConversationId, NoFilter, PagingParams, Query},
};

/// Which conversations to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ConversationParams {
    /// Only those of this campaign.
    campaign_id: Option<Uuid>,
    /// Only those with this contact.
    contact_id: Option<Uuid>,
    /// Only those with this status.
    status: Option<ConversationStatus>,
    /// Only those whose last message went over this channel.
    channel: Option<Channel>,
    /// Only those with this text in the contact's name, company or address.
    name: Option<String>,
}

impl From<ConversationParams> for db::ConversationFilter {
    fn from(params: ConversationParams) -> Self {
        let ConversationParams { campaign_id, contact_id, status, channel, name } = params;
        Self { campaign_id, contact_id, status, channel, name }
    }
}

/// A conversation, with whom, and what waits in it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConversationDetails {
    /// The conversation.
    #[serde(flatten)]
    conversation: Conversation,
    /// With whom; null once the contact is deleted.
    contact: Option<Contact>,
    /// The draft that waits for approval, if there is one.
    draft: Option<Message>,
}

/// List conversations
///
/// The newest first.
#[utoipa::path(
    get, path = "/conversations", params(ConversationParams, PagingParams),
    responses((status = 200, body = List<Conversation>))
)]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Query { filter, paging }: Query<ConversationParams>,
) -> Result<List<Conversation>, ApiError> {
    let filter = filter.into();
    let mut conn = app.connection().await?;
    let rows = db::list(&mut conn, caller.account_id, &filter, paging.page).await?;
    let total = paging.total(async || db::count(&mut conn, caller.account_id, &filter).await).await?;
    Ok(paging.list(rows, total))
}

/// Get a conversation
///
/// With its contact, and the draft that waits for approval, if there is one.
#[utoipa::path(
    get, path = "/conversations/{id}", params(("id" = Uuid, Path, description = "The conversation")),
    responses((status = 200, body = Data<ConversationDetails>))
)]
pub async fn get(
    State(app): State<App>,
    caller: Caller,
    ConversationId(id): ConversationId,
) -> Result<Data<ConversationDetails>, ApiError> {
    let mut conn = app.connection().await?;
    let conversation = db::find(&mut conn, caller.account_id, id).await?;
    let conversation = conversation.ok_or_else(|| ApiError::new(Code::ConversationNotFound))?;
    let contact = contacts::find(&mut conn, caller.account_id, conversation.contact_id).await?;
    let draft = messages::find_draft_of_conversation(&mut conn, caller.account_id, id).await?;
    Ok(Data::ok(ConversationDetails { conversation, contact, draft }))
}

/// List the messages of a conversation
///
/// Over all channels in one order, the newest first.
#[utoipa::path(
    get, path = "/conversations/{id}/messages",
    params(("id" = Uuid, Path, description = "The conversation"), PagingParams),
    responses((status = 200, body = List<Message>))
)]
pub async fn messages(
    State(app): State<App>,
    caller: Caller,
    ConversationId(id): ConversationId,
    Query { paging, .. }: Query<NoFilter>,
) -> Result<List<Message>, ApiError> {
    let mut conn = app.connection().await?;
    let conversation = db::find(&mut conn, caller.account_id, id).await?;
    conversation.ok_or_else(|| ApiError::new(Code::ConversationNotFound))?;
    let rows = messages::list_by_conversation(&mut conn, caller.account_id, id, paging.page).await?;
    let total = paging
        .total(async || messages::count_by_conversation(&mut conn, caller.account_id, id).await)
        .await?;
    Ok(paging.list(rows, total))
}
