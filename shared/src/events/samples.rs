//! The made-up resources that test events are about, and that tests send.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::types::Json;
use uuid::Uuid;

use super::{EventType, Reply};
use crate::{
    domain::{
        Channel,
        campaign::{Campaign, CampaignStatus, NewCampaign},
        contact::{Contact, ContactStatus},
        conversation::{Conversation, ConversationStatus},
        discovery::{Criteria, DiscoveryJob, DiscoveryStatus},
        message::{Direction, Message, MessageStatus},
        reply::{Intent, Sentiment},
    },
    ids::new_id,
};

/// The resource's id and the data of a made-up event: a whole public form.
pub fn event(kind: EventType, now: DateTime<Utc>) -> (Uuid, Value) {
    let samples = Samples { now };
    let (id, mut data) = samples.resource(kind);
    match kind {
        EventType::CampaignUpdated => data["previous"] = json!({"status": CampaignStatus::Draft}),
        EventType::ContactUpdated => data["previous"] = json!({"title": null}),
        EventType::ConversationReplyReceived => data["reply"] = json!(samples.reply()),
        _ => {}
    }
    (id, data)
}

/// The same for a test event: with `test: true`.
pub fn test_event(kind: EventType, now: DateTime<Utc>) -> (Uuid, Value) {
    let (id, mut data) = event(kind, now);
    data["test"] = json!(true);
    (id, data)
}

struct Samples {
    now: DateTime<Utc>,
}

impl Samples {
    fn resource(&self, kind: EventType) -> (Uuid, Value) {
        let campaign = |status| {
            let campaign = self.campaign(status);
            (campaign.id, campaign.public())
        };
        let message = |status| {
            let message = self.message(status);
            (message.id, message.public())
        };
        match kind {
            EventType::CampaignCreated => campaign(CampaignStatus::Draft),
            EventType::CampaignUpdated => campaign(CampaignStatus::Active),
            EventType::CampaignDeleted => campaign(CampaignStatus::Deleted),
            EventType::ContactCreated | EventType::ContactUpdated | EventType::ContactDeleted => {
                let contact = self.contact();
                (contact.id, contact.public())
            }
            EventType::ConversationCreated => {
                let conversation = self.conversation(ConversationStatus::Open);
                (conversation.id, conversation.public())
            }
            EventType::ConversationReplyReceived => {
                let conversation = self.conversation(ConversationStatus::Replied);
                (conversation.id, conversation.public())
            }
            EventType::MessageSent => message(MessageStatus::Sent),
            EventType::MessageDelivered => message(MessageStatus::Delivered),
            EventType::MessageOpened => message(MessageStatus::Opened),
            EventType::MessageBounced => message(MessageStatus::Bounced),
            EventType::MessageApproved => message(MessageStatus::Approved),
            EventType::MessageRejected => message(MessageStatus::Rejected),
            EventType::DiscoveryCompleted => self.discovery_job(DiscoveryStatus::Completed),
            EventType::DiscoveryFailed => self.discovery_job(DiscoveryStatus::Failed),
        }
    }

    fn campaign(&self, status: CampaignStatus) -> Campaign {
        let new = NewCampaign::new("Webhook test", "venue_dj");
        Campaign {
            account_id: Uuid::nil(),
            id: new_id(),
            name: new.name,
            objective_type: new.objective_type,
            description: None,
            location: Some("Brooklyn, NY".into()),
            latitude: None,
            longitude: None,
            radius_miles: new.radius_miles,
            venue_types: vec!["bar".into()],
            keywords: Vec::new(),
            max_results: new.max_results,
            outreach_channels: new.outreach_channels,
            followup_days: new.followup_days,
            approval: new.approval,
            sender: Json(new.sender),
            brief: None,
            tone: None,
            agent_id: None,
            send_window: None,
            daily_cap: None,
            tracking: Json(new.tracking),
            status,
            created_at: self.now,
            updated_at: self.now,
            activated_at: (status == CampaignStatus::Active).then_some(self.now),
            completed_at: None,
        }
    }

