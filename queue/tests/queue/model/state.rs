//! What the queue is meant to do, without a database: the jobs in a map, the moves as plain code.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};
use queue::Enqueued;
use uuid::Uuid;

use super::{
    job::{Job, LONG_AGO, MINUTE, Micros, Place, Row, When},
    ops::{At, Ending, SESSIONS},
};

/// What a claim gave out: the right to complete this run, and to enqueue in its name.
#[derive(Debug, Clone)]
pub struct Token {
    pub id: Uuid,
    pub run: i32,
    pub group: Option<&'static str>,
    pub since: u64,
    pub epoch: i64,
}

/// A job about to be enqueued, and the run that makes it.
#[derive(Debug)]
pub struct Candidate {
    /// Its id is to come.
    pub job: Job,
    pub number: u64,
    pub at: At,
    pub cause: Option<Token>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Lease {
    Held,
    Lapsed,
    Lost,
}

#[derive(Debug, Default)]
pub struct Model {
    pub jobs: BTreeMap<Uuid, Job>,
    /// What was enqueued in transactions that are still open.
    pub open: [Vec<Job>; SESSIONS],
    pub tokens: Vec<Token>,
    pub leases: BTreeMap<Uuid, Lease>,
    pub paused: BTreeSet<&'static str>,
    pub caps: BTreeMap<&'static str, i32>,
    /// How many cancels there were, and which was the last one of each prefix.
    pub cancels: u64,
    cancelled: BTreeMap<&'static str, u64>,
    held: BTreeSet<&'static str>,
    released: BTreeSet<&'static str>,
    deaths: i32,
    /// The database's clock when the tables were last compared.
    pub clock: Micros,
}

fn governs(prefix: &str, group: Option<&str>) -> bool {
    group.is_some_and(|group| {
        group.strip_prefix(prefix).is_some_and(|below| below.is_empty() || below.starts_with('/'))
    })
}

impl Model {
    pub fn is_cancelled(&self, group: Option<&str>, since: u64) -> bool {
        self.cancelled.iter().any(|(prefix, at)| *at > since && governs(prefix, group))
    }

    pub fn is_held(&self, group: Option<&str>) -> bool {
        self.held.iter().any(|prefix| governs(prefix, group))
    }

    /// Whose key it is: an unfinished job's that this transaction can see.
    fn has_key(&self, key: &str, session: Option<usize>) -> bool {
        let unseen = session.map(|session| self.open[session].iter());
        self.jobs
            .values()
            .filter(|job| !job.is_dead())
            .chain(unseen.into_iter().flatten())
            .any(|job| job.key == Some(key))
    }

    /// Whether an enqueue with the key would wait for a transaction that is open.
    pub fn is_key_pending(&self, key: &str, session: Option<usize>) -> bool {
        let others = self.open.iter().enumerate().filter(|(open, _)| session != Some(*open));
        others.flat_map(|(_, jobs)| jobs).any(|job| job.key == Some(key))
    }

    /// Judges what became of the jobs of one enqueue. Which of several with the same key is added is not promised.
    pub fn enqueue(
        &mut self,
        session: Option<usize>,
        jobs: Vec<Candidate>,
        fates: &[Enqueued],
    ) -> Result<()> {
        ensure!(jobs.len() == fates.len(), "{} fates of {} jobs", fates.len(), jobs.len());
        let mut free: BTreeMap<&str, usize> = BTreeMap::new();
        let mut added = Vec::new();
        for (Candidate { mut job, cause, .. }, fate) in jobs.into_iter().zip(fates) {
            let cancelled = cause.is_some_and(|token| self.is_cancelled(token.group, token.since));
            match job.key.filter(|_| !cancelled) {
                Some(key) if !self.has_key(key, session) => {
                    *free.entry(key).or_default() += usize::from(matches!(fate, Enqueued::Added(_)));
                    ensure!(*fate != Enqueued::Cancelled, "{fate:?}: {job:?}");
                }
                Some(_) => ensure!(*fate == Enqueued::Duplicate, "{fate:?} instead of duplicate: {job:?}"),
                None if cancelled => {
                    ensure!(*fate == Enqueued::Cancelled, "{fate:?} of a cancelled cause: {job:?}");
                }
                None => ensure!(matches!(fate, Enqueued::Added(_)), "{fate:?} instead of added: {job:?}"),
            }
            if let Enqueued::Added(id) = fate {
                (job.id, job.since) = (*id, self.cancels);
                added.push(job);
            }
        }
        ensure!(free.values().all(|count| *count == 1), "added by key: {free:?}");
        match session {
            Some(session) => self.open[session].extend(added),
            None => self.jobs.extend(added.into_iter().map(|job| (job.id, job))),
        }
        Ok(())
    }

