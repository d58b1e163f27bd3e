//! Who computed how long: on a machine whose cores all share, that is what a figure is made of.

use std::time::Duration;

use super::{role::Dispatcher, stage::Stage};
use crate::{process, server::Server};

/// How long each party has computed.
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    database: Duration,
    dispatcher: Duration,
    receivers: Duration,
    producer: Duration,
}

impl Cpu {
    /// Until now.
    pub async fn now(server: &Server, stage: &Stage, dispatcher: &Dispatcher) -> anyhow::Result<Self> {
        Ok(Self {
            database: server.cpu().await?,
            dispatcher: dispatcher.process().cpu(),
            receivers: stage.receivers.process().cpu(),
            producer: process::cpu(std::process::id()),
        })
    }

    /// A sentence about what each of so many deliveries has cost since `earlier`.
    pub fn since(&self, earlier: &Self, deliveries: usize, what: &str) -> String {
        #[expect(clippy::cast_precision_loss, reason = "a count of deliveries")]
        let each = |now: Duration, then: Duration| {
            now.saturating_sub(then).as_secs_f64() * 1e6 / deliveries.max(1) as f64
        };
        format!(
            "{what}: of the processors' time each took {:.0} us in PostgreSQL, {:.0} us in the dispatcher, {:.0} us in the \
             receivers and {:.0} us in who committed the events",
            each(self.database, earlier.database),
            each(self.dispatcher, earlier.dispatcher),
            each(self.receivers, earlier.receivers),
            each(self.producer, earlier.producer),
        )
    }
}
