//! A job as the model sees it, and as the tables show it.

use anyhow::{Result, ensure};
use serde::Deserialize;
use uuid::Uuid;

/// Microseconds since 1970 by the database's clock.
pub type Micros = i64;
/// 2100: no test lives to see it.
pub const FAR: Micros = 4_102_444_800_000_000;
/// 2021: the due times that the test sets are before, one second after the other.
pub const LONG_AGO: Micros = 1_609_459_200_000_000;
pub const MINUTE: Micros = 60_000_000;

/// A time in a table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum When {
    At(Micros),
    /// Written after `from`, and at most `spread` later than when it was written plus `later`.
    Written {
        from: Micros,
        later: Micros,
        spread: Micros,
    },
}

impl When {
    /// What it is, judged by what is there at the time `clock`.
    fn settle(self, actual: Micros, clock: Micros) -> Result<Self> {
        match self {
            Self::At(expected) => ensure!(actual == expected, "{actual} instead of {expected}"),
            Self::Written { from, later, spread } => ensure!(
                (from + later..=clock + later + spread).contains(&actual),
                "{actual} is not {later} after {from} to {clock}, give or take {spread}"
            ),
        }
        Ok(Self::At(actual))
    }
}

/// Which table the job is in, and since when or until when.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    Ready {
        rank: When,
    },
    /// In a group that is held.
    Held {
        rank: When,
    },
    Timer {
        at: When,
    },
    Running {
        lease: Uuid,
        rank: When,
        capped: bool,
    },
    Dead {
        reason: &'static str,
    },
}

/// A job that is not finished.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: Uuid,
    pub tenant: &'static str,
    pub lane: &'static str,
    pub priority: i16,
    pub group: Option<&'static str>,
    pub key: Option<&'static str>,
    pub max_attempts: i32,
    /// Which cancels it knew of when it was enqueued.
    pub since: u64,
    pub attempt: i32,
    pub crashes: i16,
    pub run: i32,
    pub last_error: Option<String>,
    pub place: Place,
}

impl Job {
    /// How much later than its time a point of priority puts it in its lane.
    pub fn behind(&self) -> Micros {
        Micros::from(self.priority) * MINUTE
    }

    pub fn is_running(&self) -> bool {
        matches!(self.place, Place::Running { .. })
    }

    pub fn is_timer(&self) -> bool {
        matches!(self.place, Place::Timer { .. })
    }

    pub fn is_dead(&self) -> bool {
        matches!(self.place, Place::Dead { .. })
    }

    /// What claims of a lane are ordered by.
    pub fn order(&self) -> Option<(Micros, Uuid)> {
        match self.place {
            Place::Ready { rank: When::At(rank) } => Some((rank, self.id)),
            _ => None,
        }
    }

    /// Compares with the job's row, and takes over the times that only the database could know.
    pub fn agree(&mut self, row: &Row, clock: Micros) -> Result<()> {
        // What comes due in a held group is parked at once or by the next claim.
        if let Place::Held { rank: rank @ When::Written { .. } } = self.place
            && row.place == "ready"
        {
            self.place = Place::Ready { rank };
        }
        let (table, lease, capped, reason) = match self.place {
            Place::Ready { .. } => ("ready", None, None, None),
            Place::Held { .. } => ("held", None, None, None),
            Place::Timer { .. } => ("timer", None, None, None),
            Place::Running { lease, capped, .. } => ("running", Some(lease), Some(capped), None),
            Place::Dead { reason } => ("dead", None, None, Some(reason.to_owned())),
        };
        let expected = Row {
            job: self.id,
            place: table.into(),
            tenant: self.tenant.into(),
            lane: self.lane.into(),
            priority: self.priority,
            grp: self.group.map(Into::into),
            key: self.key.map(Into::into),
            max_attempts: self.max_attempts,
            attempt: self.attempt,
            crashes: self.crashes,
            run: self.run,
            last_error: self.last_error.clone(),
            lease,
            capped,
            reason,
            epoch: row.epoch,
            time: row.time,
        };
        ensure!(*row == expected, "\n{row:?} instead of\n{expected:?}");
        match &mut self.place {
            Place::Ready { rank: at }
            | Place::Held { rank: at }
            | Place::Timer { at }
            | Place::Running { rank: at, .. } => {
                *at = at.settle(row.time, clock).map_err(|error| error.context(format!("{row:?}")))?;
            }
            Place::Dead { .. } => {}
        }
        Ok(())
    }
}

/// A job's row, whichever table it is in.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Row {
    pub job: Uuid,
    pub place: String,
    pub tenant: String,
    pub lane: String,
    pub priority: i16,
    pub grp: Option<String>,
    pub key: Option<String>,
    pub max_attempts: i32,
    pub attempt: i32,
    pub crashes: i16,
    pub run: i32,
    pub last_error: Option<String>,
    pub lease: Option<Uuid>,
    pub capped: Option<bool>,
    pub reason: Option<String>,
    pub epoch: i64,
    /// A timer's time, or the place in the lane.
    pub time: Micros,
}
