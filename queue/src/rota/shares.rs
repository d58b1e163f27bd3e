//! How much one claim may bring, what it asks of which lanes, and what it brings.

use std::{collections::HashMap, time::Instant};

use chrono::{DateTime, Utc};

use super::places::Stand;
use crate::claim::Row;

/// How much one claim may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// How many slots are free.
    pub slots: usize,
    /// How many of them may go to slow lanes.
    pub slow: usize,
    /// How many jobs of an ordered lane come as a unit, which takes one slot.
    pub unit: usize,
}

impl From<usize> for Room {
    /// So many slots, whatever the lanes, for one job each.
    fn from(slots: usize) -> Self {
        Self { slots, slow: slots, unit: 1 }
    }
}

/// What a claim brought.
#[derive(Debug)]
pub struct Claims {
    /// The jobs, which are now in `running`.
    pub(crate) rows: Vec<Row>,
    /// Whether another claim may find more without anything happening first.
    pub(crate) more: bool,
    /// Whether another claimer held a lane, so that it is worth a try in a moment.
    pub(crate) contended: bool,
}

impl Claims {
    /// The claimed jobs as (tenant, lane, payload), for whoever claims by hand.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.rows.iter().map(|row| (row.tenant.as_str(), row.lane.as_str(), row.payload.as_str()))
    }

    /// Whether another claim may find more without anything happening first.
    pub fn may_have_more(&self) -> bool {
        self.more
    }
}

/// A lane of a tenant, as the rota knows it.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) name: String,
    pub(crate) guarded: bool,
    pub(crate) slow: bool,
    /// Where its share stands in the claim that is being put together.
    pub(crate) share: Option<usize>,
    /// The place of its first job when it was looked at: to begin there spares the claim what has been claimed from it.
    pub(crate) head: Option<DateTime<Utc>>,
    pub(crate) stands: Option<Stand>,
    /// When its whole tail was claimed from last.
    pub(crate) tail_at: Option<Instant>,
}

/// How many jobs one claim asks of which lanes.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    pub(crate) tenants: Vec<String>,
    pub(crate) lanes: Vec<String>,
    pub(crate) budgets: Vec<i32>,
    /// From which place in the lane on.
    pub(crate) from: Vec<Option<DateTime<Utc>>>,
}

impl Lane {
    pub(crate) fn new(name: &str, guarded: bool, slow: bool) -> Self {
        Self { name: name.to_owned(), guarded, slow, share: None, head: None, stands: None, tail_at: None }
    }
}

impl Shares {
    /// Makes room for a lane's share; `None` if another tenant has this guarded lane in the same claim.
    pub(crate) fn add(
        &mut self,
        tenant: &str,
        lane: &Lane,
        guarded: &mut HashMap<String, usize>,
    ) -> Option<usize> {
        let index = self.lanes.len();
        if lane.guarded && *guarded.entry(lane.name.clone()).or_insert(index) != index {
            return None;
        }
        self.tenants.push(tenant.to_owned());
        self.lanes.push(lane.name.clone());
        self.budgets.push(0);
        self.from.push(None);
        Some(index)
    }
}
