//! A contact as it is sent: by the API, an import, or discovery.

use chrono::DateTime;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Contact, ContactStatus, Identity, LINE_CHARS_MAX, OBJECT_BYTES_MAX, SOURCE_DEFAULT, TAG_CHARS_MAX,
    TAGS_MAX, WEBSITE_CHARS_MAX,
};
use crate::domain::{FieldError, address, field::Checks};

/// A contact to be created or merged: absent fields stay what they are. Call [`normalise`](Self::normalise) first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NewContact {
    /// A mail address.
    pub email: Option<String>,
    /// First name.
    pub first_name: Option<String>,
    /// Last name.
    pub last_name: Option<String>,
    /// Company or venue.
    pub company: Option<String>,
    /// Position in it.
    pub title: Option<String>,
    /// What kind of contact it is.
    pub contact_type: Option<String>,
    /// With or without @.
    pub instagram_handle: Option<String>,
    /// With or without @.
    pub twitter_handle: Option<String>,
    /// The id that does not change with the handle.
    pub twitter_user_id: Option<String>,
    /// Telephone number.
    pub phone: Option<String>,
    /// URL.
    pub website: Option<String>,
    /// Where, in words.
    pub location: Option<String>,
    /// Degrees.
    pub latitude: Option<f64>,
    /// Degrees.
    pub longitude: Option<f64>,
    /// Words to find it by.
    pub tags: Option<Vec<String>>,
    /// Fields of the account's own; replaced as a whole.
    pub custom: Option<Value>,
    /// Where it came from; `api` when absent.
    pub source: Option<String>,
    /// How it was found; replaced as a whole.
    pub provenance: Option<Value>,
}

/// How a contact that is known takes the fields of a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// Fields supplied overwrite: the API and imports.
    Overwrite,
    /// Fields supplied only fill what is empty: discovery, which must not undo what a person entered or deleted.
    FillGaps,
}

impl NewContact {
    /// Brings the address and handles to their stored form, drops blank texts, and names every wrong field. A wrong
    /// `email`, a blank one too, is CONTACT_003.
    pub fn normalise(&mut self) -> Vec<FieldError> {
        let mut checks = Checks::new();
        // Blank, it is no absent address but a wrong one: somebody meant to give one.
        let email = self.email.take();
        for (field, value, max) in self.lines() {
            let text = value.take().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
            checks.optional_text(field, text.as_deref(), max);
            *value = text;
        }
        if let Some(email) = email {
            self.email = address::normalise(&email);
            checks.require(self.email.is_some(), "email", "must be an email address");
        }
        for (field, handle) in [
            ("instagram_handle", &mut self.instagram_handle),
            ("twitter_handle", &mut self.twitter_handle),
            ("twitter_user_id", &mut self.twitter_user_id),
        ] {
            if let Some(given) = handle.take() {
                *handle = address::normalise_handle(&given);
                checks.require(
                    handle.is_some(),
                    field,
                    "must be a handle of 1 to 64 letters, digits, _, . or -",
                );
            }
        }
        checks.position(self.latitude, self.longitude);
        if let Some(tags) = &self.tags {
            checks.texts("tags", tags, TAGS_MAX, TAG_CHARS_MAX);
        }
        for (field, object) in [("custom", &self.custom), ("provenance", &self.provenance)] {
            if let Some(object) = object {
                checks.object(field, object, OBJECT_BYTES_MAX);
            }
        }
        self.check_entry(&mut checks);
        let errors = checks.finish();
        if errors.is_empty() && !self.is_reachable() {
            let reason = "must have an email, a handle, a phone number or a website";
            return vec![FieldError::new("contact", reason)];
        }
        errors
    }

    /// What names the directory entry is looked up by an index, which takes no long texts; whatever else stands there is
    /// one in the index too.
    fn check_entry(&self, checks: &mut Checks) {
        for name in ["source", "place_id"] {
            let chars = match self.provenance.as_ref().and_then(|provenance| provenance.get(name)) {
                None => 0,
                Some(Value::String(text)) => text.chars().count(),
                Some(other) => other.to_string().chars().count(),
            };
            let reason = format!("must have at most {LINE_CHARS_MAX} characters");
            checks.require(chars <= LINE_CHARS_MAX, &format!("provenance.{name}"), &reason);
        }
    }

