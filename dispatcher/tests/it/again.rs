//! Deliveries that are made again, and secrets that are replaced.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use dispatcher::DispatcherConfig;
use shared::{
    Database,
    db::{
        endpoints::{self, EndpointPatch},
        redeliveries::{self, Redelivered},
    },
    domain::delivery::{Delivery, DeliveryStatus},
    events::EventType::MessageSent,
    ids::new_id,
};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::support::{Receiver, SOON, Stage, hasty};

/// Older deliveries are left alone.
const AGE_MAX: Duration = Duration::from_secs(29 * 86_400);
const WEEK: Duration = Duration::from_secs(7 * 86_400);

async fn redeliver(database: &Database, account_id: Uuid, endpoint: Uuid, delivery: Uuid) -> Delivery {
    let mut tx = database.begin().await.unwrap();
    let again = redeliveries::redeliver(&mut tx, account_id, endpoint, delivery, AGE_MAX).await.unwrap();
    tx.commit().await.unwrap();
    let Redelivered::Delivery(delivery) = again else { panic!("{again:?}") };
    *delivery
}

/// Settings whose retries come in an hour.
fn patient() -> DispatcherConfig {
    DispatcherConfig { webhook_retries: "1h,1h,1h".parse().unwrap(), ..DispatcherConfig::default() }
}

async fn deliver_jobs(stage: &Stage) -> i64 {
    stage
        .count(
            "select (select count(*) from queue.ready where queue = 'deliver')
                + (select count(*) from queue.deferred where queue = 'deliver')
                + (select count(*) from queue.running where queue = 'deliver')",
        )
        .await
}

/// Makes deliveries of what is in the outbox, where no dispatcher does.
async fn relay(stage: &Stage) {
    for shard in 0..16 {
        dispatcher::relay::relay_shards(&stage.database, &[(shard, 10)]).await.unwrap();
    }
}

fn numbers(delivery: &Delivery) -> Vec<i32> {
    delivery.attempts.iter().map(|attempt| attempt.number).collect()
}

#[tokio::test]
async fn an_exhausted_delivery_is_made_again_under_its_id_with_all_its_retries() {
    let stage = Stage::set().await;
    let mut receiver = Receiver::answering(&[503, 503, 503, 503, 503, 503, 503, 200]).await;
    let (endpoint, secret) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    let dispatcher = stage.dispatch(hasty());
    stage.append(MessageSent, new_id(), 1).await;
    let exhausted = stage.until_status(endpoint, DeliveryStatus::Exhausted).await;
    assert_eq!(numbers(&exhausted), [1, 2, 3, 4]);

    let again = redeliver(&stage.database, stage.account_id, endpoint, exhausted.id).await;
    assert_eq!((again.id, again.status), (exhausted.id, DeliveryStatus::Pending));
    assert_eq!((again.finished_at, again.next_attempt_at, numbers(&again)), (None, None, vec![1, 2, 3, 4]));
    let done = stage.until_status(endpoint, DeliveryStatus::Succeeded).await;
    assert_eq!(numbers(&done), [1, 2, 3, 4, 5, 6, 7, 8], "the last of its retries is the one that succeeds");
    dispatcher.stop().await;
    let requests = receiver.rest();
    assert_eq!(requests.len(), 8);
    for request in &requests {
        request.verify(&secret);
        assert_eq!(request.header("x-iris-delivery"), exhausted.id.to_string());
        assert_eq!(request.body, requests[0].body);
    }
    assert_eq!(deliver_jobs(&stage).await, 0);
}

