//! Sending one message, promise 3: nothing is sent twice to a person.
//!
//! ```text
//!     prepare ---> SMTP up to the answer to DATA ---> mark_sending ---> the body ---> record_sent
//!        |                     |                           |                |            record_put_back (4xx)
//!        v                     v                           v                |            record_bounced, record_failed
//!     record_blocked      retry; nothing changed       No: drop it          +--(lost)--> record_unknown
//! ```
//!
//! The mark is committed before the body leaves. A run that finds a mark which is not its own knows that a process died
//! between the two commits: it records `unknown` and never sends again.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use super::{EngineError, bounces, enrolments, messages::send_job, sequence};
use crate::{
    Clock, Tx,
    db::{self, messages::SendRow, outbox},
    domain::{
        Channel,
        campaign::{CampaignStatus, Sender},
        channel::{ChannelAccount, ChannelAccountStatus},
        enrolment::{Enrolment, EnrolmentStatus, StopReason},
        message::{self, BlockedReason, Message, MessageStatus},
        template,
    },
    events::{EventType, NewEvent},
};

/// How long a message waits before it looks again whether its mailbox was resumed or connected.
const MAILBOX_RETRY: Duration = Duration::from_secs(60);
/// How long a message that was claimed while its campaign was being paused waits; then the queue holds it.
const PAUSED_RETRY: Duration = Duration::from_secs(5);
/// The longest error that a message keeps, in characters.
const ERROR_CHARS_MAX: usize = 1000;

/// A message ready to leave.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Whose it is.
    pub account_id: Uuid,
    /// The message.
    pub message_id: Uuid,
    /// The campaign.
    pub campaign_id: Uuid,
    /// The contact.
    pub contact_id: Uuid,
    /// The passage; None for a direct send.
    pub enrolment_id: Option<Uuid>,
    /// The step; None for a direct send.
    pub step: Option<i32>,
    /// How it travels.
    pub channel: Channel,
    /// The recipient's address or handle.
    pub to: String,
    /// The recipient's name, if known.
    pub to_name: Option<String>,
    /// The mailbox or profile it leaves from, its secrets sealed.
    pub mailbox: ChannelAccount,
    /// Who signs.
    pub sender: Sender,
    /// The subject; empty where the channel has none.
    pub subject: String,
    /// The text.
    pub body: String,
    /// Its Message-ID, with angle brackets.
    pub rfc_message_id: String,
    /// The Message-ID that it follows.
    pub in_reply_to: Option<String>,
    /// The Message-IDs of the conversation before it, oldest first.
    pub references: Vec<String>,
}

/// Whether a message may leave.
#[derive(Debug, Clone)]
pub enum Prepared {
    /// It may: connect, and mark it before the body leaves.
    Ready(Box<Outgoing>),
    /// It may not: call [`record_blocked`] with the same reason and time, and let the job wait that long, or end it when
    /// there is no time.
    Blocked {
        /// Why.
        reason: BlockedReason,
        /// For how long; None when waiting does not help.
        after: Option<Duration>,
    },
    /// It could, but has no mailbox, or one that is disconnected: call [`bind_mailbox`].
    Homeless,
    /// There is nothing to send: it is gone, sent, cancelled, or not approved.
    Finished,
    /// A run before this one marked it and did not record what came of it: call [`record_unknown`].
    WasSending,
}

