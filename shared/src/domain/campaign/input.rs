//! What a caller gives to create or change a campaign, and which of it is wrong.

use sqlx::types::Json;

use super::{
    Approval, Campaign, CampaignStatus, FOLLOWUP_DAY_MAX, FOLLOWUPS_MAX, LINE_CHARS_MAX, NAME_CHARS_MAX,
    Sender, TEXT_CHARS_MAX, Tracking, WORD_CHARS_MAX, WORDS_MAX,
};
use crate::domain::{Channel, FieldError, address, field::Checks, send_window::SendWindow};

/// A campaign to be created; absent fields have the API's defaults. Make one with [`NewCampaign::new`].
#[derive(Debug, Clone, PartialEq)]
pub struct NewCampaign {
    /// 1 to 200 characters.
    pub name: String,
    /// A slug `[a-z0-9_]{1,64}`.
    pub objective_type: String,
    /// At most 10,000 characters.
    pub description: Option<String>,
    /// At most 200 characters.
    pub location: Option<String>,
    /// -90 to 90 degrees.
    pub latitude: Option<f64>,
    /// -180 to 180 degrees.
    pub longitude: Option<f64>,
    /// 1 to 100 miles; 25.
    pub radius_miles: f64,
    /// At most 50.
    pub venue_types: Vec<String>,
    /// At most 50.
    pub keywords: Vec<String>,
    /// 1 to 1,000; 50.
    pub max_results: i32,
    /// 1 to 3 different ones; email.
    pub outreach_channels: Vec<Channel>,
    /// At most 6, rising, 1 to 60; 3, 7 and 14.
    pub followup_days: Vec<i32>,
    /// Manual.
    pub approval: Approval,
    /// Nobody in particular.
    pub sender: Sender,
    /// At most 10,000 characters.
    pub brief: Option<String>,
    /// At most 200 characters.
    pub tone: Option<String>,
    /// At most 200 characters.
    pub agent_id: Option<String>,
    /// Always open.
    pub send_window: Option<SendWindow>,
    /// 1 to 100,000; none.
    pub daily_cap: Option<i32>,
    /// Off.
    pub tracking: Tracking,
    /// Draft, or active to start at once.
    pub status: CampaignStatus,
}

impl NewCampaign {
    /// A campaign with the API's defaults.
    pub fn new(name: impl Into<String>, objective_type: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            objective_type: objective_type.into(),
            description: None,
            location: None,
            latitude: None,
            longitude: None,
            radius_miles: 25.0,
            venue_types: Vec::new(),
            keywords: Vec::new(),
            max_results: 50,
            outreach_channels: vec![Channel::Email],
            followup_days: vec![3, 7, 14],
            approval: Approval::Manual,
            sender: Sender::default(),
            brief: None,
            tone: None,
            agent_id: None,
            send_window: None,
            daily_cap: None,
            tracking: Tracking::default(),
            status: CampaignStatus::Draft,
        }
    }

    /// Every wrong field.
    pub fn validate(&self) -> Vec<FieldError> {
        let mut errors = CampaignPatch::from(self.clone()).validate();
        if !matches!(self.status, CampaignStatus::Draft | CampaignStatus::Active) {
            errors.push(FieldError::new("status", "must be draft or active"));
        }
        errors
    }
}

/// What to change in a campaign: `None` leaves a field as it is, `Some(None)` empties it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CampaignPatch {
    /// See [`NewCampaign::name`].
    pub name: Option<String>,
    /// See [`NewCampaign::objective_type`].
    pub objective_type: Option<String>,
    /// See [`NewCampaign::description`].
    pub description: Option<Option<String>>,
    /// See [`NewCampaign::location`].
    pub location: Option<Option<String>>,
    /// See [`NewCampaign::latitude`].
    pub latitude: Option<Option<f64>>,
    /// See [`NewCampaign::longitude`].
    pub longitude: Option<Option<f64>>,
    /// See [`NewCampaign::radius_miles`].
    pub radius_miles: Option<f64>,
    /// See [`NewCampaign::venue_types`].
    pub venue_types: Option<Vec<String>>,
    /// See [`NewCampaign::keywords`].
    pub keywords: Option<Vec<String>>,
    /// See [`NewCampaign::max_results`].
    pub max_results: Option<i32>,
    /// See [`NewCampaign::outreach_channels`].
    pub outreach_channels: Option<Vec<Channel>>,
    /// See [`NewCampaign::followup_days`].
    pub followup_days: Option<Vec<i32>>,
    /// See [`NewCampaign::approval`].
    pub approval: Option<Approval>,
    /// See [`NewCampaign::sender`]; replaced as a whole.
    pub sender: Option<Sender>,
    /// See [`NewCampaign::brief`].
    pub brief: Option<Option<String>>,
    /// See [`NewCampaign::tone`].
    pub tone: Option<Option<String>>,
    /// See [`NewCampaign::agent_id`].
    pub agent_id: Option<Option<String>>,
    /// See [`NewCampaign::send_window`]; replaced as a whole.
    pub send_window: Option<Option<SendWindow>>,
    /// See [`NewCampaign::daily_cap`].
    pub daily_cap: Option<Option<i32>>,
    /// See [`NewCampaign::tracking`]; replaced as a whole.
    pub tracking: Option<Tracking>,
    /// The status asked for; see [`transition`].
    pub status: Option<CampaignStatus>,
}

