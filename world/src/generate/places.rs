//! 2,000 fictional Brooklyn venues: `data/places.csv`, a source for discovery.

use std::collections::HashSet;
use std::io::Write;

use serde::Serialize;

use super::words::{ADJECTIVES, NEIGHBOURHOODS, NOUNS, STREETS};
use super::{Rng, slug};

/// Venues in the data set.
const PLACES: usize = 2_000;
/// Another seed would be another Brooklyn, and another committed file.
const SEED: u64 = 1_898;
/// How far a venue may be from its neighbourhood's centre, in millionths of a degree.
const SPREAD: u64 = 9_000;

/// A kind of venue: its type, its share in percent, the endings of its names, and its keywords.
struct Kind {
    venue_type: &'static str,
    percent: u64,
    endings: [&'static str; 3],
    keywords: [&'static str; 7],
}

const KINDS: [Kind; 10] = [
    Kind {
        venue_type: "bar",
        percent: 20,
        endings: ["Bar", "Tavern", "Taproom"],
        keywords: [
            "cocktails",
            "craft beer",
            "natural wine",
            "happy hour",
            "trivia night",
            "patio",
            "pool table",
        ],
    },
    Kind {
        venue_type: "club",
        percent: 10,
        endings: ["Club", "Ballroom", "Room"],
        keywords: [
            "dancing",
            "electronic",
            "hip hop",
            "house music",
            "late night",
            "bottle service",
            "techno",
        ],
    },
    Kind {
        venue_type: "lounge",
        percent: 10,
        endings: ["Lounge", "Salon", "Den"],
        keywords: ["cocktails", "jazz", "vinyl", "small plates", "private events", "rooftop", "late night"],
    },
    Kind {
        venue_type: "restaurant",
        percent: 18,
        endings: ["Kitchen", "Table", "Grill"],
        keywords: [
            "dinner",
            "brunch",
            "vegetarian",
            "seafood",
            "private dining",
            "wine list",
            "outdoor seating",
        ],
    },
    Kind {
        venue_type: "cafe",
        percent: 13,
        endings: ["Cafe", "Coffee", "Tea House"],
        keywords: ["espresso", "pastries", "open mic", "poetry", "coworking", "brunch", "book club"],
    },
    Kind {
        venue_type: "gallery",
        percent: 7,
        endings: ["Gallery", "Art Space", "Projects"],
        keywords: ["exhibitions", "openings", "photography", "sculpture", "workshops", "rental", "talks"],
    },
    Kind {
        venue_type: "theater",
        percent: 5,
        endings: ["Theater", "Playhouse", "Stage"],
        keywords: ["plays", "comedy", "improv", "dance", "film", "concerts", "rental"],
    },
    Kind {
        venue_type: "brewery",
        percent: 6,
        endings: ["Brewing", "Brewery", "Beer Works"],
        keywords: [
            "craft beer",
            "tours",
            "food trucks",
            "trivia night",
            "beer garden",
            "private events",
            "cider",
        ],
    },
    Kind {
        venue_type: "hotel",
        percent: 5,
        endings: ["Hotel", "Inn", "House"],
        keywords: ["rooms", "rooftop", "weddings", "meetings", "brunch", "cocktails", "lobby bar"],
    },
    Kind {
        venue_type: "record_store",
        percent: 6,
        endings: ["Records", "Vinyl", "Sounds"],
        keywords: [
            "vinyl",
            "in-store shows",
            "used records",
            "listening bar",
            "cassettes",
            "rarities",
            "signings",
        ],
    },
];

/// One venue; a row of the file.
#[derive(Clone, Debug, Serialize)]
pub struct Place {
    id: String,
    name: String,
    venue_type: &'static str,
    email: String,
    phone: String,
    website: String,
    instagram_handle: String,
    twitter_handle: String,
    street: String,
    location: &'static str,
    latitude: String,
    longitude: String,
    keywords: String,
    description: String,
}

/// All venues, in the order of the file.
pub fn places() -> Vec<Place> {
    let mut rng = Rng(SEED);
    let mut names = HashSet::new();
    (1..=PLACES).map(|number| place(number, &mut rng, &mut names)).collect()
}

/// Writes the file.
pub fn write(out: impl Write) -> anyhow::Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    for place in places() {
        csv.serialize(place)?;
    }
    csv.flush()?;
    Ok(())
}

fn place(number: usize, rng: &mut Rng, names: &mut HashSet<String>) -> Place {
    let kind = kind(rng);
    let name = loop {
        let name = format!("{} {} {}", rng.pick(&ADJECTIVES), rng.pick(&NOUNS), rng.pick(&kind.endings));
        if names.insert(name.clone()) {
            break name;
        }
    };
    let (neighbourhood, latitude, longitude) = rng.pick(&NEIGHBOURHOODS);
    let keywords = keywords(kind, rng);
    let host = format!("{}.example.com", slug(&name, "-"));
    let handle = slug(&name, "");
    let email = format!("{}@{host}", rng.pick(&["booking", "hello", "events", "info"]));
    Place {
        id: format!("place-{number:04}"),
        venue_type: kind.venue_type,
        // One venue in twenty has no address that anybody knows.
        email: if rng.percent(5) { String::new() } else { email },
        phone: format!("+1 {} 555 01{:02}", rng.pick(&[718, 347, 929, 917]), rng.below(100)),
        website: if rng.percent(90) { format!("https://{host}") } else { String::new() },
        instagram_handle: if rng.percent(80) { format!("{handle}_bk") } else { String::new() },
        twitter_handle: if rng.percent(45) { twitter_handle(&handle, number) } else { String::new() },
        street: format!("{} {}", 1 + rng.below(998), rng.pick(&STREETS)),
        location: "Brooklyn, NY",
        latitude: degrees(latitude, rng),
        longitude: degrees(longitude, rng),
        description: format!(
            "{name} is a {} in {neighbourhood}, Brooklyn, known for {}.",
            kind.venue_type.replace('_', " "),
            list(&keywords)
        ),
        keywords: keywords.join(";"),
        name,
    }
}

fn kind(rng: &mut Rng) -> &'static Kind {
    let mut draw = rng.below(100);
    for kind in &KINDS {
        if draw < kind.percent {
            return kind;
        }
        draw -= kind.percent;
    }
    &KINDS[0]
}

