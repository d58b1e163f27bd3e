//! What one webhook receiver saw. Tests reconcile against it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use axum::http::HeaderMap;
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use super::Line;
use super::verify::{HEADERS, header};
use crate::digest::hash128;

/// Distinct deliveries that one ledger holds before the receiver answers 503.
const DELIVERIES_MAX: usize = 1_000_000;
/// Event types told apart; attempts of further ones count under `other`.
const TYPES_MAX: usize = 100;
/// Full bodies kept.
const BODIES_MAX: usize = 10_000;
/// Bytes of full bodies kept.
const BODY_BYTES_MAX: usize = 64 << 20;
/// Reasons of failures kept.
const FAILURES_MAX: usize = 20;

/// An attempt to record.
pub struct Attempt<'a> {
    /// What goes to the file.
    pub line: &'a Line,
    /// All of its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Why it did not verify.
    pub failure: Option<String>,
}

#[derive(Default)]
struct Delivery {
    attempts: u32,
    acknowledged: bool,
}

#[derive(Default)]
struct EventType {
    events: HashSet<u128>,
    deliveries: HashSet<u128>,
    acknowledged: HashSet<u128>,
    verified: u64,
}

/// One event type in the ledger's JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EventTypeCounts {
    /// Distinct event ids among verified attempts.
    pub events: usize,
    /// Distinct delivery ids among verified attempts.
    pub deliveries: usize,
    /// Distinct delivery ids answered with a 2xx.
    pub acknowledged: usize,
    /// Verified attempts.
    pub verified: u64,
}

/// The ledger's JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// All attempts.
    pub attempts: u64,
    /// Attempts that passed every check.
    pub verified: u64,
    /// Attempts that failed a check.
    pub unverified: u64,
    /// Distinct deliveries answered with a 2xx.
    pub acknowledged: u64,
    /// 2xx answers to deliveries that had one already.
    pub duplicates: u64,
    /// The verified attempts by event type.
    pub events: BTreeMap<String, EventTypeCounts>,
    /// Why attempts did not verify; the first 20.
    pub failures: Vec<String>,
}

/// An attempt with its whole body.
#[derive(Clone)]
pub struct Kept {
    index: u64,
    delivery: String,
    headers: BTreeMap<&'static str, String>,
    verified: bool,
    status: u16,
    body: Box<[u8]>,
}

/// A kept attempt in JSON.
#[derive(Debug, Serialize)]
pub struct KeptJson {
    /// Its place in the ledger, from 1.
    index: u64,
    /// `X-Iris-Delivery`.
    delivery: String,
    /// The headers that are checked.
    attempt_headers: BTreeMap<&'static str, String>,
    /// Whether every check passed.
    verified: bool,
    /// The status answered; 0 for none.
    status: u16,
    /// The body, or null if it is no JSON.
    body: Value,
}

impl From<Kept> for KeptJson {
    fn from(kept: Kept) -> Self {
        Self {
            index: kept.index,
            delivery: kept.delivery,
            attempt_headers: kept.headers,
            verified: kept.verified,
            status: kept.status,
            body: serde_json::from_slice(&kept.body).unwrap_or_default(),
        }
    }
}

/// The ledger of one receiver. Ids are kept as hashes of 16 bytes.
#[derive(Default)]
pub struct Ledger {
    attempts: u64,
    verified: u64,
    acknowledged: u64,
    duplicates: u64,
    deliveries: HashMap<u128, Delivery>,
    types: BTreeMap<String, EventType>,
    failures: Vec<String>,
    kept: VecDeque<Kept>,
    kept_bytes: usize,
}

impl Ledger {
    /// Whether another delivery would be one too many.
    pub fn is_full(&self) -> bool {
        self.deliveries.len() >= DELIVERIES_MAX
    }

    /// Counts an attempt of a delivery and returns its number, from 1.
    pub fn count_attempt(&mut self, delivery: &str) -> u32 {
        let delivery = self.deliveries.entry(hash128(&[delivery])).or_default();
        delivery.attempts += 1;
        delivery.attempts
    }

