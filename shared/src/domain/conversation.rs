//! One contact in one campaign, over all channels.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Channel, message::Direction, text_enum};
use crate::clock::{iso_ms, iso_ms_option};

text_enum! {
    /// Where a conversation stands: `open`, then `replied` once the contact wrote, or `closed` by a person.
    ConversationStatus {
        /// The contact has not written.
        Open = "open",
        /// The contact has written.
        Replied = "replied",
        /// A person put it away.
        Closed = "closed",
    }
}

/// A conversation as the API and webhooks show it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, Serialize, ToSchema)]
pub struct Conversation {
    /// Whose it is.
    #[serde(skip)]
    pub account_id: Uuid,
    /// Its id.
    pub id: Uuid,
    /// The campaign.
    pub campaign_id: Uuid,
    /// The contact.
    pub contact_id: Uuid,
    /// Where it stands.
    pub status: ConversationStatus,
    /// The channel of the last message sent or received.
    pub last_channel: Option<Channel>,
    /// Which way that message went.
    pub last_direction: Option<Direction>,
    /// When that was.
    #[serde(with = "iso_ms_option")]
    pub last_message_at: Option<DateTime<Utc>>,
    /// Inbound messages since it was last marked as read.
    pub unread_count: i32,
    /// When it began.
    #[serde(with = "iso_ms")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(with = "iso_ms")]
    pub updated_at: DateTime<Utc>,
}

impl Conversation {
    /// The public form, the same in API answers and webhooks.
    pub fn public(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}
