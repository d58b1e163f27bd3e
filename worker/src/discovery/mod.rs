//! Where contacts are found. A source is a file here and a line in [`SOURCES`](shared::domain::discovery::SOURCES).

use shared::domain::{
    contact::NewContact,
    discovery::{Criteria, SOURCES, SourceName},
};
use sqlx::PgConnection;

pub mod places;

/// What one source found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The source's name.
    pub source: &'static str,
    /// The contacts, the best first.
    pub contacts: Vec<NewContact>,
}

/// Searches every available source until there are as many contacts as the criteria ask for.
pub async fn search(conn: &mut PgConnection, criteria: &Criteria) -> Result<Vec<Found>, sqlx::Error> {
    let mut left = usize::try_from(criteria.max_results).unwrap_or_default();
    let mut found = Vec::new();
    for source in SOURCES.iter().filter(|source| source.available) {
        let mut contacts = match source.name {
            SourceName::Places => places::search(conn, criteria).await?,
        };
        contacts.truncate(left);
        left -= contacts.len();
        found.push(Found { source: source.name.as_str(), contacts });
    }
    Ok(found)
}
