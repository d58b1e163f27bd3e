//! A campaign: whom to look for, how to write to them, and its state.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Channel, send_window::SendWindow, text_enum};
use crate::clock::{iso_ms, iso_ms_option};

mod input;

pub use input::{CampaignPatch, NewCampaign};

/// The longest name in characters.
pub const NAME_CHARS_MAX: usize = 200;
/// The longest description, brief, signature or postal address in characters.
pub const TEXT_CHARS_MAX: usize = 10_000;
/// The longest location, tone, agent id or name of a sender in characters.
pub const LINE_CHARS_MAX: usize = 200;
/// How many venue types or keywords a campaign may have.
pub const WORDS_MAX: usize = 50;
/// The longest venue type or keyword in characters.
pub const WORD_CHARS_MAX: usize = 100;
/// How many follow-ups a campaign may have.
pub const FOLLOWUPS_MAX: usize = 6;
/// The latest day of a follow-up.
pub const FOLLOWUP_DAY_MAX: i32 = 60;

text_enum! {
    /// Where a campaign stands.
    ///
    /// ```text
    ///     draft ---> active <---> paused
    ///       |        |    |         |
    ///       |        v    |         |
    ///       |  completed  |         |
    ///       |        |    |         |
    ///       +--------+--> deleted <-+
    /// ```
    CampaignStatus {
        /// Being prepared: contacts are listed, nothing is written.
        Draft = "draft",
        /// Its enrolments run.
        Active = "active",
        /// Its jobs are held until it is resumed.
        Paused = "paused",
        /// Nothing in it can still happen.
        Completed = "completed",
        /// Removed; hidden everywhere.
        Deleted = "deleted",
    }
}

text_enum! {
    /// Who approves the drafts.
    Approval {
        /// A person, one by one or in bulk.
        Manual = "manual",
        /// Nobody: drafts go out as they are.
        Auto = "auto",
    }
}

/// What asking for a status means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// It has that status already.
    Unchanged,
    /// draft -> active.
    Activate,
    /// active -> paused.
    Pause,
    /// paused -> active.
    Resume,
    /// active -> completed.
    Complete,
}

/// Why a status cannot be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It is active, and being activated again would look like a second start (CAMP_005).
    AlreadyActive,
    /// The diagram of [`CampaignStatus`] has no such arrow (CAMP_008).
    NotDrawn,
}

/// What a PATCH from one status to another means. Deletion is an operation of its own.
pub const fn transition(from: CampaignStatus, to: CampaignStatus) -> Result<Transition, Refused> {
    use CampaignStatus::{Active, Completed, Deleted, Draft, Paused};
    match (from, to) {
        (Draft, Active) => Ok(Transition::Activate),
        (Active, Paused) => Ok(Transition::Pause),
        (Paused, Active) => Ok(Transition::Resume),
        (Active, Completed) => Ok(Transition::Complete),
        (Active, Active) => Err(Refused::AlreadyActive),
        (Draft, Draft) | (Paused, Paused) | (Completed, Completed) => Ok(Transition::Unchanged),
        (Deleted, _)
        | (_, Deleted | Draft)
        | (Draft, Paused | Completed)
        | (Paused, Completed)
        | (Completed, Active | Paused) => Err(Refused::NotDrawn),
    }
}

/// Who signs the messages. Unknown keys are dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Sender {
    /// The name shown beside the mailbox's address.
    pub name: Option<String>,
    /// Where answers go, when not to the mailbox.
    pub reply_to: Option<String>,
    /// Text that ends every message.
    pub signature: Option<String>,
    /// The postal address that commercial mail must carry in some countries (CAN-SPAM Act, section 5(a)(5)).
    pub postal_address: Option<String>,
}

/// What is measured in messages; off unless asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Tracking {
    /// Opens, by an image.
    pub opens: bool,
    /// Clicks, by rewritten links.
    pub clicks: bool,
}

