//! Where messages travel, and the accounts they travel from.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::text_enum;
use crate::clock::iso_ms;

text_enum! {
    /// Where a message travels.
    Channel {
        /// Internet mail.
        Email = "email",
        /// Instagram direct messages.
        Instagram = "instagram",
        /// Twitter (X) direct messages.
        Twitter = "twitter",
    }
}

text_enum! {
    /// Whether a channel account can send.
    ChannelAccountStatus {
        /// It sends and receives.
        Connected = "connected",
        /// Its owner stopped it for a while: what it is to send waits.
        Paused = "paused",
        /// It has no working credentials.
        Disconnected = "disconnected",
    }
}

/// A connected mailbox or profile. Its secrets stay sealed and never leave the process.
#[derive(Debug, Clone, sqlx::FromRow, Serialize, ToSchema)]
pub struct ChannelAccount {
    /// Whose it is.
    #[serde(skip)]
    pub account_id: Uuid,
    /// Its id.
    pub id: Uuid,
    /// What it sends by.
    pub channel: Channel,
    /// The mail address, lower case, or the handle.
    pub address: String,
    /// The name shown beside the address.
    pub display_name: Option<String>,
    /// Whether it can send.
    pub status: ChannelAccountStatus,
    /// What is not secret.
    pub settings: Value,
    /// What is: sealed at the place `channel_account/<id>`.
    #[serde(skip)]
    pub secrets: Vec<u8>,
    /// When it was connected.
    #[serde(with = "iso_ms")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(with = "iso_ms")]
    pub updated_at: DateTime<Utc>,
}

impl ChannelAccount {
    /// The place at which its secrets are sealed.
    pub fn secrets_place(id: Uuid) -> String {
        format!("channel_account/{id}")
    }
}
