//! What comes of it all: one JSON object.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    book::Book,
    fault::{Scenario, percentile},
    job::Job,
    line::JobId,
};

/// How many jobs of each complaint are named.
const EXAMPLES_MAX: usize = 5;

/// The jobs that somebody has to look at.
#[derive(Debug, Default)]
struct Complaints(BTreeMap<&'static str, Vec<JobId>>);

impl Complaints {
    fn add(&mut self, what: &'static str, job: JobId) {
        self.0.entry(what).or_default().push(job);
    }

    fn count(&self, what: &str) -> usize {
        self.0.get(what).map_or(0, Vec::len)
    }

    fn count_struck_by(&self, what: &str, book: &Book, scenario: usize) -> usize {
        let jobs = self.0.get(what).into_iter().flatten();
        jobs.filter(|job| book.jobs.get(job).is_some_and(|job| job.was_struck_by(scenario))).count()
    }

    fn examples(&self) -> Value {
        let named = self.0.iter().filter(|(what, _)| **what != TWICE).map(|(what, jobs)| {
            let jobs: Vec<String> = jobs.iter().take(EXAMPLES_MAX).map(|job| format!("{job:032x}")).collect();
            ((*what).to_owned(), json!(jobs))
        });
        named.collect::<serde_json::Map<_, _>>().into()
    }
}

const LOST: &str = "lost";
const TWICE: &str = "twice";
const TWICE_FOR_NO_REASON: &str = "twice_for_no_reason";
const STALE: &str = "stale";
const OVER: &str = "over";
const STILL_THERE: &str = "acknowledged_and_still_there";

impl Book {
    /// The verdict, once all is quiet and the dead and the left were told of.
    pub fn verdict(&self) -> Value {
        let mut complaints = Complaints::default();
        let mut silent = 0_u64;
        for (id, job) in &self.jobs {
            if self.is_lost(*id, job) {
                complaints.add(LOST, *id);
            } else if !job.acknowledged && !self.dead.contains_key(id) && job.starts > 0 {
                silent += 1;
            }
            if job.effects > 1 {
                complaints.add(TWICE, *id);
            }
            if job.effects > 1 && !job.may_have_effects() {
                complaints.add(TWICE_FOR_NO_REASON, *id);
            }
            if job.stale {
                complaints.add(STALE, *id);
            }
            if self.is_over(*id, job) {
                complaints.add(OVER, *id);
            }
            if job.acknowledged && (self.dead.contains_key(id) || self.left.contains(id)) {
                complaints.add(STILL_THERE, *id);
            }
        }
        let twice = complaints.count(TWICE);
        let scenarios: Vec<Value> = self
            .scenarios
            .iter()
            .enumerate()
            .map(|(place, scenario)| self.judge_scenario(place, scenario, &complaints))
            .collect();
        let slowest = scenarios.iter().filter_map(|scenario| scenario["recovery_ms_p99"].as_u64()).max();
        json!({
            "lost": complaints.count(LOST),
            "effects_twice": twice,
            "effects_twice_allowed": twice - complaints.count(TWICE_FOR_NO_REASON),
            "stale_completions_accepted": complaints.count(STALE),
            "over_max_attempts": complaints.count(OVER),
            "recovery_ms_p99": slowest.unwrap_or_default(),
            "scenarios": scenarios,
            "totals": self.totals(silent, complaints.count(STILL_THERE)),
            "names": self.judge_names(),
            "examples": complaints.examples(),
            "spoilt": self.spoilt,
        })
    }

    /// Whether a job that was enqueued for certain came to no end. One whose effect happened and that is in no table any
    /// more was completed: nobody was left to say so.
    fn is_lost(&self, id: JobId, job: &Job) -> bool {
        if job.acknowledged || self.dead.contains_key(&id) {
            return false;
        }
        let gone = job.effects > 0 && !self.left.contains(&id);
        (job.enqueued || job.starts > 0) && !gone
    }

    fn is_over(&self, id: JobId, job: &Job) -> bool {
        let buried = self.dead.get(&id);
        let attempts = buried.map_or(0, |buried| buried.attempts);
        let crashes = buried.map_or(0, |buried| buried.crashes).max(u32::from(job.crashes));
        u32::from(job.failures).max(attempts).max(u32::from(job.attempts)) > self.limits.attempts_max
            || crashes > self.limits.crashes_max
            // Each of its starts is a death.
            || (job.culprit && job.starts > self.limits.crashes_max)
    }

    fn judge_scenario(&self, place: usize, scenario: &Scenario, complaints: &Complaints) -> Value {
        let mut recovery = scenario.recovery_ms.clone();
        recovery.sort_unstable();
        json!({
            "name": scenario.name,
            "faults": scenario.faults,
            "struck": scenario.struck,
            "recovered": recovery.len(),
            "recovery_ms_p50": percentile(&recovery, 0.5),
            "recovery_ms_p99": percentile(&recovery, 0.99),
            "recovery_ms_max": recovery.last(),
            "lost": complaints.count_struck_by(LOST, self, place),
            "effects_twice": complaints.count_struck_by(TWICE, self, place),
        })
    }

    fn totals(&self, silent: u64, still_there: usize) -> Value {
        let mut dead: BTreeMap<&str, u64> = BTreeMap::new();
        for buried in self.dead.values() {
            *dead.entry(&buried.reason).or_default() += 1;
        }
        let enqueued: u64 = self.enqueued_in.values().map(|count| u64::from(*count)).sum();
        // The first and the last second were not whole.
        let seconds = (self.enqueued_in.len() as u64).saturating_sub(1).max(1);
        json!({
            "enqueued": enqueued,
            "enqueued_per_second": enqueued / seconds,
            "enqueued_unsure": self.unsure,
            "started": self.jobs.values().map(|job| u64::from(job.starts)).sum::<u64>(),
            "acknowledged": self.jobs.values().filter(|job| job.acknowledged).count(),
            "completed_without_word": silent,
            "failed_attempts": self.jobs.values().map(|job| u64::from(job.failures)).sum::<u64>(),
            "stale_completions_refused": self.refused,
            "acknowledged_and_still_there": still_there,
            "dead": dead,
            "ledger_rss_mb": peak_memory_mb(),
        })
    }

    fn judge_names(&self) -> Value {
        let names = self.names.iter().map(|(name, named)| {
            let said = json!({
                "processes": named.processes,
                "clock_ahead_s": named.ahead_ms / 1000,
                "started": named.starts,
                "acknowledged": named.acknowledged,
            });
            (name.clone(), said)
        });
        names.collect::<serde_json::Map<_, _>>().into()
    }
}

/// The most memory that this process ever had (Linux; none elsewhere).
fn peak_memory_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(kib.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? / 1024)
}
