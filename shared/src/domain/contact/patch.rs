//! A change of a contact.

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{Contact, NewContact};
use crate::domain::{FieldError, patch::present};

/// What to change in a contact: an absent field stays, null empties one that may be empty.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(default)]
pub struct ContactPatch {
    /// A mail address.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub email: Option<Option<String>>,
    /// First name.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub first_name: Option<Option<String>>,
    /// Last name.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub last_name: Option<Option<String>>,
    /// Company or venue.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub company: Option<Option<String>>,
    /// Position in it.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub title: Option<Option<String>>,
    /// What kind of contact it is.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub contact_type: Option<Option<String>>,
    /// With or without @.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub instagram_handle: Option<Option<String>>,
    /// With or without @.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub twitter_handle: Option<Option<String>>,
    /// The id that does not change with the handle.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub twitter_user_id: Option<Option<String>>,
    /// Telephone number.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub phone: Option<Option<String>>,
    /// URL.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub website: Option<Option<String>>,
    /// Where, in words.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub location: Option<Option<String>>,
    /// Degrees.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<f64>)]
    pub latitude: Option<Option<f64>>,
    /// Degrees.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<f64>)]
    pub longitude: Option<Option<f64>>,
    /// Words to find it by; replaced as a whole.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<Vec<String>>)]
    pub tags: Option<Option<Vec<String>>>,
    /// Fields of the account's own; replaced as a whole.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<Object>)]
    pub custom: Option<Option<Value>>,
    /// Where it came from. It cannot be empty: null and blanks change nothing.
    pub source: Option<String>,
    /// How it was found; replaced as a whole.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<Object>)]
    pub provenance: Option<Option<Value>>,
}

impl ContactPatch {
    /// What is wrong with the values, whatever they are applied to.
    pub fn check(&self) -> Vec<FieldError> {
        let mut supplied = self.over(NewContact::default());
        // Whether what remains is reachable shows when it is applied.
        supplied.website = supplied.website.or_else(|| Some("known".into()));
        supplied.normalise()
    }

    /// The contact with the change, or what is wrong with it.
    pub fn apply(&self, known: &Contact) -> Result<Contact, Vec<FieldError>> {
        let mut changed = self.over(NewContact {
            tags: Some(known.tags.clone()),
            custom: Some(known.custom.clone()),
            provenance: Some(known.provenance.clone()),
            ..NewContact::from(known)
        });
        let wrong = changed.normalise();
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let blank = changed.to_contact(known.account_id, known.id);
        let Contact { status, created_at, updated_at, deleted_at, .. } = *known;
        Ok(Contact { status, created_at, updated_at, deleted_at, ..blank })
    }

    /// The fields with the change: what it does not name stays.
    fn over(&self, known: NewContact) -> NewContact {
        let patch = self.clone();
        NewContact {
            email: patch.email.unwrap_or(known.email),
            first_name: patch.first_name.unwrap_or(known.first_name),
            last_name: patch.last_name.unwrap_or(known.last_name),
            company: patch.company.unwrap_or(known.company),
            title: patch.title.unwrap_or(known.title),
            contact_type: patch.contact_type.unwrap_or(known.contact_type),
            instagram_handle: patch.instagram_handle.unwrap_or(known.instagram_handle),
            twitter_handle: patch.twitter_handle.unwrap_or(known.twitter_handle),
            twitter_user_id: patch.twitter_user_id.unwrap_or(known.twitter_user_id),
            phone: patch.phone.unwrap_or(known.phone),
            website: patch.website.unwrap_or(known.website),
            location: patch.location.unwrap_or(known.location),
            latitude: patch.latitude.unwrap_or(known.latitude),
            longitude: patch.longitude.unwrap_or(known.longitude),
            tags: patch.tags.map(Option::unwrap_or_default).or(known.tags),
            custom: patch.custom.map(object).or(known.custom),
            source: patch.source.filter(|source| !source.trim().is_empty()).or(known.source),
            provenance: patch.provenance.map(object).or(known.provenance),
        }
    }
}

/// An object, empty for null.
fn object(value: Option<Value>) -> Value {
    value.unwrap_or_else(|| Value::Object(serde_json::Map::new()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn known() -> Contact {
        let new = NewContact {
            email: Some("alex@example.com".into()),
            company: Some("The Bell".into()),
            tags: Some(vec!["vip".into()]),
            custom: Some(json!({"a": 1})),
            source: Some("places".into()),
            ..NewContact::default()
        };
        new.to_contact(Uuid::nil(), Uuid::nil())
    }

    fn patch(body: serde_json::Value) -> ContactPatch {
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn absent_null_and_a_value_are_three_things() {
        let change = patch(
            json!({"company": null, "email": " Sam@Example.com", "tags": null, "custom": null, "source": " "}),
        );
        assert_eq!(change.check(), []);
        let changed = change.apply(&known()).unwrap();
        assert_eq!((changed.email.as_deref(), changed.company), (Some("sam@example.com"), None));
        assert_eq!((changed.tags, changed.custom, changed.source.as_str()), (vec![], json!({}), "places"));
        assert_eq!(patch(json!({})).apply(&known()).unwrap(), known());
    }

    #[test]
    fn what_cannot_be_reached_any_more_is_refused() {
        let fields = |wrong: Vec<FieldError>| wrong.into_iter().map(|error| error.field).collect::<Vec<_>>();
        let gone = patch(json!({"email": null}));
        assert_eq!(gone.check(), []);
        assert_eq!(fields(gone.apply(&known()).unwrap_err()), ["contact"]);
        assert_eq!(fields(patch(json!({"email": "x", "latitude": 100})).check()), ["email", "latitude"]);
    }
}
