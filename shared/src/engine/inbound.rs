//! Storing an inbound mail and all that follows from it, in one transaction: promise 6, a reply wins.

use serde_json::json;
use uuid::Uuid;

use super::{
    EngineError, bounces,
    mail::{Author, Fate, InboundEmail, Report},
    sequence,
};
use crate::{
    Tx,
    db::{
        self,
        inbound_emails::{InboundKind, NewInboundEmail},
        messages::NewMessage,
        notifications::{self, NotificationType, Resource, ResourceType},
        outbox,
        suppressions::{SuppressionKind, SuppressionReason},
    },
    domain::{
        Channel,
        channel::ChannelAccount,
        conversation::Conversation,
        enrolment::{Enrolment, EnrolmentStatus, StopReason},
        message::{Direction, Message, MessageStatus},
        reply::{self, Intent, Reading},
    },
    events::{EventType, NewEvent, Reply},
    ids::new_id,
};

/// What a mail was taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboundOutcome {
    /// A person's answer; the sequence has stopped.
    Reply {
        /// The inbound message.
        message_id: Uuid,
    },
    /// A machine's note; the sequence goes on.
    AutoReply {
        /// The inbound message; None for a report that needs none.
        message_id: Option<Uuid>,
    },
    /// A message came back.
    Bounce {
        /// The message that did.
        message_id: Uuid,
    },
    /// A message arrived.
    Delivered {
        /// The message that did.
        message_id: Uuid,
    },
    /// Nothing that we wrote; stored and listed.
    Unmatched,
    /// It is stored already; nothing was changed.
    Duplicate,
}

/// Stores a mail that arrived in a mailbox, once per Message-ID, and records what it means. `raw` is the whole mail.
///
/// A person's answer stops the passage and cancels what waits, makes the message it answers `replied` and raises
/// conversation.reply_received; a request to stop also suppresses the address. It takes its order number under the
/// enrolment's lock, as the sending marks do.
pub async fn record_email(
    tx: &mut Tx,
    mailbox: &ChannelAccount,
    email: &InboundEmail,
    raw: &[u8],
) -> Result<InboundOutcome, EngineError> {
    let arrival = Arrival { mailbox, email, raw };
    if let Some(known) = db::messages::find_by_rfc_id(tx, mailbox.account_id, &email.rfc_message_id).await? {
        return arrival.record_known(tx, &known).await;
    }
    match &email.author {
        Author::MailSystem(report) => arrival.record_report(tx, report).await,
        Author::Person | Author::Machine => arrival.record_answer(tx).await,
    }
}

/// A mail and where it arrived.
struct Arrival<'a> {
    mailbox: &'a ChannelAccount,
    email: &'a InboundEmail,
    raw: &'a [u8],
}

/// What an answer answers.
struct Answered {
    conversation_id: Uuid,
    campaign_id: Uuid,
    contact_id: Uuid,
    /// The message that it names.
    message: Option<Message>,
}

