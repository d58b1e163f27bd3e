//! Where contacts are found. A source is a file here and a line in [`SOURCES`].

use shared::domain::{contact::NewContact, discovery::Criteria};
use sqlx::PgConnection;

pub mod places;

/// A place to look for contacts, as people see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Its name in `by_source` and in a contact's `source`.
    pub name: &'static str,
    /// Whether this release can search it.
    pub available: bool,
    /// Whether it needs a key of one's own.
    pub requires_key: bool,
    /// Under which terms its data may be used.
    pub licence: &'static str,
    /// Whom to name when its data is shown.
    pub attribution: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Places,
}

/// All sources, in the order in which they are searched.
pub const SOURCES: [Source; 1] = [Source {
    name: "places",
    available: true,
    requires_key: false,
    licence: "CC0-1.0",
    attribution: "A generated, fictional directory of venues",
    kind: Kind::Places,
}];

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
        let mut contacts = match source.kind {
            Kind::Places => places::search(conn, criteria).await?,
        };
        contacts.truncate(left);
        left -= contacts.len();
        found.push(Found { source: source.name, contacts });
    }
    Ok(found)
}