#[tokio::test]
async fn a_delivery_made_again_is_exhausted_again_after_its_retries() {
    let stage = Stage::set().await;
    let receiver = Receiver::answering(&[503]).await;
    let (endpoint, _) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    let dispatcher = stage.dispatch(hasty());
    stage.append(MessageSent, new_id(), 1).await;
    let exhausted = stage.until_status(endpoint, DeliveryStatus::Exhausted).await;
    redeliver(&stage.database, stage.account_id, endpoint, exhausted.id).await;
    let ended = stage.until(endpoint, |all| all[0].status == DeliveryStatus::Exhausted).await;
    dispatcher.stop().await;
    assert_eq!(numbers(&ended[0]), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(stage.count("select count(*) from queue.dead").await, 0);
}

#[tokio::test]
async fn an_acknowledged_one_becomes_a_new_delivery_of_the_same_event() {
    let stage = Stage::set().await;
    let mut receiver = Receiver::answering(&[200]).await;
    let (endpoint, secret) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    let dispatcher = stage.dispatch(hasty());
    stage.append(MessageSent, new_id(), 1).await;
    let first = stage.until_status(endpoint, DeliveryStatus::Succeeded).await;
    let second = redeliver(&stage.database, stage.account_id, endpoint, first.id).await;
    assert_ne!(second.id, first.id);
    assert_eq!((second.event_id.as_str(), second.status), (first.event_id.as_str(), DeliveryStatus::Pending));
    let all = stage.until(endpoint, |all| all.iter().all(|d| d.status == DeliveryStatus::Succeeded)).await;
    dispatcher.stop().await;
    assert_eq!(all.iter().map(|delivery| delivery.id).collect::<Vec<_>>(), [first.id, second.id]);
    assert_eq!(all[0], first, "what was acknowledged stays as it is");
    let requests = receiver.rest();
    let ids: Vec<&str> = requests.iter().map(|request| request.header("x-iris-delivery")).collect();
    assert_eq!(ids, [first.id.to_string(), second.id.to_string()]);
    assert_eq!(requests[0].body, requests[1].body);
    requests[1].verify(&secret);
    let numbers: Vec<i64> = sqlx::query_scalar("select number from deliveries order by id")
        .fetch_all(stage.pool())
        .await
        .unwrap();
    assert_eq!(numbers, [1, 2]);
}

#[tokio::test]
async fn one_that_waits_for_its_retry_is_brought_forward() {
    let stage = Stage::set().await;
    let mut receiver = Receiver::answering(&[500, 200]).await;
    let (endpoint, _) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    let dispatcher = stage.dispatch(patient());
    stage.append(MessageSent, new_id(), 1).await;
    let waiting = stage.until(endpoint, |all| all.len() == 1 && !all[0].attempts.is_empty()).await.remove(0);
    assert_eq!((waiting.status, deliver_jobs(&stage).await), (DeliveryStatus::Pending, 1));

    let again = redeliver(&stage.database, stage.account_id, endpoint, waiting.id).await;
    assert_eq!((again.id, again.status), (waiting.id, DeliveryStatus::Pending));
    assert!(again.next_attempt_at < waiting.next_attempt_at, "{again:?}");
    let done = stage.until_status(endpoint, DeliveryStatus::Succeeded).await;
    assert_eq!(numbers(&done), [1, 2]);
    dispatcher.stop().await;
    assert_eq!(receiver.rest().len(), 2);
    assert_eq!(deliver_jobs(&stage).await, 0);
}

#[tokio::test]
async fn one_that_is_ready_or_being_attempted_is_left_as_it_is() {
    let stage = Stage::set().await;
    let answer = Arc::new(Notify::new());
    let wait = answer.clone();
    let mut receiver = Receiver::start(move |number| {
        let wait = wait.clone();
        async move {
            if number == 2 {
                wait.notified().await;
            }
            Response::builder().status(if number == 1 { 500 } else { 200 }).body(Body::empty()).unwrap()
        }
    })
    .await;
    let (endpoint, _) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    stage.append(MessageSent, new_id(), 1).await;
    let dispatcher = stage.dispatch(hasty());
    receiver.next().await;
    receiver.next().await;
    // It has a job, known by its first attempt, which runs.
    let delivery = stage.deliveries(endpoint).await.remove(0);
    for _ in 0..2 {
        let again = redeliver(&stage.database, stage.account_id, endpoint, delivery.id).await;
        assert_eq!((again.status, numbers(&again)), (DeliveryStatus::Pending, vec![1]));
        assert_eq!(deliver_jobs(&stage).await, 1);
    }
    answer.notify_one();
    let done = stage.until_status(endpoint, DeliveryStatus::Succeeded).await;
    assert_eq!(numbers(&done), [1, 2]);
    dispatcher.stop().await;

    let waiting = stage.append(MessageSent, new_id(), 1).await;
    relay(&stage).await;
    let ready = stage.deliveries(endpoint).await.pop().unwrap();
    assert_eq!(ready.event_id, shared::ids::event_id(waiting[0]));
    redeliver(&stage.database, stage.account_id, endpoint, ready.id).await;
    assert_eq!(deliver_jobs(&stage).await, 1);
    assert_eq!(receiver.rest().len(), 0);
}

#[tokio::test]
async fn a_delivery_whose_job_is_dead_is_made_again() {
    let stage = Stage::set().await;
    let receiver = Receiver::answering(&[200]).await;
    let (endpoint, _) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    // As three processes in a row that died with it leave it.
    let die = async |id: Uuid| {
        let died = sqlx::query(
            "with gone as (delete from queue.ready returning *)
             insert into queue.dead (shard, id, queue, tenant, lane, priority, run, max_attempts, payload, created_at, rank, reason)
             select shard, id, queue, tenant, lane, priority, run, max_attempts, payload, created_at, rank, 'crashed' from gone",
        );
        assert_eq!(died.execute(stage.database.pool()).await.unwrap().rows_affected(), 1);
        redeliver(&stage.database, stage.account_id, endpoint, id).await;
    };
    stage.append(MessageSent, new_id(), 1).await;
    relay(&stage).await;
    let waiting = stage.deliveries(endpoint).await.remove(0);
    die(waiting.id).await;
    let dispatcher = stage.dispatch(hasty());
    let done = stage.until_status(endpoint, DeliveryStatus::Succeeded).await;
    dispatcher.stop().await;
    assert_eq!((done.id, numbers(&done)), (waiting.id, vec![1]));
    // The job of one that is made again is known as well.
    let again = redeliver(&stage.database, stage.account_id, endpoint, waiting.id).await;
    die(again.id).await;
    let dispatcher = stage.dispatch(hasty());
    let both =
        stage.until(endpoint, |all| all.iter().all(|one| one.status == DeliveryStatus::Succeeded)).await;
    assert_eq!(both.len(), 2);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_delivery_whose_dead_job_was_discarded_gets_a_new_one() {
    let stage = Stage::set().await;
    let mut receiver = Receiver::answering(&[200]).await;
    let (endpoint, _) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    stage.append(MessageSent, new_id(), 1).await;
    relay(&stage).await;
    let lost = stage.deliveries(endpoint).await.remove(0);
    sqlx::query("delete from queue.ready").execute(stage.database.pool()).await.unwrap();
    for _ in 0..2 {
        let again = redeliver(&stage.database, stage.account_id, endpoint, lost.id).await;
        assert_eq!((again.id, again.status), (lost.id, DeliveryStatus::Pending));
        assert_eq!(deliver_jobs(&stage).await, 1);
    }
    let dispatcher = stage.dispatch(hasty());
    let done = stage.until_status(endpoint, DeliveryStatus::Succeeded).await;
    dispatcher.stop().await;
    assert_eq!((numbers(&done), receiver.rest().len()), (vec![1], 1));
}

#[tokio::test]
async fn two_that_ask_at_once_make_one_job() {
    let stage = Stage::set().await;
    let receiver = Receiver::answering(&[500]).await;
    let (endpoint, _) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    stage.append(MessageSent, new_id(), 1).await;
    let once = DispatcherConfig { webhook_retries: "none".parse().unwrap(), ..DispatcherConfig::default() };
    let dispatcher = stage.dispatch(once);
    let exhausted = stage.until_status(endpoint, DeliveryStatus::Exhausted).await;
    dispatcher.stop().await;

    let mut first = stage.database.begin().await.unwrap();
    redeliveries::redeliver(&mut first, stage.account_id, endpoint, exhausted.id, AGE_MAX).await.unwrap();
    let (database, account_id) = (stage.database.clone(), stage.account_id);
    let second = tokio::spawn(async move { redeliver(&database, account_id, endpoint, exhausted.id).await });
    let waits = "select count(*) from pg_locks where not granted and locktype in ('transactionid', 'tuple')
        and pid in (select pid from pg_stat_activity where datname = current_database())";
    while stage.count(waits).await == 0 {
        assert!(!second.is_finished(), "it waits for the first");
        tokio::task::yield_now().await;
    }
    first.commit().await.unwrap();
    let second = tokio::time::timeout(SOON, second).await.unwrap().unwrap();
    assert_eq!((second.id, second.status), (exhausted.id, DeliveryStatus::Pending));
    assert_eq!(deliver_jobs(&stage).await, 1);
}

#[tokio::test]
async fn a_cancelled_delivery_is_made_again_once_its_endpoint_is_enabled() {
    let stage = Stage::set().await;
    let mut receiver = Receiver::answering(&[200]).await;
    let (endpoint, _) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    stage.append(MessageSent, new_id(), 1).await;
    relay(&stage).await;
    enable(&stage, endpoint, false).await;
    let dispatcher = stage.dispatch(hasty());
    let cancelled = stage.until_status(endpoint, DeliveryStatus::Cancelled).await;
    assert_eq!(numbers(&cancelled), [0; 0]);
    let mut tx = stage.database.begin().await.unwrap();
    let refused =
        redeliveries::redeliver(&mut tx, stage.account_id, endpoint, cancelled.id, AGE_MAX).await.unwrap();
    assert!(matches!(refused, Redelivered::EndpointDisabled), "{refused:?}");
    tx.rollback().await.unwrap();
    enable(&stage, endpoint, true).await;
    redeliver(&stage.database, stage.account_id, endpoint, cancelled.id).await;
    let done = stage.until_status(endpoint, DeliveryStatus::Succeeded).await;
    assert_eq!((done.id, numbers(&done)), (cancelled.id, vec![1]));
    dispatcher.stop().await;
    assert_eq!(receiver.rest().len(), 1);
}

async fn enable(stage: &Stage, endpoint: Uuid, enabled: bool) {
    let mut tx = stage.database.begin().await.unwrap();
    let patch = EndpointPatch { enabled: Some(enabled), ..EndpointPatch::default() };
    endpoints::update(&mut tx, stage.account_id, endpoint, &patch).await.unwrap().unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_replaced_secret_signs_beside_the_new_one_until_its_overlap_ends() {
    let stage = Stage::set().await;
    let mut receiver = Receiver::answering(&[200]).await;
    let (endpoint, first) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    let dispatcher = stage.dispatch(hasty());
    let mut request = async || {
        stage.append(MessageSent, new_id(), 1).await;
        receiver.next().await
    };
    request().await.verify(&first);
    let second = stage.rotate(endpoint, WEEK).await;
    request().await.verify_overlap(&[&second, &first]);
    let third = stage.rotate(endpoint, WEEK).await;
    request().await.verify_overlap(&[&third, &second]);
    // As if the week were over.
    sqlx::query("update endpoints set old_secret_until = now() - interval '1 ms'")
        .execute(stage.pool())
        .await
        .unwrap();
    request().await.verify(&third);
    let fourth = stage.rotate(endpoint, Duration::ZERO).await;
    request().await.verify(&fourth);
    assert_eq!(stage.count("select count(*) from endpoints where old_secret is not null").await, 0);
    dispatcher.stop().await;
}