    pub fn commit(&mut self, session: usize) {
        let jobs = std::mem::take(&mut self.open[session]);
        self.jobs.extend(jobs.into_iter().map(|job| (job.id, job)));
    }

    /// Records an outcome; false when the token is stale.
    pub fn complete(&mut self, token: &Token, ending: Ending, error: &str) -> bool {
        let Some(job) = self.jobs.get(&token.id).filter(|job| job.run == token.run) else { return false };
        let Place::Running { rank, .. } = job.place else { return false };
        let cancelled = self.is_cancelled(job.group, job.since);
        let (now, tried) = (self.clock, job.attempt + 1);
        let timer = |delay_ms: i64| Place::Timer {
            at: When::Written { from: now, later: delay_ms * 1000, spread: 0 },
        };
        let next = match ending {
            Ending::Done | Ending::Cancelled => None,
            Ending::Dead => Some(Place::Dead { reason: "refused" }),
            _ if cancelled => None,
            Ending::Retry { .. } if tried >= job.max_attempts => Some(Place::Dead { reason: "exhausted" }),
            Ending::Retry { delay_ms } | Ending::Snooze { delay_ms } => Some(timer(delay_ms)),
            Ending::Handback => Some(Place::Ready { rank }),
        };
        let Some(job) = self.jobs.get_mut(&token.id) else { return false };
        if matches!(ending, Ending::Retry { .. } | Ending::Dead) {
            job.attempt = tried;
            job.last_error = Some(error.to_owned());
        }
        match next {
            Some(place) => {
                // A recorded outcome says that the job does not kill its process.
                if matches!(place, Place::Timer { .. }) {
                    job.crashes = 0;
                }
                job.place = place;
            }
            None => drop(self.jobs.remove(&token.id)),
        }
        true
    }

    /// Ends the lapsed leases; returns how many jobs were rescued and how many died.
    pub fn rescue(&mut self, orphans: bool) -> (i32, i32) {
        let ended = |lease: Lease| lease == Lease::Lapsed || (orphans && lease == Lease::Lost);
        self.deaths +=
            i32::try_from(self.leases.values().filter(|lease| **lease == Lease::Lapsed).count()).unwrap_or(0);
        let taken: Vec<(Uuid, bool)> = self
            .jobs
            .values()
            .filter_map(|job| match job.place {
                Place::Running { lease, .. } if ended(self.leases[&lease]) => {
                    Some((job.id, self.leases[&lease] == Lease::Lapsed))
                }
                _ => None,
            })
            .collect();
        let (mut rescued, mut died) = (0, 0);
        for (id, crashed) in taken {
            let Some(job) = self.jobs.get(&id) else { continue };
            if self.is_cancelled(job.group, job.since) {
                self.jobs.remove(&id);
                continue;
            }
            let crashes = job.crashes + i16::from(crashed);
            let to_blame = crashed && crashes >= 3 && self.deaths < 2 * i32::from(crashes);
            let spread = [1, 4, 16][usize::from(job.crashes.unsigned_abs().min(2))] * 1_000_000;
            let place = if crashes >= 10 || to_blame {
                died += 1;
                Place::Dead { reason: "crashed" }
            } else {
                rescued += 1;
                Place::Timer { at: When::Written { from: self.clock, later: 0, spread } }
            };
            if let Some(job) = self.jobs.get_mut(&id) {
                (job.crashes, job.place) = (crashes, place);
            }
        }
        self.leases.retain(|_, lease| *lease != Lease::Lapsed);
        (rescued, died)
    }

    /// Cancels; returns how many waiting jobs go.
    pub fn cancel(&mut self, prefixes: &[&'static str]) -> u64 {
        self.cancels += 1;
        for prefix in prefixes {
            self.cancelled.insert(prefix, self.cancels);
            if self.held.remove(prefix) {
                self.released.insert(prefix);
            }
        }
        let before = self.jobs.len();
        self.jobs.retain(|_, job| {
            let waits = !job.is_running() && !job.is_dead();
            !(waits && prefixes.iter().any(|prefix| governs(prefix, job.group)))
        });
        u64::try_from(before - self.jobs.len()).unwrap_or_default()
    }

    pub fn hold(&mut self, prefix: &'static str) {
        self.held.insert(prefix);
        for job in self.jobs.values_mut().filter(|job| governs(prefix, job.group)) {
            if let Place::Ready { rank } = job.place {
                job.place = Place::Held { rank };
            }
        }
    }

    pub fn release(&mut self, prefix: &'static str) {
        if self.held.remove(prefix) || self.cancelled.contains_key(prefix) {
            self.released.insert(prefix);
        }
        self.unpark(prefix);
    }

    fn unpark(&mut self, prefix: &str) {
        for job in self.jobs.values_mut().filter(|job| governs(prefix, job.group)) {
            if let Place::Held { rank } = job.place {
                job.place = Place::Ready { rank };
            }
        }
    }

    pub fn unpark_released(&mut self) {
        for prefix in self.released.clone() {
            if !self.is_held(Some(prefix)) {
                self.unpark(prefix);
            }
        }
    }

    pub fn held(&self) -> Vec<&'static str> {
        self.held.iter().copied().collect()
    }

