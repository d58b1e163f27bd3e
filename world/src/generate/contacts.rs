//! Any number of contacts, each made from its number alone.

use std::io::Write;

use serde::Serialize;

use super::words::{ADJECTIVES, COMPANY_KINDS, CONTACT_TYPES, FIRST_NAMES, LAST_NAMES, NOUNS, TITLES};
use super::{Rng, slug};

/// Mixed with the number, so that contacts and venues draw from different sequences.
const SEED: u64 = 0x0c07_7ac7;

/// One contact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Contact {
    first_name: &'static str,
    last_name: &'static str,
    email: String,
    company: String,
    title: &'static str,
    location: &'static str,
    #[serde(rename = "contact_type")]
    kind: &'static str,
}

/// How contacts are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Comma-separated values with a header row.
    Csv,
    /// One JSON object per line.
    Jsonl,
}

/// The contact of a number, from 0. The number is in its address, which makes it unique.
pub fn contact(number: u64) -> Contact {
    let mut rng = Rng(SEED ^ number.wrapping_mul(0xff51_afd7_ed55_8ccd));
    let first_name = rng.pick(&FIRST_NAMES);
    let last_name = rng.pick(&LAST_NAMES);
    let company = format!("{} {} {}", rng.pick(&ADJECTIVES), rng.pick(&NOUNS), rng.pick(&COMPANY_KINDS));
    let local = format!("{}.{}.{number}", slug(first_name, ""), slug(last_name, ""));
    Contact {
        first_name,
        last_name,
        email: format!("{local}@{}.example.com", slug(&company, "-")),
        company,
        title: rng.pick(&TITLES),
        location: "Brooklyn, NY",
        kind: rng.pick(&CONTACT_TYPES),
    }
}

/// Writes the first `count` contacts.
pub fn write(mut out: impl Write, count: u64, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Csv => {
            let mut csv = csv::Writer::from_writer(out);
            for number in 0..count {
                csv.serialize(contact(number))?;
            }
            csv.flush()?;
        }
        Format::Jsonl => {
            for number in 0..count {
                writeln!(out, "{}", serde_json::to_string(&contact(number))?)?;
            }
            out.flush()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::persona::Persona;

    #[test]
    fn contacts_are_distinct_and_draw_their_persona() {
        let contacts: Vec<_> = (0..5_000).map(contact).collect();
        let emails: HashSet<_> = contacts.iter().map(|contact| &contact.email).collect();
        assert_eq!(emails.len(), 5_000);
        assert!(emails.iter().all(|email| Persona::explicit(email).is_none()));
        let silent = emails.iter().filter(|email| Persona::of(email) == Persona::Never).count();
        assert!((2_600..=2_900).contains(&silent), "{silent} of 5000 never answer");
        assert_eq!(contact(7), contact(7));
    }

    #[test]
    fn both_formats_hold_every_contact() {
        let lines = |format| {
            let mut out = Vec::new();
            write(&mut out, 3, format).unwrap();
            String::from_utf8(out).unwrap().lines().count()
        };
        assert_eq!((lines(Format::Csv), lines(Format::Jsonl)), (4, 3));
    }
}
