//! Personas: how a simulated person reacts, decided by nothing but the address.

use std::time::Duration;

use serde::Serialize;

use crate::digest::hash64;

/// How one recipient behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Persona {
    /// Accepts everything and stays silent; the explicit spelling of `Never` for tests about delivery alone.
    Accepts,
    /// Replies to the first message.
    Replies,
    /// Replies to its first follow-up, which is the second distinct message it gets.
    LateReply,
    /// Is refused at RCPT with 550 5.1.1.
    Bounces,
    /// Accepts, then a delivery status notification comes back.
    DsnBounces,
    /// Answers the first message with a request to stop.
    Stops,
    /// Accepts everything and never answers.
    Never,
    /// Sends an out-of-office note at once after the first message.
    AutoReply,
    /// Answers the first RCPT with 451 4.3.0 and accepts later ones.
    TempFails,
    /// Takes its first body and closes the connection without the final answer.
    DropsAfter,
}

/// What a persona sends back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reaction {
    /// An interested answer.
    Reply,
    /// A request to stop.
    Stop,
    /// An out-of-office note.
    AutoReply,
    /// A delivery status notification of RFC 3464.
    Dsn,
    /// A message that a test asked for.
    Manual,
}

const NAMES: [(&str, Persona); 10] = [
    ("accepts", Persona::Accepts),
    ("replies", Persona::Replies),
    ("latereply", Persona::LateReply),
    ("bounces", Persona::Bounces),
    ("dsnbounces", Persona::DsnBounces),
    ("stops", Persona::Stops),
    ("never", Persona::Never),
    ("autoreply", Persona::AutoReply),
    ("tempfails", Persona::TempFails),
    ("dropsafter", Persona::DropsAfter),
];

/// Percentages of the personas of addresses that do not name one; they add up to 100.
pub const DISTRIBUTION: [(Persona, u64); 6] = [
    (Persona::Never, 55),
    (Persona::Replies, 20),
    (Persona::LateReply, 10),
    (Persona::Bounces, 7),
    (Persona::Stops, 5),
    (Persona::AutoReply, 3),
];

impl Persona {
    /// The persona of an address: the one its local part names, otherwise one drawn by the hash of the address.
    pub fn of(address: &str) -> Self {
        let address = address.to_ascii_lowercase();
        Self::explicit(&address).unwrap_or_else(|| Self::by_hash(&address))
    }

    /// The persona that the local part names before its first `+`, `-` or `.`.
    pub fn explicit(address: &str) -> Option<Self> {
        let local = address.rsplit_once('@').map_or(address, |(local, _)| local).to_ascii_lowercase();
        let head = local.split(['+', '-', '.']).next()?;
        NAMES.iter().find(|(name, _)| *name == head).map(|(_, persona)| *persona)
    }

    fn by_hash(address: &str) -> Self {
        let mut draw = hash64(address) % 100;
        for (persona, percent) in DISTRIBUTION {
            if draw < percent {
                return persona;
            }
            draw -= percent;
        }
        Self::Never
    }

    /// What the persona sends back for its `ordinal`-th distinct message, counted from 0.
    pub fn reaction(self, ordinal: u32) -> Option<Reaction> {
        match (self, ordinal) {
            (Self::Replies, 0) | (Self::LateReply, 1) => Some(Reaction::Reply),
            (Self::Stops, 0) => Some(Reaction::Stop),
            (Self::AutoReply, 0) => Some(Reaction::AutoReply),
            (Self::DsnBounces, 0) => Some(Reaction::Dsn),
            _ => None,
        }
    }
}

impl Reaction {
    /// How long after the message the reaction leaves: 0.3 to 0.9 of a day, the same in every run for one address.
    /// An out-of-office note leaves at once.
    pub fn delay(self, address: &str, day: Duration) -> Duration {
        match self {
            Self::AutoReply | Self::Manual => Duration::ZERO,
            Self::Reply | Self::Stop | Self::Dsn => {
                let per_mille = 300 + hash64(&format!("delay of {}", address.to_ascii_lowercase())) % 601;
                day.mul_f64(f64::from(u32::try_from(per_mille).unwrap_or(900)) / 1000.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_local_part_names_its_persona() {
        for (address, persona) in [
            ("replies@example.com", Some(Persona::Replies)),
            ("Bounces+1@example.com", Some(Persona::Bounces)),
            ("dsnbounces-7@example.com", Some(Persona::DsnBounces)),
            ("tempfails.a.b@example.com", Some(Persona::TempFails)),
            ("repliesx@example.com", None),
            ("x.replies@example.com", None),
        ] {
            assert_eq!(Persona::explicit(address), persona, "{address}");
        }
    }

    #[test]
    fn the_distribution_over_5000_addresses_is_as_documented() {
        assert_eq!(DISTRIBUTION.iter().map(|(_, percent)| percent).sum::<u64>(), 100);
        let mut counts: HashMap<Persona, u64> = HashMap::new();
        for n in 0..5000 {
            *counts.entry(Persona::of(&format!("person.{n}@company.example.com"))).or_default() += 1;
        }
        for (persona, percent) in DISTRIBUTION {
            // Four standard deviations of the widest share are under 3 points of 5,000.
            let seen = counts.get(&persona).copied().unwrap_or_default();
            assert!(seen.abs_diff(percent * 50) < 150, "{persona:?}: {seen} of 5000, not {percent} %");
        }
    }

    #[test]
    fn only_the_named_message_sets_off_a_reaction() {
        assert_eq!(Persona::Replies.reaction(0), Some(Reaction::Reply));
        assert_eq!(Persona::Replies.reaction(1), None);
        assert_eq!(Persona::LateReply.reaction(0), None);
        assert_eq!(Persona::LateReply.reaction(1), Some(Reaction::Reply));
        assert_eq!(Persona::Never.reaction(0), None);
        assert_eq!(Persona::DropsAfter.reaction(0), None);
    }

    #[test]
    fn delays_stay_within_a_day_and_repeat() {
        let day = Duration::from_secs(1);
        for n in 0..200 {
            let address = format!("replies-{n}@example.com");
            let delay = Reaction::Reply.delay(&address, day);
            assert!((300..=900).contains(&delay.as_millis()), "{delay:?}");
            assert_eq!(delay, Reaction::Reply.delay(&address, day));
        }
        assert_eq!(Reaction::AutoReply.delay("a@example.com", day), Duration::ZERO);
    }
}
