//! One inbound or outbound text, and what may become of it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Channel, FieldError,
    channel::ChannelAccount,
    field::Checks,
    reply::{Intent, Sentiment},
    text_enum,
};
use crate::clock::{iso_ms, iso_ms_option};

/// The longest subject in characters: a header line of RFC 5322, section 2.1.1, without its name.
pub const SUBJECT_CHARS_MAX: usize = 900;
/// The longest text of an outbound message in bytes.
pub const CONTENT_BYTES_MAX: usize = 64 * 1024;

text_enum! {
    /// Where a message stands. Inbound ones are `received` and stay so.
    ///
    /// ```text
    ///     drafting -> pending -> approved | scheduled -> sending -> sent -> delivered -> opened
    ///                    |              |                   |         |         |          |
    ///                    v              |                   |         +---------+----------+---> replied | bounced
    ///                 rejected          |                   |
    ///                                   |                   +-> delivered | replied (known before the channel's answer)
    ///                                   |                   +-> unknown -> sent | delivered | replied | bounced
    ///                                   |                   +-> approved | cancelled (refused for now: nothing was accepted)
    ///                                   +-------------------+-> bounced | failed
    ///     drafting, pending, approved, scheduled -> cancelled
    /// ```
    MessageStatus {
        /// Being written.
        Drafting = "drafting",
        /// A draft that waits for approval.
        Pending = "pending",
        /// To be sent as soon as possible.
        Approved = "approved",
        /// To be sent when it is due.
        Scheduled = "scheduled",
        /// Its body is on the way.
        Sending = "sending",
        /// The channel accepted it.
        Sent = "sent",
        /// A provider or a delivery notification said that it arrived.
        Delivered = "delivered",
        /// Tracking or a provider said that it was opened.
        Opened = "opened",
        /// The contact answered it.
        Replied = "replied",
        /// The contact's side refused it for good.
        Bounced = "bounced",
        /// It was refused for another reason.
        Failed = "failed",
        /// Its body left and no answer came: nobody knows whether it was accepted. Never sent again by itself.
        Unknown = "unknown",
        /// A person refused the draft.
        Rejected = "rejected",
        /// It became pointless before it was sent.
        Cancelled = "cancelled",
        /// It came in.
        Received = "received",
    }
}

impl MessageStatus {
    /// Whether it is approved and not yet on the way.
    pub const fn is_approved(self) -> bool {
        matches!(self, Self::Approved | Self::Scheduled)
    }

    /// Whether the diagram has an arrow from this status to `next`.
    pub const fn may_become(self, next: Self) -> bool {
        use MessageStatus::{
            Approved, Bounced, Cancelled, Delivered, Drafting, Failed, Opened, Pending, Rejected, Replied,
            Scheduled, Sending, Sent, Unknown,
        };
        matches!(
            (self, next),
            (Drafting, Pending | Cancelled)
                | (Pending, Approved | Scheduled | Rejected | Cancelled)
                | (Approved | Scheduled, Sending | Bounced | Failed | Cancelled | Pending)
                | (Sending, Sent | Unknown | Approved | Cancelled | Delivered | Replied | Bounced | Failed)
                | (Unknown, Sent | Delivered | Replied | Bounced)
                | (Sent, Delivered | Opened | Replied | Bounced)
                | (Delivered, Opened | Replied | Bounced)
                | (Opened, Replied | Bounced)
        )
    }
}

text_enum! {
    /// Which way a message went.
    Direction {
        /// From the contact.
        Inbound = "inbound",
        /// To the contact.
        Outbound = "outbound",
    }
}

text_enum! {
    /// What a message waits for.
    BlockedReason {
        /// The campaign's send window to open.
        OutsideWindow = "outside_window",
        /// Room under the campaign's daily cap.
        DailyCap = "daily_cap",
        /// Its mailbox to be resumed.
        MailboxPaused = "mailbox_paused",
        /// Its campaign to be resumed.
        CampaignPaused = "campaign_paused",
        /// Nothing: the address is never to be written to.
        Suppressed = "suppressed",
        /// A connected account on its channel, or an address of the contact.
        NoAccount = "no_account",
        /// A person to fill what the template left open.
        UnresolvedVariables = "unresolved_variables",
        /// The channel's permission to write first.
        ColdDmNotAllowed = "cold_dm_not_allowed",
        /// A person to look at what a check found.
        Guardrail = "guardrail",
    }
}

