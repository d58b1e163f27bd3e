//! What a scenario acts on, and what it finds.

use std::{sync::Arc, time::Instant};

use serde_json::{Map, Value};

use crate::{database::Database, fleet::Fleet, ledger::Ledger};

/// Everything that is there to be broken.
#[derive(Debug, Clone)]
pub struct Stage {
    pub database: Arc<Database>,
    pub fleet: Arc<Fleet>,
    pub ledger: Arc<Ledger>,
    pub begun: Instant,
}

impl Stage {
    /// Tells whoever watches what happens.
    pub fn say(&self, what: &str) {
        say(self.begun, what);
    }
}

/// Tells whoever watches what happens, so long after the beginning.
pub fn say(begun: Instant, what: &str) {
    let seconds = begun.elapsed().as_secs();
    eprintln!("{:>3}:{:02}  {what}", seconds / 60, seconds % 60);
}

/// What a scenario knows besides what the ledger does.
#[derive(Debug, Default)]
pub struct Findings {
    pub facts: Map<String, Value>,
    /// What is not as promised.
    pub problems: Vec<String>,
}

impl Findings {
    pub fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    /// Adds a problem unless it holds.
    pub fn expect(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(problem());
        }
    }
}
