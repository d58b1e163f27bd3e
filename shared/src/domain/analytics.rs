//! Numbers on what was sent and what came of it.
//!
//! Messages are counted in the time in which they were sent, with all that became of them since: so a rate is a share of
//! the same messages, and rises while answers come in.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::text_enum;
use crate::clock::iso_ms;

text_enum! {
    /// How long a point of a time series is, in UTC.
    Interval {
        /// From midnight to midnight.
        Day = "day",
        /// From Monday on.
        Week = "week",
        /// From the first of a month on.
        Month = "month",
    }
}

/// A time, its end not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Period {
    /// Its beginning.
    #[serde(with = "iso_ms")]
    pub from: DateTime<Utc>,
    /// Its end.
    #[serde(with = "iso_ms")]
    pub to: DateTime<Utc>,
}

/// What became of the messages that were sent in a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, sqlx::FromRow, Serialize, ToSchema)]
pub struct Counts {
    /// Messages that a channel accepted.
    pub sent: i64,
    /// Those known to have arrived.
    pub delivered: i64,
    /// Those known to be opened.
    pub opened: i64,
    /// Those that were answered.
    pub replied: i64,
    /// Those that came back.
    pub bounced: i64,
}

/// Shares of the messages that were sent, from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, ToSchema)]
pub struct Rates {
    /// Of those known to have arrived.
    pub delivery: f64,
    /// Of those known to be opened.
    pub open: f64,
    /// Of those that were answered.
    pub reply: f64,
    /// Of those that came back.
    pub bounce: f64,
}

impl Counts {
    /// The shares; zeros where nothing was sent.
    pub fn rates(&self) -> Rates {
        #[expect(clippy::cast_precision_loss, reason = "counts of rows are far below 2^52")]
        let share = |count: i64| {
            let share = count as f64 / self.sent.max(1) as f64;
            (share * 10_000.0).round() / 10_000.0
        };
        Rates {
            delivery: share(self.delivered),
            open: share(self.opened),
            reply: share(self.replied),
            bounce: share(self.bounced),
        }
    }
}

/// How many campaigns, contacts and messages there were in a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Totals {
    /// Campaigns that are not deleted.
    pub campaigns: i64,
    /// Those that are active.
    pub active_campaigns: i64,
    /// Contacts that were added in the time.
    pub new_contacts: i64,
    /// Contacts that were written to in the time.
    pub contacts_reached: i64,
}

/// Totals over all campaigns.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Overview {
    /// The time.
    pub period: Period,
    /// Campaigns that are not deleted.
    pub campaigns: i64,
    /// Those that are active.
    pub active_campaigns: i64,
    /// Contacts that were added in the time.
    pub new_contacts: i64,
    /// Contacts that were written to in the time.
    pub contacts_reached: i64,
    /// The messages that were sent in the time.
    pub messages: Counts,
    /// Shares of them.
    pub rates: Rates,
}

/// What became of a step's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow, Serialize, ToSchema)]
pub struct StepCounts {
    /// Which step, 0 the first; null for direct messages.
    pub step: Option<i32>,
    /// Its messages.
    #[sqlx(flatten)]
    #[serde(flatten)]
    pub messages: Counts,
}

/// One campaign in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CampaignNumbers {
    /// The campaign.
    pub campaign_id: Uuid,
    /// The time.
    pub period: Period,
    /// The messages that were sent in the time.
    pub messages: Counts,
    /// Shares of them.
    pub rates: Rates,
    /// The same for each step.
    pub steps: Vec<StepCounts>,
}

/// A point of a time series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow, Serialize, ToSchema)]
pub struct Point {
    /// When it begins.
    #[serde(with = "iso_ms")]
    pub at: DateTime<Utc>,
    /// The messages that were sent in it.
    #[sqlx(flatten)]
    #[serde(flatten)]
    pub messages: Counts,
}

/// A time series.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Performance {
    /// The time.
    pub period: Period,
    /// How long a point is.
    pub interval: Interval,
    /// The points, the oldest first, also those in which nothing was sent. The first and the last may reach beyond the time; what
    /// was sent there is not in them.
    pub points: Vec<Point>,
}

/// How long it took contacts to answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, sqlx::FromRow, Serialize, ToSchema)]
pub struct ResponseTimes {
    /// How many answers came in the time, the first of each conversation.
    pub replies: i64,
    /// On average, in seconds after the last message before; null without answers.
    pub average_seconds: Option<f64>,
    /// The median, in seconds.
    pub p50_seconds: Option<f64>,
    /// Nine of ten answers came within, in seconds.
    pub p90_seconds: Option<f64>,
    /// 99 of a hundred answers came within, in seconds.
    pub p99_seconds: Option<f64>,
}

/// How long it took contacts to answer in a time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct ResponseTime {
    /// The time.
    pub period: Period,
    /// How long it took.
    #[serde(flatten)]
    pub times: ResponseTimes,
}

/// A kind of contacts.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, Serialize, ToSchema)]
pub struct ContactTypeCount {
    /// The kind; null for contacts without one.
    pub contact_type: Option<String>,
    /// How many there are.
    pub contacts: i64,
    /// How many of them have answered in some campaign.
    pub replied: i64,
}

/// The numbers of a terminal's page.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Summary {
    /// Totals.
    pub overview: Overview,
    /// How long answers took.
    pub response_time: ResponseTimes,
    /// The most frequent kinds of contacts.
    pub contact_types: Vec<ContactTypeCount>,
}

/// Conversations in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct ConversationCounts {
    /// All.
    pub conversations: i64,
    /// Those in which the contact has written.
    pub replied: i64,
    /// Those with something unread.
    pub unread: i64,
    /// Those in which the last word was the contact's.
    pub waiting: i64,
    /// Those in which something happened in the last seven days.
    pub active: i64,
}

/// How contacts take part in conversations.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Engagement {
    /// All conversations.
    pub conversations: i64,
    /// Those in which the contact has written.
    pub replied: i64,
    /// Their share, from 0 to 1.
    pub reply_rate: f64,
    /// Those with something unread.
    pub unread: i64,
    /// Those in which the last word was the contact's.
    pub waiting: i64,
    /// Those in which something happened in the last seven days.
    pub active: i64,
}

impl From<ConversationCounts> for Engagement {
    fn from(counts: ConversationCounts) -> Self {
        let ConversationCounts { conversations, replied, unread, waiting, active } = counts;
        let rates = Counts { sent: conversations, replied, ..Counts::default() }.rates();
        Self { conversations, replied, reply_rate: rates.reply, unread, waiting, active }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_nothing_is_nothing() {
        assert_eq!(Counts::default().rates(), Rates::default());
        let counts = Counts { sent: 3, delivered: 3, opened: 2, replied: 1, bounced: 0 };
        assert_eq!(counts.rates(), Rates { delivery: 1.0, open: 0.6667, reply: 0.3333, bounce: 0.0 });
    }
}
