//! What a run came to, beside its goals.

use serde_json::{Map, Value, json};

use crate::{
    plan::{Plan, Scenario},
    stage::Findings,
};

/// The longest that 99 of 100 struck jobs may wait, in milliseconds.
const RECOVERY_MS_MAX: u64 = 12_000;
/// The counts that the ledger derives.
const COUNTS: [&str; 6] = [
    "lost",
    "effects_twice",
    "effects_twice_allowed",
    "stale_completions_accepted",
    "over_max_attempts",
    "recovery_ms_p99",
];

/// The report of a run.
#[derive(Debug)]
pub struct Report {
    scenarios: Vec<(&'static str, Findings)>,
    /// What did not run, why, and whether it should have.
    skipped: Vec<(Scenario, String, bool)>,
    judged: Map<String, Value>,
    misses: Vec<String>,
}

impl Report {
    /// An empty one.
    pub fn new(plan: &Plan) -> Self {
        // What a shorter run does without is told and no miss.
        let skipped = plan.left_out.iter().map(|(scenario, why)| (*scenario, why.clone(), false)).collect();
        Self { scenarios: Vec::new(), skipped, judged: Map::new(), misses: Vec::new() }
    }

    /// A scenario ran.
    pub fn ran(&mut self, scenario: Scenario, findings: Findings) {
        self.scenarios.push((scenario.name(), findings));
    }

    /// A scenario of the plan could not run.
    pub fn skip(&mut self, scenario: Scenario, why: impl Into<String>) {
        self.skipped.push((scenario, why.into(), true));
    }

    /// Puts together what the ledger and the scenarios found.
    pub fn finish(&mut self, verdict: &Value, load: Findings) {
        for name in COUNTS {
            self.judged.insert(name.into(), verdict[name].clone());
        }
        self.scenarios.push(("load", load));
        let scenarios: Vec<Value> = std::mem::take(&mut self.scenarios)
            .into_iter()
            .map(|(name, findings)| {
                self.misses.extend(findings.problems.iter().map(|problem| format!("{name}: {problem}")));
                merge(name, findings, verdict)
            })
            .collect();
        self.judged.insert("scenarios".into(), scenarios.into());
        let skipped = self.skipped.iter();
        let skipped = skipped.map(|(scenario, why, _)| json!({"name": scenario.name(), "reason": why}));
        self.judged.insert("skipped".into(), skipped.collect());
        self.judge_goals();
    }

    fn judge_goals(&mut self) {
        let count = |name: &str| self.judged[name].as_u64().unwrap_or(u64::MAX);
        let goals = [
            ("lost", 0),
            ("effects_twice", count("effects_twice_allowed")),
            ("stale_completions_accepted", 0),
            ("over_max_attempts", 0),
            ("recovery_ms_p99", RECOVERY_MS_MAX),
        ];
        let missed = goals.iter().filter(|(name, most)| count(name) > *most);
        let missed: Vec<String> =
            missed.map(|(name, most)| format!("{name} is {}, more than {most}", count(name))).collect();
        self.misses.extend(missed);
        let skipped = self.skipped.iter().filter(|(.., wanted)| *wanted);
        let skipped: Vec<String> =
            skipped.map(|(scenario, why, _)| format!("{} did not run: {why}", scenario.name())).collect();
        self.misses.extend(skipped);
    }

    /// Whether every goal was reached.
    pub fn is_reached(&self) -> bool {
        self.misses.is_empty()
    }

    /// Says on stderr what was missed; prints the figures, or one JSON object on the last line.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        print(&self.judged, &COUNTS, &self.misses, json)
    }
}

/// Prints what a run came to: its counts and what else it found, or one JSON object on the last line; and on stderr what
/// was missed.
pub fn print(
    judged: &Map<String, Value>,
    counts: &[&str],
    misses: &[String],
    json: bool,
) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(judged)?);
    } else {
        for name in counts {
            println!("{name:<28}{:>10}", judged[*name].to_string());
        }
        for part in ["scenarios", "skipped"] {
            for entry in judged[part].as_array().into_iter().flatten() {
                println!("{part}: {entry}");
            }
        }
    }
    for miss in misses {
        eprintln!("NOT REACHED: {miss}");
    }
    Ok(())
}

/// One scenario's entry: what it found, and what the ledger knows of its faults.
fn merge(name: &str, findings: Findings, verdict: &Value) -> Value {
    let mut entry = Map::new();
    entry.insert("name".into(), name.into());
    entry.insert("ok".into(), findings.problems.is_empty().into());
    let known = verdict["scenarios"].as_array().into_iter().flatten().find(|known| known["name"] == name);
    entry.extend(known.and_then(Value::as_object).cloned().unwrap_or_default());
    entry.extend(findings.facts);
    if !findings.problems.is_empty() {
        entry.insert("problems".into(), findings.problems.into());
    }
    entry.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(lost: u64, twice: u64) -> Value {
        json!({
            "lost": lost, "effects_twice": twice, "effects_twice_allowed": 2, "stale_completions_accepted": 0,
            "over_max_attempts": 0, "recovery_ms_p99": 7000, "scenarios": [{"name": "kills", "faults": 20}],
        })
    }

    fn finished(verdict: &Value, change: impl FnOnce(&mut Report)) -> Report {
        let mut report = Report::new(&Plan::new(3, &[]));
        report.ran(Scenario::Kills, Findings::default());
        change(&mut report);
        report.finish(verdict, Findings::default());
        report
    }

    #[test]
    fn every_kind_of_miss_fails_the_run() {
        let good = finished(&verdict(0, 2), |_| {});
        assert!(good.is_reached(), "{:?}", good.misses);
        assert_eq!(good.judged["scenarios"][0]["faults"], 20);
        assert!(!finished(&verdict(1, 2), |_| {}).is_reached());
        assert!(!finished(&verdict(0, 3), |_| {}).is_reached());
        assert!(!finished(&verdict(0, 2), |report| report.skip(Scenario::Clock, "no library")).is_reached());
        let problem = Findings { problems: vec!["it was dead".into()], ..Findings::default() };
        assert!(!finished(&verdict(0, 2), |report| report.ran(Scenario::Abort, problem)).is_reached());
        assert!(!finished(&json!({}), |_| {}).is_reached(), "no verdict is no success");
    }

    #[test]
    fn the_object_has_the_keys_that_were_promised() {
        let report = finished(&verdict(0, 2), |_| {});
        let mut keys: Vec<&str> = report.judged.keys().map(String::as_str).collect();
        keys.sort_unstable();
        let mut promised = [COUNTS.as_slice(), &["scenarios", "skipped"]].concat();
        promised.sort_unstable();
        assert_eq!(keys, promised);
    }
}