/// Reads whether a message may leave, without a lock: [`mark_sending`] judges again.
pub async fn prepare(
    conn: &mut PgConnection,
    clock: &Clock,
    account_id: Uuid,
    message_id: Uuid,
) -> Result<Prepared, EngineError> {
    let Some(row) = db::messages::find_to_send(conn, account_id, message_id).await? else {
        return Ok(Prepared::Finished);
    };
    match row.status {
        MessageStatus::Approved | MessageStatus::Scheduled => {}
        MessageStatus::Sending => return Ok(Prepared::WasSending),
        _ => return Ok(Prepared::Finished),
    }
    let is_step = row.enrolment_id.is_some();
    if row.campaign_status == CampaignStatus::Deleted
        || (is_step && row.enrolment_status != Some(EnrolmentStatus::Active))
    {
        return Ok(Prepared::Finished);
    }
    let mailbox = match row.channel_account_id {
        Some(id) => db::channel_accounts::find(conn, account_id, id).await?,
        None => None,
    };
    match obstacle(conn, clock, account_id, &row, mailbox.as_ref()).await? {
        Some((BlockedReason::NoAccount, Some(_))) => return Ok(Prepared::Homeless),
        Some((reason, after)) => return Ok(Prepared::Blocked { reason, after }),
        None => {}
    }
    let (Some(mailbox), Some(to)) = (mailbox, row.recipient) else {
        return Ok(Prepared::Blocked { reason: BlockedReason::NoAccount, after: None });
    };
    Ok(Prepared::Ready(Box::new(Outgoing {
        account_id,
        message_id,
        campaign_id: row.campaign_id,
        contact_id: row.contact_id,
        enrolment_id: row.enrolment_id,
        step: row.step,
        channel: row.channel,
        to,
        to_name: Some(row.recipient_name).filter(|name| !name.is_empty()),
        mailbox,
        sender: row.sender.0,
        subject: row.subject.unwrap_or_default(),
        body: row.content,
        rfc_message_id: row.rfc_message_id.unwrap_or_default(),
        in_reply_to: row.thread.last().cloned(),
        references: row.thread,
    })))
}

/// What keeps an approved message from leaving, what cannot be waited out first.
async fn obstacle(
    conn: &mut PgConnection,
    clock: &Clock,
    account_id: Uuid,
    row: &SendRow,
    mailbox: Option<&ChannelAccount>,
) -> Result<Option<(BlockedReason, Option<Duration>)>, EngineError> {
    if row.suppressed {
        return Ok(Some((BlockedReason::Suppressed, None)));
    }
    if row.recipient.is_none() {
        return Ok(Some((BlockedReason::NoAccount, None)));
    }
    let texts = [row.subject.as_deref().unwrap_or_default(), &row.content];
    if row.enrolment_id.is_some() && texts.into_iter().any(|text| !template::unresolved(text).is_empty()) {
        return Ok(Some((BlockedReason::UnresolvedVariables, None)));
    }
    if row.enrolment_id.is_some() && row.campaign_status != CampaignStatus::Active {
        return Ok(Some((BlockedReason::CampaignPaused, Some(PAUSED_RETRY))));
    }
    match mailbox.map(|mailbox| mailbox.status) {
        Some(ChannelAccountStatus::Connected) => {}
        Some(ChannelAccountStatus::Paused) => {
            return Ok(Some((BlockedReason::MailboxPaused, Some(MAILBOX_RETRY))));
        }
        Some(ChannelAccountStatus::Disconnected) | None => {
            return Ok(Some((BlockedReason::NoAccount, Some(MAILBOX_RETRY))));
        }
    }
    // A window that does not parse was refused when it was given, so there is none.
    if let Some(window) = row.send_window.as_ref().and_then(|window| window.parse()) {
        let now = clock.now();
        if !window.is_open(now) {
            return Ok(Some((BlockedReason::OutsideWindow, Some(window.wait(now)))));
        }
    }
    if let Some(cap) = row.daily_cap
        && let Some(wait) = cap_wait(conn, clock, account_id, (row.campaign_id, row.message_id), cap).await?
    {
        return Ok(Some((BlockedReason::DailyCap, Some(wait))));
    }
    Ok(None)
}

/// How long a message of a campaign that has sent its cap within the last day must wait before it looks again, about a day
/// at most; None when it need not. Those that wait take turns by their ids: each looks when its place is free, not all of
/// them whenever one is.
async fn cap_wait(
    conn: &mut PgConnection,
    clock: &Clock,
    account_id: Uuid,
    (campaign_id, message_id): (Uuid, Uuid),
    cap: i32,
) -> Result<Option<Duration>, EngineError> {
    let day_ms = i64::try_from(clock.day().as_millis()).unwrap_or(i64::MAX);
    let wait = db::messages::cap_wait_ms(conn, account_id, campaign_id, message_id, cap, day_ms).await?;
    Ok(wait.map(|wait_ms| Duration::from_millis(u64::try_from(wait_ms).unwrap_or_default().max(1))))
}

