//! The relay: exactly one delivery per event and endpoint subscribed at that moment, in order, whoever relays.

use std::collections::HashSet;

use dispatcher::relay::{Relayed, relay_shards};
use shared::{
    db::{
        endpoints::{self, EndpointPatch},
        outbox::{self, SHARDS, shard_of},
    },
    events::{
        EventType::{ContactCreated, ContactUpdated, MessageSent},
        NewEvent,
    },
    ids::new_id,
};

use uuid::Uuid;

use crate::support::{Stage, event, test_event};

async fn relay_all(stage: &Stage) -> Relayed {
    let mut sum = Relayed::default();
    for shard in 0..SHARDS {
        let relayed = relay_shards(&stage.database, &[(shard, 500)]).await.unwrap()[0];
        sum.events += relayed.events;
        sum.deliveries += relayed.deliveries;
    }
    sum
}

#[tokio::test]
async fn an_event_goes_once_to_each_endpoint_that_hears_of_it() {
    let stage = Stage::set().await;
    let url = "https://example.com/hooks";
    let (first, _) = stage.endpoint(url, &[MessageSent]).await;
    let (second, _) = stage.endpoint(url, &[MessageSent, ContactCreated]).await;
    let (other_type, _) = stage.endpoint(url, &[ContactCreated]).await;
    let (disabled, _) = stage.endpoint(url, &[MessageSent]).await;
    let (deleted, _) = stage.endpoint(url, &[MessageSent]).await;
    let other_account = new_id();
    stage.add_account(other_account).await;
    let (foreign, _) = stage.endpoint_of(other_account, url, &[MessageSent]).await;
    let mut tx = stage.database.begin().await.unwrap();
    let off = EndpointPatch { enabled: Some(false), ..EndpointPatch::default() };
    assert!(endpoints::update(&mut tx, stage.account_id, disabled, &off).await.unwrap().is_some());
    assert!(endpoints::delete(&mut tx, stage.account_id, deleted).await.unwrap().is_some());
    tx.commit().await.unwrap();

    stage.append(MessageSent, new_id(), 1).await;
    assert_eq!(relay_all(&stage).await, Relayed { events: 1, deliveries: 2 });
    let to: HashSet<Uuid> = sqlx::query_scalar("select endpoint_id from deliveries")
        .fetch_all(stage.pool())
        .await
        .unwrap()
        .into_iter()
        .collect();
    assert_eq!(to, HashSet::from([first, second]));
    assert!(!to.contains(&other_type) && !to.contains(&foreign));

    // Each has a job in its endpoint's lane.
    let lanes: HashSet<String> = sqlx::query_scalar("select lane from queue.ready where queue = 'deliver'")
        .fetch_all(stage.pool())
        .await
        .unwrap()
        .into_iter()
        .collect();
    assert_eq!(lanes, to.iter().map(ToString::to_string).collect());
    assert_eq!(relay_all(&stage).await, Relayed::default(), "nothing is relayed twice");
    assert_eq!(stage.count("select count(*) from outbox").await, 0);
    assert_eq!(stage.count("select count(*) from events").await, 1);
}

#[tokio::test]
async fn a_test_event_goes_to_its_endpoint_alone_before_all_others() {
    let stage = Stage::set().await;
    let (tested, _) = stage.endpoint("https://example.com/", &[ContactCreated]).await;
    stage.endpoint("https://example.com/", &[MessageSent]).await;
    let mut tx = stage.database.begin().await.unwrap();
    let test = test_event(stage.account_id, MessageSent, tested);
    outbox::append(&mut tx, &[test]).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(relay_all(&stage).await, Relayed { events: 1, deliveries: 1 });
    assert_eq!(stage.deliveries(tested).await.len(), 1);
    assert_eq!(stage.count("select count(*) from queue.ready where priority < 0").await, 1);
}

