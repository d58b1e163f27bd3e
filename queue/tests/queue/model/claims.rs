//! What a claim may bring. It is free to choose among lanes, but not within one.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use uuid::Uuid;

use super::{
    job::{Micros, Place, Row},
    state::{Model, Token},
};

/// The ready jobs of each tenant's lanes, in the order of the lane.
type Lanes = BTreeMap<(&'static str, &'static str), Vec<(Micros, Uuid)>>;

impl Model {
    /// Judges a claim of up to `limit` jobs that went on until the rota knew of no more, and takes it over.
    pub fn claim(&mut self, lease: Uuid, limit: usize, claimed: &[Uuid], rows: &[Row]) -> Result<()> {
        let given: BTreeSet<Uuid> = claimed.iter().copied().collect();
        ensure!(given.len() == claimed.len() && claimed.len() <= limit, "claimed {claimed:?} of {limit}");
        let left: BTreeSet<Uuid> =
            rows.iter().filter(|row| row.place == "ready").map(|row| row.job).collect();
        let epochs: BTreeMap<Uuid, i64> = rows.iter().map(|row| (row.job, row.epoch)).collect();
        let lanes = self.ready_lanes();
        let touched: Vec<Uuid> =
            lanes.values().flatten().map(|(_, id)| *id).filter(|id| !left.contains(id)).collect();
        ensure!(given.iter().all(|id| touched.contains(id)), "claimed, but not out of ready: {claimed:?}");
        for id in touched {
            self.take(id, lease, given.contains(&id), &epochs)?;
        }
        for ((_, lane), jobs) in lanes {
            let behind = jobs.iter().skip_while(|(_, id)| !left.contains(id));
            ensure!(
                behind.clone().all(|(_, id)| left.contains(id)),
                "taken before its turn in {lane}: {jobs:?}"
            );
            let full = self.caps.get(lane).is_some_and(|cap| self.running_in(lane) >= *cap);
            ensure!(
                behind.count() == 0 || given.len() == limit || full || self.paused.contains(lane),
                "left in {lane}: {jobs:?}"
            );
        }
        Ok(())
    }

    fn ready_lanes(&self) -> Lanes {
        let mut lanes = Lanes::new();
        for job in self.jobs.values() {
            if let Some(order) = job.order() {
                lanes.entry((job.tenant, job.lane)).or_default().push(order);
            }
        }
        for jobs in lanes.values_mut() {
            jobs.sort_unstable();
        }
        lanes
    }

    /// A ready job that a claim came upon: it runs, or it is held or cancelled and may not.
    fn take(&mut self, id: Uuid, lease: Uuid, given: bool, epochs: &BTreeMap<Uuid, i64>) -> Result<()> {
        let (group, since, lane) = (self.jobs[&id].group, self.jobs[&id].since, self.jobs[&id].lane);
        let (cancelled, held) = (self.is_cancelled(group, since), self.is_held(group));
        ensure!(!self.paused.contains(lane), "taken from the paused lane {lane}: {id}");
        ensure!(given != (cancelled || held), "claimed {given}, cancelled {cancelled}, held {held}: {id}");
        if cancelled {
            self.jobs.remove(&id);
            return Ok(());
        }
        let capped = self.caps.contains_key(lane);
        let Some(job) = self.jobs.get_mut(&id) else { return Ok(()) };
        let Place::Ready { rank } = job.place else { return Ok(()) };
        if held {
            job.place = Place::Held { rank };
            return Ok(());
        }
        job.run += 1;
        job.place = Place::Running { lease, rank, capped };
        let epoch = epochs.get(&id).copied().unwrap_or_default();
        self.tokens.push(Token { id, run: job.run, group, since, epoch });
        let running = self.running_in(lane);
        ensure!(self.caps.get(lane).is_none_or(|cap| running <= *cap), "{running} run in {lane}");
        Ok(())
    }

    fn running_in(&self, lane: &str) -> i32 {
        let running = self.jobs.values().filter(|job| job.lane == lane && job.is_running());
        i32::try_from(running.count()).unwrap_or(i32::MAX)
    }
}