    /// What it is known by: two rows with the same identity are the same contact. None: nothing names it for certain.
    pub fn identity(&self) -> Option<Identity<'_>> {
        self.email
            .as_deref()
            .map(Identity::Email)
            .or_else(|| self.instagram_handle.as_deref().map(Identity::Instagram))
            .or_else(|| self.twitter_user_id.as_deref().map(Identity::TwitterUser))
            .or_else(|| self.twitter_handle.as_deref().map(Identity::Twitter))
            .or_else(|| self.provenance.as_ref().and_then(Identity::of_provenance))
    }

    /// A new contact of an account; the database sets its times.
    pub fn to_contact(&self, account_id: Uuid, id: Uuid) -> Contact {
        let blank = Contact {
            account_id,
            id,
            email: None,
            first_name: None,
            last_name: None,
            company: None,
            title: None,
            contact_type: None,
            instagram_handle: None,
            twitter_handle: None,
            twitter_user_id: None,
            phone: None,
            website: None,
            location: None,
            latitude: None,
            longitude: None,
            tags: Vec::new(),
            custom: Value::Object(serde_json::Map::new()),
            source: SOURCE_DEFAULT.to_owned(),
            provenance: Value::Object(serde_json::Map::new()),
            status: ContactStatus::Active,
            created_at: DateTime::UNIX_EPOCH,
            updated_at: DateTime::UNIX_EPOCH,
            deleted_at: None,
        };
        self.clone().merge_into(blank)
    }

    /// Whether anything says how to reach it: an address, a handle, a number or a website.
    fn is_reachable(&self) -> bool {
        [
            &self.email,
            &self.instagram_handle,
            &self.twitter_handle,
            &self.twitter_user_id,
            &self.phone,
            &self.website,
        ]
        .into_iter()
        .any(Option::is_some)
    }

    fn lines(&mut self) -> [(&'static str, &mut Option<String>, usize); 12] {
        [
            ("first_name", &mut self.first_name, LINE_CHARS_MAX),
            ("last_name", &mut self.last_name, LINE_CHARS_MAX),
            ("company", &mut self.company, LINE_CHARS_MAX),
            ("title", &mut self.title, LINE_CHARS_MAX),
            ("contact_type", &mut self.contact_type, LINE_CHARS_MAX),
            ("instagram_handle", &mut self.instagram_handle, LINE_CHARS_MAX),
            ("twitter_handle", &mut self.twitter_handle, LINE_CHARS_MAX),
            ("twitter_user_id", &mut self.twitter_user_id, LINE_CHARS_MAX),
            ("phone", &mut self.phone, LINE_CHARS_MAX),
            ("website", &mut self.website, WEBSITE_CHARS_MAX),
            ("location", &mut self.location, LINE_CHARS_MAX),
            ("source", &mut self.source, LINE_CHARS_MAX),
        ]
    }

    /// Takes over what a later row of the same call says of the same contact.
    #[must_use]
    pub fn merged_with(self, later: Self) -> Self {
        Self {
            email: later.email.or(self.email),
            first_name: later.first_name.or(self.first_name),
            last_name: later.last_name.or(self.last_name),
            company: later.company.or(self.company),
            title: later.title.or(self.title),
            contact_type: later.contact_type.or(self.contact_type),
            instagram_handle: later.instagram_handle.or(self.instagram_handle),
            twitter_handle: later.twitter_handle.or(self.twitter_handle),
            twitter_user_id: later.twitter_user_id.or(self.twitter_user_id),
            phone: later.phone.or(self.phone),
            website: later.website.or(self.website),
            location: later.location.or(self.location),
            latitude: later.latitude.or(self.latitude),
            longitude: later.longitude.or(self.longitude),
            tags: later.tags.or(self.tags),
            custom: later.custom.or(self.custom),
            source: later.source.or(self.source),
            provenance: later.provenance.or(self.provenance),
        }
    }

    /// The known contact with these fields; a deleted one comes back to life if they overwrite, and else stays as it is.
    #[must_use]
    pub fn apply(&self, known: &Contact, merge: Merge) -> Contact {
        let new = self.clone();
        match merge {
            Merge::Overwrite => new.merge_into(known.clone()),
            Merge::FillGaps if known.deleted_at.is_some() => known.clone(),
            Merge::FillGaps => {
                // The known fields come later and win; what they leave empty stays filled.
                let kept = Self::from(known);
                new.merged_with(kept).merge_into(known.clone())
            }
        }
    }

    fn merge_into(self, known: Contact) -> Contact {
        Contact {
            email: self.email.or(known.email),
            first_name: self.first_name.or(known.first_name),
            last_name: self.last_name.or(known.last_name),
            company: self.company.or(known.company),
            title: self.title.or(known.title),
            contact_type: self.contact_type.or(known.contact_type),
            instagram_handle: self.instagram_handle.or(known.instagram_handle),
            twitter_handle: self.twitter_handle.or(known.twitter_handle),
            twitter_user_id: self.twitter_user_id.or(known.twitter_user_id),
            phone: self.phone.or(known.phone),
            website: self.website.or(known.website),
            location: self.location.or(known.location),
            latitude: self.latitude.or(known.latitude),
            longitude: self.longitude.or(known.longitude),
            tags: self.tags.unwrap_or(known.tags),
            custom: self.custom.unwrap_or(known.custom),
            source: self.source.unwrap_or(known.source),
            provenance: self.provenance.unwrap_or(known.provenance),
            deleted_at: None,
            ..known
        }
    }
}

