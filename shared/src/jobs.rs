//! The jobs of iris. A payload holds ids, never rows; its handler reads the rows afresh.

use queue::JobKind;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Runs one discovery job: searches the sources, stores the contacts, enrols them. Lane: the account.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Discover {
    /// The account.
    pub account_id: Uuid,
    /// The row in `discovery_jobs`.
    pub discovery_job_id: Uuid,
}

impl JobKind for Discover {
    const QUEUE: &'static str = "discover";
    const MAX_ATTEMPTS: u16 = 4;
}

/// Drafts the message of one step of an enrolment. Lane: the account. Group: campaign/enrolment. How often its provider is
/// tried is the handler's affair; the job goes on for as long as the database may be away.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Draft {
    /// The account.
    pub account_id: Uuid,
    /// Whose passage.
    pub enrolment_id: Uuid,
    /// 0 is the first message, 1..n the follow-ups.
    pub step: i32,
}

impl JobKind for Draft {
    const QUEUE: &'static str = "draft";
    const MAX_ATTEMPTS: u16 = 1000;
}

/// Sends one approved message. Lane: the mailbox or profile. Group: campaign/enrolment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Send {
    /// The account.
    pub account_id: Uuid,
    /// The message.
    pub message_id: Uuid,
}

impl JobKind for Send {
    const QUEUE: &'static str = "send";
    const MAX_ATTEMPTS: u16 = 12;
}

/// Makes one delivery: an event to an endpoint. Lane: the endpoint. Its retries are the delivery's, so an attempt of
/// this job is never a failed request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Deliver {
    /// The account.
    pub account_id: Uuid,
    /// The row in `deliveries`.
    pub delivery_id: Uuid,
}

impl JobKind for Deliver {
    const QUEUE: &'static str = "deliver";
    const MAX_ATTEMPTS: u16 = 100;
}

/// Goes through a batch of the events of a replay, and makes their deliveries. Lane: the endpoint. The next batch is a job of
/// its own, so that these attempts are those of one batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Replay {
    /// The account.
    pub account_id: Uuid,
    /// The row in `replays`.
    pub replay_id: Uuid,
}

impl JobKind for Replay {
    const QUEUE: &'static str = "replay";
    const MAX_ATTEMPTS: u16 = 30;
}

/// Takes contacts that were erased out of the history of webhooks: one page of their account's events, then the next by
/// another job of this kind, and all of it once more a while later. Lane: the account.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EraseHistory {
    /// The account.
    pub account_id: Uuid,
    /// The contacts.
    pub contact_ids: Vec<Uuid>,
    /// The event after which the page begins; where the contacts' life does, if there is none.
    pub after: Option<Uuid>,
    /// Whether this is the second time, for what was under way at the first.
    pub again: bool,
}

impl JobKind for EraseHistory {
    const QUEUE: &'static str = "erase_history";
    const MAX_ATTEMPTS: u16 = 1000;
}

/// Completes the campaigns in which nothing can still happen. Periodic.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CompleteCampaigns {}

impl JobKind for CompleteCampaigns {
    const QUEUE: &'static str = "complete_campaigns";
    const MAX_ATTEMPTS: u16 = 3;
}

/// Makes the history tables' partitions of the days ahead, and drops those whose time is up. Periodic.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct MaintainPartitions {}

impl JobKind for MaintainPartitions {
    const QUEUE: &'static str = "maintain_partitions";
    const MAX_ATTEMPTS: u16 = 3;
}

/// Ends what jobs that died left behind: messages, searches and enrolments. Periodic.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SettleStranded {}

impl JobKind for SettleStranded {
    const QUEUE: &'static str = "settle_stranded";
    const MAX_ATTEMPTS: u16 = 3;
}

/// The tenant of jobs that belong to no account.
pub const SYSTEM_TENANT: &str = "system";

/// The group of everything a campaign does.
pub fn campaign_group(campaign_id: Uuid) -> String {
    campaign_id.to_string()
}

/// The group of one contact's passage through a campaign.
pub fn enrolment_group(campaign_id: Uuid, enrolment_id: Uuid) -> String {
    format!("{campaign_id}/{enrolment_id}")
}
