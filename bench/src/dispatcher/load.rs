//! The events: committed as iris commits them, as fast as it goes or at a steady rate.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use shared::{
    Database,
    db::outbox,
    events::{EventType, NewEvent},
};
use tokio::{
    task::JoinSet,
    time::{Instant, interval_at},
};
use uuid::Uuid;

use crate::clock::now_us;

/// How many events one transaction has, where they come as fast as it goes.
const BATCH: usize = 500;
/// How many connections commit at a steady rate.
const PRODUCERS: usize = 4;
/// What makes an event's body as long as bodies are.
const CONTENT: &str = "Hello Ada, we met at the conference in spring and spoke about sound checks that run late. We have \
    built a small tool that keeps the schedule of a venue in step with its artists, and would like to show you in a quarter \
    of an hour what it does for houses of your size. Would Tuesday or Thursday afternoon suit you? If you would rather not \
    hear from us again, a word is enough.";

/// One event that was committed.
#[derive(Debug, Clone, Copy)]
pub struct Committed {
    /// Its id.
    pub id: Uuid,
    /// The number of its account.
    pub account: usize,
    /// The number of its type.
    pub kind: usize,
    /// When its commit was confirmed, in microseconds since 1970.
    pub at_us: i64,
}

/// The events of a part.
#[derive(Debug)]
pub struct Load {
    /// In the order of their commits, as far as one connection made them.
    pub events: Vec<Committed>,
    /// When the first commit was asked for, in microseconds since 1970.
    pub began_us: i64,
}

/// Who commits events.
#[derive(Debug, Clone)]
pub struct Producer {
    /// The database.
    pub database: Database,
    /// Whose events.
    pub accounts: Arc<[Uuid]>,
    /// How many types they have.
    pub types: usize,
}

impl Producer {
    /// Commits `count` events, in transactions of one account each, one transaction after the other.
    pub async fn pour(&self, count: usize) -> anyhow::Result<Load> {
        let mut load = Load::default();
        let mut batches = 0;
        while load.events.len() < count {
            let size = BATCH.min(count - load.events.len());
            let kinds = (0..size).map(|n| n % self.types);
            load.merge(self.commit(batches % self.accounts.len(), kinds).await?);
            batches += 1;
        }
        Ok(load)
    }

    /// Commits one event of each type of each account.
    pub async fn one_of_each(&self) -> anyhow::Result<Load> {
        let mut load = Load::default();
        for account in 0..self.accounts.len() {
            load.merge(self.commit(account, 0..self.types).await?);
        }
        Ok(load)
    }

    /// Commits one event at a time for a while, so many a second, whatever becomes of them.
    pub async fn drip(&self, per_second: u32, lasting: Duration) -> anyhow::Result<Load> {
        let count = usize::try_from(per_second)? * usize::try_from(lasting.as_secs())?;
        let pause = Duration::from_secs(1) / per_second;
        let begin = Instant::now() + pause;
        let mut producers = JoinSet::new();
        for first in 0..PRODUCERS {
            let (this, begin) = (self.clone(), begin + pause * u32::try_from(first)?);
            producers.spawn(async move {
                let mut load = Load::default();
                let mut ticks = interval_at(begin, pause * u32::try_from(PRODUCERS)?);
                for n in (first..count).step_by(PRODUCERS) {
                    ticks.tick().await;
                    let (account, kind) = (n % this.accounts.len(), n / this.accounts.len() % this.types);
                    load.merge(this.commit(account, std::iter::once(kind)).await?);
                }
                anyhow::Ok(load)
            });
        }
        let mut load = Load::default();
        while let Some(ended) = producers.join_next().await {
            load.merge(ended??);
        }
        Ok(load)
    }

    /// Commits the events of one transaction.
    async fn commit(
        &self,
        account: usize,
        kinds: impl Iterator<Item = usize> + Clone,
    ) -> anyhow::Result<Load> {
        let account_id = self.accounts[account];
        let event = |kind: usize| {
            let resource_id = Uuid::now_v7();
            NewEvent::new(account_id, EventType::ALL[kind], resource_id, data(resource_id))
        };
        let events: Vec<NewEvent> = kinds.clone().map(event).collect();
        let mut tx = self.database.begin().await?;
        let ids = outbox::append(&mut tx, &events).await?;
        let began_us = now_us();
        tx.commit().await?;
        let at_us = now_us();
        let events = ids.into_iter().zip(kinds).map(|(id, kind)| Committed { id, account, kind, at_us });
        Ok(Load { events: events.collect(), began_us })
    }
}

impl Default for Load {
    fn default() -> Self {
        Self { events: Vec::new(), began_us: i64::MAX }
    }
}

impl Load {
    fn merge(&mut self, other: Self) {
        self.events.extend(other.events);
        self.began_us = self.began_us.min(other.began_us);
    }

    /// How many seconds there are from the first commit to `until_us`.
    pub fn seconds_until(&self, until_us: i64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of minutes")]
        let micros = (until_us - self.began_us) as f64;
        micros / 1e6
    }
}

/// The public form of a message.
fn data(id: Uuid) -> Value {
    json!({
        "id": id,
        "campaign_id": id,
        "conversation_id": id,
        "channel": "email",
        "direction": "outbound",
        "status": "sent",
        "step": 0,
        "subject": "Sound checks that start on time",
        "content": CONTENT,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_events_data_is_as_long_as_a_messages() {
        let length = data(Uuid::nil()).to_string().len();
        assert!((600..900).contains(&length), "{length}");
    }
}
