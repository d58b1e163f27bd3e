//! From a step that is due to be written to its draft.

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{send_job, unresolved};
use crate::{
    Clock, Tx,
    db::{self, messages::NewMessage},
    domain::{
        campaign::{Approval, Campaign},
        contact::Contact,
        enrolment::{Enrolment, EnrolmentStatus},
        message::{self, BlockedReason, Direction, Message, MessageStatus},
        schedule::due_at,
    },
    engine::{EngineError, enrolments},
    ids::new_id,
};

/// A text that a drafting provider wrote. Variables that it left open make the draft wait for a person.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// The subject, where the channel has one.
    pub subject: Option<String>,
    /// The text.
    pub content: String,
    /// What wrote it.
    pub model: Option<String>,
    /// What filled its template; an object.
    pub variables: Value,
}

/// What there is to draft.
#[derive(Debug, Clone, PartialEq)]
pub enum DraftWork {
    /// A step to be written.
    Ready(Box<DraftContext>),
    /// The passage ended, or its campaign or contact is gone.
    Stopped,
    /// The step has its message.
    AlreadyDrafted,
}

/// What a drafting provider may know.
#[derive(Debug, Clone, PartialEq)]
pub struct DraftContext {
    /// The campaign.
    pub campaign: Campaign,
    /// Whom to write to.
    pub contact: Contact,
    /// The passage.
    pub enrolment: Enrolment,
    /// The messages of the steps before, by step.
    pub previous: Vec<Message>,
}

/// Reads what a step's draft needs, without a lock: [`record_draft`] judges again.
pub async fn prepare_draft(
    conn: &mut PgConnection,
    account_id: Uuid,
    enrolment_id: Uuid,
    step: i32,
) -> Result<DraftWork, EngineError> {
    let Some(enrolment) = db::enrolments::find(conn, account_id, enrolment_id).await? else {
        return Ok(DraftWork::Stopped);
    };
    if enrolment.status != EnrolmentStatus::Active {
        return Ok(DraftWork::Stopped);
    }
    let previous = db::messages::list_of_enrolment(conn, account_id, enrolment_id).await?;
    if previous.iter().any(|message| message.step == Some(step)) {
        return Ok(DraftWork::AlreadyDrafted);
    }
    let campaign = db::campaigns::find(conn, account_id, enrolment.campaign_id).await?;
    let contact = db::contacts::find(conn, account_id, enrolment.contact_id).await?;
    Ok(match (campaign, contact) {
        (Some(campaign), Some(contact)) => {
            DraftWork::Ready(Box::new(DraftContext { campaign, contact, enrolment, previous }))
        }
        _ => DraftWork::Stopped,
    })
}

/// What became of a draft.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordedDraft {
    /// It waits for approval.
    Pending(Message),
    /// The campaign approves by itself: the job that sends it is enqueued.
    Approved(Message),
    /// The passage ended meanwhile; nothing was written.
    Stopped,
    /// The step has its message; nothing was written.
    AlreadyDrafted,
}

/// Stores the draft of a step. With `approval: auto` it is approved at once, and the job that sends it runs when the step
/// is due; with variables left open it waits for a person in any case.
pub async fn record_draft(
    tx: &mut Tx,
    clock: &Clock,
    account_id: Uuid,
    enrolment_id: Uuid,
    step: i32,
    draft: &Draft,
) -> Result<RecordedDraft, EngineError> {
    EngineError::check(message::validate_text(draft.subject.as_deref(), Some(&draft.content)))?;
    let enrolment = db::enrolments::lock(tx, account_id, enrolment_id).await?;
    let Some(enrolment) = enrolment.filter(|enrolment| enrolment.status == EnrolmentStatus::Active) else {
        return Ok(RecordedDraft::Stopped);
    };
    let campaign = db::campaigns::find(tx, account_id, enrolment.campaign_id).await?;
    let (Some(campaign), Some(conversation_id), Some(channel)) =
        (campaign, enrolment.conversation_id, enrolment.channel)
    else {
        return Ok(RecordedDraft::Stopped);
    };
    let due_at = due_at(&enrolment.passage(), step, &campaign.followup_days, clock.day());
    let unresolved = !unresolved(draft.subject.as_deref(), &draft.content).is_empty();
    let status = match (campaign.approval, unresolved, due_at) {
        (Approval::Manual, ..) | (Approval::Auto, true, _) => MessageStatus::Pending,
        (Approval::Auto, false, Some(_)) => MessageStatus::Scheduled,
        (Approval::Auto, false, None) => MessageStatus::Approved,
    };
    let mailbox = enrolments::find_mailbox(tx, &enrolment).await?;
    let id = new_id();
    let rfc_message_id = mailbox.as_ref().and_then(|mailbox| message::rfc_message_id(id, mailbox));
    let new = NewMessage {
        account_id,
        id,
        conversation_id,
        campaign_id: enrolment.campaign_id,
        contact_id: enrolment.contact_id,
        enrolment_id: Some(enrolment_id),
        step: Some(step),
        direction: Direction::Outbound,
        channel,
        channel_account_id: mailbox.map(|mailbox| mailbox.id),
        status,
        subject: draft.subject.as_deref(),
        content: &draft.content,
        variables: &draft.variables,
        rfc_message_id: rfc_message_id.as_deref(),
        in_reply_to: None,
        order_number: None,
        blocked_reason: unresolved.then_some(BlockedReason::UnresolvedVariables),
        due_at,
        model: draft.model.as_deref(),
        intent: None,
        sentiment: None,
    };
    let Some(message) = db::messages::insert(tx, &new).await? else {
        return Ok(RecordedDraft::AlreadyDrafted);
    };
    if !status.is_approved() {
        return Ok(RecordedDraft::Pending(message));
    }
    tx.enqueue(&[send_job(&message)?]).await?;
    Ok(RecordedDraft::Approved(message))
}