/// Music first where there is any, then two or three of the kind's own.
fn keywords(kind: &Kind, rng: &mut Rng) -> Vec<&'static str> {
    let (live, dj) = match kind.venue_type {
        "bar" | "club" | "lounge" => (55, 55),
        "restaurant" | "cafe" | "brewery" | "hotel" | "theater" => (20, 10),
        _ => (5, 5),
    };
    let mut keywords = Vec::new();
    if rng.percent(live) {
        keywords.push("live music");
    }
    if rng.percent(dj) {
        keywords.push("dj nights");
    }
    for _ in 0..2 + rng.below(2) {
        let keyword = rng.pick(&kind.keywords);
        if !keywords.contains(&keyword) {
            keywords.push(keyword);
        }
    }
    keywords
}

/// A handle of the 15 characters that Twitter allows; the number keeps it unique.
fn twitter_handle(handle: &str, number: usize) -> String {
    let head: String = handle.chars().take(10).collect();
    format!("{head}_{number:04}")
}

/// A list as it stands in a sentence.
fn list(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [head @ .., last] => format!("{} and {last}", head.join(", ")),
    }
}

/// A coordinate near a centre, as decimal degrees. Integers keep it the same on every machine.
fn degrees(centre: i64, rng: &mut Rng) -> String {
    let offset = i64::try_from(rng.below(2 * SPREAD)).unwrap_or_default() - SPREAD.cast_signed();
    let micro = centre + offset;
    let sign = if micro < 0 { "-" } else { "" };
    format!("{sign}{}.{:06}", micro.abs() / 1_000_000, micro.abs() % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::persona::Persona;

    #[test]
    fn the_committed_file_is_what_the_generator_writes() {
        let mut generated = Vec::new();
        write(&mut generated).unwrap();
        let committed = include_bytes!("../../data/places.csv");
        assert!(generated == committed, "run `iris-world generate-places > world/data/places.csv`");
    }

    #[test]
    fn every_venue_is_distinct_and_reachable_only_in_simulation() {
        let places = places();
        assert_eq!(places.len(), 2_000);
        let ids: HashSet<_> = places.iter().map(|place| &place.id).collect();
        assert_eq!(ids.len(), 2_000);

        let emails: Vec<_> =
            places.iter().map(|place| &place.email).filter(|email| !email.is_empty()).collect();
        assert_eq!(emails.iter().collect::<HashSet<_>>().len(), emails.len());
        assert!((60..=140).contains(&(2_000 - emails.len())), "{} without an address", 2_000 - emails.len());
        assert!(emails.iter().all(|email| email.ends_with(".example.com")));
        assert!(emails.iter().all(|email| Persona::explicit(email).is_none()));
    }

    #[test]
    fn an_example_search_finds_more_than_enough_music() {
        let with_music = places()
            .iter()
            .filter(|place| matches!(place.venue_type, "bar" | "club" | "lounge"))
            .filter(|place| place.keywords.contains("live music") || place.keywords.contains("dj nights"))
            .filter(|place| !place.email.is_empty())
            .count();
        assert!(with_music >= 400, "{with_music}");
    }

    #[test]
    fn every_venue_is_within_ten_miles_of_the_centre() {
        for place in places() {
            let latitude: f64 = place.latitude.parse().unwrap();
            let longitude: f64 = place.longitude.parse().unwrap();
            // At this latitude a degree is 69.0 miles north and 52.4 miles east.
            let miles = ((latitude - 40.6782) * 69.0).hypot((longitude + 73.9442) * 52.4);
            assert!(miles < 10.0, "{} is {miles} miles away", place.name);
        }
    }
}
