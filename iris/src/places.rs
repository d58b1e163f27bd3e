//! Loads the directory of venues from CSV.

use std::collections::BTreeMap;

use anyhow::Context;
use serde::Deserialize;
use shared::{Database, db::places, domain::discovery::Place};

/// The most venues of one file.
const PLACES_MAX: usize = 1_000_000;
/// How many are written by one statement.
const CHUNK: usize = 1000;

/// A line of the file.
#[derive(Debug, Deserialize)]
struct Line {
    id: String,
    name: String,
    venue_type: String,
    email: Option<String>,
    phone: Option<String>,
    website: Option<String>,
    instagram_handle: Option<String>,
    twitter_handle: Option<String>,
    street: Option<String>,
    location: String,
    latitude: f64,
    longitude: f64,
    keywords: String,
    description: String,
}

impl From<Line> for Place {
    fn from(line: Line) -> Self {
        Self {
            id: line.id,
            name: line.name,
            venue_type: line.venue_type,
            email: line.email,
            phone: line.phone,
            website: line.website,
            instagram_handle: line.instagram_handle,
            twitter_handle: line.twitter_handle,
            street: line.street,
            location: line.location,
            latitude: line.latitude,
            longitude: line.longitude,
            keywords: line
                .keywords
                .split(';')
                .map(str::trim)
                .filter(|k| !k.is_empty())
                .map(Into::into)
                .collect(),
            description: line.description,
        }
    }
}

/// Loads venues in one transaction; one with a known id is replaced, also by a later line. Returns how many.
pub async fn load(database: &Database, file: impl std::io::Read) -> anyhow::Result<usize> {
    let venues = read(file)?;
    let mut tx = database.begin().await?;
    for chunk in venues.chunks(CHUNK) {
        places::upsert_many(&mut tx, chunk).await?;
    }
    tx.commit().await?;
    Ok(venues.len())
}

/// The venues of a file by id, the last line of each.
fn read(file: impl std::io::Read) -> anyhow::Result<Vec<Place>> {
    let mut venues: BTreeMap<String, Place> = BTreeMap::new();
    for (number, line) in csv::Reader::from_reader(file).deserialize::<Line>().enumerate() {
        anyhow::ensure!(number < PLACES_MAX, "the file has more than {PLACES_MAX} venues");
        let venue: Place = line.with_context(|| format!("venue {} cannot be read", number + 1))?.into();
        venues.insert(venue.id.clone(), venue);
    }
    Ok(venues.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_lines_with_one_id_the_last_counts() {
        let file = "id,name,venue_type,email,phone,website,instagram_handle,twitter_handle,street,location,latitude,\
                    longitude,keywords,description\n\
                    p1,First,bar,,,,,,,\"Brooklyn, NY\",40.6,-73.9,jazz;soul,x\n\
                    p2,Other,bar,,,,,,,\"Brooklyn, NY\",40.6,-73.9,,x\n\
                    p1,Second,bar,,,,,,,\"Brooklyn, NY\",40.6,-73.9,,x\n";
        let venues = read(file.as_bytes()).unwrap();
        let names: Vec<_> = venues.iter().map(|venue| (venue.id.as_str(), venue.name.as_str())).collect();
        assert_eq!(names, [("p1", "Second"), ("p2", "Other")]);
    }
}
