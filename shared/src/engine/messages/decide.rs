//! A person's decision on drafts, one or many.

use std::collections::HashMap;

use uuid::Uuid;

use super::{check_whole, one_line, send_job, unresolved};
use crate::{
    Clock, Tx,
    db::{self, outbox},
    domain::{
        message::{self, Message, MessageStatus},
        template,
    },
    engine::{EngineError, sequence},
    events::{EventType, NewEvent},
};

/// How many messages one call may approve or reject.
pub const IDS_MAX: usize = 500;
/// The longest reason of a rejection, in characters.
pub const REASON_CHARS_MAX: usize = 1000;

/// What a person changes in a draft while approving it. Variables in it are filled like those of a direct send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits {
    /// Another subject.
    pub subject: Option<String>,
    /// Another text.
    pub content: Option<String>,
}

/// Approves a draft, with edits if there are any, and enqueues the job that sends it when its step is due. Raises
/// message.approved.
pub async fn approve(
    tx: &mut Tx,
    account_id: Uuid,
    message_id: Uuid,
    edits: &Edits,
) -> Result<Message, EngineError> {
    EngineError::check(message::validate_text(edits.subject.as_deref(), edits.content.as_deref()))?;
    let locked = lock_drafts(tx, account_id, &[message_id]).await?;
    let draft = locked.get(&message_id).ok_or(EngineError::MessageNotFound)?;
    check_pending(draft, "approved")?;
    let edits = filled(tx, draft, edits).await?;
    let subject = edits.subject.as_deref().or(draft.subject.as_deref());
    let names = unresolved(subject, edits.content.as_deref().unwrap_or(&draft.content));
    if !names.is_empty() {
        return Err(EngineError::Unresolved { names });
    }
    let approved = db::messages::record_approved(
        tx,
        account_id,
        &[message_id],
        edits.subject.as_deref(),
        edits.content.as_deref(),
    )
    .await?;
    follow_up_approval(tx, &approved).await?;
    approved.into_iter().next().ok_or(EngineError::MessageNotFound)
}

/// Approves up to [`IDS_MAX`] drafts and says for each, in order, what became of it.
pub async fn approve_many(
    tx: &mut Tx,
    account_id: Uuid,
    ids: &[Uuid],
) -> Result<Vec<(Uuid, Result<Message, EngineError>)>, EngineError> {
    check_count(ids)?;
    let locked = lock_drafts(tx, account_id, ids).await?;
    let judge = |message: &Message| {
        check_pending(message, "approved")?;
        let names = unresolved(message.subject.as_deref(), &message.content);
        if names.is_empty() { Ok(()) } else { Err(EngineError::Unresolved { names }) }
    };
    let (accepted, mut refused) = judge_many(&locked, ids, judge);
    let approved = db::messages::record_approved(tx, account_id, &accepted, None, None).await?;
    follow_up_approval(tx, &approved).await?;
    Ok(in_order(ids, approved, &mut refused))
}

/// Rejects a draft: its step is skipped, and what follows is planned as if it had not been. Raises message.rejected.
pub async fn reject(
    tx: &mut Tx,
    clock: &Clock,
    account_id: Uuid,
    message_id: Uuid,
    reason: Option<&str>,
) -> Result<Message, EngineError> {
    let mut results = reject_many(tx, clock, account_id, &[message_id], reason).await?;
    results.pop().map_or(Err(EngineError::MessageNotFound), |(_, result)| result)
}

/// Rejects up to [`IDS_MAX`] drafts and says for each, in order, what became of it.
pub async fn reject_many(
    tx: &mut Tx,
    clock: &Clock,
    account_id: Uuid,
    ids: &[Uuid],
    reason: Option<&str>,
) -> Result<Vec<(Uuid, Result<Message, EngineError>)>, EngineError> {
    check_count(ids)?;
    if reason.is_some_and(|reason| reason.chars().count() > REASON_CHARS_MAX || reason.contains('\0')) {
        return Err(EngineError::invalid(
            "reason",
            format!("must have at most {REASON_CHARS_MAX} characters"),
        ));
    }
    let locked = lock_drafts(tx, account_id, ids).await?;
    let (accepted, mut refused) = judge_many(&locked, ids, |message| check_pending(message, "rejected"));
    let rejected = db::messages::record_rejected(tx, account_id, &accepted, reason).await?;
    let events: Vec<NewEvent> = rejected
        .iter()
        .map(|message| NewEvent::new(account_id, EventType::MessageRejected, message.id, message.public()))
        .collect();
    outbox::append(tx, &events).await?;

    let steps: HashMap<Uuid, i32> =
        rejected.iter().filter_map(|message| message.enrolment_id.zip(message.step)).collect();
    let enrolment_ids: Vec<Uuid> = steps.keys().copied().collect();
    let skipped = db::enrolments::record_skipped(tx, account_id, &enrolment_ids).await?;
    let done: Vec<_> = skipped
        .into_iter()
        .filter_map(|enrolment| {
            let step = *steps.get(&enrolment.id)?;
            Some((enrolment, step))
        })
        .collect();
    sequence::plan_next(tx, clock, account_id, &done).await?;
    Ok(in_order(ids, rejected, &mut refused))
}

