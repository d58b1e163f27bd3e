//! Conversations.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use shared::{
    db::{
        analytics, contacts, conversations as db,
        inbound_emails::{self, UnmatchedEmail},
        messages,
    },
    domain::{
        Channel,
        analytics::Engagement,
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
    extract::{ContactId, ConversationId, NoFilter, PagingParams, Query},
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

/// List the conversations with a contact
///
/// Over all campaigns, the newest first.
#[utoipa::path(
    get, path = "/contacts/{id}/conversations",
    params(("id" = Uuid, Path, description = "The contact"), PagingParams),
    responses((status = 200, body = List<Conversation>))
)]
pub async fn of_contact(
    State(app): State<App>,
    caller: Caller,
    ContactId(id): ContactId,
    Query { paging, .. }: Query<NoFilter>,
) -> Result<List<Conversation>, ApiError> {
    let mut conn = app.connection().await?;
    contacts::find(&mut conn, caller.account_id, id)
        .await?
        .ok_or_else(|| ApiError::new(Code::ContactNotFound))?;
    let filter = db::ConversationFilter { contact_id: Some(id), ..db::ConversationFilter::default() };
    let rows = db::list(&mut conn, caller.account_id, &filter, paging.page).await?;
    let total = paging.total(async || db::count(&mut conn, caller.account_id, &filter).await).await?;
    Ok(paging.list(rows, total))
}

/// Mark a conversation as read
///
/// Its `unread_count` becomes 0.
#[utoipa::path(
    post, path = "/conversations/{id}/read", params(("id" = Uuid, Path, description = "The conversation")),
    responses((status = 200, body = Data<Conversation>))
)]
pub async fn mark_read(
    State(app): State<App>,
    caller: Caller,
    ConversationId(id): ConversationId,
) -> Result<Data<Conversation>, ApiError> {
    let mut conn = app.connection().await?;
    let conversation = db::record_read(&mut conn, caller.account_id, id).await?;
    conversation.map(Data::ok).ok_or_else(|| ApiError::new(Code::ConversationNotFound))
}

/// Which conversations to count.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EngagementParams {
    /// Only those of this campaign.
    campaign_id: Option<Uuid>,
}

/// Show how contacts take part
///
/// Conversations in numbers: how many there are, in how many the contact has written, and which wait for an answer.
#[utoipa::path(
    get, path = "/conversations/engagement", params(EngagementParams),
    responses((status = 200, body = Data<Engagement>))
)]
pub async fn engagement(
    State(app): State<App>,
    caller: Caller,
    Query { filter: EngagementParams { campaign_id }, .. }: Query<EngagementParams>,
) -> Result<Data<Engagement>, ApiError> {
    let mut conn = app.connection().await?;
    let counts = analytics::count_conversations(&mut conn, caller.account_id, campaign_id).await?;
    Ok(Data::ok(counts.into()))
}

/// List mail that matched no conversation
///
/// What came to a mailbox and answers nothing that was sent from it, the newest first.
#[utoipa::path(
    get, path = "/conversations/unmatched", params(PagingParams),
    responses((status = 200, body = List<UnmatchedEmail>))
)]
pub async fn unmatched(
    State(app): State<App>,
    caller: Caller,
    Query { paging, .. }: Query<NoFilter>,
) -> Result<List<UnmatchedEmail>, ApiError> {
    let mut conn = app.connection().await?;
    let rows = inbound_emails::list_unmatched(&mut conn, caller.account_id, paging.page).await?;
    let total =
        paging.total(async || inbound_emails::count_unmatched(&mut conn, caller.account_id).await).await?;
    Ok(paging.list(rows, total))
}