impl From<NewCampaign> for CampaignPatch {
    fn from(new: NewCampaign) -> Self {
        Self {
            name: Some(new.name),
            objective_type: Some(new.objective_type),
            description: Some(new.description),
            location: Some(new.location),
            latitude: Some(new.latitude),
            longitude: Some(new.longitude),
            radius_miles: Some(new.radius_miles),
            venue_types: Some(new.venue_types),
            keywords: Some(new.keywords),
            max_results: Some(new.max_results),
            outreach_channels: Some(new.outreach_channels),
            followup_days: Some(new.followup_days),
            approval: Some(new.approval),
            sender: Some(new.sender),
            brief: Some(new.brief),
            tone: Some(new.tone),
            agent_id: Some(new.agent_id),
            send_window: Some(new.send_window),
            daily_cap: Some(new.daily_cap),
            tracking: Some(new.tracking),
            status: Some(new.status),
        }
    }
}

impl CampaignPatch {
    /// A patch that only asks for a status.
    pub fn status(status: CampaignStatus) -> Self {
        Self { status: Some(status), ..Self::default() }
    }

    /// Every wrong field. The status is judged by [`transition`], not here.
    pub fn validate(&self) -> Vec<FieldError> {
        let mut checks = Checks::new();
        if let Some(name) = &self.name {
            checks.text("name", name, 1, NAME_CHARS_MAX);
        }
        if let Some(slug) = &self.objective_type {
            checks.require(is_slug(slug), "objective_type", "must be 1 to 64 of a-z, 0-9 and _");
        }
        checks.optional_text("description", flat(&self.description), TEXT_CHARS_MAX);
        checks.optional_text("location", flat(&self.location), LINE_CHARS_MAX);
        checks.position(self.latitude.flatten(), self.longitude.flatten());
        checks.optional_text("brief", flat(&self.brief), TEXT_CHARS_MAX);
        checks.optional_text("tone", flat(&self.tone), LINE_CHARS_MAX);
        checks.optional_text("agent_id", flat(&self.agent_id), LINE_CHARS_MAX);
        self.check_search(&mut checks);
        self.check_sequence(&mut checks);
        if let Some(sender) = &self.sender {
            check_sender(&mut checks, sender);
        }
        checks.finish()
    }

    fn check_search(&self, checks: &mut Checks) {
        if let Some(miles) = self.radius_miles {
            checks.require((1.0..=100.0).contains(&miles), "radius_miles", "must be between 1 and 100");
        }
        for (field, words) in [("venue_types", &self.venue_types), ("keywords", &self.keywords)] {
            if let Some(words) = words {
                checks.texts(field, words, WORDS_MAX, WORD_CHARS_MAX);
            }
        }
        if let Some(count) = self.max_results {
            checks.require((1..=1000).contains(&count), "max_results", "must be between 1 and 1000");
        }
    }

    fn check_sequence(&self, checks: &mut Checks) {
        if let Some(channels) = &self.outreach_channels {
            let distinct: std::collections::BTreeSet<_> = channels.iter().collect();
            checks.require(!channels.is_empty(), "outreach_channels", "must have at least one channel");
            checks.require(
                distinct.len() == channels.len(),
                "outreach_channels",
                "must not repeat a channel",
            );
        }
        if let Some(days) = &self.followup_days {
            checks.require(days.len() <= FOLLOWUPS_MAX, "followup_days", "must have at most 6 days");
            checks.require(
                days.iter().all(|day| (1..=FOLLOWUP_DAY_MAX).contains(day)),
                "followup_days",
                "must be between 1 and 60",
            );
            checks.require(days.is_sorted_by(|a, b| a < b), "followup_days", "must rise");
        }
        if let Some(Some(window)) = &self.send_window {
            window.check(checks);
        }
        if let Some(Some(cap)) = self.daily_cap {
            checks.require((1..=100_000).contains(&cap), "daily_cap", "must be between 1 and 100000");
        }
    }

