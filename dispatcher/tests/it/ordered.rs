//! Endpoints whose deliveries are made one after the other.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, response::Response};
use dispatcher::DispatcherConfig;
use serde_json::Value;
use shared::{
    db::endpoints::{self, EndpointPatch},
    domain::delivery::{Delivery, DeliveryStatus},
    events::EventType::MessageSent,
    ids::new_id,
};
use uuid::Uuid;

use crate::support::{Received, Receiver, Stage, hasty};

async fn ordered(stage: &Stage, receiver: &Receiver) -> Uuid {
    let (endpoint, _) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    set_ordered(stage, endpoint, true).await;
    endpoint
}

async fn set_ordered(stage: &Stage, endpoint: Uuid, ordered: bool) {
    let patch = EndpointPatch { ordered: Some(ordered), ..EndpointPatch::default() };
    let mut tx = stage.database.begin().await.unwrap();
    let changed = endpoints::update(&mut tx, stage.account_id, endpoint, &patch).await.unwrap().unwrap();
    assert_eq!(changed.ordered, ordered);
    tx.commit().await.unwrap();
}

/// The number that the event was given.
fn number(received: &Received) -> u64 {
    serde_json::from_str::<Value>(&received.body).unwrap()["data"]["variables"]["number"].as_u64().unwrap()
}

fn all_are(status: DeliveryStatus, count: usize) -> impl Fn(&[Delivery]) -> bool {
    move |all| all.len() == count && all.iter().all(|delivery| delivery.status == status)
}

fn answer(status: u16) -> Response {
    Response::builder().status(status).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn one_that_fails_holds_up_those_behind_it() {
    let stage = Stage::set().await;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (at_once, peak) = (now.clone(), most.clone());
    let mut receiver = Receiver::start(move |number| {
        let (at_once, peak) = (at_once.clone(), peak.clone());
        async move {
            peak.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            at_once.fetch_sub(1, Ordering::SeqCst);
            // Every fifth request fails, whatever it is about.
            answer(if number % 5 == 0 { 500 } else { 204 })
        }
    })
    .await;
    let endpoint = ordered(&stage, &receiver).await;
    let dispatchers = [stage.dispatch(hasty()), stage.dispatch(hasty())];
    for _ in 0..3 {
        stage.append(MessageSent, new_id(), 40).await;
    }
    stage.until(endpoint, all_are(DeliveryStatus::Succeeded, 120)).await;
    assert_eq!(most.load(Ordering::SeqCst), 1, "one at a time");
    let mut deliveries: Vec<String> =
        receiver.rest().iter().map(|received| received.header("x-iris-delivery").to_owned()).collect();
    assert!(deliveries.len() >= 149, "the failed ones came again: {}", deliveries.len());
    // One that failed is what comes next.
    deliveries.dedup();
    let expected: Vec<String> =
        stage.deliveries(endpoint).await.iter().map(|delivery| delivery.id.to_string()).collect();
    assert_eq!(deliveries, expected);
    for dispatcher in dispatchers {
        dispatcher.stop().await;
    }
}

#[tokio::test]
async fn the_others_go_on_once_the_attempts_of_the_first_are_used_up() {
    let stage = Stage::set().await;
    let mut receiver = Receiver::answering(&[500, 500, 500, 500, 200]).await;
    let endpoint = ordered(&stage, &receiver).await;
    let dispatcher = stage.dispatch(hasty());
    stage.append(MessageSent, new_id(), 3).await;
    let all =
        stage.until(endpoint, |all| all.len() == 3 && all.iter().all(|d| d.finished_at.is_some())).await;
    assert_eq!(
        all.iter().map(|delivery| delivery.status).collect::<Vec<_>>(),
        [DeliveryStatus::Exhausted, DeliveryStatus::Succeeded, DeliveryStatus::Succeeded]
    );
    assert_eq!(all[0].attempts.len(), 4);
    assert_eq!(receiver.rest().iter().map(number).collect::<Vec<_>>(), [0, 0, 0, 0, 1, 2]);
    dispatcher.stop().await;
}

#[tokio::test]
async fn it_waits_an_hour_at_most_whatever_the_receiver_asks_for() {
    let stage = Stage::set().await;
    let receiver = Receiver::start(|_| async {
        Response::builder().status(503).header("retry-after", "20000").body(Body::empty()).unwrap()
    })
    .await;
    let endpoint = ordered(&stage, &receiver).await;
    let dispatcher = stage.dispatch(hasty());
    stage.append(MessageSent, new_id(), 2).await;
    let all = stage.until(endpoint, |all| all.len() == 2 && all[0].next_attempt_at.is_some()).await;
    assert!(all[1].attempts.is_empty(), "the second waits behind the first");
    let lane = "select count(*) from queue.lanes
        where queue = 'deliver' and reason = 'retry'
            and closed_until - updated_at between interval '59 minutes' and interval '61 minutes'";
    assert_eq!(stage.count(lane).await, 1);
    let next = "select count(*) from deliveries where next_attempt_at < now() + interval '61 minutes'";
    assert_eq!(stage.count(next).await, 1);
    // Whoever has mended the receiver need not wait.
    let on = EndpointPatch { enabled: Some(true), ..EndpointPatch::default() };
    let mut tx = stage.database.begin().await.unwrap();
    endpoints::update(&mut tx, stage.account_id, endpoint, &on).await.unwrap();
    tx.commit().await.unwrap();
    stage.until(endpoint, |all| all[0].attempts.len() == 2).await;
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_dispatcher_that_dies_leaves_the_order_as_it_was() {
    let stage = Stage::set().await;
    let mut receiver = Receiver::start(|_| async {
        tokio::time::sleep(Duration::from_millis(2)).await;
        answer(200)
    })
    .await;
    let endpoint = ordered(&stage, &receiver).await;
    stage.append(MessageSent, new_id(), 300).await;
    let mut got = Vec::new();
    for _ in 0..3 {
        let dispatcher = stage.dispatch(DispatcherConfig::default());
        for _ in 0..40 {
            got.push(receiver.next().await);
        }
        dispatcher.kill();
    }
    let dispatcher = stage.dispatch(DispatcherConfig::default());
    stage.until(endpoint, all_are(DeliveryStatus::Succeeded, 300)).await;
    got.extend(receiver.rest());
    let (mut seen, mut first_times) = (BTreeSet::new(), Vec::new());
    for n in got.iter().map(number) {
        if seen.insert(n) {
            first_times.push(n);
        }
    }
    assert_eq!(first_times, (0..300).collect::<Vec<_>>());
    dispatcher.stop().await;
}

#[tokio::test]
async fn the_order_can_be_given_up() {
    let stage = Stage::set().await;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (at_once, peak) = (now.clone(), most.clone());
    let receiver = Receiver::start(move |_| {
        let (at_once, peak) = (at_once.clone(), peak.clone());
        async move {
            peak.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(50)).await;
            at_once.fetch_sub(1, Ordering::SeqCst);
            answer(200)
        }
    })
    .await;
    let endpoint = ordered(&stage, &receiver).await;
    let dispatcher = stage.dispatch(hasty());
    stage.append(MessageSent, new_id(), 5).await;
    stage.until(endpoint, all_are(DeliveryStatus::Succeeded, 5)).await;
    assert_eq!(most.load(Ordering::SeqCst), 1);
    set_ordered(&stage, endpoint, false).await;
    stage.append(MessageSent, new_id(), 30).await;
    stage.until(endpoint, all_are(DeliveryStatus::Succeeded, 35)).await;
    assert!((2..=10).contains(&most.load(Ordering::SeqCst)), "as many as its cap allows");
    dispatcher.stop().await;
}
