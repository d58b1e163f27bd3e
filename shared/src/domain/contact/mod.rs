//! A person or venue to be written to.

mod new;
mod patch;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::text_enum;
use crate::clock::iso_ms;

pub use new::{Merge, NewContact};
pub use patch::ContactPatch;

/// The longest name, company, phone number, name of a directory entry or other line in characters.
pub const LINE_CHARS_MAX: usize = 200;
/// The longest website in characters.
pub const WEBSITE_CHARS_MAX: usize = 2000;
/// How many tags a contact may have.
pub const TAGS_MAX: usize = 50;
/// The longest tag in characters.
pub const TAG_CHARS_MAX: usize = 100;
/// The longest `custom` or `provenance` in bytes as JSON.
pub const OBJECT_BYTES_MAX: usize = 16 * 1024;
/// Where a contact came from when nothing says it.
pub const SOURCE_DEFAULT: &str = "api";

text_enum! {
    /// Whether a contact can be written to.
    ContactStatus {
        /// Nothing speaks against it.
        Active = "active",
        /// Its address refused a message for good.
        Bounced = "bounced",
        /// It asked to stop.
        Unsubscribed = "unsubscribed",
    }
}

/// A contact as the API and webhooks show it.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Serialize, ToSchema)]
pub struct Contact {
    /// Whose it is.
    #[serde(skip)]
    pub account_id: Uuid,
    /// Its id.
    pub id: Uuid,
    /// Its address, lower case.
    pub email: Option<String>,
    /// First name.
    pub first_name: Option<String>,
    /// Last name.
    pub last_name: Option<String>,
    /// Company or venue.
    pub company: Option<String>,
    /// Position in it.
    pub title: Option<String>,
    /// What kind of contact it is, such as `bar`.
    pub contact_type: Option<String>,
    /// Without @.
    pub instagram_handle: Option<String>,
    /// Without @.
    pub twitter_handle: Option<String>,
    /// The id that does not change with the handle.
    pub twitter_user_id: Option<String>,
    /// Telephone number, as given.
    pub phone: Option<String>,
    /// URL, as given.
    pub website: Option<String>,
    /// Where, in words.
    pub location: Option<String>,
    /// Degrees.
    pub latitude: Option<f64>,
    /// Degrees.
    pub longitude: Option<f64>,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Fields of the account's own.
    #[schema(value_type = Object)]
    pub custom: Value,
    /// Where it came from, such as `api`, `import` or a discovery source.
    pub source: String,
    /// How it was found.
    #[schema(value_type = Object)]
    pub provenance: Value,
    /// Whether it can be written to.
    pub status: ContactStatus,
    /// When it was created.
    #[serde(with = "iso_ms")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(with = "iso_ms")]
    pub updated_at: DateTime<Utc>,
    /// When it was deleted; such a contact is hidden.
    #[serde(skip)]
    pub deleted_at: Option<DateTime<Utc>>,
}

impl Contact {
    /// The public form, the same in API answers and webhooks.
    pub fn public(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// What a contact is known by, the strongest first: the address, or the handles of one that has none, or its entry in the
/// directory where it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Identity<'a> {
    /// A mail address.
    Email(&'a str),
    /// An Instagram handle.
    Instagram(&'a str),
    /// A Twitter id.
    TwitterUser(&'a str),
    /// A Twitter handle.
    Twitter(&'a str),
    /// An entry of a directory: `source` and `place_id` of its provenance.
    Entry(&'a str, &'a str),
}

impl<'a> Identity<'a> {
    /// The directory entry that a provenance names.
    pub fn of_provenance(provenance: &'a Value) -> Option<Self> {
        let field = |name: &str| provenance.get(name).and_then(Value::as_str);
        field("source").zip(field("place_id")).map(|(source, id)| Self::Entry(source, id))
    }
}
