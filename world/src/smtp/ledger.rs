//! What the SMTP server saw: one record per accepted body and recipient. Tests reconcile against it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use serde::Serialize;

use crate::digest::hash128;
use crate::mail::Received;
use crate::persona::Persona;

/// Records, and distinct recipients, that the ledger holds before it answers 452.
const RECORDS_MAX: usize = 500_000;
/// Raw bodies kept when not all are asked for.
const RAW_BODIES_MAX: usize = 2_000;
/// Bytes of raw bodies kept when not all are asked for.
const RAW_BYTES_MAX: usize = 64 << 20;
/// Bytes of raw bodies kept when all are asked for.
const RAW_BYTES_MAX_KEEP_ALL: usize = 1 << 30;

/// How the server ended an accepted body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The final answer was 250.
    Accepted,
    /// The connection was closed without the final answer; the body counts as accepted all the same.
    Dropped,
}

/// One accepted body for one recipient.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// Its place in the ledger, from 1.
    pub index: u64,
    /// When the last byte of the body had come.
    pub time_ms: u64,
    /// The address of RCPT, in lower case.
    pub recipient: Box<str>,
    /// The Message-ID without angle brackets, empty if there was none.
    pub message_id: Box<str>,
    /// The In-Reply-To without angle brackets.
    pub in_reply_to: Option<Box<str>>,
    /// How many References the message had.
    pub references: usize,
    /// The decoded subject.
    pub subject: Box<str>,
    /// The address that answers go to.
    pub from: Box<str>,
    /// The addresses in To.
    pub to: Box<[String]>,
    /// The recipient's persona.
    pub persona: Persona,
    /// How many distinct Message-IDs the recipient had got before this Message-ID first came.
    pub ordinal: u32,
    /// Whether an earlier body carried this Message-ID.
    pub duplicate: bool,
    /// How the server ended it.
    pub outcome: Outcome,
}

/// The answer to RCPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RcptAnswer {
    /// 250.
    Accept,
    /// 550 5.1.1, a bounce.
    NoSuchMailbox,
    /// 451 4.3.0, once per address.
    TryLater,
    /// 452 4.3.1, the ledger holds no more.
    Full,
}

/// What happened to the addresses of one persona.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PersonaCounts {
    /// Distinct addresses seen in RCPT.
    pub recipients: u64,
    /// Bodies accepted.
    pub accepted: u64,
    /// RCPTs answered 550.
    pub rejected: u64,
    /// RCPTs answered 451.
    pub tempfailed: u64,
    /// Bodies whose final answer was withheld.
    pub dropped: u64,
}

/// The counts of the whole ledger.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Bodies accepted, counted once per recipient.
    pub accepted: u64,
    /// Distinct recipients with at least one accepted body.
    pub recipients: u64,
    /// Accepted bodies by the ordinal of their Message-ID for the recipient.
    pub bodies_by_ordinal: BTreeMap<u32, u64>,
    /// Bodies whose Message-ID an earlier body carried, to whomever.
    pub duplicates: u64,
    /// Bodies without a Message-ID; they can be no duplicates.
    pub without_message_id: u64,
    /// RCPTs answered 550.
    pub rejected: u64,
    /// RCPTs answered 451.
    pub tempfailed: u64,
    /// Bodies whose final answer was withheld.
    pub dropped: u64,
    /// The same by persona.
    pub by_persona: BTreeMap<Persona, PersonaCounts>,
}

#[derive(Default)]
struct Person {
    bodies: u32,
    message_ids: u32,
    tempfailed: bool,
}

/// The SMTP ledger. Ids are kept as hashes of 16 bytes wherever a record does not hold them anyway.
pub struct Ledger {
    records: Vec<Record>,
    people: HashMap<u128, Person>,
    /// (recipient, Message-ID) to the ordinal of the Message-ID.
    ordinals: HashMap<u128, u32>,
    /// Message-ID to the number of the body that carried it first.
    first_bodies: HashMap<u128, u64>,
    bodies: u64,
    by_persona: BTreeMap<Persona, PersonaCounts>,
    raw: VecDeque<(u64, Arc<[u8]>)>,
    raw_bytes: usize,
    keep_all_raw: bool,
}

impl Ledger {
    /// An empty ledger; `keep_all_raw` keeps raw bodies up to 1 GiB instead of the last 2,000.
    pub fn new(keep_all_raw: bool) -> Self {
        Self {
            records: Vec::new(),
            people: HashMap::new(),
            ordinals: HashMap::new(),
            first_bodies: HashMap::new(),
            bodies: 0,
            by_persona: BTreeMap::new(),
            raw: VecDeque::new(),
            raw_bytes: 0,
            keep_all_raw,
        }
    }

