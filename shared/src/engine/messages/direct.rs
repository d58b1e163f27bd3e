//! Messages that a person sends into a conversation.

use serde_json::Value;
use uuid::Uuid;

use super::{check_whole, one_line, send_job};
use crate::{
    Tx,
    db::{self, messages::NewMessage},
    domain::{
        Channel,
        campaign::Campaign,
        channel::{ChannelAccount, ChannelAccountStatus},
        contact::{Contact, ContactStatus},
        conversation::Conversation,
        field::Checks,
        message::{self, BlockedReason, Direction, Message, MessageStatus},
        template,
    },
    engine::EngineError,
    ids::new_id,
};

/// A message that a person sends into a conversation; the scope of the call is the approval.
#[derive(Debug, Clone, PartialEq)]
pub struct DirectSend {
    /// How it travels.
    pub channel: Channel,
    /// Where it belongs.
    pub conversation_id: Uuid,
    /// The conversation's contact.
    pub recipient_id: Uuid,
    /// The subject; for email the last one of the conversation when absent.
    pub subject: Option<String>,
    /// The text.
    pub content: String,
    /// What fills `{{name}}` in both; an object.
    pub variables: Value,
}

/// The longest `variables` of a direct send, in bytes as JSON.
const VARIABLES_BYTES_MAX: usize = 16 * 1024;

/// Writes and enqueues a direct send. To a contact that is not to be written to it is stored as `cancelled` with
/// `blocked_reason: suppressed`, and nothing is enqueued.
pub async fn send_direct(tx: &mut Tx, account_id: Uuid, send: &DirectSend) -> Result<Message, EngineError> {
    let (conversation, campaign, contact) = find_parties(tx, account_id, send).await?;
    let (subject, content) = render_direct(tx, send, &conversation, &campaign, &contact).await?;
    let mailbox = choose_mailbox(tx, account_id, send.channel, &conversation).await?;
    let suppressed = contact.status == ContactStatus::Unsubscribed
        || match &contact.email {
            Some(email) if send.channel == Channel::Email => {
                let email = std::slice::from_ref(email);
                !db::contacts::suppressed_emails(tx, account_id, email).await?.is_empty()
            }
            _ => false,
        };
    let id = new_id();
    let rfc_message_id = message::rfc_message_id(id, &mailbox);
    let new = NewMessage {
        account_id,
        id,
        conversation_id: conversation.id,
        campaign_id: conversation.campaign_id,
        contact_id: contact.id,
        enrolment_id: None,
        step: None,
        direction: Direction::Outbound,
        channel: send.channel,
        channel_account_id: Some(mailbox.id),
        status: if suppressed { MessageStatus::Cancelled } else { MessageStatus::Approved },
        subject: subject.as_deref(),
        content: &content,
        variables: &send.variables,
        rfc_message_id: rfc_message_id.as_deref(),
        in_reply_to: None,
        order_number: None,
        blocked_reason: suppressed.then_some(BlockedReason::Suppressed),
        due_at: None,
        model: None,
        intent: None,
        sentiment: None,
    };
    let message = db::messages::insert(tx, &new).await?.ok_or(EngineError::MessageNotFound)?;
    if !suppressed {
        tx.enqueue(&[send_job(&message)?]).await?;
    }
    Ok(message)
}

async fn find_parties(
    tx: &mut Tx,
    account_id: Uuid,
    send: &DirectSend,
) -> Result<(Conversation, Campaign, Contact), EngineError> {
    let conversation = db::conversations::find(tx, account_id, send.conversation_id)
        .await?
        .ok_or(EngineError::ConversationNotFound)?;
    if conversation.contact_id != send.recipient_id {
        return Err(EngineError::invalid("recipient_id", "must be the contact of the conversation"));
    }
    // Shared, so that a deletion either sees the message and cancels it, or comes first.
    let campaign = db::campaigns::lock_shared(tx, account_id, conversation.campaign_id)
        .await?
        .ok_or(EngineError::ConversationNotFound)?;
    let contact = db::contacts::find(tx, account_id, conversation.contact_id)
        .await?
        .ok_or(EngineError::ContactNotFound)?;
    let address = match send.channel {
        Channel::Email => &contact.email,
        Channel::Instagram => &contact.instagram_handle,
        Channel::Twitter if contact.twitter_user_id.is_some() => &contact.twitter_user_id,
        Channel::Twitter => &contact.twitter_handle,
    };
    if address.is_none() {
        return Err(EngineError::invalid("channel", format!("the contact has no {} address", send.channel)));
    }
    Ok((conversation, campaign, contact))
}

/// The filled subject and text of a direct send. An email without a subject goes on under the last one.
async fn render_direct(
    tx: &mut Tx,
    send: &DirectSend,
    conversation: &Conversation,
    campaign: &Campaign,
    contact: &Contact,
) -> Result<(Option<String>, String), EngineError> {
    let mut checks = Checks::new();
    checks.object("variables", &send.variables, VARIABLES_BYTES_MAX);
    EngineError::check(checks.finish())?;
    EngineError::check(message::validate_text(send.subject.as_deref(), Some(&send.content)))?;
    let fill = |text: &str| {
        template::render(text, |name| template::lookup(name, &send.variables, Some(contact), Some(campaign)))
    };
    let subject = send.subject.as_deref().map(&fill);
    let content = fill(&send.content);
    check_whole(&content)?;
    let mut names = content.unresolved.clone();
    names.extend(subject.iter().flat_map(|subject| subject.unresolved.iter().cloned()));
    if !names.is_empty() {
        names.sort_unstable();
        names.dedup();
        return Err(EngineError::Unresolved { names });
    }
    let mut subject = subject.map(|subject| one_line(&subject.text));
    if subject.is_none() && send.channel == Channel::Email {
        let last = db::messages::find_last_sent(tx, conversation.account_id, conversation.id).await?;
        let last = last
            .and_then(|message| message.subject)
            .ok_or_else(|| EngineError::invalid("subject", "must be given for the first email"))?;
        subject = Some(message::follow_up_subject(&last));
    }
    EngineError::check(message::validate_text(subject.as_deref(), Some(&content.text)))?;
    Ok((subject, content.text))
}

/// The mailbox of the conversation's passage, or else the first connected one of the channel.
async fn choose_mailbox(
    tx: &mut Tx,
    account_id: Uuid,
    channel: Channel,
    conversation: &Conversation,
) -> Result<ChannelAccount, EngineError> {
    let usual =
        db::enrolments::find_of_contact(tx, account_id, conversation.campaign_id, conversation.contact_id)
            .await?
            .and_then(|enrolment| enrolment.channel_account_id);
    let accounts = db::channel_accounts::list(tx, account_id).await?;
    let mut usable = accounts
        .into_iter()
        .filter(|account| account.channel == channel && account.status != ChannelAccountStatus::Disconnected);
    let first = usable.next();
    let chosen = match &first {
        Some(account) if Some(account.id) == usual => first,
        _ => usable.find(|account| Some(account.id) == usual).or(first),
    };
    chosen.ok_or_else(|| EngineError::Conflict(format!("no {channel} account is connected")))
}
