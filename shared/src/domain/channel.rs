//! Where messages travel, and the accounts they travel from.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

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

impl Channel {
    /// Whether an account of it can be connected in this release.
    pub const fn is_connectable(self) -> bool {
        matches!(self, Self::Email)
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

/// How many active enrolments a channel account has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Load {
    /// The channel account.
    pub id: Uuid,
    /// What it sends by.
    pub channel: Channel,
    /// The active enrolments.
    pub active: i64,
}

/// Spreads new enrolments over channel accounts: each goes to the least loaded one of its channel, of two with the same
/// load to the older.
#[derive(Debug, Default)]
pub struct Loads {
    by_channel: BTreeMap<Channel, BinaryHeap<Reverse<(i64, Uuid)>>>,
}

impl Loads {
    /// Begins with the present loads.
    pub fn new(loads: &[Load]) -> Self {
        let mut by_channel: BTreeMap<Channel, BinaryHeap<_>> = BTreeMap::new();
        for load in loads {
            by_channel.entry(load.channel).or_default().push(Reverse((load.active, load.id)));
        }
        Self { by_channel }
    }

    /// Chooses for one enrolment: the first of the `wanted` channels on which the contact has an address and the account
    /// an account, and that account. While the account has none on any wanted channel, the first that could be connected
    /// and on which the contact has an address: the messages wait for an account. None if the contact cannot be reached.
    pub fn choose(&mut self, wanted: &[Channel], reachable: &[Channel]) -> Option<(Channel, Option<Uuid>)> {
        let mut reachable = wanted.iter().filter(|channel| reachable.contains(channel));
        if !wanted.iter().any(|channel| self.by_channel.contains_key(channel)) {
            return reachable.find(|channel| channel.is_connectable()).map(|channel| (*channel, None));
        }
        let channel = reachable.find(|channel| self.by_channel.contains_key(channel))?;
        let mut least = self.by_channel.get_mut(channel)?.peek_mut()?;
        let Reverse((active, id)) = *least;
        *least = Reverse((active + 1, id));
        Some((*channel, Some(id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(id: u128, channel: Channel, active: i64) -> Load {
        Load { id: Uuid::from_u128(id), channel, active }
    }

    #[test]
    fn the_least_loaded_mailbox_of_the_first_possible_channel_is_chosen() {
        use Channel::{Email, Instagram, Twitter};
        let mut loads = Loads::new(&[load(1, Email, 2), load(2, Email, 0), load(3, Twitter, 9)]);
        let mut choose = |wanted: &[Channel], reachable: &[Channel]| {
            loads.choose(wanted, reachable).map(|(channel, id)| (channel, id.map(|id| id.as_u128())))
        };
        let ids: Vec<_> = (0..5).filter_map(|_| choose(&[Email], &[Email])?.1).collect();
        assert_eq!(ids, [2, 2, 1, 2, 1]);
        assert_eq!(
            choose(&[Instagram, Twitter, Email], &[Email, Instagram, Twitter]),
            Some((Twitter, Some(3)))
        );
        assert_eq!(choose(&[Instagram], &[Instagram]), None, "no account can be connected");
        assert_eq!(choose(&[Instagram, Email], &[Instagram]), None, "the account writes by email");
        assert_eq!(choose(&[Email], &[Twitter]), None, "the contact has no address");
        let mut none = Loads::default();
        assert_eq!(none.choose(&[Instagram, Email], &[Email]), Some((Email, None)));
        let both = [Email, Instagram];
        assert_eq!(none.choose(&[Instagram, Email], &both), Some((Email, None)), "it waits for a mailbox");
        assert_eq!(none.choose(&[Instagram, Email], &[Instagram]), None, "it would wait for ever");
        assert_eq!(none.choose(&[Email], &[]), None);
    }
}
