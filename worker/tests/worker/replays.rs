//! Replays, batch by batch.

use std::{collections::BTreeMap, time::Duration};

use chrono::DateTime;
use queue::{Claimed, Outcome};
use shared::{
    db::{
        endpoints::{self, Created, EndpointPatch, NewEndpoint},
        outbox,
        replays::{self, NewReplay},
    },
    domain::{
        endpoint_headers::SealedHeaders,
        replay::{Replay, ReplayStatus},
    },
    events::{EventType, NewEvent, samples},
    ids::new_id,
    jobs::{self, SYSTEM_TENANT, SettleStranded},
};
use uuid::Uuid;

use crate::bench::{Bench, soon};

/// A bench that sends no mail.
async fn bench() -> Bench {
    Bench::start("smtp://127.0.0.1:9?tls=none").await
}

impl Bench {
    async fn endpoint(&self, events: &[EventType]) -> Uuid {
        let id = new_id();
        let new = NewEndpoint {
            id,
            url: "https://example.com/hooks",
            events,
            description: None,
            sealed_secret: b"sealed",
            rate_limit: None,
            ordered: false,
            headers: &SealedHeaders::default(),
        };
        let mut tx = self.tx().await;
        let created = endpoints::create(&mut tx, self.account_id, &new).await.unwrap();
        assert!(matches!(created, Created::Endpoint(_)));
        tx.commit().await.unwrap();
        id
    }

    /// Events of an account as they are once they were relayed, without the deliveries of that; the ids are theirs.
    async fn relayed(&self, account_id: Uuid, kind: EventType, count: usize) -> Vec<Uuid> {
        let event = |_| {
            let (id, data) = samples::event(kind, DateTime::UNIX_EPOCH);
            NewEvent::new(account_id, kind, id, data)
        };
        self.take(&(0..count).map(event).collect::<Vec<_>>()).await
    }

    async fn take(&self, events: &[NewEvent]) -> Vec<Uuid> {
        let mut tx = self.tx().await;
        let ids = outbox::append(&mut tx, events).await.unwrap();
        outbox::take(&mut tx, &[(outbox::shard_of(events[0].account_id), 10_000)]).await.unwrap();
        tx.commit().await.unwrap();
        ids
    }

    /// A delivery of an event that was recorded as this.
    async fn delivery(&self, endpoint_id: Uuid, event_id: Uuid, number: i64, status: &str) -> Uuid {
        let id = new_id();
        sqlx::query(
            "insert into deliveries (account_id, id, endpoint_id, event_id, type, number, status, attempts, finished_at)
             values ($1, $2, $3, $4, 'message.sent', $5, $6, 4, case when $6 <> 'pending' then now() end)",
        )
        .bind(self.account_id)
        .bind(id)
        .bind(endpoint_id)
        .bind(event_id)
        .bind(number)
        .bind(status)
        .execute(self.database.pool())
        .await
        .unwrap();
        sqlx::query(
            "insert into endpoint_numbers (account_id, endpoint_id, last_number) values ($1, $2, $3)
             on conflict (account_id, endpoint_id) do update set last_number = $3",
        )
        .bind(self.account_id)
        .bind(endpoint_id)
        .bind(number)
        .execute(self.database.pool())
        .await
        .unwrap();
        id
    }

    /// Asks for a replay of the last hour.
    async fn replay(&self, endpoint_id: Uuid, events: &[&str], failed_only: bool) -> Replay {
        let events: Vec<String> = events.iter().map(|name| (*name).to_owned()).collect();
        let new = NewReplay {
            id: new_id(),
            endpoint_id,
            since: self.ctx.clock.now() - Duration::from_secs(3600),
            until: None,
            events: &events,
            failed_only,
        };
        let mut tx = self.tx().await;
        let replay = replays::create(&mut tx, self.account_id, &new).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        replay
    }

    async fn run_batch(&self, claimed: Claimed<jobs::Replay>) -> Outcome {
        let run = worker::jobs::replay::run(claimed.payload.clone(), claimed.job.clone(), self.shared());
        let outcome = soon(run).await.unwrap();
        claimed.finish(outcome.clone()).await;
        outcome
    }

    async fn found(&self, endpoint_id: Uuid, replay: &Replay) -> Replay {
        let mut conn = self.database.pool().acquire().await.unwrap();
        replays::find(&mut conn, self.account_id, endpoint_id, replay.id).await.unwrap().unwrap()
    }

    /// Runs the jobs of a replay to its end.
    async fn finish_replay(&mut self, endpoint_id: Uuid, replay: &Replay) -> Replay {
        loop {
            let claimed = soon(self.replays.next()).await.unwrap();
            assert_eq!(self.run_batch(claimed).await, Outcome::Done);
            let found = self.found(endpoint_id, replay).await;
            if found.finished_at.is_some() {
                return found;
            }
        }
    }