/// A message as the API and webhooks show it.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Serialize, ToSchema)]
pub struct Message {
    /// Whose it is.
    #[serde(skip)]
    pub account_id: Uuid,
    /// Its id.
    pub id: Uuid,
    /// The conversation.
    pub conversation_id: Uuid,
    /// The campaign.
    pub campaign_id: Uuid,
    /// The contact.
    pub contact_id: Uuid,
    /// The passage it is a step of; absent for direct and inbound ones.
    pub enrolment_id: Option<Uuid>,
    /// 0 is the first message, 1..n the follow-ups.
    pub step: Option<i32>,
    /// Which way it went.
    pub direction: Direction,
    /// How it travels.
    pub channel: Channel,
    /// The mailbox or profile.
    pub channel_account_id: Option<Uuid>,
    /// Where it stands.
    pub status: MessageStatus,
    /// The subject, where the channel has one.
    pub subject: Option<String>,
    /// The text.
    pub content: String,
    /// What filled its template.
    #[schema(value_type = Object)]
    pub variables: Value,
    /// Its Message-ID on the wire, with angle brackets.
    pub rfc_message_id: Option<String>,
    /// The Message-ID that it answers.
    pub in_reply_to: Option<String>,
    /// Its place among the sending marks and replies of its enrolment.
    #[serde(skip)]
    pub order_number: Option<i64>,
    /// It left before a reply was stored and arrived after.
    pub crossed: bool,
    /// What it waits for.
    pub blocked_reason: Option<BlockedReason>,
    /// When it is tried again.
    #[serde(with = "iso_ms_option")]
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When its step is due; absent when at once.
    #[serde(with = "iso_ms_option")]
    pub due_at: Option<DateTime<Utc>>,
    /// Why it was rejected, bounced or failed.
    pub error: Option<String>,
    /// What wrote it.
    pub model: Option<String>,
    /// What an inbound one wants.
    pub intent: Option<Intent>,
    /// How an inbound one sounds.
    pub sentiment: Option<Sentiment>,
    /// When it was written or received.
    #[serde(with = "iso_ms")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(with = "iso_ms")]
    pub updated_at: DateTime<Utc>,
    /// When it was approved.
    #[serde(with = "iso_ms_option")]
    pub approved_at: Option<DateTime<Utc>>,
    /// When its body left.
    #[serde(skip)]
    pub sending_at: Option<DateTime<Utc>>,
    /// When the channel accepted it.
    #[serde(with = "iso_ms_option")]
    pub sent_at: Option<DateTime<Utc>>,
}

impl Message {
    /// The public form, the same in API answers and webhooks.
    pub fn public(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// Every wrong field of a text to be sent.
pub fn validate_text(subject: Option<&str>, content: Option<&str>) -> Vec<FieldError> {
    let mut checks = Checks::new();
    if let Some(subject) = subject {
        checks.text("subject", subject, 0, SUBJECT_CHARS_MAX);
        checks.require(!subject.contains(['\r', '\n']), "subject", "must be one line");
    }
    if let Some(content) = content {
        if content.len() > CONTENT_BYTES_MAX {
            checks.fail("content", format!("must have at most {CONTENT_BYTES_MAX} bytes"));
        } else {
            checks.text("content", content, 1, CONTENT_BYTES_MAX);
        }
    }
    checks.finish()
}

/// The subject of what follows a message: `Re: ` and its subject, within [`SUBJECT_CHARS_MAX`].
pub fn follow_up_subject(subject: &str) -> String {
    let follows = subject.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("re:"));
    let subject = if follows { subject.to_owned() } else { format!("Re: {subject}") };
    subject.chars().take(SUBJECT_CHARS_MAX).collect()
}

/// A new Message-ID for an email that leaves from `mailbox`: the message's id at the mailbox's domain, so that an
/// answer names the message. Other channels have none.
pub fn rfc_message_id(message_id: Uuid, mailbox: &ChannelAccount) -> Option<String> {
    let domain = mailbox.address.rsplit_once('@').map_or("iris.invalid", |(_, domain)| domain);
    (mailbox.channel == Channel::Email).then(|| format!("<{}@{domain}>", message_id.simple()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subject_of_a_follow_up_names_the_first_and_keeps_within_its_limit() {
        assert_eq!(follow_up_subject("hello"), "Re: hello");
        assert_eq!(follow_up_subject("RE: hello"), "RE: hello");
        assert_eq!(follow_up_subject(""), "Re: ");
        let longest = follow_up_subject(&"é".repeat(SUBJECT_CHARS_MAX));
        assert!(validate_text(Some(&longest), None).is_empty());
    }
}