    /// Decides and counts one RCPT.
    pub fn rcpt(&mut self, address: &str) -> RcptAnswer {
        if self.records.len() >= RECORDS_MAX || self.people.len() >= RECORDS_MAX {
            return RcptAnswer::Full;
        }
        let address = address.to_ascii_lowercase();
        let persona = Persona::of(&address);
        let counts = self.by_persona.entry(persona).or_default();
        let person = self.people.entry(hash128(&[&address])).or_insert_with(|| {
            counts.recipients += 1;
            Person::default()
        });
        match persona {
            Persona::Bounces => {
                counts.rejected += 1;
                RcptAnswer::NoSuchMailbox
            }
            Persona::TempFails if !person.tempfailed => {
                person.tempfailed = true;
                counts.tempfailed += 1;
                RcptAnswer::TryLater
            }
            _ => RcptAnswer::Accept,
        }
    }

    /// Records one accepted body for each of its recipients and returns the new records.
    pub fn accept(&mut self, time_ms: u64, received: &Received, to: &[String], raw: &[u8]) -> &[Record] {
        self.bodies += 1;
        let body = self.bodies;
        let duplicate = !received.message_id.is_empty()
            && *self.first_bodies.entry(hash128(&[&received.message_id])).or_insert(body) != body;
        let first_new = self.records.len();
        let raw: Arc<[u8]> = raw.into();
        for recipient in to {
            let record = self.record(time_ms, received, recipient, duplicate);
            self.keep_raw(record.index, Arc::clone(&raw));
            self.records.push(record);
        }
        &self.records[first_new..]
    }

    fn record(&mut self, time_ms: u64, received: &Received, recipient: &str, duplicate: bool) -> Record {
        let recipient = recipient.to_ascii_lowercase();
        let persona = Persona::of(&recipient);
        let person = self.people.entry(hash128(&[&recipient])).or_default();
        let ordinal = if received.message_id.is_empty() {
            next(&mut person.message_ids)
        } else {
            let id = hash128(&[&recipient, &received.message_id]);
            *self.ordinals.entry(id).or_insert_with(|| next(&mut person.message_ids))
        };
        let outcome = match (persona, person.bodies) {
            (Persona::DropsAfter, 0) => Outcome::Dropped,
            _ => Outcome::Accepted,
        };
        person.bodies += 1;
        let counts = self.by_persona.entry(persona).or_default();
        counts.accepted += 1;
        counts.dropped += u64::from(outcome == Outcome::Dropped);
        Record {
            index: self.records.len() as u64 + 1,
            time_ms,
            recipient: recipient.into(),
            message_id: received.message_id.as_str().into(),
            in_reply_to: received.in_reply_to.as_deref().map(Into::into),
            references: received.references.len(),
            subject: received.subject.as_str().into(),
            from: received.from.as_str().into(),
            to: received.to.as_slice().into(),
            persona,
            ordinal,
            duplicate,
            outcome,
        }
    }

    fn keep_raw(&mut self, index: u64, raw: Arc<[u8]>) {
        let (bodies_max, bytes_max) = if self.keep_all_raw {
            (RECORDS_MAX, RAW_BYTES_MAX_KEEP_ALL)
        } else {
            (RAW_BODIES_MAX, RAW_BYTES_MAX)
        };
        self.raw_bytes += raw.len();
        self.raw.push_back((index, raw));
        while self.raw.len() > bodies_max || self.raw_bytes > bytes_max {
            let Some((_, oldest)) = self.raw.pop_front() else { break };
            self.raw_bytes -= oldest.len();
        }
    }

    /// The counts.
    pub fn summary(&self) -> Summary {
        let mut bodies_by_ordinal = BTreeMap::new();
        for record in &self.records {
            *bodies_by_ordinal.entry(record.ordinal).or_default() += 1;
        }
        let count = |wanted: fn(&Record) -> bool| self.records.iter().filter(|record| wanted(record)).count();
        let total = |of: fn(&PersonaCounts) -> u64| self.by_persona.values().map(of).sum();
        Summary {
            accepted: total(|counts| counts.accepted),
            recipients: self.people.values().filter(|person| person.bodies > 0).count() as u64,
            bodies_by_ordinal,
            duplicates: count(|record| record.duplicate) as u64,
            without_message_id: count(|record| record.message_id.is_empty()) as u64,
            rejected: total(|counts| counts.rejected),
            tempfailed: total(|counts| counts.tempfailed),
            dropped: total(|counts| counts.dropped),
            by_persona: self.by_persona.clone(),
        }
    }

