//! What a run came to, beside its goals.

use serde_json::{Map, Value, json};

use super::{
    network,
    roles::{KILL_API, KILL_DISPATCHER},
};
use crate::{report, stage::Findings};

/// The most memory that a dispatcher may need, in MiB.
const MEMORY_MIB_MAX: u64 = 150;
/// Fewer acknowledged changes in a second mean that the machine was too busy for this run.
const CHANGES_PER_SECOND_MIN: u64 = 20;
/// The counts that are promised.
const COUNTS: [&str; 5] =
    ["lost", "duplicates", "duplicates_not_in_flight", "blocked_addresses_reached", MEMORY];
const MEMORY: &str = "rss_mb_max";
/// The entry of the whole.
const LOAD: &str = "load";

/// What is known besides the receivers' verdict.
#[derive(Debug, Default)]
pub struct Found {
    /// What each outage was.
    pub outages: Vec<(&'static str, Findings)>,
    /// Endpoints that the run did without.
    pub left_out: Vec<String>,
    /// The most memory of a dispatcher, in MiB.
    pub memory_mib: Option<u64>,
    /// How long events flowed, in seconds.
    pub seconds: u64,
    /// What went wrong with the run itself.
    pub problems: Vec<String>,
}

/// The report of a run.
#[derive(Debug)]
pub struct Report {
    judged: Map<String, Value>,
    misses: Vec<String>,
}

impl Report {
    /// Puts together what the receivers and the run found.
    pub fn new(verdict: &Value, found: Found) -> Self {
        let mut report = Self { judged: Map::new(), misses: Vec::new() };
        for name in COUNTS {
            report.judged.insert(name.into(), verdict[name].clone());
        }
        report.judged.insert(MEMORY.into(), found.memory_mib.into());
        report.judge_goals(found.memory_mib);
        let skipped = found.left_out.iter().map(|name| json!({"name": name, "reason": network::MISSING}));
        report.judged.insert("skipped".into(), skipped.collect());
        let mut scenarios = Vec::new();
        for entry in verdict["scenarios"].as_array().into_iter().flatten() {
            let outage = found.outages.iter().find(|(name, _)| entry["name"] == *name);
            let problems = outage.map_or_else(Vec::new, |(_, findings)| findings.problems.clone());
            let facts = outage.map_or_else(Map::new, |(_, findings)| findings.facts.clone());
            scenarios.push(report.describe(entry, facts, problems));
        }
        for entry in verdict["endpoints"].as_array().into_iter().flatten() {
            let problems = entry["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
            scenarios.push(report.describe(entry, Map::new(), problems.map(ToOwned::to_owned).collect()));
        }
        let load = judge_load(verdict, found);
        scenarios.push(report.describe(&json!({ "name": LOAD }), load.facts, load.problems));
        report.judged.insert("scenarios".into(), scenarios.into());
        report
    }

    fn judge_goals(&mut self, memory_mib: Option<u64>) {
        let goals = ["lost", "duplicates_not_in_flight", "blocked_addresses_reached"];
        for name in goals {
            // Without a verdict there is no success.
            let count = self.judged[name].as_u64().unwrap_or(u64::MAX);
            if count > 0 {
                self.misses.push(format!("{name} is {count}, more than 0"));
            }
        }
        if let Some(mib) = memory_mib.filter(|mib| *mib > MEMORY_MIB_MAX) {
            self.misses.push(format!("{MEMORY} is {mib}, more than {MEMORY_MIB_MAX}"));
        }
    }

    /// One scenario's entry; its problems are misses.
    fn describe(&mut self, entry: &Value, facts: Map<String, Value>, problems: Vec<String>) -> Value {
        let name = entry["name"].as_str().unwrap_or_default();
        self.misses.extend(problems.iter().map(|problem| format!("{name}: {problem}")));
        let mut described = entry.as_object().cloned().unwrap_or_default();
        described.insert("ok".into(), problems.is_empty().into());
        described.extend(facts);
        if problems.is_empty() {
            described.remove("problems");
        } else {
            described.insert("problems".into(), problems.into());
        }
        described.into()
    }

    /// Whether every goal was reached.
    pub fn is_reached(&self) -> bool {
        self.misses.is_empty()
    }

    /// Says on stderr what was missed; prints the figures, or one JSON object on the last line.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        report::print(&self.judged, &COUNTS, &self.misses, json)
    }
}

/// What the receivers say of the whole.
fn judge_load(verdict: &Value, found: Found) -> Findings {
    let mut load = Findings { problems: found.problems, ..Findings::default() };
    let totals = &verdict["totals"];
    load.facts.extend(totals.as_object().cloned().unwrap_or_default());
    load.fact("seconds", found.seconds);
    let acknowledged = totals["acknowledged"].as_u64().unwrap_or_default();
    let per_second = acknowledged / found.seconds.max(1);
    load.fact("acknowledged_per_second", per_second);
    load.expect(per_second >= CHANGES_PER_SECOND_MIN, || {
        format!(
            "only {per_second} changes/s were acknowledged: the machine is too slow or too busy for this run"
        )
    });
    for name in ["unverified", "out_of_order", "deliveries_renamed", "events_twice"] {
        let count = totals[name].as_u64().unwrap_or(u64::MAX);
        load.expect(count == 0, || format!("{name} is {count}"));
    }
    for name in [KILL_DISPATCHER, KILL_API] {
        let there =
            verdict["scenarios"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == name));
        load.expect(there, || format!("{name} did not happen"));
    }
    for what in ["examples", "unverified", "trapped"] {
        let some = &verdict[what];
        if some.as_array().is_some_and(|some| !some.is_empty())
            || some.as_object().is_some_and(|some| !some.is_empty())
        {
            load.fact(&format!("{what}_seen"), some.clone());
        }
    }
    for spoilt in verdict["spoilt"].as_array().into_iter().flatten() {
        load.problems.push(format!("the receivers did not understand: {spoilt}"));
    }
    load
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict() -> Value {
        json!({
            "lost": 0, "duplicates": 3, "duplicates_not_in_flight": 0, "blocked_addresses_reached": 0,
            "scenarios": [
                {"name": KILL_DISPATCHER, "faults": 9}, {"name": KILL_API, "faults": 4}, {"name": "stop_5s", "faults": 1},
            ],
            "endpoints": [{"name": "hang", "problems": []}],
            "totals": {
                "acknowledged": 9000, "unverified": 0, "out_of_order": 0, "deliveries_renamed": 0, "events_twice": 0,
            },
            "examples": {}, "unverified": [], "trapped": {}, "spoilt": [],
        })
    }