    /// The campaign as it is after the change, but for its status.
    #[must_use]
    pub fn apply(&self, campaign: &Campaign) -> Campaign {
        let old = campaign.clone();
        let patch = self.clone();
        Campaign {
            name: patch.name.unwrap_or(old.name),
            objective_type: patch.objective_type.unwrap_or(old.objective_type),
            description: patch.description.unwrap_or(old.description),
            location: patch.location.unwrap_or(old.location),
            latitude: patch.latitude.unwrap_or(old.latitude),
            longitude: patch.longitude.unwrap_or(old.longitude),
            radius_miles: patch.radius_miles.unwrap_or(old.radius_miles),
            venue_types: patch.venue_types.unwrap_or(old.venue_types),
            keywords: patch.keywords.unwrap_or(old.keywords),
            max_results: patch.max_results.unwrap_or(old.max_results),
            outreach_channels: patch.outreach_channels.unwrap_or(old.outreach_channels),
            followup_days: patch.followup_days.unwrap_or(old.followup_days),
            approval: patch.approval.unwrap_or(old.approval),
            sender: patch.sender.map_or(old.sender, Json),
            brief: patch.brief.unwrap_or(old.brief),
            tone: patch.tone.unwrap_or(old.tone),
            agent_id: patch.agent_id.unwrap_or(old.agent_id),
            send_window: patch.send_window.map_or(old.send_window, |window| window.map(Json)),
            daily_cap: patch.daily_cap.unwrap_or(old.daily_cap),
            tracking: patch.tracking.map_or(old.tracking, Json),
            ..old
        }
    }
}

#[expect(clippy::option_option, clippy::ref_option, reason = "a field of a patch, as it is")]
fn flat(field: &Option<Option<String>>) -> Option<&str> {
    field.as_ref().and_then(|value| value.as_deref())
}

fn is_slug(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

fn check_sender(checks: &mut Checks, sender: &Sender) {
    checks.optional_text("sender.name", sender.name.as_deref(), LINE_CHARS_MAX);
    checks.optional_text("sender.signature", sender.signature.as_deref(), TEXT_CHARS_MAX);
    checks.optional_text("sender.postal_address", sender.postal_address.as_deref(), TEXT_CHARS_MAX);
    if let Some(reply_to) = &sender.reply_to {
        checks.require(address::normalise(reply_to).is_some(), "sender.reply_to", "must be an email address");
    }
    if sender.name.as_deref().is_some_and(|name| name.contains(['\r', '\n'])) {
        checks.fail("sender.name", "must be one line");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_campaign_is_valid() {
        let usual = NewCampaign {
            location: Some("Brooklyn, NY".into()),
            radius_miles: 10.0,
            venue_types: ["bar", "club", "lounge"].map(Into::into).to_vec(),
            keywords: ["live music", "dj nights"].map(Into::into).to_vec(),
            outreach_channels: vec![Channel::Email, Channel::Instagram, Channel::Twitter],
            ..NewCampaign::new("April DJ outreach - Brooklyn", "venue_dj")
        };
        assert_eq!(usual.validate(), []);
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let wrong = NewCampaign {
            latitude: Some(91.0),
            radius_miles: 0.0,
            venue_types: vec![String::new()],
            max_results: 1001,
            outreach_channels: vec![],
            followup_days: vec![3, 3, 61],
            sender: Sender { reply_to: Some("x".into()), name: Some("a\nb".into()), ..Sender::default() },
            brief: Some("nul\0".into()),
            daily_cap: Some(0),
            status: CampaignStatus::Paused,
            ..NewCampaign::new("", "Not A Slug")
        };
        let fields: Vec<_> = wrong.validate().into_iter().map(|error| error.field).collect();
        assert_eq!(
            fields,
            [
                "name",
                "objective_type",
                "latitude",
                "brief",
                "radius_miles",
                "venue_types[0]",
                "max_results",
                "outreach_channels",
                "followup_days",
                "followup_days",
                "daily_cap",
                "sender.reply_to",
                "sender.name",
                "status"
            ]
        );
        let seven = CampaignPatch { followup_days: Some((1..=7).collect()), ..CampaignPatch::default() };
        assert_eq!(seven.validate().len(), 1);
        assert_eq!(CampaignPatch::default().validate(), []);
    }
}
