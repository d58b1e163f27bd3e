//! What a receiver sees: the wire, the retries, and the end of a delivery.

use std::time::Duration;

use axum::{body::Body, response::Response};
use dispatcher::DispatcherConfig;
use serde_json::Value;
use shared::{
    db::endpoints,
    domain::delivery::{DeliveryStatus, ErrorClass},
    events::EventType::{ContactCreated, MessageSent},
    ids::{event_id, new_id},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::support::{Receiver, SOON, Stage, hasty};

#[tokio::test]
async fn a_delivery_is_signed_and_succeeds() {
    let stage = Stage::set().await;
    let mut receiver = Receiver::answering(&[200]).await;
    let (endpoint, secret) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    let dispatcher = stage.dispatch(DispatcherConfig::default());
    let message = new_id();
    let event = stage.append(MessageSent, message, 1).await[0];

    let request = receiver.next().await;
    request.verify(&secret);
    assert_eq!(request.path, "/hooks");
    let body: Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!(body["id"], event_id(event));
    assert_eq!(body["event"], "message.sent");
    assert_eq!(body["data"]["id"], message.to_string());
    assert_eq!(request.number(), 0);

    let delivery = stage.until_status(endpoint, DeliveryStatus::Succeeded).await;
    assert_eq!(delivery.id.to_string(), request.header("x-iris-delivery"));
    assert_eq!(delivery.event_id, event_id(event));
    assert_eq!(delivery.next_attempt_at, None);
    assert!(delivery.finished_at.is_some());
    let [attempt] = &delivery.attempts[..] else { panic!("{delivery:?}") };
    assert_eq!((attempt.number, attempt.status_code, attempt.error_class), (1, Some(200), None));
    assert_eq!(attempt.response_excerpt.as_deref(), Some("answer 1"));

    let mut conn = stage.pool().acquire().await.unwrap();
    let shown = endpoints::find(&mut conn, stage.account_id, endpoint).await.unwrap().unwrap();
    assert!(shown.last_success_at.is_some() && shown.failing_since.is_none());
    drop(conn);
    dispatcher.stop().await;
    assert_eq!(receiver.rest().len(), 0);
    let jobs_left = "select (select count(*) from queue.ready) + (select count(*) from queue.deferred)
        + (select count(*) from queue.running) + (select count(*) from queue.dead)";
    assert_eq!(stage.count(jobs_left).await, 0);
}

#[tokio::test]
async fn an_endpoints_own_headers_are_sent_beside_ours_and_replace_none() {
    let stage = Stage::set().await;
    let mut receiver = Receiver::answering(&[200]).await;
    let (endpoint, secret) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    // Stored as they might have been before a name was denied.
    let own = [("authorization", "Bearer ours"), ("x-iris-timestamp", "0"), ("user-agent", "x")];
    stage.set_headers(endpoint, own.map(|(name, value)| (name.to_owned(), value.to_owned())).into()).await;
    let dispatcher = stage.dispatch(DispatcherConfig::default());
    stage.append(MessageSent, new_id(), 1).await;
    let request = receiver.next().await;
    request.verify(&secret);
    assert_eq!(request.header("authorization"), "Bearer ours");
    assert_eq!(request.header("user-agent"), "Iris-Webhooks/1.0");
    dispatcher.stop().await;
}

/// The request byte by byte: a change of the wire must change this test.
#[tokio::test]
async fn the_wire_is_as_documented() {
    let stage = Stage::set().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    stage.endpoint(&format!("http://{addr}/a/b?c=d"), &[MessageSent]).await;
    stage.append(MessageSent, new_id(), 1).await;
    let dispatcher = stage.dispatch(DispatcherConfig::default());
    let (mut socket, _) = tokio::time::timeout(SOON, listener.accept()).await.unwrap().unwrap();
    let mut bytes = Vec::new();
    let head = loop {
        assert!(socket.read_buf(&mut bytes).await.unwrap() > 0);
        let text = String::from_utf8(bytes.clone()).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && body.ends_with('}')
        {
            break head.replace(&body.len().to_string(), "BODY BYTES");
        }
    };
    socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    let mut lines: Vec<String> = head
        .split("\r\n")
        .map(|line| {
            let (name, value) = line.split_once(": ").unwrap_or((line, ""));
            let shape: String = match name {
                "x-iris-delivery" | "webhook-id" => {
                    value.chars().map(|c| if c == '-' { c } else { 'x' }).collect()
                }
                "x-iris-timestamp" | "webhook-timestamp" => "0".repeat(value.len()),
                "x-iris-signature" => format!("{} hex digits", value.len()),
                "webhook-signature" => format!("v1,{} base64 characters", value.len() - 3),
                "host" => value.replace(&addr.to_string(), "ADDRESS"),
                _ => value.to_owned(),
            };
            format!("{name}: {shape}")
        })
        .collect();
    lines[1..].sort();
    assert_eq!(
        lines,
        [
            "POST /a/b?c=d HTTP/1.1: ",
            "accept: */*",
            "content-length: BODY BYTES",
            "content-type: application/json",
            "host: ADDRESS",
            "user-agent: Iris-Webhooks/1.0",
            "webhook-id: xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx",
            "webhook-signature: v1,44 base64 characters",
            "webhook-timestamp: 0000000000",
            "x-iris-delivery: xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx",
            "x-iris-signature: 64 hex digits",
            "x-iris-timestamp: 0000000000",
        ]
    );
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_failure_is_tried_again_with_the_same_id_and_bytes() {
    let stage = Stage::set().await;
    let mut receiver = Receiver::answering(&[500, 429, 200]).await;
    let (endpoint, secret) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    stage.append(MessageSent, new_id(), 1).await;
    let dispatcher = stage.dispatch(hasty());
    let requests = [receiver.next().await, receiver.next().await, receiver.next().await];
    for request in &requests {
        request.verify(&secret);
        assert_eq!(request.header("x-iris-delivery"), requests[0].header("x-iris-delivery"));
        assert_eq!(request.body, requests[0].body);
    }
    let delivery = stage.until_status(endpoint, DeliveryStatus::Succeeded).await;
    let attempts: Vec<_> =
        delivery.attempts.iter().map(|a| (a.number, a.status_code, a.error_class)).collect();
    assert_eq!(
        attempts,
        [
            (1, Some(500), Some(ErrorClass::Status)),
            (2, Some(429), Some(ErrorClass::Status)),
            (3, Some(200), None)
        ]
    );
    dispatcher.stop().await;
}

#[tokio::test]
async fn after_four_attempts_a_delivery_is_exhausted() {
    let stage = Stage::set().await;
    let mut receiver = Receiver::answering(&[503]).await;
    let (endpoint, _) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    stage.append(MessageSent, new_id(), 1).await;
    let dispatcher = stage.dispatch(hasty());
    let delivery = stage.until_status(endpoint, DeliveryStatus::Exhausted).await;
    assert_eq!(delivery.attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(delivery.attempts.iter().all(|attempt| attempt.status_code == Some(503)));
    assert!(delivery.finished_at.is_some() && delivery.next_attempt_at.is_none());
    let mut conn = stage.pool().acquire().await.unwrap();
    let shown = endpoints::find(&mut conn, stage.account_id, endpoint).await.unwrap().unwrap();
    assert_eq!(
        shown.failing_since.map(|at| at.timestamp_millis()),
        Some(delivery.attempts[0].started_at.timestamp_millis())
    );
    assert!(shown.enabled && shown.last_success_at.is_none());
    drop(conn);
    dispatcher.stop().await;
    assert_eq!(receiver.rest().len(), 4);
    assert_eq!(stage.count("select count(*) from queue.dead").await, 0, "the job did its work");
    assert_eq!(stage.count("select count(*) from queue.deferred").await, 0);
}

#[tokio::test]
async fn a_longer_retry_after_is_honoured() {
    let stage = Stage::set().await;
    let answer = |_| async {
        Response::builder().status(503).header("retry-after", "3600").body(Body::empty()).unwrap()
    };
    let receiver = Receiver::start(answer).await;
    let (endpoint, _) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    stage.append(MessageSent, new_id(), 1).await;
    let dispatcher = stage.dispatch(hasty());
    let all = stage.until(endpoint, |all| all.len() == 1 && !all[0].attempts.is_empty()).await;
    assert_eq!(all[0].status, DeliveryStatus::Pending);
    let wait = all[0].next_attempt_at.unwrap() - all[0].attempts[0].started_at;
    assert!((3590..3660).contains(&wait.num_seconds()), "{wait}");
    dispatcher.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_answers_only_gone_is_disabled() {
    let stage = Stage::set().await;
    let gone = Receiver::answering(&[410]).await;
    let once = Receiver::answering(&[500, 410]).await;
    let (gone_id, _) = stage.endpoint(&gone.url, &[MessageSent]).await;
    let (once_id, _) = stage.endpoint(&once.url, &[MessageSent]).await;
    stage.append(MessageSent, new_id(), 1).await;
    let dispatcher = stage.dispatch(hasty());
    stage.until_status(gone_id, DeliveryStatus::Exhausted).await;
    stage.until_status(once_id, DeliveryStatus::Exhausted).await;
    let mut conn = stage.pool().acquire().await.unwrap();
    let shown = endpoints::find(&mut conn, stage.account_id, gone_id).await.unwrap().unwrap();
    assert_eq!((shown.enabled, shown.disabled_reason.as_deref()), (false, Some("gone")));
    let shown = endpoints::find(&mut conn, stage.account_id, once_id).await.unwrap().unwrap();
    assert_eq!((shown.enabled, shown.disabled_reason), (true, None));
    drop(conn);
    dispatcher.stop().await;
}

#[tokio::test]
async fn what_waits_for_a_deleted_endpoint_is_cancelled() {
    let stage = Stage::set().await;
    let mut receiver = Receiver::answering(&[500]).await;
    let (endpoint, _) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    stage.append(MessageSent, new_id(), 1).await;
    let long = DispatcherConfig { webhook_retries: "1s".parse().unwrap(), ..DispatcherConfig::default() };
    let dispatcher = stage.dispatch(long);
    receiver.next().await;
    let mut tx = stage.database.begin().await.unwrap();
    assert!(endpoints::delete(&mut tx, stage.account_id, endpoint).await.unwrap().is_some());
    assert!(endpoints::delete(&mut tx, stage.account_id, endpoint).await.unwrap().is_none());
    tx.commit().await.unwrap();
    let delivery = stage.until_status(endpoint, DeliveryStatus::Cancelled).await;
    assert_eq!(delivery.attempts.len(), 1);
    dispatcher.stop().await;
    assert_eq!(receiver.rest().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_dispatchers_share_the_work_without_repeating_it() {
    let stage = Stage::set().await;
    let mut receiver = Receiver::answering(&[200]).await;
    let (sent, sent_secret) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    let (both, both_secret) = stage.endpoint(&receiver.url, &[MessageSent, ContactCreated]).await;
    let (one, two) =
        (stage.dispatch(DispatcherConfig::default()), stage.dispatch(DispatcherConfig::default()));
    for _ in 0..10 {
        stage.append(MessageSent, new_id(), 20).await;
        stage.append(ContactCreated, new_id(), 10).await;
    }
    let done = |count| {
        move |all: &[shared::domain::delivery::Delivery]| {
            all.len() == count && all.iter().all(|delivery| delivery.status == DeliveryStatus::Succeeded)
        }
    };
    let mut expected: Vec<String> = Vec::new();
    for (endpoint, count) in [(sent, 200), (both, 300)] {
        let all = stage.until(endpoint, done(count)).await;
        expected.extend(all.iter().map(|delivery| delivery.id.to_string()));
        assert!(all.iter().all(|delivery| delivery.attempts.len() == 1));
    }
    one.stop().await;
    two.stop().await;
    let requests = receiver.rest();
    for request in &requests {
        let id = request.header("x-iris-delivery");
        let is_sent = expected[..200].iter().any(|known| known == id);
        request.verify(if is_sent { &sent_secret } else { &both_secret });
    }
    let mut ids: Vec<String> =
        requests.iter().map(|request| request.header("x-iris-delivery").to_owned()).collect();
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected);
}

#[tokio::test]
async fn a_burst_to_one_endpoint_never_exceeds_its_cap() {
    use std::sync::{
        Arc,
        atomic::{AtomicI32, Ordering::SeqCst},
    };

    let stage = Stage::set().await;
    let (now, most) = (Arc::new(AtomicI32::new(0)), Arc::new(AtomicI32::new(0)));
    let (now_seen, most_seen) = (now.clone(), most.clone());
    let receiver = Receiver::start(move |_| {
        let (now, most) = (now_seen.clone(), most_seen.clone());
        async move {
            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            // Long enough that requests overlap whenever they may.
            tokio::time::sleep(Duration::from_millis(20)).await;
            now.fetch_sub(1, SeqCst);
            Response::new(Body::empty())
        }
    })
    .await;
    let (endpoint, _) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    stage.append(MessageSent, new_id(), 60).await;
    let dispatcher = stage.dispatch(DispatcherConfig::default());
    stage
        .until(endpoint, |all| all.len() == 60 && all.iter().all(|d| d.status == DeliveryStatus::Succeeded))
        .await;
    dispatcher.stop().await;
    let most = most.load(SeqCst);
    assert!((2..=10).contains(&most), "{most} at once");
}
