//! The channels that carry messages to people.
//!
//! Every channel works in two steps, so that the mark between them can be the one arbiter of who sends: [`Channels::offer`]
//! goes as far as can be taken back, and returns an [`Offer`] when the other side is ready for the text. Dropping the
//! offer withdraws it. [`Offer::deliver`] sends the text, and is called only once the message is marked `sending`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use shared::domain::Channel;
use uuid::Uuid;

pub mod email;

/// Why a message was not taken. Each carries what the other side said, at most 200 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The address does not exist.
    Bounced {
        /// What the other side said.
        error: String,
    },
    /// This message will never be taken, for another reason.
    Failed {
        /// What the other side said.
        error: String,
    },
    /// This message may be taken later.
    Deferred {
        /// What the other side said.
        error: String,
    },
    /// Nothing can be sent from this mailbox or profile for now; the message is not to blame.
    Unavailable {
        /// What the other side said, or what broke.
        error: String,
    },
}

/// What came of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivered {
    /// The other side took it.
    Accepted,
    /// The other side said that it did not.
    Refused(Refusal),
    /// The connection ended or time ran out before the final answer.
    Unknown {
        /// What broke.
        error: String,
    },
}

/// What is to be sent to whom, with everything resolved.
#[derive(Debug, Clone)]
pub struct Letter {
    /// The mailbox or profile that sends.
    pub channel_account_id: Uuid,
    /// Its address.
    pub from: String,
    /// The name people see.
    pub from_name: Option<String>,
    /// Where answers go, when not to the mailbox.
    pub reply_to: Option<String>,
    /// The recipient's address.
    pub to: String,
    /// The recipient's name.
    pub to_name: Option<String>,
    /// The subject.
    pub subject: String,
    /// The text, without signature.
    pub text: String,
    /// Goes under the text.
    pub signature: Option<String>,
    /// Goes under the signature; commercial mail needs one in many places (CAN-SPAM, 15 U.S.C. 7704).
    pub postal_address: Option<String>,
    /// Our Message-ID, with its angle brackets.
    pub message_id: String,
    /// The Message-ID it answers or follows.
    pub in_reply_to: Option<String>,
    /// The Message-IDs of the thread so far, oldest first.
    pub references: Vec<String>,
    /// When it was written.
    pub at: DateTime<Utc>,
}

/// The connected channels of a worker.
#[derive(Debug)]
pub struct Channels {
    /// Mail by SMTP.
    pub email: email::Email,
}

impl Channels {
    /// Goes as far as the other side's readiness to take the message. `secret` is what the channel account needs to
    /// sign in: for a mailbox the URL of its server.
    pub async fn offer(&self, channel: Channel, letter: &Letter, secret: &str) -> Result<Offer<'_>, Refusal> {
        match channel {
            Channel::Email => self.email.offer(letter, secret).await.map(Offer::Email),
            Channel::Instagram | Channel::Twitter => {
                Err(Refusal::Failed { error: format!("this release does not send by {channel}") })
            }
        }
    }

    /// How long to leave a mailbox or profile alone that cannot send.
    pub fn trouble(&self, channel_account_id: Uuid) -> Duration {
        self.email.trouble(channel_account_id)
    }
}

/// A message that the other side is ready to take. Dropping it withdraws it.
#[derive(Debug)]
pub enum Offer<'a> {
    /// By mail.
    Email(email::Offer<'a>),
}

impl Offer<'_> {
    /// Sends the text and waits for the final answer. Never returns before that answer, its absence or its deadline.
    pub async fn deliver(self) -> Delivered {
        match self {
            Self::Email(offer) => offer.deliver().await,
        }
    }
}