impl Arrival<'_> {
    fn account_id(&self) -> Uuid {
        self.mailbox.account_id
    }

    /// Stores the mail; false when its mailbox has it.
    async fn store(
        &self,
        tx: &mut Tx,
        kind: InboundKind,
        message_id: Option<Uuid>,
    ) -> Result<bool, EngineError> {
        let new = NewInboundEmail {
            account_id: self.account_id(),
            channel_account_id: self.mailbox.id,
            id: new_id(),
            rfc_message_id: &self.email.rfc_message_id,
            from_address: self.email.from.as_deref(),
            subject: self.email.subject.as_deref(),
            kind,
            message_id,
            raw: self.raw,
        };
        Ok(db::inbound_emails::insert(tx, &new).await?)
    }

    /// A mail whose Message-ID a message has: an answer that came to two mailboxes, or one of ours that came back.
    async fn record_known(&self, tx: &mut Tx, known: &Message) -> Result<InboundOutcome, EngineError> {
        match known.direction {
            Direction::Inbound => {
                self.store(tx, InboundKind::Reply, Some(known.id)).await?;
                Ok(InboundOutcome::Duplicate)
            }
            Direction::Outbound => self.record_unmatched(tx).await,
        }
    }

    async fn record_unmatched(&self, tx: &mut Tx) -> Result<InboundOutcome, EngineError> {
        let new = self.store(tx, InboundKind::Unmatched, None).await?;
        Ok(if new { InboundOutcome::Unmatched } else { InboundOutcome::Duplicate })
    }

    /// What the mail answers: the message that its headers name, the nearest first, or else the latest conversation that
    /// its mailbox has with its sender.
    async fn find_answered(&self, tx: &mut Tx) -> Result<Option<Answered>, EngineError> {
        let named: Vec<String> =
            self.email.in_reply_to.iter().chain(self.email.references.iter().rev()).cloned().collect();
        if let Some(message) = db::messages::find_by_rfc_ids(tx, self.account_id(), &named).await? {
            return Ok(Some(Answered {
                conversation_id: message.conversation_id,
                campaign_id: message.campaign_id,
                contact_id: message.contact_id,
                message: Some(message),
            }));
        }
        let Some(from) = &self.email.from else { return Ok(None) };
        let conversation =
            db::conversations::find_by_sender(tx, self.account_id(), self.mailbox.id, from).await?;
        Ok(conversation.map(|conversation| Answered {
            conversation_id: conversation.id,
            campaign_id: conversation.campaign_id,
            contact_id: conversation.contact_id,
            message: None,
        }))
    }

    async fn record_answer(&self, tx: &mut Tx) -> Result<InboundOutcome, EngineError> {
        let account_id = self.account_id();
        let Some(answered) = self.find_answered(tx).await? else {
            return self.record_unmatched(tx).await;
        };
        let by_person = self.email.author == Author::Person;
        let message_id = new_id();
        let kind = if by_person { InboundKind::Reply } else { InboundKind::AutoReply };
        if !self.store(tx, kind, Some(message_id)).await? {
            return Ok(InboundOutcome::Duplicate);
        }
        let enrolment =
            db::enrolments::lock_of_contact(tx, account_id, answered.campaign_id, answered.contact_id)
                .await?;
        let order = match &enrolment {
            Some(enrolment) => {
                Some(db::enrolments::record_inbound(tx, account_id, enrolment.id, by_person).await?)
            }
            None => None,
        };
        let reading = self.read();
        let message = self.insert_message(tx, &answered, message_id, order, reading).await?;
        if !by_person {
            db::conversations::record_received(
                tx,
                account_id,
                answered.conversation_id,
                Channel::Email,
                false,
            )
            .await?;
            return Ok(InboundOutcome::AutoReply { message_id: Some(message_id) });
        }
        self.record_reply(tx, &answered, enrolment, &message, reading).await?;
        Ok(InboundOutcome::Reply { message_id })
    }

    /// What the mail wants. A machine's note is never read as a person's wish.
    fn read(&self) -> Reading {
        let reading = reply::read_mail(self.email.subject.as_deref().unwrap_or_default(), &self.email.text);
        match self.email.author {
            Author::Person => reading,
            Author::Machine | Author::MailSystem(_) => Reading { intent: Intent::OutOfOffice, ..reading },
        }
    }

    async fn insert_message(
        &self,
        tx: &mut Tx,
        answered: &Answered,
        id: Uuid,
        order_number: Option<i64>,
        reading: Reading,
    ) -> Result<Message, EngineError> {
        let named = answered.message.as_ref().and_then(|message| message.rfc_message_id.as_deref());
        let new = NewMessage {
            account_id: self.account_id(),
            id,
            conversation_id: answered.conversation_id,
            campaign_id: answered.campaign_id,
            contact_id: answered.contact_id,
            enrolment_id: None,
            step: None,
            direction: Direction::Inbound,
            channel: Channel::Email,
            channel_account_id: Some(self.mailbox.id),
            status: MessageStatus::Received,
            subject: self.email.subject.as_deref(),
            content: &self.email.text,
            variables: &json!({}),
            rfc_message_id: Some(&self.email.rfc_message_id),
            in_reply_to: named.or(self.email.in_reply_to.as_deref()),
            order_number,
            blocked_reason: None,
            due_at: None,
            model: None,
            intent: Some(reading.intent),
            sentiment: Some(reading.sentiment),
        };
        // Another mailbox was given the same mail at the same moment; the sender's retry will find it stored.
        db::messages::insert(tx, &new)
            .await?
            .ok_or_else(|| EngineError::Conflict("this mail is being stored by another request".into()))
    }

    /// What a person's answer means for the passage, the message it answers, and the conversation.
    async fn record_reply(
        &self,
        tx: &mut Tx,
        answered: &Answered,
        enrolment: Option<Enrolment>,
        message: &Message,
        reading: Reading,
    ) -> Result<(), EngineError> {
        let account_id = self.account_id();
        let opted_out = reading.intent == Intent::OptOut;
        if let Some(enrolment) = enrolment {
            if enrolment.status == EnrolmentStatus::Active {
                let reason = if opted_out { StopReason::OptedOut } else { StopReason::Replied };
                sequence::stop(tx, account_id, &[enrolment], reason).await?;
            } else if opted_out {
                db::enrolments::record_opted_out(tx, account_id, enrolment.id).await?;
            }
        }
        let target = match &answered.message {
            Some(message) => Some(message.id),
            None => db::messages::find_last_sent(tx, account_id, answered.conversation_id)
                .await?
                .map(|message| message.id),
        };
        if let Some(target) = target {
            record_arrival(tx, account_id, target, MessageStatus::Replied).await?;
        }
        let conversation = db::conversations::record_received(
            tx,
            account_id,
            answered.conversation_id,
            Channel::Email,
            true,
        )
        .await?;
        append_reply(tx, &conversation, message, reading).await?;
        let (kind, id) = (ResourceType::Conversation, conversation.id);
        notifications::tell_of_campaign(
            tx,
            account_id,
            conversation.campaign_id,
            NotificationType::ReplyReceived,
            Resource { kind, id },
        )
        .await?;
        if opted_out {
            self.suppress_answered(tx, answered.contact_id, target).await?;
        }
        Ok(())
    }

    /// Never writes again to a contact that asked to stop, nor to where the message went that it answers: the contact may have
    /// another address by now.
    async fn suppress_answered(
        &self,
        tx: &mut Tx,
        contact_id: Uuid,
        target: Option<Uuid>,
    ) -> Result<(), EngineError> {
        let account_id = self.account_id();
        bounces::suppress(tx, account_id, contact_id, None, SuppressionReason::OptedOut).await?;
        let Some(target) = target else { return Ok(()) };
        if let Some(recipient) = db::messages::find_recipient(tx, account_id, target).await? {
            let (kind, reason) = (SuppressionKind::Email, SuppressionReason::OptedOut);
            db::suppressions::insert(tx, account_id, kind, &recipient, reason).await?;
        }
        Ok(())
    }

    /// What a mail system says of a message of ours: the one whose Message-ID it returns, or, when it returns none, the
    /// last one to the recipient it names.
    async fn record_report(&self, tx: &mut Tx, report: &Report) -> Result<InboundOutcome, EngineError> {
        let account_id = self.account_id();
        let Some(message) = self.find_reported(tx, report).await? else {
            return self.record_unmatched(tx).await;
        };
        let kind = if report.fate == Fate::Failed { InboundKind::Bounce } else { InboundKind::AutoReply };
        if !self.store(tx, kind, Some(message.id)).await? {
            return Ok(InboundOutcome::Duplicate);
        }
        let enrolment = db::enrolments::lock_of_messages(tx, account_id, &[message.id]).await?.pop();
        match report.fate {
            Fate::Failed => {
                let locked = db::messages::lock_many(tx, account_id, &[message.id]).await?.pop();
                let locked = locked.ok_or(EngineError::MessageNotFound)?;
                let recipient = db::messages::find_recipient(tx, account_id, message.id).await?;
                let bad = recipient.as_deref().filter(|_| report.is_about_address());
                bounces::record(tx, &locked, enrolment, &report.diagnostic, bad).await?;
                Ok(InboundOutcome::Bounce { message_id: message.id })
            }
            Fate::Delivered => {
                record_arrival(tx, account_id, message.id, MessageStatus::Delivered).await?;
                Ok(InboundOutcome::Delivered { message_id: message.id })
            }
            Fate::Other => Ok(InboundOutcome::AutoReply { message_id: None }),
        }
    }

    async fn find_reported(&self, tx: &mut Tx, report: &Report) -> Result<Option<Message>, EngineError> {
        let account_id = self.account_id();
        if let Some(original) = &report.original_message_id {
            let named = std::slice::from_ref(original);
            return Ok(db::messages::find_by_rfc_ids(tx, account_id, named).await?);
        }
        let Some(recipient) = &report.recipient else { return Ok(None) };
        let conversation =
            db::conversations::find_by_sender(tx, account_id, self.mailbox.id, recipient).await?;
        match conversation {
            Some(conversation) => Ok(db::messages::find_last_sent(tx, account_id, conversation.id).await?),
            None => Ok(None),
        }
    }
}