    /// Records an attempt with its answer.
    pub fn record(&mut self, attempt: Attempt<'_>) {
        let line = attempt.line;
        let delivery_hash = hash128(&[&line.delivery]);
        let acknowledged = (200..300).contains(&line.status);
        self.attempts += 1;
        if acknowledged {
            let delivery = self.deliveries.entry(delivery_hash).or_default();
            if delivery.acknowledged {
                self.duplicates += 1;
            } else {
                self.acknowledged += 1;
            }
            delivery.acknowledged = true;
        }
        if line.verified {
            self.verified += 1;
            let event_type = self.event_type(&line.event_type);
            event_type.verified += 1;
            event_type.events.insert(hash128(&[&line.event_id]));
            event_type.deliveries.insert(delivery_hash);
            if acknowledged {
                event_type.acknowledged.insert(delivery_hash);
            }
        }
        if let Some(failure) = attempt.failure
            && self.failures.len() < FAILURES_MAX
        {
            self.failures.push(failure);
        }
        self.keep(line, &attempt.headers, &attempt.body);
    }

    fn event_type(&mut self, name: &str) -> &mut EventType {
        let known = self.types.contains_key(name) || self.types.len() < TYPES_MAX;
        self.types.entry(if known { name } else { "other" }.to_owned()).or_default()
    }

    fn keep(&mut self, line: &Line, headers: &HeaderMap, body: &[u8]) {
        let headers = HEADERS.map(|name| (name, header(headers, name).to_owned())).into();
        self.kept_bytes += body.len();
        self.kept.push_back(Kept {
            index: self.attempts,
            delivery: line.delivery.clone(),
            headers,
            verified: line.verified,
            status: line.status,
            // A copy: the original is a slice of a connection's much larger read buffer and would keep it alive.
            body: body.into(),
        });
        while self.kept.len() > BODIES_MAX || self.kept_bytes > BODY_BYTES_MAX {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.kept_bytes -= oldest.body.len();
        }
    }

    /// Kept attempts after `index`, at most `limit`.
    pub fn after(&self, index: u64, limit: usize) -> Vec<Kept> {
        let start = self.kept.partition_point(|kept| kept.index <= index);
        self.kept.iter().skip(start).take(limit).cloned().collect()
    }

    /// The counts.
    pub fn summary(&self) -> Summary {
        let counts = |of: &EventType| EventTypeCounts {
            events: of.events.len(),
            deliveries: of.deliveries.len(),
            acknowledged: of.acknowledged.len(),
            verified: of.verified,
        };
        Summary {
            attempts: self.attempts,
            verified: self.verified,
            unverified: self.attempts - self.verified,
            acknowledged: self.acknowledged,
            duplicates: self.duplicates,
            events: self.types.iter().map(|(name, of)| (name.clone(), counts(of))).collect(),
            failures: self.failures.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(ledger: &mut Ledger, delivery: &str, event_id: &str, verified: bool, status: u16) {
        let line = Line {
            time_ms: 1,
            hook: "a".to_owned(),
            delivery: delivery.to_owned(),
            event_id: event_id.to_owned(),
            event_type: "message.sent".to_owned(),
            resource_id: "m1".to_owned(),
            verified,
            status,
        };
        ledger.count_attempt(delivery);
        ledger.record(Attempt {
            line: &line,
            headers: HeaderMap::new(),
            body: Bytes::from_static(b"{\"a\":1}"),
            failure: (!verified).then(|| "wrong".to_owned()),
        });
    }

    #[test]
    fn a_delivery_acknowledged_twice_is_one_duplicate() {
        let mut ledger = Ledger::default();
        record(&mut ledger, "d1", "e1", true, 500);
        record(&mut ledger, "d1", "e1", true, 200);
        record(&mut ledger, "d1", "e1", true, 200);
        record(&mut ledger, "d2", "e1", true, 200);
        record(&mut ledger, "d3", "e3", false, 401);
        let summary = ledger.summary();
        assert_eq!((summary.attempts, summary.verified, summary.unverified), (5, 4, 1));
        assert_eq!((summary.acknowledged, summary.duplicates), (2, 1));
        assert_eq!(
            summary.events["message.sent"],
            EventTypeCounts { events: 1, deliveries: 2, acknowledged: 2, verified: 4 }
        );
        assert_eq!(summary.failures, ["wrong"]);
    }

    #[test]
    fn the_last_bodies_are_kept_with_their_index() {
        let mut ledger = Ledger::default();
        for n in 0..=BODIES_MAX {
            record(&mut ledger, &n.to_string(), "e", true, 200);
        }
        let kept = ledger.after(0, 3);
        assert_eq!(kept.iter().map(|kept| kept.index).collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(ledger.after(10_000, 9).len(), 1);
        assert_eq!(KeptJson::from(kept[0].clone()).body["a"], 1);
    }
}
