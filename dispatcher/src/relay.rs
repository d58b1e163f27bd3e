//! From the outbox to deliveries and their jobs: one transaction per batch, of as many shards as it has room for, each by one
//! relay at a time.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use queue::{NewJob, TraceContext};
use rand::Rng;
use shared::{
    Database,
    db::{
        deliveries::{self, NewDelivery},
        outbox::{self, SHARDS, Taken},
    },
    ids::new_id,
    jobs::Deliver,
};
use tokio_util::sync::CancellationToken;

/// How long a pass over the shards may take to answer; a statement's own deadline is shorter.
const PASS_DEADLINE: Duration = Duration::from_secs(60);
/// The pause after a pass that relayed something, so that small batches gather.
const GATHER: Duration = Duration::from_millis(1);
/// The pauses between passes that find nothing: doubling, so that an idle dispatcher looks twice a second.
const IDLE_MIN: Duration = Duration::from_millis(10);
const IDLE_MAX: Duration = Duration::from_millis(500);
/// How long a shard is left alone after somebody held what it needs for too long: finding out again takes the others' time.
const HELD_PAUSE: Duration = Duration::from_secs(5);
/// How many deliveries one transaction should make: events with many endpoints are taken in smaller batches.
const DELIVERIES_MAX: usize = 5000;
/// A test event's delivery goes before all others: somebody waits for it.
const TEST_PRIORITY: i16 = -100;

/// What one transaction moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Relayed {
    /// Events that left the outbox.
    pub events: usize,
    /// Deliveries that were made of them.
    pub deliveries: usize,
}

/// Relays until `stop`, through every outage of the database.
pub async fn run(database: Database, batch: usize, stop: CancellationToken) {
    let held_until = [None; SHARDS_LEN];
    let mut relay = Relay { database, batch, limits: [batch; SHARDS_LEN], held_until, first: 0 };
    let mut idle = IDLE_MIN;
    while !stop.is_cancelled() {
        let pause = match tokio::time::timeout(PASS_DEADLINE, relay.pass()).await {
            Ok(Ok(0)) => {
                idle = (idle * 2).min(IDLE_MAX);
                idle
            }
            Ok(Ok(relayed)) => {
                idle = IDLE_MIN;
                if relayed < batch { GATHER } else { Duration::ZERO }
            }
            Ok(Err(error)) => {
                tracing::warn!(error = format!("{error:#}"), "the outbox was not relayed; trying again");
                IDLE_MAX.mul_f64(rand::rng().random_range(0.5..2.0))
            }
            Err(_) => {
                tracing::warn!(deadline = ?PASS_DEADLINE, "the outbox was not relayed in time; trying again");
                IDLE_MAX
            }
        };
        let _ = tokio::time::timeout(pause, stop.cancelled()).await;
    }
}

const SHARDS_LEN: usize = SHARDS.unsigned_abs() as usize;

struct Relay {
    database: Database,
    batch: usize,
    /// How many events one transaction may take of each shard, by how many deliveries its last ones became.
    limits: [usize; SHARDS_LEN],
    /// Until when a shard that could not be relayed is left alone: somebody holds what it needs.
    held_until: [Option<Instant>; SHARDS_LEN],
    /// Which shard goes first, so that none is always last.
    first: usize,
}