    /// Records after `index`, at most `limit`.
    pub fn after(&self, index: u64, limit: usize) -> &[Record] {
        let start = usize::try_from(index).unwrap_or(usize::MAX).min(self.records.len());
        let rest = &self.records[start..];
        &rest[..rest.len().min(limit)]
    }

    /// The records of one recipient, each with its raw body if that is still kept.
    pub fn of_recipient(&self, address: &str) -> Vec<(&Record, Option<Arc<[u8]>>)> {
        let address = address.to_ascii_lowercase();
        self.records
            .iter()
            .filter(|record| *record.recipient == *address)
            .map(|record| (record, self.raw_of(record.index)))
            .collect()
    }

    fn raw_of(&self, index: u64) -> Option<Arc<[u8]>> {
        let place = self.raw.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        self.raw.get(place).map(|(_, raw)| Arc::clone(raw))
    }

    /// The newest record with a Message-ID.
    pub fn find_message(&self, message_id: &str) -> Option<&Record> {
        self.records.iter().rev().find(|record| *record.message_id == *message_id)
    }
}

/// Hands out the next ordinal of a counter.
fn next(counter: &mut u32) -> u32 {
    let ordinal = *counter;
    *counter += 1;
    ordinal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(message_id: &str) -> Received {
        Received { message_id: message_id.to_owned(), ..Received::default() }
    }

    fn accept(ledger: &mut Ledger, message_id: &str, to: &[&str]) {
        let to: Vec<String> = to.iter().map(|address| (*address).to_owned()).collect();
        ledger.accept(1, &received(message_id), &to, b"Subject: x\r\n\r\n");
    }

    #[test]
    fn a_second_body_of_a_message_id_is_a_duplicate_of_the_same_ordinal() {
        let mut ledger = Ledger::new(false);
        accept(&mut ledger, "m1", &["accepts@example.com"]);
        accept(&mut ledger, "m2", &["Accepts@example.com"]);
        accept(&mut ledger, "m1", &["accepts@example.com"]);
        let summary = ledger.summary();
        assert_eq!((summary.accepted, summary.recipients, summary.duplicates), (3, 1, 1));
        assert_eq!(summary.bodies_by_ordinal, BTreeMap::from([(0, 2), (1, 1)]));
    }

    #[test]
    fn one_body_for_two_recipients_is_no_duplicate_but_a_reused_id_is() {
        let mut ledger = Ledger::new(false);
        accept(&mut ledger, "m1", &["accepts@example.com", "never@example.com"]);
        assert_eq!(ledger.summary().duplicates, 0);
        accept(&mut ledger, "m1", &["accepts-2@example.com"]);
        assert_eq!(ledger.summary().duplicates, 1);
        accept(&mut ledger, "", &["accepts@example.com"]);
        accept(&mut ledger, "", &["accepts@example.com"]);
        let summary = ledger.summary();
        assert_eq!((summary.duplicates, summary.without_message_id), (1, 2));
    }

    #[test]
    fn only_the_first_body_is_dropped_and_only_the_first_rcpt_fails() {
        let mut ledger = Ledger::new(false);
        assert_eq!(ledger.rcpt("bounces@example.com"), RcptAnswer::NoSuchMailbox);
        assert_eq!(ledger.rcpt("tempfails@example.com"), RcptAnswer::TryLater);
        assert_eq!(ledger.rcpt("tempfails@example.com"), RcptAnswer::Accept);
        assert_eq!(ledger.rcpt("tempfails-2@example.com"), RcptAnswer::TryLater);
        accept(&mut ledger, "m1", &["dropsafter@example.com"]);
        accept(&mut ledger, "m1", &["dropsafter@example.com"]);
        let summary = ledger.summary();
        assert_eq!((summary.rejected, summary.tempfailed, summary.dropped, summary.accepted), (1, 2, 1, 2));
        assert_eq!(summary.by_persona[&Persona::TempFails].recipients, 2);
    }

    #[test]
    fn raw_bodies_are_kept_up_to_the_limit() {
        let mut ledger = Ledger::new(false);
        for n in 0..=RAW_BODIES_MAX {
            accept(&mut ledger, &format!("m{n}"), &[&format!("accepts-{n}@example.com")]);
        }
        assert!(ledger.of_recipient("accepts-0@example.com")[0].1.is_none());
        assert!(ledger.of_recipient("accepts-1@example.com")[0].1.is_some());
        assert_eq!(ledger.after(1_999, 5).len(), 2);
        assert_eq!(ledger.after(u64::MAX, 5).len(), 0);
    }
}