    /// The deliveries to an endpoint: their event and status.
    async fn made(&self, endpoint_id: Uuid) -> BTreeMap<Uuid, (Uuid, String)> {
        let rows: Vec<(Uuid, Uuid, String)> =
            sqlx::query_as("select id, event_id, status from deliveries where endpoint_id = $1")
                .bind(endpoint_id)
                .fetch_all(self.database.pool())
                .await
                .unwrap();
        rows.into_iter().map(|(id, event_id, status)| (id, (event_id, status))).collect()
    }

    /// The deliveries that have a job.
    async fn jobs(&self) -> Vec<Uuid> {
        sqlx::query_scalar(
            "select (payload::jsonb ->> 'delivery_id')::uuid from queue.ready where queue = 'deliver' order by 1",
        )
        .fetch_all(self.database.pool())
        .await
        .unwrap()
    }
}

/// What was delivered to an endpoint before a replay.
struct Past {
    endpoint_id: Uuid,
    exhausted: (Uuid, Uuid),
    cancelled: (Uuid, Uuid),
    acknowledged: (Uuid, Uuid),
    pending: (Uuid, Uuid),
    /// Acknowledged, asked for again, and exhausted then.
    again: (Uuid, Uuid),
    acknowledged_before: Uuid,
    never: [Uuid; 2],
}

