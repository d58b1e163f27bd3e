//! What a process tells of the jobs that it runs, as metrics.

use std::{sync::OnceLock, time::Duration};

use metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, histogram,
};

/// How a run can end, as the label `outcome`.
const OUTCOMES: [&str; 7] = ["done", "cancelled", "retry", "snooze", "dead", "handback", STALE];
/// The outcome of a run whose token another run has overtaken.
pub(crate) const STALE: &str = "stale";

/// The metrics of one queue. Made once, for looking one up by its labels costs more than to record it.
#[derive(Debug)]
pub(crate) struct Meters {
    queue: &'static str,
    claim: Histogram,
    pickup: Histogram,
    complete: Histogram,
    /// The counters are there from the start, so that a rate sees their first increment; a histogram is many lines.
    ended: [(Counter, OnceLock<Histogram>); OUTCOMES.len()],
}

impl Meters {
    /// They go to the recorder that is installed now.
    pub(crate) fn new(queue: &'static str) -> Self {
        describe();
        Self {
            queue,
            claim: histogram!("queue_claim_seconds", "queue" => queue),
            pickup: histogram!("queue_pickup_seconds", "queue" => queue),
            complete: histogram!("queue_complete_seconds", "queue" => queue),
            ended: OUTCOMES.map(|outcome| {
                (counter!("queue_outcomes_total", "queue" => queue, "outcome" => outcome), OnceLock::new())
            }),
        }
    }

    /// How long a claim took.
    pub(crate) fn claimed(&self, took: Duration) {
        self.claim.record(took);
    }

    /// How long a job that starts now was ready.
    pub(crate) fn picked_up(&self, waited: Duration) {
        self.pickup.record(waited);
    }

    /// How long an outcome waited for its record.
    pub(crate) fn completed(&self, waited: Duration) {
        self.complete.record(waited);
    }

    /// A run ended, after `ran` if it had started.
    pub(crate) fn ended(&self, outcome: &'static str, ran: Option<Duration>) {
        let Some(index) = OUTCOMES.iter().position(|known| *known == outcome) else { return };
        let (runs, seconds) = &self.ended[index];
        runs.increment(1);
        if let Some(ran) = ran {
            let histogram = || histogram!("queue_run_seconds", "queue" => self.queue, "outcome" => outcome);
            seconds.get_or_init(histogram).record(ran);
        }
    }
}

/// What the metrics mean, for those who read them without the documentation.
fn describe() {
    describe_histogram!("queue_claim_seconds", Unit::Seconds, "How long a claim of jobs took.");
    describe_histogram!(
        "queue_pickup_seconds",
        Unit::Seconds,
        "How long a job that started had been ready, by the database's clock."
    );
    describe_histogram!("queue_run_seconds", Unit::Seconds, "How long a handler ran, by how the run ended.");
    describe_histogram!(
        "queue_complete_seconds",
        Unit::Seconds,
        "From a handler's end to the record of its outcome, when that is not part of the handler's transaction."
    );
    describe_counter!("queue_outcomes_total", "How runs of jobs ended.");
    describe_counter!("queue_rescued_total", "Jobs given back after the death of their process.");
    describe_counter!("queue_crashed_total", "Jobs that are dead because too many processes died with them.");
    describe_gauge!("queue_jobs", "Jobs by state, over all processes.");
    describe_gauge!(
        "queue_oldest_ready_seconds",
        Unit::Seconds,
        "The age of the oldest ready job, by its lane."
    );
    describe_gauge!("queue_unclaimed", "1 if jobs of the queue wait and no live process claims them.");
}
