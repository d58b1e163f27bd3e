//! Whom a campaign looks for.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    FieldError,
    campaign::{Campaign, LINE_CHARS_MAX, WORD_CHARS_MAX, WORDS_MAX},
    discovery::Criteria,
    field::Checks,
};
use crate::clock::iso_ms;

/// The longest notes in characters.
const NOTES_CHARS_MAX: usize = 10_000;
/// How far around to look, in miles, unless said otherwise.
const RADIUS_MILES_DEFAULT: f64 = 25.0;

/// A kind of contact that a campaign looks for.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Serialize, ToSchema)]
pub struct TargetProfile {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// What the contacts should be known for.
    pub keywords: Vec<String>,
    /// Kinds of venues.
    pub venue_types: Vec<String>,
    /// Positions of the people to be written to.
    pub titles: Vec<String>,
    /// Where, in words; where the campaign looks, when absent.
    pub location: Option<String>,
    /// How far around, in miles.
    pub radius_miles: f64,
    /// What else there is to know of them, for people.
    pub notes: Option<String>,
    /// When it was created.
    #[serde(with = "iso_ms")]
    pub created_at: DateTime<Utc>,
}

/// A target profile to be created.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
pub struct NewTargetProfile {
    /// Its name.
    #[schema(min_length = 1, max_length = 200, example = "bars with live music")]
    pub name: String,
    /// What the contacts should be known for.
    #[schema(max_items = 50, example = json!(["live music"]))]
    pub keywords: Option<Vec<String>>,
    /// Kinds of venues.
    #[schema(max_items = 50, example = json!(["bar", "lounge"]))]
    pub venue_types: Option<Vec<String>>,
    /// Positions of the people to be written to.
    #[schema(max_items = 50, example = json!(["owner", "booker"]))]
    pub titles: Option<Vec<String>>,
    /// Where, in words; where the campaign looks, when absent.
    #[schema(max_length = 200, example = "Brooklyn, NY")]
    pub location: Option<String>,
    /// How far around, in miles.
    #[schema(minimum = 1, maximum = 100, default = 25)]
    pub radius_miles: Option<f64>,
    /// What else there is to know of them, for people.
    #[schema(max_length = 10_000)]
    pub notes: Option<String>,
}

impl NewTargetProfile {
    /// Every wrong field.
    pub fn validate(&self) -> Vec<FieldError> {
        let mut checks = Checks::new();
        checks.text("name", &self.name, 1, LINE_CHARS_MAX);
        for (field, words) in
            [("keywords", &self.keywords), ("venue_types", &self.venue_types), ("titles", &self.titles)]
        {
            checks.texts(field, words.as_deref().unwrap_or_default(), WORDS_MAX, WORD_CHARS_MAX);
        }
        if let Some(location) = &self.location {
            checks.text("location", location, 1, LINE_CHARS_MAX);
        }
        checks.optional_text("notes", self.notes.as_deref(), NOTES_CHARS_MAX);
        checks.require(
            (1.0..=100.0).contains(&self.radius_miles()),
            "radius_miles",
            "must be between 1 and 100",
        );
        let is_something = [&self.keywords, &self.venue_types, &self.titles]
            .into_iter()
            .any(|words| words.as_ref().is_some_and(|words| !words.is_empty()));
        checks.require(is_something, "keywords", "or venue_types or titles must say what to look for");
        checks.finish()
    }

    /// How far around, in miles.
    pub fn radius_miles(&self) -> f64 {
        self.radius_miles.unwrap_or(RADIUS_MILES_DEFAULT)
    }
}

impl TargetProfile {
    /// What to search for, for at most `max_results` contacts. Where the profile names no place, the campaign's is meant.
    pub fn criteria(&self, campaign: &Campaign, max_results: i32) -> Criteria {
        let own = self.location.is_some();
        Criteria {
            keywords: self.keywords.iter().chain(&self.titles).take(WORDS_MAX).cloned().collect(),
            venue_types: self.venue_types.clone(),
            location: self.location.clone().or_else(|| campaign.location.clone()),
            latitude: campaign.latitude.filter(|_| !own),
            longitude: campaign.longitude.filter(|_| !own),
            radius_miles: self.radius_miles,
            max_results,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(new: &NewTargetProfile) -> Vec<String> {
        new.validate().into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn a_profile_says_what_to_look_for() {
        let named = NewTargetProfile { name: "bars".into(), ..NewTargetProfile::default() };
        assert_eq!(fields(&named), ["keywords"]);
        let titles = NewTargetProfile { titles: Some(vec!["owner".into()]), ..named.clone() };
        assert_eq!((fields(&titles), titles.radius_miles()), (vec![], 25.0));
        let wrong = NewTargetProfile {
            name: " ".into(),
            keywords: Some(vec![String::new()]),
            radius_miles: Some(0.5),
            notes: Some("\0".into()),
            ..named
        };
        assert_eq!(fields(&wrong), ["name", "keywords[0]", "notes", "radius_miles"]);
    }
}
