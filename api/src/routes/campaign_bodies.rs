//! What creates and changes a campaign, as it is sent. In a PATCH an absent field stays and null empties one that may
//! be empty; elsewhere null is the same as absent.

use serde::Deserialize;
use shared::domain::{
    Channel,
    campaign::{Approval, CampaignPatch, CampaignStatus, NewCampaign, Sender, Tracking},
    patch::present,
    send_window::SendWindow,
};
use utoipa::ToSchema;

/// A campaign to be created.
#[derive(Debug, Deserialize, ToSchema)]
pub struct CreateCampaign {
    /// Its name.
    #[schema(min_length = 1, max_length = 200, example = "April DJ outreach - Brooklyn")]
    name: String,
    /// What it is for. `venue_dj`, `product_promotion`, `sales`, `partnership`, `recruiting`, `press` and `event` choose
    /// templates; any other slug will do.
    #[schema(pattern = "^[a-z0-9_]{1,64}$", example = "venue_dj")]
    objective_type: String,
    /// What it is about, for its owner.
    #[schema(max_length = 10_000)]
    description: Option<String>,
    /// Where to look for contacts, in words.
    #[schema(max_length = 200, example = "Brooklyn, NY")]
    location: Option<String>,
    /// Where to look, in degrees.
    #[schema(minimum = -90, maximum = 90)]
    latitude: Option<f64>,
    /// Where to look, in degrees.
    #[schema(minimum = -180, maximum = 180)]
    longitude: Option<f64>,
    /// How far around, in miles.
    #[schema(minimum = 1, maximum = 100, default = 25)]
    radius_miles: Option<f64>,
    /// Which kinds of venues to look for.
    #[schema(max_items = 50, example = json!(["bar", "club", "lounge"]))]
    venue_types: Option<Vec<String>>,
    /// What they should be known for.
    #[schema(max_items = 50, example = json!(["live music", "dj nights"]))]
    keywords: Option<Vec<String>>,
    /// How many contacts discovery may find.
    #[schema(minimum = 1, maximum = 1000, default = 50)]
    max_results: Option<i32>,
    /// The channels, the preferred one first.
    #[schema(max_items = 3, default = json!(["email"]))]
    outreach_channels: Option<Vec<Channel>>,
    /// On which days after the first message to follow up; rising, from 1 to 60.
    #[schema(max_items = 6, default = json!([3, 7, 14]))]
    followup_days: Option<Vec<i32>>,
    /// Who approves the drafts. `auto` needs the scope `send` too.
    approval: Option<Approval>,
    /// Who signs.
    sender: Option<Sender>,
    /// What to write about.
    #[schema(max_length = 10_000)]
    brief: Option<String>,
    /// How to sound.
    #[schema(max_length = 200)]
    tone: Option<String>,
    /// The agent that owns it.
    #[schema(max_length = 200)]
    agent_id: Option<String>,
    /// When messages may leave; always when absent.
    send_window: Option<SendWindow>,
    /// How many messages may leave in a day.
    #[schema(minimum = 1, maximum = 100_000)]
    daily_cap: Option<i32>,
    /// What is measured; nothing unless asked for.
    tracking: Option<Tracking>,
    /// `draft`, or `active` to start at once.
    status: Option<CampaignStatus>,
}

impl CreateCampaign {
    /// The campaign, with the defaults of what is absent.
    pub fn into_new(self) -> NewCampaign {
        let defaults = NewCampaign::new(self.name, self.objective_type);
        NewCampaign {
            description: self.description,
            location: self.location,
            latitude: self.latitude,
            longitude: self.longitude,
            radius_miles: self.radius_miles.unwrap_or(defaults.radius_miles),
            venue_types: self.venue_types.unwrap_or(defaults.venue_types),
            keywords: self.keywords.unwrap_or(defaults.keywords),
            max_results: self.max_results.unwrap_or(defaults.max_results),
            outreach_channels: self.outreach_channels.unwrap_or(defaults.outreach_channels),
            followup_days: self.followup_days.unwrap_or(defaults.followup_days),
            approval: self.approval.unwrap_or(defaults.approval),
            sender: self.sender.unwrap_or(defaults.sender),
            brief: self.brief,
            tone: self.tone,
            agent_id: self.agent_id,
            send_window: self.send_window,
            daily_cap: self.daily_cap,
            tracking: self.tracking.unwrap_or(defaults.tracking),
            status: self.status.unwrap_or(defaults.status),
            ..defaults
        }
    }
}