/// Records that a message was delivered or answered, if it left and its status allows it. One of which nobody knew was
/// accepted after all, which raises message.sent. One whose body is still on the way is left to the process that sends
/// it, which finds the answer stored or the arrival noted.
async fn record_arrival(
    tx: &mut Tx,
    account_id: Uuid,
    message_id: Uuid,
    status: MessageStatus,
) -> Result<(), EngineError> {
    let locked = db::messages::lock_many(tx, account_id, &[message_id]).await?.pop();
    let Some(before) = locked.filter(|message| message.status.may_become(status)) else { return Ok(()) };
    if before.status == MessageStatus::Sending {
        if status == MessageStatus::Delivered {
            db::messages::record_arrived_early(tx, account_id, message_id).await?;
        }
        return Ok(());
    }
    let after = db::messages::record_arrived(tx, account_id, message_id, status).await?;
    let mut events = Vec::new();
    if before.status == MessageStatus::Unknown {
        events.push(NewEvent::new(account_id, EventType::MessageSent, message_id, after.public()));
    }
    if status == MessageStatus::Delivered {
        events.push(NewEvent::new(account_id, EventType::MessageDelivered, message_id, after.public()));
    }
    outbox::append(tx, &events).await?;
    Ok(())
}

async fn append_reply(
    tx: &mut Tx,
    conversation: &Conversation,
    message: &Message,
    reading: Reading,
) -> Result<(), EngineError> {
    let mut data = conversation.public();
    data["reply"] =
        json!(Reply { message: message.clone(), intent: reading.intent, sentiment: reading.sentiment });
    let event =
        NewEvent::new(conversation.account_id, EventType::ConversationReplyReceived, conversation.id, data);
    outbox::append(tx, &[event]).await?;
    Ok(())
}