    fn contact(&self) -> Contact {
        Contact {
            account_id: Uuid::nil(),
            id: new_id(),
            email: Some("alex@example.com".into()),
            first_name: Some("Alex".into()),
            last_name: None,
            company: Some("The Bell House".into()),
            title: Some("Booking".into()),
            contact_type: Some("bar".into()),
            instagram_handle: None,
            twitter_handle: None,
            twitter_user_id: None,
            phone: None,
            website: None,
            location: Some("Brooklyn, NY".into()),
            latitude: None,
            longitude: None,
            tags: Vec::new(),
            custom: json!({}),
            source: "api".into(),
            provenance: json!({}),
            status: ContactStatus::Active,
            created_at: self.now,
            updated_at: self.now,
            deleted_at: None,
        }
    }

    fn conversation(&self, status: ConversationStatus) -> Conversation {
        let replied = status == ConversationStatus::Replied;
        Conversation {
            account_id: Uuid::nil(),
            id: new_id(),
            campaign_id: new_id(),
            contact_id: new_id(),
            status,
            last_channel: replied.then_some(Channel::Email),
            last_direction: replied.then_some(Direction::Inbound),
            last_message_at: replied.then_some(self.now),
            unread_count: i32::from(replied),
            created_at: self.now,
            updated_at: self.now,
        }
    }

    fn message(&self, status: MessageStatus) -> Message {
        let left = !matches!(status, MessageStatus::Approved | MessageStatus::Rejected);
        Message {
            account_id: Uuid::nil(),
            id: new_id(),
            conversation_id: new_id(),
            campaign_id: new_id(),
            contact_id: new_id(),
            enrolment_id: Some(new_id()),
            step: Some(0),
            direction: Direction::Outbound,
            channel: Channel::Email,
            channel_account_id: Some(new_id()),
            status,
            subject: Some("quick question".into()),
            content: "hi Alex, ...".into(),
            variables: json!({}),
            rfc_message_id: None,
            in_reply_to: None,
            order_number: None,
            crossed: false,
            blocked_reason: None,
            next_attempt_at: None,
            due_at: None,
            error: (status == MessageStatus::Bounced).then(|| "550 5.1.1 no such mailbox".into()),
            model: Some("template".into()),
            intent: None,
            sentiment: None,
            created_at: self.now,
            updated_at: self.now,
            approved_at: (status != MessageStatus::Rejected).then_some(self.now),
            sending_at: None,
            sent_at: left.then_some(self.now),
        }
    }

    fn reply(&self) -> Reply {
        let message = Message {
            direction: Direction::Inbound,
            enrolment_id: None,
            step: None,
            content: "sounds good, tell me more".into(),
            model: None,
            intent: Some(Intent::Interested),
            sentiment: Some(Sentiment::Positive),
            approved_at: None,
            sent_at: None,
            ..self.message(MessageStatus::Received)
        };
        Reply { message, intent: Intent::Interested, sentiment: Sentiment::Positive }
    }

    fn discovery_job(&self, status: DiscoveryStatus) -> (Uuid, Value) {
        let failed = status == DiscoveryStatus::Failed;
        let amount = if failed { 0 } else { 50 };
        let criteria = Criteria {
            keywords: vec!["bar".into()],
            venue_types: Vec::new(),
            location: Some("Brooklyn, NY".into()),
            latitude: None,
            longitude: None,
            radius_miles: 10.0,
            max_results: 50,
        };
        let job = DiscoveryJob {
            account_id: Uuid::nil(),
            id: new_id(),
            status,
            campaign_id: None,
            criteria: Json(vec![criteria]),
            found: amount,
            new: amount,
            duplicates: 0,
            suppressed: 0,
            by_source: Json(BTreeMap::from([("places".to_owned(), amount)])),
            contact_ids: Vec::new(),
            error: failed.then(|| "no source answered".into()),
            created_at: self.now,
            finished_at: Some(self.now),
        };
        (job.id, job.public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_type_has_a_whole_sample() {
        for kind in EventType::ALL {
            let (id, data) = test_event(kind, DateTime::UNIX_EPOCH);
            assert_eq!(data["id"], json!(id), "{}", kind.as_str());
            assert_eq!(data["test"], true);
            let updated = kind.as_str().ends_with(".updated");
            assert_eq!(data["previous"].is_object(), updated, "{}", kind.as_str());
            assert_eq!(data["reply"].is_object(), kind == EventType::ConversationReplyReceived);
        }
    }
}