impl Relay {
    /// Relays one batch of every shard that has events and no other relay. Returns how many events that were.
    async fn pass(&mut self) -> anyhow::Result<usize> {
        let mut filled = self.filled_shards().await?;
        let now = Instant::now();
        filled.retain(|(shard, _)| self.held_until[index(*shard)].is_none_or(|until| until <= now));
        if filled.is_empty() {
            return Ok(0);
        }
        self.first = (self.first + 1) % filled.len();
        filled.rotate_left(self.first);
        let (mut events, mut failed) = (0, None);
        let mut batches: VecDeque<_> = batches(&filled, &self.limits).into();
        while let Some(shards) = batches.pop_front() {
            match relay_shards(&self.database, &shards).await {
                Ok(relayed) => {
                    for (&(shard, _), relayed) in shards.iter().zip(relayed) {
                        let limit = &mut self.limits[index(shard)];
                        *limit = next_limit(self.batch, *limit, relayed);
                        events += relayed.events;
                    }
                }
                Err(error) => {
                    let is_held = is_held(&error);
                    for &(shard, _) in shards.iter().filter(|_| !is_held) {
                        // The next one is smaller, in case it was too much for a statement's deadline.
                        let limit = &mut self.limits[index(shard)];
                        *limit = (*limit / 2).max(1);
                    }
                    if let [(shard, _)] = shards[..] {
                        self.held_until[index(shard)] = is_held.then(|| Instant::now() + HELD_PAUSE);
                        failed = Some(error.context(format!("shard {shard}")));
                    } else {
                        // It may be about one of them.
                        tracing::debug!(
                            error = format!("{error:#}"),
                            ?shards,
                            "shards are relayed one by one"
                        );
                        batches.extend(shards.iter().map(|shard| vec![*shard]));
                    }
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(events),
        }
    }

    async fn filled_shards(&self) -> anyhow::Result<Vec<(i16, usize)>> {
        // One statement, for an idle dispatcher asks all the time.
        let mut conn = self.database.pool().acquire().await?;
        let filled = outbox::list_filled_shards(&mut conn, i64::try_from(self.batch)?).await?;
        Ok(filled.into_iter().map(|(shard, events)| (shard, usize::try_from(events).unwrap_or(0))).collect())
    }
}

/// Whether a relay gave up because somebody holds a row that it needs (SQLSTATE 55P03).
fn is_held(error: &anyhow::Error) -> bool {
    let causes = error.chain().filter_map(|cause| cause.downcast_ref::<sqlx::Error>());
    causes.filter_map(sqlx::Error::as_database_error).any(|error| error.code().as_deref() == Some("55P03"))
}

fn index(shard: i16) -> usize {
    usize::from(shard.unsigned_abs()) % SHARDS_LEN
}

/// A batch, in the parts that shares of it are counted in.
const WHOLE: usize = 1 << 20;

/// What each transaction takes, as shards and their events, given how many events there are: of each shard what its limit
/// allows, and of all together no more than a whole batch.
fn batches(filled: &[(i16, usize)], limits: &[usize; SHARDS_LEN]) -> Vec<Vec<(i16, usize)>> {
    let mut batches = Vec::new();
    let (mut batch, mut room) = (Vec::new(), WHOLE);
    for &(shard, events) in filled {
        let limit = limits[index(shard)];
        let taken = events.min(limit);
        let share = (taken * WHOLE).div_ceil(limit);
        if share > room && !batch.is_empty() {
            batches.push(std::mem::take(&mut batch));
            room = WHOLE;
        }
        batch.push((shard, taken));
        room = room.saturating_sub(share);
    }
    batches.push(batch);
    batches
}

/// How many events to take next, so that about [`DELIVERIES_MAX`] deliveries come of them. Grows step by step.
fn next_limit(batch: usize, limit: usize, relayed: Relayed) -> usize {
    if relayed.events == 0 {
        return limit;
    }
    let fanout = relayed.deliveries.div_ceil(relayed.events).max(1);
    (DELIVERIES_MAX / fanout).clamp(1, batch).min(limit * 2)
}

/// Relays up to so many events of each of some shards in one transaction; nothing of one that another relay has. Returns what
/// that was, shard by shard.
pub async fn relay_shards(database: &Database, shards: &[(i16, usize)]) -> anyhow::Result<Vec<Relayed>> {
    let mut relayed = vec![Relayed::default(); shards.len()];
    let mut tx = database.begin().await?;
    let names: Vec<i16> = shards.iter().map(|(shard, _)| *shard).collect();
    let locked = outbox::try_lock_shards(&mut tx, &names).await?;
    let mut limits = Vec::with_capacity(locked.len());
    for (shard, limit) in shards.iter().filter(|(shard, _)| locked.contains(shard)) {
        limits.push((*shard, i64::try_from(*limit)?));
    }
    if limits.is_empty() {
        tx.rollback().await?;
        return Ok(relayed);
    }
    let taken = outbox::take(&mut tx, &limits).await?;
    let (mut made, jobs) = plan(&taken)?;
    for (delivery, enqueued) in made.iter_mut().zip(tx.enqueue(&jobs).await?) {
        delivery.job_id = enqueued.id();
    }
    // Last, for it locks the rows of the endpoints' numbers, which redeliveries and replays wait for.
    deliveries::create_many(&mut tx, &made).await?;
    tx.commit().await?;
    // The rows of one event stand together.
    for event in taken.chunk_by(|a, b| a.event_id == b.event_id) {
        let shard = outbox::shard_of(event[0].account_id);
        if let Some(at) = names.iter().position(|name| *name == shard) {
            relayed[at].events += 1;
            relayed[at].deliveries += event.iter().filter(|row| row.endpoint_id.is_some()).count();
        }
    }
    let events: usize = relayed.iter().map(|relayed| relayed.events).sum();
    metrics::counter!("outbox_relayed_events_total").increment(events as u64);
    metrics::counter!("outbox_relayed_deliveries_total").increment(made.len() as u64);
    Ok(relayed)
}

/// A delivery and its job for every endpoint that hears of a taken event.
fn plan(taken: &[Taken]) -> anyhow::Result<(Vec<NewDelivery>, Vec<NewJob>)> {
    let mut made = Vec::with_capacity(taken.len());
    let mut jobs = Vec::with_capacity(taken.len());
    for row in taken {
        let Some(endpoint_id) = row.endpoint_id else { continue };
        let delivery = NewDelivery {
            account_id: row.account_id,
            id: new_id(),
            endpoint_id,
            event_id: row.event_id,
            kind: row.kind.clone(),
            job_id: None,
        };
        let payload = Deliver { account_id: row.account_id, delivery_id: delivery.id };
        let job = NewJob::new(&payload, row.account_id.to_string())?.lane(endpoint_id.to_string());
        let job = job.trace(TraceContext::continued(row.trace.as_deref()));
        jobs.push(if row.test { job.priority(TEST_PRIORITY) } else { job });
        made.push(delivery);
    }
    Ok((made, jobs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_with_many_endpoints_are_taken_in_smaller_batches() {
        let relayed = |events, deliveries| Relayed { events, deliveries };
        for (limit, last, expected) in [
            (500, relayed(500, 500), 500),
            (500, relayed(500, 0), 500),
            (500, relayed(500, 5000), 500),
            (500, relayed(500, 50_000), 50),
            (500, relayed(1, 100_000), 1),
            (50, relayed(50, 50), 100),
            (50, relayed(0, 0), 50),
        ] {
            assert_eq!(next_limit(500, limit, last), expected, "{limit} {last:?}");
        }
    }

    #[test]
    fn a_transaction_takes_of_as_many_shards_as_it_has_room_for() {
        let mut limits = [500; SHARDS_LEN];
        limits[7] = 50;
        for (filled, expected) in [
            (vec![(0, 1), (1, 1), (15, 1)], vec![vec![(0, 1), (1, 1), (15, 1)]]),
            (vec![(0, 250), (1, 250), (2, 1)], vec![vec![(0, 250), (1, 250)], vec![(2, 1)]]),
            (vec![(0, 500), (1, 1), (2, 900)], vec![vec![(0, 500)], vec![(1, 1)], vec![(2, 500)]]),
            (vec![(0, 251), (7, 25), (8, 10)], vec![vec![(0, 251)], vec![(7, 25), (8, 10)]]),
            (vec![(7, 500)], vec![vec![(7, 50)]]),
        ] {
            assert_eq!(batches(&filled, &limits), expected, "{filled:?}");
        }
    }
}