/// Events of every kind of past, and some that are nobody's business: of another type, another account, another time, and a
/// test.
async fn past(bench: &Bench) -> Past {
    let endpoint_id = bench.endpoint(&[EventType::MessageSent]).await;
    let events = bench.relayed(bench.account_id, EventType::MessageSent, 8).await;
    bench.relayed(bench.account_id, EventType::ContactCreated, 1).await;
    let stranger = new_id();
    sqlx::query("insert into accounts (id, name) values ($1, 'stranger')")
        .bind(stranger)
        .execute(bench.database.pool())
        .await
        .unwrap();
    bench.relayed(stranger, EventType::MessageSent, 1).await;
    let (id, data) = samples::test_event(EventType::MessageSent, DateTime::UNIX_EPOCH);
    let test = NewEvent::new(bench.account_id, EventType::MessageSent, id, data);
    bench.take(&[NewEvent { only_endpoint: Some(endpoint_id), ..test }]).await;
    // Its id is younger than that, as if its transaction had been long.
    sqlx::query("update events set created_at = now() - interval '61 minutes' where id = $1")
        .bind(events[7])
        .execute(bench.database.pool())
        .await
        .unwrap();
    let of = async |n: usize, number, status| {
        (bench.delivery(endpoint_id, events[n], number, status).await, events[n])
    };
    Past {
        endpoint_id,
        exhausted: of(0, 1, "exhausted").await,
        cancelled: of(1, 2, "cancelled").await,
        acknowledged: of(2, 3, "succeeded").await,
        pending: of(3, 4, "pending").await,
        acknowledged_before: of(4, 5, "succeeded").await.0,
        again: of(4, 6, "exhausted").await,
        never: [events[5], events[6]],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_goes_again_as_its_last_delivery_asks() {
    let mut bench = bench().await;
    let past = past(&bench).await;
    let other = bench.endpoint(&[EventType::MessageSent]).await;
    let asked = bench.replay(past.endpoint_id, &["message.sent"], false).await;
    assert_eq!((asked.status, asked.finished_at), (ReplayStatus::Queued, None));
    let replay = bench.finish_replay(past.endpoint_id, &asked).await;
    assert_eq!(
        (replay.status, replay.scanned, replay.created),
        (ReplayStatus::Succeeded, 9, 6),
        "{replay:?}"
    );

    let made = bench.made(past.endpoint_id).await;
    let old = [past.exhausted.0, past.cancelled.0, past.again.0];
    for id in old {
        assert_eq!(made[&id].1, "pending", "it keeps its id");
    }
    assert_eq!(
        (made[&past.acknowledged.0].1.as_str(), made[&past.acknowledged_before].1.as_str()),
        ("succeeded", "succeeded")
    );
    let known = [old.as_slice(), &[past.acknowledged.0, past.acknowledged_before, past.pending.0]].concat();
    let new: Vec<(Uuid, Uuid)> = made
        .iter()
        .filter(|(id, _)| !known.contains(id))
        .map(|(id, (event_id, _))| (*id, *event_id))
        .collect();
    let of: Vec<Uuid> = new.iter().map(|(_, event_id)| *event_id).collect();
    assert_eq!(of, [past.acknowledged.1, past.never[0], past.never[1]], "in the order of the events");
    let mut jobs = old.to_vec();
    jobs.extend(new.iter().map(|(id, _)| *id));
    jobs.sort();
    assert_eq!(bench.jobs().await, jobs, "one for each, and none for what was pending");
    let numbers: Vec<i64> =
        sqlx::query_scalar("select number from deliveries where endpoint_id = $1 and number > 6 order by id")
            .bind(past.endpoint_id)
            .fetch_all(bench.database.pool())
            .await
            .unwrap();
    assert_eq!(numbers, [7, 8, 9]);
    let restarted = "select count(*) from deliveries
        where status = 'pending' and attempts = 4 and retries_from = 4 and finished_at is null and again";
    assert_eq!(bench.count(restarted).await, 3);
    assert_eq!(bench.made(other).await.len(), 0);

    let again = bench.replay(past.endpoint_id, &["message.sent"], false).await;
    let again = bench.finish_replay(past.endpoint_id, &again).await;
    assert_eq!((again.scanned, again.created), (9, 0), "all of them wait");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_what_failed_leaves_the_rest() {
    let mut bench = bench().await;
    let past = past(&bench).await;
    let asked = bench.replay(past.endpoint_id, &["message.sent"], true).await;
    let replay = bench.finish_replay(past.endpoint_id, &asked).await;
    assert_eq!((replay.status, replay.created), (ReplayStatus::Succeeded, 3));
    let mut failed = [past.exhausted.0, past.cancelled.0, past.again.0];
    failed.sort();
    assert_eq!(bench.jobs().await, failed);
    assert_eq!(bench.made(past.endpoint_id).await.len(), 6, "none is new");
}

#[tokio::test(flavor = "multi_thread")]
async fn live_deliveries_go_before_replayed_ones() {
    let mut bench = bench().await;
    let endpoint_id = bench.endpoint(&[EventType::MessageSent]).await;
    bench.relayed(bench.account_id, EventType::MessageSent, 1).await;
    let replay = bench.replay(endpoint_id, &["message.sent"], false).await;
    bench.finish_replay(endpoint_id, &replay).await;
    let live = jobs::Deliver { account_id: bench.account_id, delivery_id: new_id() };
    let job = queue::NewJob::new(&live, bench.account_id.to_string()).unwrap().lane(endpoint_id.to_string());
    let mut tx = bench.tx().await;
    tx.enqueue(&[job]).await.unwrap();
    tx.commit().await.unwrap();
    let first: Uuid = sqlx::query_scalar(
        "select (payload::jsonb ->> 'delivery_id')::uuid from queue.ready where queue = 'deliver' order by rank limit 1",
    )
    .fetch_one(bench.database.pool())
    .await
    .unwrap();
    assert_eq!(first, live.delivery_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_another_one_took_over_writes_nothing_and_nothing_is_made_twice() {
    let mut bench = bench().await;
    let endpoint_id = bench.endpoint(&[EventType::MessageSent]).await;
    let events = bench.relayed(bench.account_id, EventType::MessageSent, 2500).await;
    let replay = bench.replay(endpoint_id, &["message.sent"], false).await;
    let stale = soon(bench.replays.next()).await.unwrap();
    sqlx::query(
        "with moved as (delete from queue.running where queue = 'replay' returning *)
         insert into queue.ready (shard, id, queue, tenant, lane, priority, epoch, run, max_attempts, payload)
         select shard, id, queue, tenant, lane, priority, epoch, run, max_attempts, payload from moved",
    )
    .execute(bench.database.pool())
    .await
    .unwrap();
    let claimed = soon(bench.replays.next()).await.unwrap();
    assert_eq!(bench.run_batch(stale).await, Outcome::Cancelled);
    let untouched = bench.found(endpoint_id, &replay).await;
    assert_eq!((untouched.status, untouched.scanned), (ReplayStatus::Queued, 0));
    assert_eq!(bench.count("select count(*) from deliveries").await, 0);

    assert_eq!(bench.run_batch(claimed).await, Outcome::Done);
    let begun = bench.found(endpoint_id, &replay).await;
    assert_eq!((begun.status, begun.scanned, begun.created), (ReplayStatus::Running, 1000, 1000));
    assert_eq!(bench.count("select count(*) from deliveries").await, 1000);
    let ended = bench.finish_replay(endpoint_id, &replay).await;
    assert_eq!((ended.status, ended.scanned, ended.created), (ReplayStatus::Succeeded, 2500, 2500));
    let of: Vec<Uuid> = sqlx::query_scalar("select event_id from deliveries order by number")
        .fetch_all(bench.database.pool())
        .await
        .unwrap();
    assert_eq!(of, events, "each once, in their order");
    assert_eq!(bench.jobs().await.len(), 2500);
    assert_eq!(bench.count("select count(*) from queue.ready where queue = 'replay'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_has_one_replay_at_a_time() {
    let mut bench = bench().await;
    let endpoint_id = bench.endpoint(&[EventType::MessageSent]).await;
    let other = bench.endpoint(&[EventType::MessageSent]).await;
    let first = bench.replay(endpoint_id, &["message.sent"], false).await;
    let events = ["message.sent".to_owned()];
    let new = NewReplay {
        id: new_id(),
        endpoint_id,
        since: bench.ctx.clock.now(),
        until: None,
        events: &events,
        failed_only: false,
    };
    let mut tx = bench.tx().await;
    assert_eq!(replays::create(&mut tx, bench.account_id, &new).await.unwrap(), None);
    tx.commit().await.unwrap();
    assert_eq!(bench.count("select count(*) from queue.ready where queue = 'replay'").await, 1);
    bench.finish_replay(endpoint_id, &first).await;
    let second = bench.replay(endpoint_id, &["message.sent"], false).await;
    bench.replay(other, &["message.sent"], false).await;
    assert_ne!(second.id, first.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_ends_with_its_endpoint() {
    let mut bench = bench().await;
    for status in [ReplayStatus::EndpointDisabled, ReplayStatus::EndpointDeleted] {
        let endpoint_id = bench.endpoint(&[EventType::MessageSent]).await;
        bench.relayed(bench.account_id, EventType::MessageSent, 1).await;
        let replay = bench.replay(endpoint_id, &["message.sent"], false).await;
        let mut tx = bench.tx().await;
        if status == ReplayStatus::EndpointDisabled {
            let patch = EndpointPatch { enabled: Some(false), ..EndpointPatch::default() };
            endpoints::update(&mut tx, bench.account_id, endpoint_id, &patch).await.unwrap();
        } else {
            endpoints::delete(&mut tx, bench.account_id, endpoint_id).await.unwrap();
        }
        tx.commit().await.unwrap();
        let ended = bench.finish_replay(endpoint_id, &replay).await;
        assert_eq!((ended.status, ended.created), (status, 0));
    }
    assert!(bench.jobs().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_cannot_go_on_is_said_to_have_failed() {
    let mut bench = bench().await;
    let endpoint_id = bench.endpoint(&[EventType::MessageSent]).await;
    let replay = bench.replay(endpoint_id, &["message.sent"], false).await;
    sqlx::query("alter table events rename to lost").execute(bench.database.pool()).await.unwrap();
    let claimed = soon(bench.replays.next()).await.unwrap();
    let run = worker::jobs::replay::run(claimed.payload.clone(), claimed.job.clone(), bench.shared()).await;
    assert!(run.is_err(), "it is tried again");
    assert_eq!(bench.found(endpoint_id, &replay).await.status, ReplayStatus::Queued);
    sqlx::query(
        "with moved as (delete from queue.running where queue = 'replay' returning *)
         insert into queue.ready (shard, id, queue, tenant, lane, priority, epoch, run, max_attempts, payload, attempt)
         select shard, id, queue, tenant, lane, priority, epoch, run, max_attempts, payload, max_attempts - 1 from moved",
    )
    .execute(bench.database.pool())
    .await
    .unwrap();
    let last = soon(bench.replays.next()).await.unwrap();
    assert_eq!(bench.run_batch(last).await, Outcome::Done);
    assert_eq!(bench.found(endpoint_id, &replay).await.status, ReplayStatus::Failed);
    sqlx::query("alter table lost rename to events").execute(bench.database.pool()).await.unwrap();
    claimed.finish(Outcome::Cancelled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_whose_job_died_is_said_to_have_failed() {
    let mut bench = bench().await;
    let endpoint_id = bench.endpoint(&[EventType::MessageSent]).await;
    let other = bench.endpoint(&[EventType::MessageSent]).await;
    let stranded = bench.replay(endpoint_id, &["message.sent"], false).await;
    sqlx::query("delete from queue.ready where queue = 'replay'")
        .execute(bench.database.pool())
        .await
        .unwrap();
    let waiting = bench.replay(other, &["message.sent"], false).await;
    sqlx::query("update replays set created_at = now() - interval '11 minutes'")
        .execute(bench.database.pool())
        .await
        .unwrap();
    let job = queue::NewJob::new(&SettleStranded {}, SYSTEM_TENANT).unwrap();
    let mut tx = bench.tx().await;
    tx.enqueue(&[job]).await.unwrap();
    tx.commit().await.unwrap();
    let claimed = soon(bench.settles.next()).await.unwrap();
    let settled =
        worker::jobs::settle_stranded::run(claimed.payload.clone(), claimed.job.clone(), bench.shared())
            .await;
    claimed.finish(settled.unwrap()).await;
    assert_eq!(bench.found(endpoint_id, &stranded).await.status, ReplayStatus::Failed);
    assert_eq!(bench.found(other, &waiting).await.finished_at, None, "its job is there");
}
