//! Loads the directory of venues from CSV.

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

/// Loads venues in one transaction; one with a known id is replaced. Returns how many.
pub async fn load(database: &Database, file: impl std::io::Read) -> anyhow::Result<usize> {
    let mut venues: Vec<Place> = Vec::new();
    for (number, line) in csv::Reader::from_reader(file).deserialize::<Line>().enumerate() {
        anyhow::ensure!(number < PLACES_MAX, "the file has more than {PLACES_MAX} venues");
        venues.push(line.with_context(|| format!("venue {} cannot be read", number + 1))?.into());
    }
    let mut tx = database.begin().await?;
    for chunk in venues.chunks(CHUNK) {
        places::upsert_many(&mut tx, chunk).await?;
    }
    tx.commit().await?;
    Ok(venues.len())
}