/// Gives a message that has no mailbox, or a disconnected one, another: its passage's, or the least loaded of its channel.
/// It goes on in the lane of that one, by a job of its own: None says that the present one is done. Without any mailbox
/// the message shows `no_account`, and the job waits for the time returned.
pub async fn bind_mailbox(
    tx: &mut Tx,
    account_id: Uuid,
    message_id: Uuid,
) -> Result<Option<Duration>, EngineError> {
    let enrolment = lock_enrolment(tx, account_id, message_id).await?;
    let message = lock(tx, account_id, message_id).await?;
    let mailbox = match &enrolment {
        Some(enrolment) => enrolments::find_mailbox(tx, enrolment).await?,
        None => enrolments::choose_mailbox(tx, account_id, message.channel).await?,
    };
    let Some(mailbox) = mailbox else {
        let reason = BlockedReason::NoAccount;
        record_blocked(tx, account_id, message_id, reason, Some(MAILBOX_RETRY)).await?;
        return Ok(Some(MAILBOX_RETRY));
    };
    let rfc_message_id = message::rfc_message_id(message_id, &mailbox);
    let bound =
        db::messages::record_mailbox(tx, account_id, message_id, mailbox.id, rfc_message_id.as_deref())
            .await?;
    if let Some(message) = bound {
        tx.enqueue(&[send_job(&message)?]).await?;
    }
    Ok(None)
}

/// Records why a message does not leave. With a time it shows `blocked_reason` and `next_attempt_at`, and its job waits.
/// Without one: a suppressed contact cancels the message and stops the passage, open variables give the message back to
/// those who approve, a contact without an address on the channel fails it.
pub async fn record_blocked(
    tx: &mut Tx,
    account_id: Uuid,
    message_id: Uuid,
    reason: BlockedReason,
    after: Option<Duration>,
) -> Result<(), EngineError> {
    if let Some(after) = after {
        // The campaign itself says so, for as long as it is true.
        if reason == BlockedReason::CampaignPaused {
            return Ok(());
        }
        let after_ms = i64::try_from(after.as_millis()).unwrap_or(i64::MAX / 2);
        db::messages::record_waiting(tx, account_id, message_id, Some(reason), None, after_ms).await?;
        return Ok(());
    }
    match reason {
        BlockedReason::UnresolvedVariables | BlockedReason::Guardrail => {
            db::messages::record_unapproved(tx, account_id, message_id, reason).await?;
        }
        BlockedReason::Suppressed => {
            let enrolment = lock_enrolment(tx, account_id, message_id).await?;
            db::messages::record_cancelled(tx, account_id, message_id, Some(reason)).await?;
            if let Some(enrolment) = enrolment {
                sequence::stop(tx, account_id, &[enrolment], StopReason::Suppressed).await?;
            }
        }
        _ => {
            record_failed(tx, account_id, message_id, &format!("cannot be sent: {reason}")).await?;
        }
    }
    Ok(())
}

/// Shows what kept an approved message from leaving, and when it is tried again. What the recipient's side put off has
/// no `reason` of ours: the error says what it answered.
pub async fn record_put_off(
    tx: &mut Tx,
    account_id: Uuid,
    message_id: Uuid,
    reason: Option<BlockedReason>,
    error: &str,
    after: Duration,
) -> Result<(), EngineError> {
    let after_ms = i64::try_from(after.as_millis()).unwrap_or(i64::MAX / 2);
    let error = cut(error);
    Ok(db::messages::record_waiting(tx, account_id, message_id, reason, Some(&error), after_ms).await?)
}

/// Whether a message was marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    /// Once this is committed the body may leave, and its outcome must be recorded. `order` is its place among the
    /// marks and replies of its enrolment; a direct send has none.
    Yes {
        /// The order number.
        order: Option<i64>,
    },
    /// Something has changed since [`prepare`], a reply above all: roll back, drop the connection, and let the job run
    /// again, which finds out what.
    No,
}