/// A campaign as the API and webhooks show it.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Serialize, ToSchema)]
pub struct Campaign {
    /// Whose it is.
    #[serde(skip)]
    pub account_id: Uuid,
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// What it is for, such as `venue_dj`; known ones choose templates.
    pub objective_type: String,
    /// What it is about, for its owner.
    pub description: Option<String>,
    /// Where to look for contacts, in words.
    pub location: Option<String>,
    /// Where to look, in degrees.
    pub latitude: Option<f64>,
    /// Where to look, in degrees.
    pub longitude: Option<f64>,
    /// How far around, in miles.
    pub radius_miles: f64,
    /// Which kinds of venues to look for.
    pub venue_types: Vec<String>,
    /// What they should be known for.
    pub keywords: Vec<String>,
    /// How many contacts discovery may find.
    pub max_results: i32,
    /// The channels, the preferred one first.
    pub outreach_channels: Vec<Channel>,
    /// On which days after the first message to follow up.
    pub followup_days: Vec<i32>,
    /// Who approves the drafts.
    pub approval: Approval,
    /// Who signs.
    #[schema(value_type = Sender)]
    pub sender: Json<Sender>,
    /// What to write about.
    pub brief: Option<String>,
    /// How to sound.
    pub tone: Option<String>,
    /// The agent that owns it.
    pub agent_id: Option<String>,
    /// When messages may leave; always when absent.
    #[schema(value_type = Option<SendWindow>)]
    pub send_window: Option<Json<SendWindow>>,
    /// How many messages may leave in a day.
    pub daily_cap: Option<i32>,
    /// What is measured.
    #[schema(value_type = Tracking)]
    pub tracking: Json<Tracking>,
    /// Where it stands.
    pub status: CampaignStatus,
    /// When it was created.
    #[serde(with = "iso_ms")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(with = "iso_ms")]
    pub updated_at: DateTime<Utc>,
    /// When it was activated.
    #[serde(with = "iso_ms_option")]
    pub activated_at: Option<DateTime<Utc>>,
    /// When it completed.
    #[serde(with = "iso_ms_option")]
    pub completed_at: Option<DateTime<Utc>>,
}

impl Campaign {
    /// The public form, the same in API answers and webhooks.
    pub fn public(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Whether discovery has something to look for: a kind of venue or a keyword, and a place.
    pub fn has_criteria(&self) -> bool {
        let what = !self.venue_types.is_empty() || !self.keywords.is_empty();
        let place = self.location.as_deref().is_some_and(|location| !location.trim().is_empty());
        what && (place || (self.latitude.is_some() && self.longitude.is_some()))
    }
}

/// How far a campaign is, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow, Serialize, ToSchema)]
pub struct Progress {
    /// Contacts in the campaign, found or imported.
    pub discovered: i64,
    /// Contacts whose passage began: they have a conversation.
    pub enrolled: i64,
    /// Messages drafted for a step.
    pub drafted: i64,
    /// Drafts that wait for approval.
    pub pending: i64,
    /// Messages approved and not yet sent.
    pub approved: i64,
    /// Messages that the channel accepted, whatever became of them later.
    pub sent: i64,
    /// Messages known to be delivered.
    pub delivered: i64,
    /// Messages known to be opened.
    pub opened: i64,
    /// Contacts that replied.
    pub replied: i64,
    /// Messages that bounced.
    pub bounced: i64,
    /// Messages refused for another reason.
    pub failed: i64,
    /// Messages that wait for something other than approval; `blocked_reason` says for what.
    pub blocked: i64,
    /// Messages of which nobody knows whether they were accepted.
    pub unknown: i64,
    /// Sent messages that were follow-ups.
    pub followups: i64,
    /// Drafts that were rejected: skipped steps.
    pub rejected: i64,
    /// Messages cancelled before they were sent.
    pub cancelled: i64,
    /// Contacts whose passage is under way.
    pub active: i64,
    /// Contacts whose passage was stopped: by a reply, a bounce, a request.
    pub stopped: i64,
    /// Contacts who got every step.
    pub finished: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_drawn_transitions_are_possible() {
        use CampaignStatus::{Active, Completed, Deleted, Draft, Paused};
        use Transition::{Activate, Complete, Pause, Resume, Unchanged};
        let drawn = [
            (Draft, Draft, Unchanged),
            (Draft, Active, Activate),
            (Active, Paused, Pause),
            (Active, Completed, Complete),
            (Paused, Active, Resume),
            (Paused, Paused, Unchanged),
            (Completed, Completed, Unchanged),
        ];
        for &from in CampaignStatus::ALL {
            for &to in CampaignStatus::ALL {
                let expected = match drawn.iter().find(|(a, b, _)| (*a, *b) == (from, to)) {
                    Some((.., change)) => Ok(*change),
                    None if (from, to) == (Active, Active) => Err(Refused::AlreadyActive),
                    None => Err(Refused::NotDrawn),
                };
                assert_eq!(transition(from, to), expected, "{from} -> {to}");
            }
        }
        assert_eq!(transition(Deleted, Draft), Err(Refused::NotDrawn));
    }
}
