//! What comes of it all: one JSON object.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::{
    book::{Book, EXAMPLES_MAX, Fault, Listed, Receipt},
    endpoint::{ENDPOINTS, Endpoint, Fate, Hears},
    line::EventId,
};

/// What the API calls a delivery that arrived, and one that is given up after all its attempts.
const SUCCEEDED: &str = "succeeded";
const EXHAUSTED: &str = "exhausted";
/// The reason of an attempt that failed for its address.
const BLOCKED: &str = "blocked";

/// What is not as it has to be.
#[derive(Debug, Default)]
struct Complaints(BTreeMap<&'static str, Vec<String>>);

impl Complaints {
    fn add(&mut self, what: &'static str, example: String) {
        self.0.entry(what).or_default().push(example);
    }

    fn count(&self, what: &str) -> usize {
        self.0.get(what).map_or(0, Vec::len)
    }

    fn examples(&self) -> Value {
        let some =
            self.0.iter().map(|(what, all)| ((*what).to_owned(), json!(all[..all.len().min(EXAMPLES_MAX)])));
        some.collect::<Map<_, _>>().into()
    }
}

const LOST: &str = "lost";
const NOT_IN_FLIGHT: &str = "duplicates_not_in_flight";
const RENAMED: &str = "deliveries_renamed";
const TWICE: &str = "events_twice";

/// What one endpoint saw.
#[derive(Debug, Default)]
struct Seen {
    duplicates: u64,
    listed: BTreeMap<String, u64>,
    reasons: BTreeMap<String, u64>,
    problems: BTreeSet<String>,
}

impl Book {
    /// The verdict, once all is quiet and what the API shows was told.
    pub fn verdict(&self) -> Value {
        let mut complaints = Complaints::default();
        let mut seen: Vec<Seen> = ENDPOINTS.iter().map(|_| Seen::default()).collect();
        for (endpoint, mark) in self.missing() {
            complaints.add(LOST, format!("{} {mark}", ENDPOINTS[endpoint].name));
        }
        for example in &self.out_of_order {
            complaints.add("out_of_order", example.clone());
        }
        for (mark, _) in self.happenings.iter().filter(|(_, happening)| happening.twice) {
            complaints.add(TWICE, mark.to_string());
        }
        self.judge_deliveries(&mut complaints, &mut seen);
        let campaigns = self.events_of_campaigns();
        for (place, endpoint) in ENDPOINTS.iter().enumerate() {
            if endpoint.hears == Hears::Campaigns && self.takes_part(place) {
                self.judge_listed(place, &campaigns, &mut complaints, &mut seen[place]);
            }
        }
        let duplicates: u64 = seen.iter().map(|seen| seen.duplicates).sum();
        json!({
            "lost": complaints.count(LOST),
            "duplicates": duplicates,
            "duplicates_not_in_flight": complaints.count(NOT_IN_FLIGHT),
            "blocked_addresses_reached": self.trapped.values().sum::<u64>(),
            "scenarios": self.judge_faults(),
            "endpoints": self.describe_endpoints(&seen),
            "totals": self.totals(&complaints),
            "examples": complaints.examples(),
            "unverified": self.unverified_examples,
            "trapped": self.trapped,
            "spoilt": self.spoilt,
        })
    }

    /// Finds requests that came although the one before was not refused.
    fn judge_deliveries(&self, complaints: &mut Complaints, seen: &mut [Seen]) {
        for ((place, event), delivery) in &self.deliveries {
            let name = || format!("{} evt_{event:032x}", ENDPOINTS[*place].name);
            if delivery.renamed {
                complaints.add(RENAMED, name());
            }
            if matches!(ENDPOINTS[*place].fate, Fate::Fails(_)) {
                continue;
            }
            for before in repeated(&delivery.receipts) {
                seen[*place].duplicates += 1;
                if !self.faults.iter().any(|fault| self.is_struck(before, fault)) {
                    complaints.add(NOT_IN_FLIGHT, name());
                }
            }
        }
    }

    fn events_of_campaigns(&self) -> Vec<EventId> {
        let campaigns = self
            .happenings
            .values()
            .filter(|happening| happening.subject.is_some_and(|subject| Hears::Campaigns.is_about(subject)));
        campaigns.filter_map(|happening| happening.event).collect()
    }

    /// Compares what the API shows with what arrived, and with what had to become of it.
    fn judge_listed(&self, place: usize, events: &[EventId], complaints: &mut Complaints, seen: &mut Seen) {
        let endpoint = &ENDPOINTS[place];
        for event in events {
            let example = || format!("{} evt_{event:032x}", endpoint.name);
            let Some(listed) = self.listed.get(&(place, *event)) else {
                complaints.add(LOST, format!("{} is not shown", example()));
                continue;
            };
            *seen.listed.entry(listed.status.clone()).or_default() += 1;
            for reason in &listed.reasons {
                *seen.reasons.entry(reason.clone()).or_default() += 1;
            }
            let took = self.has_taken(place, *event);
            if listed.status == SUCCEEDED && !took && endpoint.fate != Fate::Arrives {
                complaints.add(LOST, format!("{} is shown as succeeded", example()));
            }
            if let Some(problem) = judge_one(endpoint, listed, took) {
                seen.problems.insert(problem);
            }
        }
        let (attempted, blocked) = (!seen.reasons.is_empty(), seen.reasons.contains_key(BLOCKED));
        if !events.is_empty() && !attempted {
            seen.problems.insert("nothing was attempted".into());
        }
        let succeeded = seen.listed.contains_key(SUCCEEDED);
        if endpoint.fate == Fate::Either && !(succeeded && blocked) {
            seen.problems.insert("not both of its addresses were met".into());
        }
    }

    /// The faults of each scenario: how many requests they struck, and how many of those came again.
    fn judge_faults(&self) -> Vec<Value> {
        let mut scenarios: BTreeMap<&str, (u64, u64, u64)> = BTreeMap::new();
        for fault in &self.faults {
            let (faults, in_flight, duplicates) = scenarios.entry(&fault.scenario).or_default();
            let (struck, came_again) = self.count_struck(fault);
            *faults += 1;
            *in_flight += struck;
            *duplicates += came_again;
        }
        let describe = |(name, (faults, in_flight, duplicates)): (&str, (u64, u64, u64))| json!({"name": name, "faults": faults, "in_flight": in_flight, "duplicates": duplicates});
        scenarios.into_iter().map(describe).collect()
    }

    fn count_struck(&self, fault: &Fault) -> (u64, u64) {
        let taking = self
            .deliveries
            .iter()
            .filter(|((place, _), _)| !matches!(ENDPOINTS[*place].fate, Fate::Fails(_)))
            .map(|(_, delivery)| &delivery.receipts);
        taking.fold((0, 0), |(struck, again), receipts| {
            let is_struck = |receipt: &&Receipt| self.is_struck(receipt, fault);
            let all = receipts.iter().filter(is_struck).count();
            let came_again = repeated(receipts).filter(is_struck).count();
            (struck + all as u64, again + came_again as u64)
        })
    }

    fn describe_endpoints(&self, seen: &[Seen]) -> Vec<Value> {
        let taking_part = ENDPOINTS.iter().zip(seen).enumerate().filter(|(place, _)| self.takes_part(*place));
        let describe = |(place, (endpoint, seen)): (usize, (&Endpoint, &Seen))| {
            let mut entry = json!({
                "name": endpoint.name,
                "requests": self.requests.get(&place).copied().unwrap_or_default(),
                "duplicates": seen.duplicates,
                "problems": seen.problems,
            });
            if endpoint.hears == Hears::Campaigns {
                entry["deliveries"] = json!(seen.listed);
                entry["attempts"] = json!(seen.reasons);
            }
            entry
        };
        taking_part.map(describe).collect()
    }

    fn totals(&self, complaints: &Complaints) -> Value {
        let happenings = self.happenings.values();
        json!({
            "acknowledged": happenings.clone().filter(|happening| happening.acknowledged).count(),
            "unsure": self.unsure,
            "unsure_that_happened": happenings.clone()
                .filter(|happening| !happening.acknowledged && happening.event.is_some()).count(),
            "events": happenings.filter(|happening| happening.event.is_some()).count(),
            "requests": self.requests.values().sum::<u64>(),
            "unverified": self.unverified,
            "out_of_order": self.out_of_order.len(),
            "deliveries_renamed": complaints.count(RENAMED),
            "events_twice": complaints.count(TWICE),
        })
    }
}

/// The requests after which another came although they were not refused.
fn repeated(receipts: &[Receipt]) -> impl Iterator<Item = &Receipt> {
    let before = receipts.len().saturating_sub(1);
    receipts[..before].iter().filter(|receipt| !receipt.is_refused())
}

/// What is wrong with a delivery that the API shows, given whether it arrived.
fn judge_one(endpoint: &Endpoint, listed: &Listed, took: bool) -> Option<String> {
    let Listed { status, reasons } = listed;
    let wrong_reason = match endpoint.fate {
        Fate::Fails(expected) => reasons.iter().find(|reason| !expected.contains(&reason.as_str())),
        Fate::Either => reasons.iter().find(|reason| !["ok", BLOCKED].contains(&reason.as_str())),
        Fate::Arrives => None,
    };
    if let Some(reason) = wrong_reason {
        return Some(format!("an attempt ended with {reason}"));
    }
    let arrives = endpoint.fate == Fate::Arrives;
    match status.as_str() {
        SUCCEEDED if reasons.is_empty() => Some("one succeeded without an attempt".into()),
        SUCCEEDED if matches!(endpoint.fate, Fate::Fails(_)) => Some("one succeeded".into()),
        EXHAUSTED if reasons.is_empty() => Some("one was given up without an attempt".into()),
        SUCCEEDED => None,
        other if arrives && took => Some(format!("one arrived and is {other}")),
        _ => None,
    }
}
