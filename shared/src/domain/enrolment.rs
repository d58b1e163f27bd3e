//! One contact's passage through one campaign.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Channel, schedule::Passage, text_enum};
use crate::clock::{iso_ms, iso_ms_option};

text_enum! {
    /// Where a passage stands.
    ///
    /// ```text
    ///     listed ---> active ---> finished
    ///        |           |
    ///        +-----------+------> stopped (stop_reason)
    /// ```
    EnrolmentStatus {
        /// The campaign is not active yet.
        Listed = "listed",
        /// Its steps are drafted, approved and sent.
        Active = "active",
        /// Ended early.
        Stopped = "stopped",
        /// Every step is done.
        Finished = "finished",
    }
}

text_enum! {
    /// Why a passage ended early.
    StopReason {
        /// The contact replied.
        Replied = "replied",
        /// A message came back for good.
        Bounced = "bounced",
        /// The contact asked to stop.
        OptedOut = "opted_out",
        /// The address or its domain is never to be written to.
        Suppressed = "suppressed",
        /// A message was refused, or could not be written.
        Failed = "failed",
        /// The contact has no address on a channel on which the account can send.
        NoChannel = "no_channel",
        /// The campaign was deleted, or ended by its owner.
        CampaignDeleted = "campaign_deleted",
        /// The contact was deleted.
        ContactDeleted = "contact_deleted",
    }
}

/// An enrolment.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, Serialize, ToSchema)]
pub struct Enrolment {
    /// Whose it is.
    #[serde(skip)]
    pub account_id: Uuid,
    /// Its id.
    pub id: Uuid,
    /// The campaign.
    pub campaign_id: Uuid,
    /// The contact.
    pub contact_id: Uuid,
    /// The conversation, once it is active.
    pub conversation_id: Option<Uuid>,
    /// The channel chosen when it became active.
    pub channel: Option<Channel>,
    /// The mailbox or profile chosen when it became active.
    pub channel_account_id: Option<Uuid>,
    /// Where it stands.
    pub status: EnrolmentStatus,
    /// Why it ended early.
    pub stop_reason: Option<StopReason>,
    /// The last order number given to a sending mark or a reply.
    #[serde(skip)]
    pub order_number: i64,
    /// The order number of the first reply.
    #[serde(skip)]
    pub replied_order: Option<i64>,
    /// When its days began: step 0 was sent or rejected.
    #[serde(with = "iso_ms_option")]
    pub started_at: Option<DateTime<Utc>>,
    /// When the last message was sent.
    #[serde(with = "iso_ms_option")]
    pub last_sent_at: Option<DateTime<Utc>>,
    /// Which step that was.
    pub last_sent_step: Option<i32>,
    /// When it was listed.
    #[serde(with = "iso_ms")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(with = "iso_ms")]
    pub updated_at: DateTime<Utc>,
    /// When it stopped or finished.
    #[serde(with = "iso_ms_option")]
    pub ended_at: Option<DateTime<Utc>>,
}

impl Enrolment {
    /// What the schedule of its steps depends on.
    pub fn passage(&self) -> Passage {
        Passage {
            started_at: self.started_at,
            last_sent_at: self.last_sent_at,
            last_sent_step: self.last_sent_step,
        }
    }
}
