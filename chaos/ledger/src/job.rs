//! What is known of one job, in few bytes: there are many.

/// One job.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and none excludes another")]
#[derive(Debug, Default)]
pub struct Job {
    /// The commit that enqueued it was answered.
    pub enqueued: bool,
    /// Its completion was answered.
    pub acknowledged: bool,
    /// It kills whoever runs it.
    pub culprit: bool,
    /// One run had more than one effect.
    pub repeated: bool,
    /// A token was accepted although a newer one had been given out.
    pub stale: bool,
    /// How many effects it had.
    pub effects: u16,
    /// How many recorded failures were answered.
    pub failures: u16,
    /// The most attempts and crashes that a run was told of.
    pub attempts: u16,
    pub crashes: u16,
    /// How many of its runs a fault struck before they were acknowledged.
    pub struck_runs: u16,
    /// The scenarios that struck it, a bit for each.
    pub struck_by: u16,
    /// How many starts there were, and the newest of them.
    pub starts: u32,
    pub newest_run: i32,
    /// The newest acknowledged run; runs are counted from 1.
    pub acknowledged_run: i32,
    /// The last run that had an effect, and the last that was struck.
    effect_run: i32,
    struck_run: i32,
}

impl Job {
    /// A handler begins.
    pub fn start(&mut self, run: i32, attempts: u32, crashes: u32) {
        self.starts += 1;
        self.newest_run = self.newest_run.max(run);
        self.attempts = self.attempts.max(u16::try_from(attempts).unwrap_or(u16::MAX));
        self.crashes = self.crashes.max(u16::try_from(crashes).unwrap_or(u16::MAX));
        self.judge_token();
    }

    /// Its effect happened.
    pub fn effect(&mut self, run: i32) {
        self.effects += 1;
        self.repeated |= self.effect_run == run;
        self.effect_run = run;
    }

    /// Its completion was accepted.
    pub fn acknowledge(&mut self, run: i32) {
        // A second completion is one too many, whatever its run.
        self.stale |= self.acknowledged && self.acknowledged_run != run;
        self.acknowledged = true;
        self.acknowledged_run = self.acknowledged_run.max(run);
        self.judge_token();
    }

    /// A completed job never runs again, so whichever of the two lines comes first: an accepted token must be the newest.
    fn judge_token(&mut self) {
        self.stale |= self.acknowledged && self.acknowledged_run < self.newest_run;
    }

    /// A fault of a scenario struck one of its runs. Says whether it was the first to strike this one.
    pub fn strike(&mut self, run: i32, scenario: usize) -> bool {
        self.struck_by |= 1_u16.checked_shl(u32::try_from(scenario).unwrap_or(u32::MAX)).unwrap_or_default();
        let first = self.struck_run != run;
        if first {
            self.struck_run = run;
            self.struck_runs += 1;
        }
        first
    }

    /// Whether a fault explains each of its effects but one.
    pub fn may_have_effects(&self) -> bool {
        !self.repeated && self.effects <= self.struck_runs + 1
    }

    /// Whether a scenario struck it.
    pub fn was_struck_by(&self, scenario: usize) -> bool {
        u32::try_from(scenario).is_ok_and(|bit| self.struck_by.checked_shr(bit).unwrap_or_default() & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_token_is_found_in_either_order() {
        let mut acknowledged_late = Job::default();
        acknowledged_late.start(1, 0, 0);
        acknowledged_late.start(2, 0, 0);
        acknowledged_late.acknowledge(1);
        assert!(acknowledged_late.stale);
        let mut started_again = Job::default();
        started_again.start(1, 0, 0);
        started_again.acknowledge(1);
        assert!(!started_again.stale);
        started_again.start(2, 0, 0);
        assert!(started_again.stale);
    }

    #[test]
    fn a_second_effect_needs_a_fault_that_struck_the_first_run() {
        let mut job = Job::default();
        job.effect(1);
        assert!(job.may_have_effects());
        job.effect(2);
        assert!(!job.may_have_effects());
        assert!(job.strike(1, 3));
        assert!(!job.strike(1, 4), "it is one run");
        assert!(job.may_have_effects());
        assert!(job.was_struck_by(3) && job.was_struck_by(4) && !job.was_struck_by(5));
        job.effect(2);
        job.strike(2, 3);
        assert!(!job.may_have_effects(), "no fault makes one run have two");
    }
}