#[tokio::test]
async fn events_of_a_resource_keep_their_order() {
    let stage = Stage::set().await;
    let (endpoint, _) = stage.endpoint("https://example.com/", &[ContactCreated, ContactUpdated]).await;
    let resource = new_id();
    let mut appended = stage.append(ContactCreated, resource, 1).await;
    for _ in 0..3 {
        appended.extend(stage.append(ContactUpdated, resource, 4).await);
    }
    // In small batches, so that the numbers go on from one to the next.
    while relay_shards(&stage.database, &[(shard_of(stage.account_id), 5)]).await.unwrap()[0].events > 0 {}
    let by_number: Vec<(Uuid, i64)> =
        sqlx::query_as("select event_id, number from deliveries where endpoint_id = $1 order by number")
            .bind(endpoint)
            .fetch_all(stage.pool())
            .await
            .unwrap();
    assert_eq!(by_number.iter().map(|(event_id, _)| *event_id).collect::<Vec<_>>(), appended);
    assert_eq!(
        by_number.iter().map(|(_, number)| *number).collect::<Vec<_>>(),
        (1..=13).collect::<Vec<i64>>()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_that_compete_lose_nothing_and_repeat_nothing() {
    let stage = Stage::set().await;
    let mut accounts = vec![stage.account_id];
    for _ in 0..7 {
        let account_id = new_id();
        stage.add_account(account_id).await;
        accounts.push(account_id);
    }
    for account_id in &accounts {
        for _ in 0..3 {
            stage.endpoint_of(*account_id, "https://example.com/", &[MessageSent]).await;
        }
    }
    let relays: Vec<_> = (0..4)
        .map(|_| {
            let database = stage.database.clone();
            tokio::spawn(async move {
                let mut relayed = Relayed::default();
                // A relay may find the others' shards locked, so nobody's own count says when all is done.
                for _ in 0..40 {
                    for shard in 0..SHARDS {
                        let batch = relay_shards(&database, &[(shard, 7)]).await.unwrap()[0];
                        relayed.events += batch.events;
                        relayed.deliveries += batch.deliveries;
                    }
                }
                relayed
            })
        })
        .collect();
    for n in 0..50 {
        let events: Vec<NewEvent> =
            accounts.iter().map(|account_id| event(*account_id, MessageSent, new_id(), n)).collect();
        let mut tx = stage.database.begin().await.unwrap();
        outbox::append(&mut tx, &events).await.unwrap();
        tx.commit().await.unwrap();
    }
    let mut sum = Relayed::default();
    for relay in relays {
        let relayed = relay.await.unwrap();
        sum.events += relayed.events;
        sum.deliveries += relayed.deliveries;
    }
    loop {
        let rest = relay_all(&stage).await;
        if rest == Relayed::default() {
            break;
        }
        sum.events += rest.events;
        sum.deliveries += rest.deliveries;
    }
    assert_eq!(sum, Relayed { events: 400, deliveries: 1200 });
    assert_eq!(stage.count("select count(*) from events").await, 400);
    assert_eq!(stage.count("select count(distinct (event_id, endpoint_id)) from deliveries").await, 1200);
    assert_eq!(stage.count("select count(distinct (endpoint_id, number)) from deliveries").await, 1200);
    assert_eq!(stage.count("select count(*) from queue.ready where queue = 'deliver'").await, 1200);
    assert_eq!(stage.count("select max(last_number) from endpoint_numbers").await, 50);
}

#[tokio::test]
async fn a_long_transaction_delays_only_itself() {
    let stage = Stage::set().await;
    let (endpoint, _) = stage.endpoint("https://example.com/", &[MessageSent]).await;
    let mut long = stage.database.begin().await.unwrap();
    let late = event(stage.account_id, MessageSent, new_id(), 0);
    let late = outbox::append(&mut long, &[late]).await.unwrap();
    let early = stage.append(MessageSent, new_id(), 1).await;
    assert_eq!(relay_all(&stage).await, Relayed { events: 1, deliveries: 1 });
    long.commit().await.unwrap();
    assert_eq!(relay_all(&stage).await, Relayed { events: 1, deliveries: 1 });
    let order: Vec<Uuid> =
        sqlx::query_scalar("select event_id from deliveries where endpoint_id = $1 order by number")
            .bind(endpoint)
            .fetch_all(stage.pool())
            .await
            .unwrap();
    assert_eq!(order, [early, late].concat());
}

/// An account whose events are in another shard than the stage's.
async fn account_elsewhere(stage: &Stage, shards: &[i16]) -> Uuid {
    let account_id =
        std::iter::repeat_with(new_id).find(|id| !shards.contains(&shard_of(*id))).expect("ids go on");
    stage.add_account(account_id).await;
    stage.endpoint_of(account_id, "https://example.com/", &[MessageSent]).await;
    let mut tx = stage.database.begin().await.unwrap();
    outbox::append(&mut tx, &[event(account_id, MessageSent, new_id(), 0)]).await.unwrap();
    tx.commit().await.unwrap();
    account_id
}

#[tokio::test]
async fn a_shard_that_another_relay_holds_is_left_alone() {
    let stage = Stage::set().await;
    stage.endpoint("https://example.com/", &[MessageSent]).await;
    stage.append(MessageSent, new_id(), 3).await;
    let shard = shard_of(stage.account_id);
    let second = shard_of(account_elsewhere(&stage, &[shard]).await);
    let third = shard_of(account_elsewhere(&stage, &[shard, second]).await);
    let wanted = [(second, 500), (shard, 2), (third, 500)];
    let mut other = stage.database.begin().await.unwrap();
    assert_eq!(outbox::try_lock_shards(&mut other, &[second]).await.unwrap(), [second]);
    let moved = |events| Relayed { events, deliveries: events };
    assert_eq!(relay_shards(&stage.database, &wanted).await.unwrap(), [moved(0), moved(2), moved(1)]);
    other.rollback().await.unwrap();
    assert_eq!(relay_shards(&stage.database, &wanted).await.unwrap(), [moved(1), moved(1), moved(0)]);
}

#[tokio::test]
async fn a_shard_that_cannot_be_relayed_holds_up_no_other() {
    let stage = Stage::set().await;
    let (held, _) = stage.endpoint("https://example.com/", &[MessageSent]).await;
    stage.append(MessageSent, new_id(), 1).await;
    // Whoever holds the row of its endpoint's numbers.
    let mut other = stage.database.begin().await.unwrap();
    sqlx::query(
        "insert into endpoint_numbers (account_id, endpoint_id, last_number) values ($1, $2, 0)
        on conflict (account_id, endpoint_id) do update set last_number = endpoint_numbers.last_number",
    )
    .bind(stage.account_id)
    .bind(held)
    .execute(&mut *other)
    .await
    .unwrap();
    account_elsewhere(&stage, &[shard_of(stage.account_id)]).await;
    let dispatcher = stage.dispatch(dispatcher::DispatcherConfig::default());
    let relayed = "select count(*) from deliveries";
    tokio::time::timeout(crate::support::SOON, async {
        while stage.count(relayed).await == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the other shard's event");
    assert_eq!(stage.count("select count(*) from outbox").await, 1);
    other.rollback().await.unwrap();
    dispatcher.stop().await;
}