/// Marks a message as sending, in a short transaction of its own. It takes its order number under the enrolment's lock,
/// which the transaction that stores a reply takes too: no message is marked after a stored reply.
pub async fn mark_sending(
    tx: &mut Tx,
    clock: &Clock,
    account_id: Uuid,
    message_id: Uuid,
    to: &str,
) -> Result<Marked, EngineError> {
    let Some(row) = db::messages::find_to_mark(tx, account_id, message_id).await? else {
        return Ok(Marked::No);
    };
    if let Some(cap) = row.daily_cap {
        // Only the campaign's row keeps two marks from taking the last place under the cap.
        db::campaigns::lock(tx, account_id, row.campaign_id).await?;
        if cap_wait(tx, clock, account_id, (row.campaign_id, message_id), cap).await?.is_some() {
            return Ok(Marked::No);
        }
    }
    let order = match row.enrolment_id {
        Some(enrolment_id) => match db::enrolments::take_order(tx, account_id, enrolment_id).await? {
            Some(order) => Some(order),
            None => return Ok(Marked::No),
        },
        None => None,
    };
    if !db::messages::record_sending(tx, account_id, message_id, order, to).await? {
        return Ok(Marked::No);
    }
    // A pause does not lock the enrolment. If the mark waited for one, its statement still saw the campaign as it was
    // before; this one sees what the pause has committed. A later pause waits for this mark's message.
    if row.enrolment_id.is_some() {
        let campaign = db::campaigns::find(tx, account_id, row.campaign_id).await?;
        if campaign.is_none_or(|campaign| campaign.status != CampaignStatus::Active) {
            return Ok(Marked::No);
        }
    }
    Ok(Marked::Yes { order })
}

/// Records that the channel accepted the message, also when that comes late for one that was `unknown`. Raises
/// message.sent and plans the next step. Done twice it does nothing more.
pub async fn record_sent(
    tx: &mut Tx,
    clock: &Clock,
    account_id: Uuid,
    message_id: Uuid,
) -> Result<Message, EngineError> {
    let enrolment = lock_enrolment(tx, account_id, message_id).await?;
    let before = find(tx, account_id, message_id).await?;
    let Some(message) = db::messages::record_sent(tx, account_id, message_id).await? else {
        return Ok(before);
    };
    append_sent(tx, &message).await?;
    // An unknown one was counted when it became so.
    if before.status == MessageStatus::Sending {
        count_sent(tx, clock, &message, enrolment).await?;
    }
    Ok(message)
}

/// Records that nobody knows whether the message was accepted. It counts as sent for the sequence and is never sent
/// again by itself. If an answer to it, or a note that it arrived, is stored already, it was accepted: that raises
/// message.sent. Done twice it does nothing more.
pub async fn record_unknown(
    tx: &mut Tx,
    clock: &Clock,
    account_id: Uuid,
    message_id: Uuid,
    error: &str,
) -> Result<Message, EngineError> {
    let enrolment = lock_enrolment(tx, account_id, message_id).await?;
    let Some(message) = db::messages::record_unknown(tx, account_id, message_id, &cut(error)).await? else {
        return find(tx, account_id, message_id).await;
    };
    if message.sent_at.is_some() {
        append_sent(tx, &message).await?;
    }
    count_sent(tx, clock, &message, enrolment).await?;
    Ok(message)
}

/// Raises message.sent, and message.delivered if that was known first.
async fn append_sent(tx: &mut Tx, message: &Message) -> Result<(), EngineError> {
    let mut kinds = vec![EventType::MessageSent];
    if message.status == MessageStatus::Delivered {
        kinds.push(EventType::MessageDelivered);
    }
    let events: Vec<NewEvent> = kinds
        .into_iter()
        .map(|kind| NewEvent::new(message.account_id, kind, message.id, message.public()))
        .collect();
    outbox::append(tx, &events).await?;
    Ok(())
}

