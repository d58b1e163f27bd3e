//! What discovery looks for, and how one search went.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    FieldError,
    campaign::{Campaign, LINE_CHARS_MAX, WORD_CHARS_MAX, WORDS_MAX},
    field::Checks,
    text_enum,
};
use crate::clock::{iso_ms, iso_ms_option};

text_enum! {
    /// Where a discovery job stands: `queued -> running -> completed | failed`.
    DiscoveryStatus {
        /// It waits for a worker.
        Queued = "queued",
        /// A worker searches.
        Running = "running",
        /// Every source was searched.
        Completed = "completed",
        /// It was given up.
        Failed = "failed",
    }
}

text_enum! {
    /// A place to look for contacts: its name in `by_source` and in a contact's `source`.
    SourceName {
        /// The directory of venues that was loaded into the database.
        Places = "places",
    }
}

/// A place to look for contacts, as people see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Source {
    /// Its name in `by_source` and in a contact's `source`.
    pub name: SourceName,
    /// Whether this release can search it.
    pub available: bool,
    /// Whether it needs a key of one's own.
    pub requires_key: bool,
    /// Under which terms its data may be used.
    pub licence: &'static str,
    /// Whom to name when its data is shown.
    pub attribution: &'static str,
}

/// All sources, in the order in which they are searched.
pub const SOURCES: [Source; 1] = [Source {
    name: SourceName::Places,
    available: true,
    requires_key: false,
    licence: "CC0-1.0",
    attribution: "A generated, fictional directory of venues",
}];

/// What to look for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Criteria {
    /// What the contacts should be known for; also kinds of venues, in words.
    #[serde(default)]
    pub keywords: Vec<String>,
    /// Kinds of venues.
    #[serde(default)]
    pub venue_types: Vec<String>,
    /// Where, in words.
    #[serde(default)]
    pub location: Option<String>,
    /// Where, in degrees.
    #[serde(default)]
    pub latitude: Option<f64>,
    /// Where, in degrees.
    #[serde(default)]
    pub longitude: Option<f64>,
    /// How far around, in miles.
    pub radius_miles: f64,
    /// How many contacts at most.
    pub max_results: i32,
}

impl Criteria {
    /// What a campaign looks for, for at most `max_results` contacts.
    pub fn of(campaign: &Campaign, max_results: i32) -> Self {
        Self {
            keywords: campaign.keywords.clone(),
            venue_types: campaign.venue_types.clone(),
            location: campaign.location.clone(),
            latitude: campaign.latitude,
            longitude: campaign.longitude,
            radius_miles: campaign.radius_miles,
            max_results,
        }
    }

    /// Every wrong field, with the limits of a campaign.
    pub fn validate(&self) -> Vec<FieldError> {
        let mut checks = Checks::new();
        checks.texts("keywords", &self.keywords, WORDS_MAX, WORD_CHARS_MAX);
        checks.texts("venue_types", &self.venue_types, WORDS_MAX, WORD_CHARS_MAX);
        checks.optional_text("location", self.location.as_deref(), LINE_CHARS_MAX);
        checks.position(self.latitude, self.longitude);
        checks.require(
            (1.0..=100.0).contains(&self.radius_miles),
            "radius_miles",
            "must be between 1 and 100",
        );
        checks.require((1..=1000).contains(&self.max_results), "max_results", "must be between 1 and 1000");
        checks.require(
            !self.keywords.is_empty() || !self.venue_types.is_empty(),
            "keywords",
            "or venue_types must say what to look for",
        );
        let placed = self.location.as_deref().is_some_and(|location| !location.trim().is_empty())
            || (self.latitude.is_some() && self.longitude.is_some());
        checks.require(placed, "location", "or latitude and longitude must say where");
        checks.finish()
    }
}

/// A discovery job as the API and webhooks show it.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Serialize, ToSchema)]
pub struct DiscoveryJob {
    /// Whose it is.
    #[serde(skip)]
    pub account_id: Uuid,
    /// Its id.
    pub id: Uuid,
    /// Where it stands.
    pub status: DiscoveryStatus,
    /// The campaign that gets what it finds.
    pub campaign_id: Option<Uuid>,
    /// What it looks for: each is a search of its own.
    #[serde(skip)]
    pub criteria: Json<Vec<Criteria>>,
    /// How many contacts the sources returned, each address counted once.
    pub found: i32,
    /// How many of them were not known.
    pub new: i32,
    /// How many were known.
    pub duplicates: i32,
    /// How many are never to be written to, and were left out.
    pub suppressed: i32,
    /// How many each source returned.
    #[schema(value_type = BTreeMap<String, i32>)]
    pub by_source: Json<BTreeMap<String, i32>>,
    /// The contacts, in the order found.
    #[serde(skip)]
    pub contact_ids: Vec<Uuid>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it was asked for.
    #[serde(with = "iso_ms")]
    pub created_at: DateTime<Utc>,
    /// When it ended.
    #[serde(with = "iso_ms_option")]
    pub finished_at: Option<DateTime<Utc>>,
}

impl DiscoveryJob {
    /// The public form, the same in API answers and webhooks.
    pub fn public(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// A venue of the directory that discovery searches.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Serialize, Deserialize)]
pub struct Place {
    /// Its id in the directory.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its kind, such as `bar`.
    pub venue_type: String,
    /// Where mail reaches it.
    pub email: Option<String>,
    /// Its telephone number.
    pub phone: Option<String>,
    /// Its URL.
    pub website: Option<String>,
    /// Its Instagram handle, without @.
    pub instagram_handle: Option<String>,
    /// Its Twitter handle, without @.
    pub twitter_handle: Option<String>,
    /// Its street.
    pub street: Option<String>,
    /// Its town.
    pub location: String,
    /// Degrees.
    pub latitude: f64,
    /// Degrees.
    pub longitude: f64,
    /// What it is known for.
    pub keywords: Vec<String>,
    /// One sentence on it.
    pub description: String,
}