    fn found() -> Found {
        Found { seconds: 120, memory_mib: Some(80), ..Found::default() }
    }

    fn with(path: &str, value: Value) -> Value {
        let mut verdict = verdict();
        *verdict.pointer_mut(path).unwrap() = value;
        verdict
    }

    #[test]
    fn every_kind_of_miss_fails_the_run() {
        let good = Report::new(&verdict(), found());
        assert!(good.is_reached(), "{:?}", good.misses);
        for (path, value) in [
            ("/lost", json!(1)),
            ("/duplicates_not_in_flight", json!(1)),
            ("/blocked_addresses_reached", json!(1)),
            ("/endpoints/0/problems", json!(["one succeeded"])),
            ("/totals/acknowledged", json!(100)),
            ("/totals/unverified", json!(1)),
            ("/totals/out_of_order", json!(1)),
            ("/totals/deliveries_renamed", json!(1)),
            ("/totals/events_twice", json!(1)),
            ("/scenarios/0/name", json!("another")),
            ("/spoilt", json!(["a line"])),
            ("", json!({})),
        ] {
            assert!(!Report::new(&with(path, value), found()).is_reached(), "{path}");
        }
        assert!(!Report::new(&verdict(), Found { memory_mib: Some(151), ..found() }).is_reached());
        let problems = vec!["the API ended by itself".into()];
        assert!(!Report::new(&verdict(), Found { problems, ..found() }).is_reached());
        let stayed = Findings { problems: vec!["the server was not gone".into()], ..Findings::default() };
        assert!(
            !Report::new(&verdict(), Found { outages: vec![("stop_5s", stayed)], ..found() }).is_reached()
        );
    }

    #[test]
    fn the_object_has_the_keys_that_were_promised() {
        let left_out = vec!["dns_flip".to_owned()];
        let report = Report::new(&verdict(), Found { left_out, ..found() });
        assert!(report.is_reached(), "what cannot be had is told and no miss");
        let mut keys: Vec<&str> = report.judged.keys().map(String::as_str).collect();
        keys.sort_unstable();
        let mut promised = [COUNTS.as_slice(), &["scenarios", "skipped"]].concat();
        promised.sort_unstable();
        assert_eq!(keys, promised);
        assert_eq!(report.judged["skipped"][0]["name"], "dns_flip");
        assert_eq!(report.judged["scenarios"][3], json!({"name": "hang", "ok": true}));
    }
}
