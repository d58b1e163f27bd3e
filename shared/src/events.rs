//! The 16 facts that iris tells its customers. Nothing in this release reports an opening: only a test event is ever
//! `message.opened`.

pub mod samples;
pub mod schemas;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::{
    message::Message,
    reply::{Intent, Sentiment},
};

/// Declares the event types once: name on the wire, meaning, in the order of the documentation.
macro_rules! event_types {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// What happened, in the past tense.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum EventType {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl EventType {
            /// All types, in the order of the documentation.
            pub const ALL: [Self; 16] = [$(Self::$variant,)+];

            /// The name on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One line on when it is raised.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// The type that a name on the wire means.
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

event_types! {
    /// A new campaign was created.
    CampaignCreated = "campaign.created",
    /// A campaign was updated.
    CampaignUpdated = "campaign.updated",
    /// A campaign was soft-deleted.
    CampaignDeleted = "campaign.deleted",
    /// A new contact was created or imported.
    ContactCreated = "contact.created",
    /// A contact was updated.
    ContactUpdated = "contact.updated",
    /// A contact was soft-deleted.
    ContactDeleted = "contact.deleted",
    /// A new conversation was started.
    ConversationCreated = "conversation.created",
    /// A reply was received in a conversation.
    ConversationReplyReceived = "conversation.reply_received",
    /// A message was sent: the channel accepted it.
    MessageSent = "message.sent",
    /// A message was confirmed delivered.
    MessageDelivered = "message.delivered",
    /// A message was opened by the recipient.
    MessageOpened = "message.opened",
    /// A message bounced.
    MessageBounced = "message.bounced",
    /// A pending message was approved.
    MessageApproved = "message.approved",
    /// A pending message was rejected.
    MessageRejected = "message.rejected",
    /// A discovery search completed successfully.
    DiscoveryCompleted = "discovery.completed",
    /// A discovery search failed.
    DiscoveryFailed = "discovery.failed",
}

impl Serialize for EventType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What conversation.reply_received tells besides the conversation: its `reply`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Reply {
    /// The inbound message.
    pub message: Message,
    /// What it wants.
    pub intent: Intent,
    /// How it sounds.
    pub sentiment: Sentiment,
}

/// An event to be appended to the outbox, in the transaction that makes it true and after the resource's row lock.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// The account whose endpoints hear of it.
    pub account_id: Uuid,
    /// What happened.
    pub kind: EventType,
    /// The campaign, contact, conversation, message or discovery job; its events keep their order.
    pub resource_id: Uuid,
    /// The resource's public form, with `previous` or `reply` where the type has them.
    pub data: Value,
    /// Only this endpoint hears of it: a test event.
    pub only_endpoint: Option<Uuid>,
}

impl NewEvent {
    /// An event for every subscribed endpoint.
    pub fn new(account_id: Uuid, kind: EventType, resource_id: Uuid, data: Value) -> Self {
        Self { account_id, kind, resource_id, data, only_endpoint: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_parse_back() {
        for kind in EventType::ALL {
            assert_eq!(EventType::parse(kind.as_str()), Some(kind));
        }
        let names: std::collections::BTreeSet<_> = EventType::ALL.iter().map(|k| k.as_str()).collect();
        assert_eq!(names.len(), 16);
        assert_eq!(EventType::parse("message.failed"), None);
        assert_eq!(EventType::MessageBounced.description(), "A message bounced.");
    }
}
