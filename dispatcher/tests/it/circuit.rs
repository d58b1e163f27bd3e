//! Endpoints that only fail: they are left alone, tried, taken back, and in the end given up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, response::Response};
use dispatcher::DispatcherConfig;
use shared::{
    db::endpoints::{self, EndpointPatch},
    domain::{circuit::DisableAfter, delivery::DeliveryStatus},
    events::EventType::{MessageDelivered, MessageSent},
    ids::new_id,
};
use uuid::Uuid;

use crate::support::{Receiver, SOON, Stage};

/// Settings whose circuits open after three failures within a moment, and whose retries do not end soon.
fn touchy(pause: Duration) -> DispatcherConfig {
    DispatcherConfig {
        webhook_retries: vec!["200ms"; 20].join(",").parse().unwrap(),
        webhook_circuit_failures: 3,
        webhook_circuit_over: Duration::from_millis(1),
        webhook_circuit_pause: pause,
        ..DispatcherConfig::default()
    }
}

fn status(code: u16) -> Response {
    Response::builder().status(code).body(Body::empty()).unwrap()
}

/// A receiver that fails until it is told otherwise, and how many requests it got.
async fn moody() -> (Receiver, Arc<AtomicBool>, Arc<AtomicUsize>) {
    let (well, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (answers, counted) = (well.clone(), count.clone());
    let receiver = Receiver::start(move |number| {
        counted.store(number, Ordering::SeqCst);
        let code = if answers.load(Ordering::SeqCst) { 200 } else { 500 };
        async move { status(code) }
    })
    .await;
    (receiver, well, count)
}

/// The lane's cap, and whether it is closed.
async fn lane(stage: &Stage, endpoint: Uuid) -> (Option<i32>, bool) {
    sqlx::query_as(
        "select cap, coalesce(closed_until > now(), false) from queue.lanes where queue = 'deliver' and lane = $1",
    )
    .bind(endpoint.to_string())
    .fetch_one(stage.pool())
    .await
    .unwrap()
}

async fn until_lane(stage: &Stage, endpoint: Uuid, wanted: (Option<i32>, bool)) {
    let reached = async {
        while lane(stage, endpoint).await != wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, reached).await.expect("the lane as wanted");
}

#[tokio::test]
async fn an_endpoint_that_only_fails_is_left_alone_and_taken_back_by_a_try() {
    let stage = Stage::set().await;
    let (receiver, well, requests) = moody().await;
    let (endpoint, _) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    let dispatcher = stage.dispatch(touchy(Duration::from_secs(2)));
    stage.append(MessageSent, new_id(), 40).await;
    until_lane(&stage, endpoint, (Some(1), true)).await;
    // What was under way when it opened ends within the moment; then nothing is tried and nothing counted.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = requests.load(Ordering::SeqCst);
    assert!(before <= 20, "{before} requests: two rounds of ten at most");
    let waiting = stage.deliveries(endpoint).await;
    assert!(waiting.iter().filter(|delivery| delivery.attempts.is_empty()).count() >= 20);
    assert!(waiting.iter().all(|delivery| delivery.status == DeliveryStatus::Pending));
    // One is tried, and fails: the pause is twice as long.
    let tried = async {
        while requests.load(Ordering::SeqCst) == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, tried).await.expect("a try");
    until_lane(&stage, endpoint, (Some(1), true)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(requests.load(Ordering::SeqCst), before + 1, "one at a time");
    let pause =
        "select closed_until - updated_at > interval '3 seconds' from queue.lanes where queue = 'deliver'";
    assert!(sqlx::query_scalar::<_, bool>(pause).fetch_one(stage.pool()).await.unwrap());
    assert_eq!(stage.count("select count(*) from endpoint_health where opened_at is not null").await, 1);

    well.store(true, Ordering::SeqCst);
    stage
        .until(endpoint, |all| {
            all.len() == 40 && all.iter().all(|delivery| delivery.status == DeliveryStatus::Succeeded)
        })
        .await;
    assert_eq!(lane(&stage, endpoint).await, (Some(10), false));
    assert_eq!(stage.count("select count(*) from endpoint_health where opened_at is null").await, 1);
    dispatcher.stop().await;
}

#[tokio::test]
async fn after_a_timeout_one_request_at_a_time_is_made_until_one_succeeds() {
    let stage = Stage::set().await;
    let (at_once, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, peak) = (at_once.clone(), most.clone());
    let receiver = Receiver::start(move |number| {
        let (now, peak) = (now.clone(), peak.clone());
        async move {
            let others = now.fetch_add(1, Ordering::SeqCst);
            // The first hangs and is given up; all up to the first success come while the endpoint is slow.
            if (2..=6).contains(&number) {
                peak.fetch_max(others, Ordering::SeqCst);
            }
            tokio::time::sleep(Duration::from_millis(if number == 1 { 5000 } else { 100 })).await;
            now.fetch_sub(1, Ordering::SeqCst);
            status(if number < 6 { 500 } else { 200 })
        }
    })
    .await;
    let (endpoint, _) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    let config = DispatcherConfig {
        webhook_timeout: Duration::from_secs(1),
        webhook_circuit_failures: 1000,
        ..touchy(Duration::from_secs(1))
    };
    let dispatcher = stage.dispatch(config);
    stage.append(MessageSent, new_id(), 1).await;
    until_lane(&stage, endpoint, (Some(1), false)).await;
    stage.append(MessageSent, new_id(), 30).await;
    let done = |all: &[shared::domain::delivery::Delivery]| {
        all.len() == 31 && all.iter().all(|delivery| delivery.status == DeliveryStatus::Succeeded)
    };
    stage.until(endpoint, done).await;
    assert!(most.load(Ordering::SeqCst) <= 1, "beside the one that hangs, one at a time");
    assert_eq!(lane(&stage, endpoint).await, (Some(10), false));
    dispatcher.stop().await;
}

#[tokio::test]
async fn endpoints_that_hang_get_half_of_the_slots_before_they_have_timed_out() {
    let stage = Stage::set().await;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (at_once, peak) = (now.clone(), most.clone());
    let hanging = Receiver::start(move |number| {
        let (at_once, peak) = (at_once.clone(), peak.clone());
        async move {
            let others = at_once.fetch_add(1, Ordering::SeqCst);
            // The first ones fill all slots, for nobody knows yet.
            if number > 4 {
                peak.fetch_max(others + 1, Ordering::SeqCst);
            }
            tokio::time::sleep(Duration::from_secs(if number > 4 { 4 } else { 3 })).await;
            at_once.fetch_sub(1, Ordering::SeqCst);
            status(500)
        }
    })
    .await;
    let healthy = Receiver::answering(&[200]).await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        slow.push(stage.endpoint(&hanging.url, &[MessageSent]).await.0);
    }
    let config = DispatcherConfig {
        webhook_slots: 4,
        webhook_timeout: Duration::from_secs(20),
        webhook_circuit_failures: 1000,
        ..touchy(Duration::from_secs(1))
    };
    let dispatcher = stage.dispatch(config);
    stage.append(MessageSent, new_id(), 3).await;
    for endpoint in slow {
        until_lane(&stage, endpoint, (Some(1), false)).await;
    }
    let (well, _) = stage.endpoint(&healthy.url, &[MessageDelivered]).await;
    let failed = "select count(*) from attempts where status_code = 500";
    while stage.count(failed).await < 8 {
        stage.append(MessageDelivered, new_id(), 1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(most.load(Ordering::SeqCst), 2);
    stage.until(well, |all| all.iter().all(|delivery| delivery.status == DeliveryStatus::Succeeded)).await;
    dispatcher.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_fails_for_too_long_is_disabled_and_its_account_told() {
    let stage = Stage::set().await;
    let receiver = Receiver::answering(&[500]).await;
    let (endpoint, _) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    let config = DispatcherConfig {
        webhook_disable_after: DisableAfter(Some(Duration::from_secs(1))),
        ..touchy(Duration::from_millis(300))
    };
    let dispatcher = stage.dispatch(config);
    stage.append(MessageSent, new_id(), 5).await;
    let cancelled =
        |delivery: &shared::domain::delivery::Delivery| delivery.status == DeliveryStatus::Cancelled;
    stage.until(endpoint, |all| all.len() == 5 && all.iter().all(cancelled)).await;
    let mut conn = stage.pool().acquire().await.unwrap();
    let shown = endpoints::find(&mut conn, stage.account_id, endpoint).await.unwrap().unwrap();
    assert_eq!((shown.enabled, shown.disabled_reason.as_deref()), (false, Some("failing")));
    let told: (Uuid, String, String, Uuid) =
        sqlx::query_as("select account_id, type, body, (resource ->> 'id')::uuid from notifications")
            .fetch_one(&mut *conn)
            .await
            .unwrap();
    assert_eq!((told.0, told.1.as_str(), told.3), (stage.account_id, "webhook.disabled", endpoint));
    assert!(
        told.2.starts_with("The endpoint at 127.0.0.1 ") && !told.2.contains(&receiver.url),
        "paths may be secrets"
    );

    // Whoever enables it again begins anew.
    let on = EndpointPatch { enabled: Some(true), ..EndpointPatch::default() };
    let mut tx = stage.database.begin().await.unwrap();
    let again = endpoints::update(&mut tx, stage.account_id, endpoint, &on).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    assert!(again.enabled && again.failing_since.is_none() && again.disabled_reason.is_none());
    assert_eq!(lane(&stage, endpoint).await, (Some(10), false));
    dispatcher.stop().await;
}
