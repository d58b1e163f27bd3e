//! Channels: which there are, and sending through one.

use std::time::Duration;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shared::{
    db::{channel_accounts, messages},
    domain::{
        Channel,
        channel::{ChannelAccount, ChannelAccountStatus},
        field::Checks,
        message::{Message, MessageStatus, validate_text},
    },
    engine::messages as engine,
};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    app::App,
    auth::Caller,
    envelope::{Data, List},
    error::ApiError,
    extract::{Body, NoFilter, PagingParams, Query},
    operation::Deadline,
    wait,
};

/// How long a direct send may keep its caller waiting for the channel's answer.
const SEND_DEADLINE: Duration = Duration::from_secs(10);
/// The largest variables of a direct send in bytes as JSON.
const VARIABLES_BYTES_MAX: usize = 16 * 1024;

/// Which channels can be used.
#[derive(Debug, Serialize, ToSchema)]
pub struct Availability {
    /// Mail: always.
    email: ChannelAvailability,
    /// Instagram direct messages: once a profile is connected.
    instagram: ChannelAvailability,
    /// Twitter (X) direct messages: once a profile is connected.
    twitter: ChannelAvailability,
}

/// Whether a channel can be used.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChannelAvailability {
    /// Whether messages can be written on it.
    available: bool,
    /// How many of the account's mailboxes or profiles can send on it.
    connected_accounts: usize,
}

/// A message to be sent at once.
#[derive(Debug, Deserialize, ToSchema)]
pub struct DirectMessage {
    /// How it travels.
    channel: Channel,
    /// The conversation it belongs to.
    conversation_id: Uuid,
    /// The contact of that conversation.
    recipient_id: Uuid,
    /// Its subject, with `{{variables}}`; for email only.
    #[schema(max_length = 900, example = "quick question about djing at {{venue}}")]
    subject: Option<String>,
    /// Its text, with `{{variables}}`.
    #[schema(min_length = 1, example = "hi {{first_name}}, ...")]
    content: String,
    /// What fills the variables; before the contact's and the campaign's fields.
    #[schema(value_type = Option<std::collections::HashMap<String, String>>)]
    variables: Option<Map<String, Value>>,
}

/// List connected accounts
///
/// The mailboxes and profiles of the account, the newest first, never their secrets.
#[utoipa::path(
    get, path = "/channels/accounts", params(PagingParams), responses((status = 200, body = List<ChannelAccount>))
)]
pub async fn accounts(
    State(app): State<App>,
    caller: Caller,
    Query { paging, .. }: Query<NoFilter>,
) -> Result<List<ChannelAccount>, ApiError> {
    let mut conn = app.connection().await?;
    let rows = channel_accounts::list_page(&mut conn, caller.account_id, paging.page).await?;
    let total = paging.total(async || channel_accounts::count(&mut conn, caller.account_id).await).await?;
    Ok(paging.list(rows, total))
}

/// Show which channels can be used
///
/// Email always can; instagram and twitter once an account is connected.
#[utoipa::path(
    get, path = "/channels/availability", responses((status = 200, body = Data<Availability>))
)]
pub async fn availability(State(app): State<App>, caller: Caller) -> Result<Data<Availability>, ApiError> {
    let mut conn = app.connection().await?;
    let accounts = channel_accounts::list(&mut conn, caller.account_id).await?;
    let of = |channel| ChannelAvailability::of(channel, &accounts);
    Ok(Data::ok(Availability {
        email: of(Channel::Email),
        instagram: of(Channel::Instagram),
        twitter: of(Channel::Twitter),
    }))
}

impl ChannelAvailability {
    fn of(channel: Channel, accounts: &[ChannelAccount]) -> Self {
        let connected = |account: &&ChannelAccount| {
            account.channel == channel && account.status == ChannelAccountStatus::Connected
        };
        let connected_accounts = accounts.iter().filter(connected).count();
        Self { available: channel == Channel::Email || connected_accounts > 0, connected_accounts }
    }
}

/// Send a message
///
/// Into a conversation that exists already; activating a campaign creates them. No approval is needed. Answers with the
/// message once the channel has taken or refused it, or as it is after ten seconds: a 201 says that it is stored, so
/// that asking again makes another one.
#[utoipa::path(
    post, path = "/channels/send", request_body = DirectMessage, responses((status = 201, body = Data<Message>))
)]
pub async fn send(
    State(app): State<App>,
    caller: Caller,
    deadline: Deadline,
    Body(direct): Body<DirectMessage>,
) -> Result<Data<Message>, ApiError> {
    let send = direct.into_send()?;
    let metadata = json!({"channel": send.channel, "conversation_id": send.conversation_id});
    let mut tx = app.database.begin().await?;
    let message = engine::send_direct(&mut tx, caller.account_id, &send).await?;
    caller.audit(&mut tx, "send_channel_message", "message", Some(message.id), metadata).await?;
    tx.commit().await?;
    // From here on nothing fails: a client that is told to try again sends a second message.
    let end = deadline.wait_end(SEND_DEADLINE);
    let look = || find_settled(&app, caller.account_id, message.id);
    let settled = wait::until(&app.shutdown, end, look).await;
    Ok(Data::created(settled.unwrap_or(message)))
}

impl DirectMessage {
    fn into_send(self) -> Result<engine::DirectSend, ApiError> {
        let variables = Value::Object(self.variables.unwrap_or_default());
        let mut checks = Checks::new();
        checks.object("variables", &variables, VARIABLES_BYTES_MAX);
        let mut wrong = validate_text(self.subject.as_deref(), Some(&self.content));
        wrong.extend(checks.finish());
        ApiError::unless_empty(wrong)?;
        Ok(engine::DirectSend {
            channel: self.channel,
            conversation_id: self.conversation_id,
            recipient_id: self.recipient_id,
            subject: self.subject,
            content: self.content,
            variables,
        })
    }
}

/// The message, once its channel has said what it thinks of it, or it waits for something else.
async fn find_settled(app: &App, account_id: Uuid, id: Uuid) -> Result<Option<Message>, sqlx::Error> {
    let mut conn = app.connection().await?;
    let message = messages::find(&mut conn, account_id, id).await?;
    Ok(message.filter(|message| {
        let under_way = matches!(message.status, MessageStatus::Approved | MessageStatus::Sending);
        !under_way || message.blocked_reason.is_some() || message.next_attempt_at.is_some()
    }))
}
