//! What the lines mean: who runs what, what a fault strikes, when it goes on.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    fault::{Fault, Scenario},
    job::Job,
    line::{JobId, Line},
};

/// What the queue promises about the number of tries.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many attempts of a job may fail.
    pub attempts_max: u32,
    /// How many processes may die under a job.
    pub crashes_max: u32,
}

/// A run that began and whose end is not known.
#[derive(Debug, Clone, Copy)]
struct Running {
    process: u32,
    run: i32,
}

/// A struck job that has not gone on yet.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    since: Instant,
    scenario: usize,
    /// The process that was struck; none when all were.
    process: Option<u32>,
}

/// The processes of one name.
#[derive(Debug, Default)]
pub struct Named {
    /// How many there were.
    pub processes: u32,
    /// How far their clock was ahead of this one, in milliseconds.
    pub ahead_ms: i64,
    /// How many starts and completions they told of.
    pub starts: u64,
    pub acknowledged: u64,
}

/// A job in the table of the dead.
#[derive(Debug)]
pub struct Buried {
    /// Why.
    pub reason: String,
    /// What was counted.
    pub attempts: u32,
    pub crashes: u32,
}

/// Everything that was said.
#[derive(Debug)]
pub struct Book {
    pub limits: Limits,
    pub jobs: HashMap<JobId, Job>,
    pub scenarios: Vec<Scenario>,
    pub names: BTreeMap<String, Named>,
    pub dead: HashMap<JobId, Buried>,
    pub left: HashSet<JobId>,
    /// Lines that were not understood.
    pub spoilt: Vec<String>,
    pub unsure: u64,
    /// Outcomes that the queue refused.
    pub refused: u64,
    /// How many jobs were enqueued in each second that had any.
    pub enqueued_in: HashMap<u64, u32>,
    begun: Instant,
    processes: HashMap<u32, String>,
    running: HashMap<JobId, Running>,
    waiting: HashMap<JobId, Waiting>,
    open: BTreeMap<u32, Fault>,
}

