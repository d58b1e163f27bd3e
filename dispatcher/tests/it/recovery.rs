//! What outages and ends of processes do: nothing is lost, and what repeats keeps its id.

use axum::{body::Body, response::Response};
use dispatcher::DispatcherConfig;
use shared::{domain::delivery::DeliveryStatus, events::EventType::MessageSent, ids::new_id};

use crate::support::{Receiver, Stage, hasty};

/// Answers every request but the first.
async fn silent_once() -> Receiver {
    Receiver::start(|number| async move {
        if number == 1 {
            std::future::pending::<()>().await;
        }
        Response::new(Body::empty())
    })
    .await
}

#[tokio::test]
async fn a_request_under_way_at_a_shutdown_is_made_again_with_its_id() {
    let stage = Stage::set().await;
    let mut receiver = silent_once().await;
    let (endpoint, _) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    stage.append(MessageSent, new_id(), 1).await;
    let dispatcher = stage.dispatch_with(DispatcherConfig::default(), "127.0.0.0/8", "200ms");
    let first = receiver.next().await;
    dispatcher.stop().await;
    let waiting = stage.deliveries(endpoint).await;
    assert_eq!((waiting[0].status, waiting[0].attempts.len()), (DeliveryStatus::Pending, 0));
    assert_eq!(stage.count("select count(*) from queue.running").await, 0, "it was given back");

    let dispatcher = stage.dispatch(DispatcherConfig::default());
    let second = receiver.next().await;
    assert_eq!(first.header("x-iris-delivery"), second.header("x-iris-delivery"));
    assert_eq!(first.body, second.body);
    stage.until_status(endpoint, DeliveryStatus::Succeeded).await;
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_dispatcher_that_dies_is_succeeded_by_the_next() {
    let stage = Stage::set().await;
    let mut receiver = silent_once().await;
    let (endpoint, _) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    stage.append(MessageSent, new_id(), 5).await;
    let dispatcher = stage.dispatch(DispatcherConfig::default());
    let first = receiver.next().await;
    stage
        .until(endpoint, |all| all.iter().filter(|d| d.status == DeliveryStatus::Succeeded).count() == 4)
        .await;
    dispatcher.kill();

    let dispatcher = stage.dispatch(DispatcherConfig::default());
    let all = stage.until(endpoint, |all| all.iter().all(|d| d.status == DeliveryStatus::Succeeded)).await;
    assert_eq!(all.len(), 5);
    dispatcher.stop().await;
    let rest = receiver.rest();
    assert_eq!(rest.len(), 5, "only what was in flight is repeated");
    let repeated =
        rest.iter().filter(|again| again.header("x-iris-delivery") == first.header("x-iris-delivery"));
    assert_eq!(repeated.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_connections_lose_nothing() {
    let stage = Stage::set().await;
    let mut receiver = Receiver::answering(&[200]).await;
    let (endpoint, secret) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    let dispatcher = stage.dispatch(hasty());
    let mut requests = Vec::new();
    for _ in 0..20 {
        stage.append(MessageSent, new_id(), 10).await;
        // As if the server had restarted, for everybody but this test's own connection.
        sqlx::query(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and application_name like 'iris%'",
        )
        .execute(stage.pool())
        .await
        .unwrap();
        requests.push(receiver.next().await);
    }
    let all = stage
        .until(endpoint, |all| all.len() == 200 && all.iter().all(|d| d.status == DeliveryStatus::Succeeded))
        .await;
    dispatcher.stop().await;
    requests.extend(receiver.rest());
    for request in &requests {
        request.verify(&secret);
    }
    for delivery in &all {
        let id = delivery.id.to_string();
        assert!(requests.iter().any(|request| request.header("x-iris-delivery") == id), "{id} was lost");
    }
}