    /// Promotes the first timers that are due; returns how many were looked at.
    pub fn promote(&mut self, limit: usize) -> usize {
        let mut due: Vec<(Micros, Uuid)> = self
            .jobs
            .values()
            .filter_map(|job| match job.place {
                Place::Timer { at: When::At(at) } if at <= self.clock => Some((at, job.id)),
                _ => None,
            })
            .collect();
        due.sort_unstable();
        due.truncate(limit);
        for (at, id) in &due {
            let (group, since) = (self.jobs[id].group, self.jobs[id].since);
            let (cancelled, held) = (self.is_cancelled(group, since), self.is_held(group));
            if cancelled {
                self.jobs.remove(id);
            } else if let Some(job) = self.jobs.get_mut(id) {
                let rank = When::At(at + job.behind());
                job.place = if held { Place::Held { rank } } else { Place::Ready { rank } };
            }
        }
        due.len()
    }

    /// Makes dead jobs ready; returns how many.
    pub fn retry_dead(&mut self, ids: &BTreeSet<Uuid>) -> usize {
        let mut dead: Vec<(Option<&str>, Uuid)> = self
            .jobs
            .values()
            .filter(|job| job.is_dead() && ids.contains(&job.id))
            .map(|job| (job.key, job.id))
            .collect();
        dead.sort_unstable();
        let mut retried = 0;
        for (key, id) in dead {
            let held = self.is_held(self.jobs[&id].group);
            if key.is_some_and(|key| self.has_key(key, None)) {
                continue;
            }
            let (now, since) = (self.clock, self.cancels);
            if let Some(job) = self.jobs.get_mut(&id) {
                let rank = When::Written { from: now, later: job.behind(), spread: 0 };
                job.place = if held { Place::Held { rank } } else { Place::Ready { rank } };
                (job.attempt, job.crashes, job.since) = (0, 0, since);
                retried += 1;
            }
        }
        retried
    }

    /// Sets or lifts a lane's cap; what runs counts for a new one.
    pub fn cap(&mut self, lane: &'static str, cap: Option<i32>) {
        match cap {
            Some(cap) => self.caps.insert(lane, cap),
            None => self.caps.remove(lane),
        };
        for job in self.jobs.values_mut().filter(|job| job.lane == lane) {
            if let Place::Running { capped, .. } = &mut job.place {
                *capped = true;
            }
        }
    }

    /// Compares with the tables as they are at the time `clock`.
    pub fn compare(&mut self, rows: &[Row], keys: &[(String, Uuid)], clock: Micros) -> Result<()> {
        let seen: BTreeMap<Uuid, &Row> = rows.iter().map(|row| (row.job, row)).collect();
        ensure!(seen.len() == rows.len(), "a job is in two tables: {rows:?}");
        for row in rows {
            ensure!(self.jobs.contains_key(&row.job), "this job should be gone: {row:?}");
        }
        for job in self.jobs.values_mut() {
            match seen.get(&job.id) {
                Some(row) => job.agree(row, clock)?,
                None => bail!("this job is lost: {job:?}"),
            }
        }
        let held: BTreeSet<(String, Uuid)> = keys.iter().cloned().collect();
        let unfinished = self.jobs.values().filter(|job| !job.is_dead());
        let expected: BTreeSet<(String, Uuid)> =
            unfinished.filter_map(|job| job.key.map(|key| (key.to_owned(), job.id))).collect();
        ensure!(held == expected, "the keys are {held:?} instead of {expected:?}");
        self.clock = clock;
        Ok(())
    }

    /// Timers whose time came from the database's clock, and would come due by themselves.
    pub fn volatile(&self) -> Vec<Uuid> {
        let soon = |job: &&Job| matches!(job.place, Place::Timer { at: When::At(at) } if (LONG_AGO..self.clock + MINUTE).contains(&at));
        self.jobs.values().filter(soon).map(|job| job.id).collect()
    }
}
