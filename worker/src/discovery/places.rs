//! The directory of venues that iris brings along, in the table `places`.

use serde_json::json;
use shared::{
    db::places,
    domain::{
        contact::NewContact,
        discovery::{Criteria, Place},
    },
};
use sqlx::PgConnection;

/// The venues around the criteria's place that match a venue type or a keyword, the best first.
pub async fn search(conn: &mut PgConnection, criteria: &Criteria) -> Result<Vec<NewContact>, sqlx::Error> {
    let found = places::search(conn, criteria, i64::from(criteria.max_results)).await?;
    Ok(found.into_iter().map(contact).collect())
}

/// A venue as a contact: its name is the company, for no person is known.
fn contact(place: Place) -> NewContact {
    NewContact {
        email: place.email,
        company: Some(place.name),
        contact_type: Some(place.venue_type),
        instagram_handle: place.instagram_handle,
        twitter_handle: place.twitter_handle,
        phone: place.phone,
        website: place.website,
        location: Some(place.location),
        latitude: Some(place.latitude),
        longitude: Some(place.longitude),
        tags: Some(place.keywords),
        source: Some("places".into()),
        provenance: Some(json!({"source": "places", "place_id": place.id})),
        ..NewContact::default()
    }
}