impl From<&Contact> for NewContact {
    /// What is known of a contact; empty lists and objects count as absent.
    fn from(contact: &Contact) -> Self {
        let known = contact.clone();
        let object = |value: Value| (value != Value::Object(serde_json::Map::new())).then_some(value);
        Self {
            email: known.email,
            first_name: known.first_name,
            last_name: known.last_name,
            company: known.company,
            title: known.title,
            contact_type: known.contact_type,
            instagram_handle: known.instagram_handle,
            twitter_handle: known.twitter_handle,
            twitter_user_id: known.twitter_user_id,
            phone: known.phone,
            website: known.website,
            location: known.location,
            latitude: known.latitude,
            longitude: known.longitude,
            tags: Some(known.tags).filter(|tags| !tags.is_empty()),
            custom: object(known.custom),
            source: Some(known.source),
            provenance: object(known.provenance),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn known() -> Contact {
        let new = NewContact {
            email: Some("alex@example.com".into()),
            first_name: Some("Alex".into()),
            tags: Some(vec!["vip".into()]),
            custom: Some(json!({"a": 1})),
            ..NewContact::default()
        };
        new.to_contact(Uuid::nil(), Uuid::nil())
    }

    #[test]
    fn input_is_brought_to_its_stored_form() {
        let mut new = NewContact {
            email: Some(" Alex@Example.com ".into()),
            first_name: Some("  ".into()),
            instagram_handle: Some("@The_Bell".into()),
            ..NewContact::default()
        };
        assert_eq!(new.normalise(), []);
        assert_eq!(new.email.as_deref(), Some("alex@example.com"));
        assert_eq!(new.first_name, None);
        assert_eq!(new.instagram_handle.as_deref(), Some("the_bell"));
        assert_eq!(new.identity(), Some(Identity::Email("alex@example.com")));
        let once = new.clone();
        assert_eq!(new.normalise(), []);
        assert_eq!(new, once);
    }

    #[test]
    fn every_wrong_field_is_named() {
        let mut new = NewContact {
            email: Some("nobody".into()),
            twitter_handle: Some("a b".into()),
            title: Some("x".repeat(201)),
            latitude: Some(91.0),
            custom: Some(json!([])),
            ..NewContact::default()
        };
        let fields: Vec<_> = new.normalise().into_iter().map(|error| error.field).collect();
        assert_eq!(fields, ["title", "email", "twitter_handle", "latitude", "custom"]);
        let nothing = NewContact { first_name: Some("Alex".into()), ..NewContact::default() }.normalise();
        assert_eq!(nothing[0].field, "contact");
        for email in ["", "  ", "a\0@example.com"] {
            let mut blank =
                NewContact { email: Some(email.into()), phone: Some("555".into()), ..NewContact::default() };
            let fields: Vec<_> = blank.normalise().into_iter().map(|error| error.field).collect();
            assert_eq!(fields, ["email"], "{email:?}");
        }
    }

    #[test]
    fn what_names_a_directory_entry_is_short() {
        let named = |provenance: Value| {
            let mut new = NewContact {
                phone: Some("555".into()),
                provenance: Some(provenance),
                ..NewContact::default()
            };
            new.normalise().into_iter().map(|error| error.field).collect::<Vec<_>>()
        };
        assert!(named(json!({"source": "é".repeat(200), "place_id": "x".repeat(200)})).is_empty());
        assert!(named(json!({"place_id": 12, "note": "x".repeat(5000)})).is_empty());
        assert_eq!(named(json!({"place_id": "x".repeat(201)})), ["provenance.place_id"]);
        assert_eq!(named(json!({"place_id": {"is": "x".repeat(201)}})), ["provenance.place_id"]);
        assert_eq!(named(json!({"source": "x".repeat(201)})), ["provenance.source"]);
    }

    #[test]
    fn supplied_fields_overwrite_and_absent_ones_stay() {
        let new = NewContact {
            first_name: Some("Sam".into()),
            last_name: Some("Lee".into()),
            ..NewContact::default()
        };
        let merged = new.apply(&known(), Merge::Overwrite);
        assert_eq!(merged.first_name.as_deref(), Some("Sam"));
        assert_eq!(merged.last_name.as_deref(), Some("Lee"));
        assert_eq!(merged.tags, ["vip"]);
        assert_eq!(merged.source, "api");
    }

    #[test]
    fn discovery_only_fills_gaps() {
        let new = NewContact {
            first_name: Some("Sam".into()),
            last_name: Some("Lee".into()),
            tags: Some(vec!["new".into()]),
            custom: Some(json!({"b": 2})),
            provenance: Some(json!({"place": 1})),
            source: Some("places".into()),
            ..NewContact::default()
        };
        let merged = new.apply(&known(), Merge::FillGaps);
        assert_eq!(merged.first_name.as_deref(), Some("Alex"));
        assert_eq!(merged.last_name.as_deref(), Some("Lee"));
        assert_eq!((merged.tags, merged.custom), (vec!["vip".to_owned()], json!({"a": 1})));
        assert_eq!((merged.source.as_str(), merged.provenance), ("api", json!({"place": 1})));
    }

    #[test]
    fn a_later_row_wins_within_a_call() {
        let first =
            NewContact { first_name: Some("A".into()), title: Some("T".into()), ..NewContact::default() };
        let later = NewContact { first_name: Some("B".into()), ..NewContact::default() };
        let merged = first.merged_with(later);
        assert_eq!((merged.first_name.as_deref(), merged.title.as_deref()), (Some("B"), Some("T")));
    }
}