impl Book {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            jobs: HashMap::new(),
            scenarios: Vec::new(),
            names: BTreeMap::new(),
            dead: HashMap::new(),
            left: HashSet::new(),
            spoilt: Vec::new(),
            unsure: 0,
            refused: 0,
            enqueued_in: HashMap::new(),
            begun: Instant::now(),
            processes: HashMap::new(),
            running: HashMap::new(),
            waiting: HashMap::new(),
            open: BTreeMap::new(),
        }
    }

    /// Remembers that what was said cannot be trusted.
    pub fn spoil(&mut self, why: String) {
        self.spoilt.push(why);
    }

    /// Writes a line of a process down; whoever commands gets an answer.
    pub fn apply(&mut self, line: &Line, process: u32, now: Instant) -> Option<String> {
        match line {
            Line::Hello { process, name, unix_ms } => self.greet(*process, name, *unix_ms),
            Line::Enqueued(job) => {
                self.jobs.entry(*job).or_default().enqueued = true;
                *self.enqueued_in.entry(now.duration_since(self.begun).as_secs()).or_default() += 1;
            }
            Line::Unsure(_) => self.unsure += 1,
            Line::Start { job, run, attempt, crashes } => {
                self.jobs.entry(*job).or_default().start(*run, *attempt, *crashes);
                self.begin_run(*job, Running { process, run: *run }, now);
            }
            Line::Effect(job, run) => self.jobs.entry(*job).or_default().effect(*run),
            Line::Ack(job, run) => {
                self.jobs.entry(*job).or_default().acknowledge(*run);
                self.named(process).acknowledged += 1;
                self.end_run(*job, *run, now);
            }
            Line::Fail(job, run) => {
                self.jobs.entry(*job).or_default().failures += 1;
                self.end_run(*job, *run, now);
            }
            Line::Stale(..) => self.refused += 1,
            Line::Culprit(job) => self.jobs.entry(*job).or_default().culprit = true,
            Line::Dead { job, reason, attempt, crashes } => {
                let buried = Buried { reason: reason.clone(), attempts: *attempt, crashes: *crashes };
                self.dead.insert(*job, buried);
            }
            Line::Left(job) => {
                self.left.insert(*job);
            }
            Line::FaultBegin { .. } | Line::FaultClock { .. } | Line::FaultEnd(_) => {
                self.break_something(line, now);
                return Some("noted".into());
            }
            Line::Status => return Some(self.status()),
            Line::Report => return Some(self.verdict().to_string()),
        }
        None
    }

    fn greet(&mut self, process: u32, name: &str, unix_ms: i64) {
        let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ours = i64::try_from(ours.as_millis()).unwrap_or_default();
        self.processes.insert(process, name.to_owned());
        let named = self.named(process);
        named.processes += 1;
        named.ahead_ms = unix_ms - ours;
    }

    fn named(&mut self, process: u32) -> &mut Named {
        let name = self.processes.get(&process).cloned().unwrap_or_default();
        self.names.entry(name).or_default()
    }

    fn begin_run(&mut self, job: JobId, running: Running, now: Instant) {
        self.named(running.process).starts += 1;
        let newest = self.jobs.get(&job).is_none_or(|known| known.newest_run == running.run);
        // The line of a run that was frozen before it was written says nothing about where the job is.
        if newest {
            self.running.insert(job, running);
            self.recover(job, now);
        }
        let striking: Vec<usize> = self
            .open
            .values()
            .filter(|fault| fault.strikes(running.process))
            .map(|fault| fault.scenario)
            .collect();
        for scenario in striking {
            self.strike(job, running.run, scenario);
        }
    }

    fn end_run(&mut self, job: JobId, run: i32, now: Instant) {
        if let Some(running) = self.running.get(&job).copied()
            && running.run == run
        {
            self.running.remove(&job);
            // What the struck process itself says later was on its way when it was struck: nothing had to recover.
            if self.waiting.get(&job).is_some_and(|waiting| waiting.process == Some(running.process)) {
                self.waiting.remove(&job);
            }
            self.recover(job, now);
        }
    }

    fn recover(&mut self, job: JobId, now: Instant) {
        let Some(waiting) = self.waiting.remove(&job) else { return };
        let took = u32::try_from(now.saturating_duration_since(waiting.since).as_millis());
        self.scenarios[waiting.scenario].recovery_ms.push(took.unwrap_or(u32::MAX));
    }

    fn strike(&mut self, job: JobId, run: i32, scenario: usize) {
        if self.jobs.entry(job).or_default().strike(run, scenario) {
            self.scenarios[scenario].struck += 1;
        }
    }

    fn break_something(&mut self, line: &Line, now: Instant) {
        match line {
            Line::FaultBegin { fault, scenario, process } => {
                let scenario = self.scenario(scenario);
                self.scenarios[scenario].faults += 1;
                self.open.insert(*fault, Fault { scenario, process: *process, clock: None });
                self.strike_running(*fault);
            }
            Line::FaultClock { fault, ago_ms } => {
                let since = now.checked_sub(Duration::from_millis(*ago_ms)).unwrap_or(now);
                if let Some(fault) = self.open.get_mut(fault) {
                    fault.clock = Some(since);
                }
                self.strike_running(*fault);
            }
            Line::FaultEnd(fault) => {
                self.open.remove(fault);
            }
            _ => {}
        }
    }

    /// Strikes what runs, and lets it wait for its recovery if the fault's clock is known.
    fn strike_running(&mut self, fault: u32) {
        let Some(fault) = self.open.get(&fault) else { return };
        let (scenario, clock, process) = (fault.scenario, fault.clock, fault.process);
        let struck: Vec<(JobId, i32)> = self
            .running
            .iter()
            .filter(|(_, running)| fault.strikes(running.process))
            .map(|(job, running)| (*job, running.run))
            .collect();
        for (job, run) in struck {
            self.strike(job, run, scenario);
            if let Some(since) = clock
                && !self.jobs.get(&job).is_some_and(|job| job.culprit)
            {
                self.waiting.insert(job, Waiting { since, scenario, process });
            }
        }
    }

    /// The place of a scenario; made when it is new.
    fn scenario(&mut self, name: &str) -> usize {
        if let Some(place) = self.scenarios.iter().position(|scenario| scenario.name == name) {
            return place;
        }
        self.scenarios.push(Scenario { name: name.to_owned(), ..Scenario::default() });
        self.scenarios.len() - 1
    }

    fn status(&self) -> String {
        let acknowledged: u64 = self.names.values().map(|named| named.acknowledged).sum();
        let enqueued: u64 = self.enqueued_in.values().map(|count| u64::from(*count)).sum();
        format!("{enqueued} {acknowledged} {}", self.running.len())
    }
}