/// Notes on conversation and enrolment that a message left, and plans the next step.
async fn count_sent(
    tx: &mut Tx,
    clock: &Clock,
    message: &Message,
    enrolment: Option<Enrolment>,
) -> Result<(), EngineError> {
    let account_id = message.account_id;
    db::conversations::record_sent(tx, account_id, message.conversation_id, message.channel).await?;
    let left_at = message.sent_at.or(message.sending_at);
    if let (Some(enrolment), Some(step), Some(left_at)) = (enrolment, message.step, left_at) {
        let enrolment = db::enrolments::record_sent(tx, account_id, enrolment.id, step, left_at).await?;
        sequence::plan_next(tx, clock, account_id, &[(enrolment, step)]).await?;
    }
    Ok(())
}

/// Records that the contact's side refused the message for good: the address is suppressed, the contact `bounced`, the
/// passage stopped. `to` is the address that refused it; the contact may have another one by now. Raises message.bounced, and
/// contact.updated. Done twice it does nothing more.
pub async fn record_bounced(
    tx: &mut Tx,
    account_id: Uuid,
    message_id: Uuid,
    to: &str,
    error: &str,
) -> Result<Message, EngineError> {
    let enrolment = lock_enrolment(tx, account_id, message_id).await?;
    let message = lock(tx, account_id, message_id).await?;
    bounces::record(tx, &message, enrolment, &cut(error), Some(to)).await
}

/// Records that the message was refused for good, for a reason that says nothing of the address: the passage stops with
/// `failed`. Done twice it does nothing more.
pub async fn record_failed(
    tx: &mut Tx,
    account_id: Uuid,
    message_id: Uuid,
    error: &str,
) -> Result<Message, EngineError> {
    let enrolment = lock_enrolment(tx, account_id, message_id).await?;
    let message = lock(tx, account_id, message_id).await?;
    if !message.status.may_become(MessageStatus::Failed) {
        return Ok(message);
    }
    let failed =
        db::messages::record_refused(tx, account_id, message_id, MessageStatus::Failed, &cut(error)).await?;
    if let Some(enrolment) = enrolment {
        sequence::stop(tx, account_id, &[enrolment], StopReason::Failed).await?;
    }
    Ok(failed)
}

/// Takes the mark back after a final answer that refused the message for now: nothing was accepted, and its job tries
/// again. If the passage ended meanwhile, the message is cancelled instead.
pub async fn record_put_back(
    tx: &mut Tx,
    account_id: Uuid,
    message_id: Uuid,
    error: &str,
) -> Result<Message, EngineError> {
    let enrolment = lock_enrolment(tx, account_id, message_id).await?;
    let goes_on = enrolment.is_none_or(|enrolment| enrolment.status == EnrolmentStatus::Active);
    let status = if goes_on { MessageStatus::Approved } else { MessageStatus::Cancelled };
    match db::messages::record_put_back(tx, account_id, message_id, status, &cut(error)).await? {
        Some(message) => Ok(message),
        None => find(tx, account_id, message_id).await,
    }
}

/// Locks the enrolment of a message before anything else about it.
async fn lock_enrolment(
    tx: &mut Tx,
    account_id: Uuid,
    message_id: Uuid,
) -> Result<Option<Enrolment>, EngineError> {
    Ok(db::enrolments::lock_of_messages(tx, account_id, &[message_id]).await?.pop())
}

async fn lock(tx: &mut Tx, account_id: Uuid, message_id: Uuid) -> Result<Message, EngineError> {
    let locked = db::messages::lock_many(tx, account_id, &[message_id]).await?.pop();
    locked.ok_or(EngineError::MessageNotFound)
}

async fn find(tx: &mut Tx, account_id: Uuid, message_id: Uuid) -> Result<Message, EngineError> {
    db::messages::find(tx, account_id, message_id).await?.ok_or(EngineError::MessageNotFound)
}

fn cut(error: &str) -> String {
    error.chars().filter(|c| *c != '\0').take(ERROR_CHARS_MAX).collect()
}
