//! A campaign, a contact and a conversation to draft for.

use chrono::{DateTime, Utc};
use serde_json::json;
use shared::domain::{
    Channel,
    campaign::{Approval, Campaign, CampaignStatus, Sender, Tracking},
    contact::{Contact, ContactStatus},
    message::{Direction, Message, MessageStatus},
};
use sqlx::types::Json;
use uuid::Uuid;
use worker::drafting::Request;

pub fn noon() -> DateTime<Utc> {
    DateTime::from_timestamp(1_777_464_000, 0).unwrap()
}

pub fn campaign(objective: &str) -> Campaign {
    Campaign {
        account_id: Uuid::nil(),
        id: Uuid::now_v7(),
        name: "April DJ outreach - Brooklyn".into(),
        objective_type: objective.into(),
        description: None,
        location: Some("Brooklyn, NY".into()),
        latitude: None,
        longitude: None,
        radius_miles: 10.0,
        venue_types: vec!["bar".into()],
        keywords: vec!["live music".into(), "dj nights".into()],
        max_results: 50,
        outreach_channels: vec![Channel::Email],
        followup_days: vec![3, 7, 14],
        approval: Approval::Manual,
        sender: Json(Sender { name: Some("Ana Lopez".into()), ..Sender::default() }),
        brief: Some("House and disco, two to four hours.".into()),
        tone: None,
        agent_id: None,
        send_window: None,
        daily_cap: None,
        tracking: Json(Tracking::default()),
        status: CampaignStatus::Active,
        created_at: noon(),
        updated_at: noon(),
        activated_at: None,
        completed_at: None,
    }
}

pub fn contact() -> Contact {
    Contact {
        account_id: Uuid::nil(),
        id: Uuid::now_v7(),
        email: Some("alex@bellhouse.example".into()),
        first_name: Some("Alex".into()),
        last_name: None,
        company: Some("The Bell House".into()),
        title: None,
        contact_type: Some("bar".into()),
        instagram_handle: None,
        twitter_handle: None,
        twitter_user_id: None,
        phone: None,
        website: None,
        location: Some("Gowanus".into()),
        latitude: None,
        longitude: None,
        tags: vec![],
        custom: json!({}),
        source: "api".into(),
        provenance: json!({}),
        status: ContactStatus::Active,
        created_at: noon(),
        updated_at: noon(),
        deleted_at: None,
    }
}

/// A contact of whom nothing is known but the address.
pub fn stranger() -> Contact {
    Contact { first_name: None, company: None, contact_type: None, location: None, ..contact() }
}

pub fn sent(step: i32, subject: &str) -> Message {
    Message {
        account_id: Uuid::nil(),
        id: Uuid::now_v7(),
        conversation_id: Uuid::nil(),
        campaign_id: Uuid::nil(),
        contact_id: Uuid::nil(),
        enrolment_id: Some(Uuid::nil()),
        step: Some(step),
        direction: Direction::Outbound,
        channel: Channel::Email,
        channel_account_id: None,
        status: MessageStatus::Sent,
        subject: Some(subject.into()),
        content: "Hi".into(),
        variables: json!({}),
        rfc_message_id: None,
        in_reply_to: None,
        order_number: None,
        crossed: false,
        blocked_reason: None,
        next_attempt_at: None,
        due_at: None,
        error: None,
        model: None,
        intent: None,
        sentiment: None,
        created_at: noon(),
        updated_at: noon(),
        approved_at: None,
        sending_at: Some(noon()),
        sent_at: Some(noon()),
    }
}

pub fn request(step: i32) -> Request {
    Request {
        campaign: campaign("venue_dj"),
        contact: contact(),
        channel: Channel::Email,
        step,
        earlier: vec![],
    }
}