/// Locks messages for a decision, after their enrolments.
async fn lock_drafts(
    tx: &mut Tx,
    account_id: Uuid,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Message>, EngineError> {
    db::enrolments::lock_of_messages(tx, account_id, ids).await?;
    let messages = db::messages::lock_many(tx, account_id, ids).await?;
    Ok(messages.into_iter().map(|message| (message.id, message)).collect())
}

fn check_count(ids: &[Uuid]) -> Result<(), EngineError> {
    if ids.len() > IDS_MAX {
        return Err(EngineError::invalid("ids", format!("must have at most {IDS_MAX} items")));
    }
    Ok(())
}

/// A draft is decided upon once.
fn check_pending(message: &Message, decision: &str) -> Result<(), EngineError> {
    use MessageStatus::{
        Approved, Bounced, Cancelled, Delivered, Drafting, Failed, Opened, Pending, Received, Rejected,
        Replied, Scheduled, Sending, Sent, Unknown,
    };
    match message.status {
        Pending => Ok(()),
        Approved | Scheduled | Sending | Sent | Delivered | Opened | Replied | Unknown
            if decision == "approved" =>
        {
            Err(EngineError::MessageAlreadyApproved)
        }
        Approved | Scheduled | Sending | Sent | Delivered | Opened | Replied | Unknown | Drafting
        | Bounced | Failed | Rejected | Cancelled | Received => {
            Err(EngineError::Conflict(format!("a message that is {} cannot be {decision}", message.status)))
        }
    }
}

type Refusals = HashMap<Uuid, EngineError>;

/// Which messages are accepted, and why the others are not.
fn judge_many(
    locked: &HashMap<Uuid, Message>,
    ids: &[Uuid],
    judge: impl Fn(&Message) -> Result<(), EngineError>,
) -> (Vec<Uuid>, Refusals) {
    let (mut accepted, mut refused) = (Vec::new(), HashMap::new());
    for id in ids {
        match locked.get(id).ok_or(EngineError::MessageNotFound).and_then(&judge) {
            Ok(()) => accepted.push(*id),
            Err(error) => {
                refused.insert(*id, error);
            }
        }
    }
    (accepted, refused)
}

/// What became of each id, in order. An id given twice is decided upon once and refused the second time.
fn in_order(
    ids: &[Uuid],
    done: Vec<Message>,
    refused: &mut Refusals,
) -> Vec<(Uuid, Result<Message, EngineError>)> {
    let mut done: HashMap<Uuid, Message> = done.into_iter().map(|message| (message.id, message)).collect();
    ids.iter()
        .map(|id| {
            let result = match (done.remove(id), refused.remove(id)) {
                (Some(message), _) => Ok(message),
                (None, Some(error)) => Err(error),
                (None, None) => Err(EngineError::Conflict("this id is given twice".into())),
            };
            (*id, result)
        })
        .collect()
}

/// Appends message.approved and enqueues the sends.
async fn follow_up_approval(tx: &mut Tx, approved: &[Message]) -> Result<(), EngineError> {
    let events: Vec<NewEvent> = approved
        .iter()
        .map(|message| {
            NewEvent::new(message.account_id, EventType::MessageApproved, message.id, message.public())
        })
        .collect();
    outbox::append(tx, &events).await?;
    let jobs = approved.iter().map(send_job).collect::<Result<Vec<_>, _>>()?;
    tx.enqueue(&jobs).await?;
    Ok(())
}

/// Edits with their variables filled from the draft's variables, the contact and the campaign.
async fn filled(tx: &mut Tx, draft: &Message, edits: &Edits) -> Result<Edits, EngineError> {
    let texts = [edits.subject.as_deref(), edits.content.as_deref()];
    if texts.into_iter().flatten().all(|text| template::unresolved(text).is_empty()) {
        return Ok(edits.clone());
    }
    let contact = db::contacts::find(tx, draft.account_id, draft.contact_id).await?;
    let campaign = db::campaigns::find(tx, draft.account_id, draft.campaign_id).await?;
    let fill = |text: &String| {
        let value_of =
            |name: &str| template::lookup(name, &draft.variables, contact.as_ref(), campaign.as_ref());
        template::render(text, value_of)
    };
    let subject = edits.subject.as_ref().map(|subject| one_line(&fill(subject).text));
    let content = edits.content.as_ref().map(fill);
    content.as_ref().map_or(Ok(()), check_whole)?;
    let edits = Edits { subject, content: content.map(|content| content.text) };
    EngineError::check(message::validate_text(edits.subject.as_deref(), edits.content.as_deref()))?;
    Ok(edits)
}