/// What to change in a campaign.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(clippy::option_option, reason = "absent and null are different things in a PATCH")]
pub struct UpdateCampaign {
    /// Its name.
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    /// What it is for. `venue_dj`, `product_promotion`, `sales`, `partnership`, `recruiting`, `press` and `event` choose
    /// templates; any other slug will do.
    #[schema(pattern = "^[a-z0-9_]{1,64}$")]
    objective_type: Option<String>,
    /// What it is about, for its owner.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 10_000)]
    description: Option<Option<String>>,
    /// Where to look for contacts, in words.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 200)]
    location: Option<Option<String>>,
    /// Where to look, in degrees.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<f64>, minimum = -90, maximum = 90)]
    latitude: Option<Option<f64>>,
    /// Where to look, in degrees.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<f64>, minimum = -180, maximum = 180)]
    longitude: Option<Option<f64>>,
    /// How far around, in miles.
    #[schema(minimum = 1, maximum = 100)]
    radius_miles: Option<f64>,
    /// Which kinds of venues to look for.
    #[schema(max_items = 50)]
    venue_types: Option<Vec<String>>,
    /// What they should be known for.
    #[schema(max_items = 50)]
    keywords: Option<Vec<String>>,
    /// How many contacts discovery may find.
    #[schema(minimum = 1, maximum = 1000)]
    max_results: Option<i32>,
    /// The channels, the preferred one first.
    #[schema(max_items = 3)]
    outreach_channels: Option<Vec<Channel>>,
    /// On which days after the first message to follow up; rising, from 1 to 60.
    #[schema(max_items = 6)]
    followup_days: Option<Vec<i32>>,
    /// Who approves the drafts. `auto` needs the scope `send` too.
    approval: Option<Approval>,
    /// Who signs; replaced as a whole.
    sender: Option<Sender>,
    /// What to write about.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 10_000)]
    brief: Option<Option<String>>,
    /// How to sound.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 200)]
    tone: Option<Option<String>>,
    /// The agent that owns it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 200)]
    agent_id: Option<Option<String>>,
    /// When messages may leave; always when absent. Replaced as a whole.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<SendWindow>)]
    send_window: Option<Option<SendWindow>>,
    /// How many messages may leave in a day.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 100_000)]
    daily_cap: Option<Option<i32>>,
    /// What is measured; replaced as a whole.
    tracking: Option<Tracking>,
    /// `active` starts or resumes it, `paused` holds it, `completed` ends it.
    status: Option<CampaignStatus>,
}

impl UpdateCampaign {
    /// The change.
    pub fn into_patch(self) -> CampaignPatch {
        CampaignPatch {
            name: self.name,
            objective_type: self.objective_type,
            description: self.description,
            location: self.location,
            latitude: self.latitude,
            longitude: self.longitude,
            radius_miles: self.radius_miles,
            venue_types: self.venue_types,
            keywords: self.keywords,
            max_results: self.max_results,
            outreach_channels: self.outreach_channels,
            followup_days: self.followup_days,
            approval: self.approval,
            sender: self.sender,
            brief: self.brief,
            tone: self.tone,
            agent_id: self.agent_id,
            send_window: self.send_window,
            daily_cap: self.daily_cap,
            tracking: self.tracking,
            status: self.status,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_null_and_a_value_are_three_things() {
        let patch = |body: &str| serde_json::from_str::<UpdateCampaign>(body).unwrap().into_patch();
        assert_eq!(patch("{}"), CampaignPatch::default());
        assert_eq!(patch(r#"{"tone": null}"#).tone, Some(None));
        assert_eq!(patch(r#"{"tone": "dry"}"#).tone, Some(Some("dry".into())));
        assert_eq!(patch(r#"{"name": null}"#).name, None);
    }

    #[test]
    fn what_is_absent_at_creation_has_its_default() {
        let new: CreateCampaign =
            serde_json::from_str(r#"{"name": "a", "objective_type": "sales", "keywords": null}"#).unwrap();
        assert_eq!(new.into_new(), NewCampaign::new("a", "sales"));
    }
}
