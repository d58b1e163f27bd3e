//! Receivers that mean harm, or are broken: each costs one failed attempt and nothing else.

use std::time::Duration;

use axum::{body::Body, response::Response};
use dispatcher::DispatcherConfig;
use shared::{
    domain::delivery::{Attempt, DeliveryStatus, ErrorClass},
    events::EventType::MessageSent,
    ids::new_id,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use uuid::Uuid;

use crate::support::{Receiver, Stage};

/// One attempt, with little patience.
fn once() -> DispatcherConfig {
    DispatcherConfig {
        webhook_retries: "none".parse().unwrap(),
        webhook_timeout: Duration::from_millis(1500),
        ..DispatcherConfig::default()
    }
}

/// A server that reads a request's head and then does as it is told with the connection.
async fn raw<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
                if socket.read_buf(&mut head).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            tokio::spawn(serve(socket));
        }
    });
    url
}

async fn attempt_at(stage: &Stage, url: &str) -> (Uuid, Attempt) {
    let (endpoint, _) = stage.endpoint(url, &[MessageSent]).await;
    stage.append(MessageSent, new_id(), 1).await;
    let dispatcher = stage.dispatch(once());
    let all = stage.until(endpoint, |all| all.len() == 1 && all[0].status != DeliveryStatus::Pending).await;
    dispatcher.stop().await;
    let [attempt] = &all[0].attempts[..] else { panic!("{all:?}") };
    let expected =
        if attempt.error_class.is_none() { DeliveryStatus::Succeeded } else { DeliveryStatus::Exhausted };
    assert_eq!(all[0].status, expected);
    (endpoint, attempt.clone())
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let stage = Stage::set().await;
    let mut elsewhere = Receiver::answering(&[200]).await;
    let location = elsewhere.url.clone();
    let receiver = Receiver::start(move |_| {
        let answer =
            Response::builder().status(307).header("location", &location).body(Body::empty()).unwrap();
        async move { answer }
    })
    .await;
    let (_, attempt) = attempt_at(&stage, &receiver.url).await;
    assert_eq!((attempt.status_code, attempt.error_class), (Some(307), Some(ErrorClass::Status)));
    assert_eq!(elsewhere.rest().len(), 0);
}

#[tokio::test]
async fn of_an_endless_answer_only_the_beginning_is_read() {
    let stage = Stage::set().await;
    let (closed, was_closed) = tokio::sync::oneshot::channel();
    let closed = std::sync::Arc::new(std::sync::Mutex::new(Some(closed)));
    let url = raw(move |mut socket| {
        let closed = closed.clone();
        async move {
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\ncontent-encoding: gzip\r\n\r\n";
            socket.write_all(head).await.unwrap();
            let mut bytes = 0_u64;
            while socket.write_all(&[b'a'; 8192]).await.is_ok() {
                bytes += 8192;
            }
            let closed = closed.lock().unwrap().take();
            let _ = closed.unwrap().send(bytes);
        }
    })
    .await;
    let (_, attempt) = attempt_at(&stage, &url).await;
    assert_eq!((attempt.status_code, attempt.error_class), (Some(200), None));
    assert_eq!(attempt.response_excerpt, Some("a".repeat(1024)));
    // What the kernel buffered was written too; the rest was refused.
    assert!(was_closed.await.unwrap() < 50_000_000);
}

#[tokio::test]
async fn a_trickle_ends_at_the_deadline_and_its_beginning_is_kept() {
    let stage = Stage::set().await;
    let url = raw(|mut socket| async move {
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await.unwrap();
        while socket.write_all(b"z").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let (_, attempt) = attempt_at(&stage, &url).await;
    assert_eq!((attempt.status_code, attempt.error_class), (Some(200), Some(ErrorClass::Timeout)));
    assert!(attempt.response_excerpt.unwrap().starts_with("zz"));
    assert!((1500..10_000).contains(&attempt.duration_ms), "{}", attempt.duration_ms);
}

#[tokio::test]
async fn a_server_that_never_answers_ends_at_the_deadline() {
    let stage = Stage::set().await;
    let url = raw(|socket| async move {
        let _kept = socket;
        std::future::pending::<()>().await;
    })
    .await;
    let (_, attempt) = attempt_at(&stage, &url).await;
    assert_eq!((attempt.status_code, attempt.error_class), (None, Some(ErrorClass::Timeout)));
}

#[tokio::test]
async fn endless_headers_are_refused() {
    let stage = Stage::set().await;
    let url = raw(|mut socket| async move {
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while socket
            .write_all(b"x-more: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n")
            .await
            .is_ok()
        {}
    })
    .await;
    let (_, attempt) = attempt_at(&stage, &url).await;
    assert_eq!((attempt.status_code, attempt.error_class), (None, Some(ErrorClass::Connect)));
}

#[tokio::test]
async fn broken_answers_have_their_class() {
    let stage = Stage::set().await;
    let cut = raw(|mut socket| async move {
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").await;
    })
    .await;
    let (_, attempt) = attempt_at(&stage, &cut).await;
    assert_eq!((attempt.status_code, attempt.error_class), (Some(200), Some(ErrorClass::Body)));

    let stage = Stage::set().await;
    let hangs_up = raw(|socket| async move { drop(socket) }).await;
    let (_, attempt) = attempt_at(&stage, &hangs_up).await;
    assert_eq!((attempt.status_code, attempt.error_class), (None, Some(ErrorClass::Connect)));

    let stage = Stage::set().await;
    let no_tls = Receiver::answering(&[200]).await;
    let (_, attempt) = attempt_at(&stage, &no_tls.url.replace("http://", "https://")).await;
    assert_eq!((attempt.status_code, attempt.error_class), (None, Some(ErrorClass::Tls)));

    let stage = Stage::set().await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (_, attempt) = attempt_at(&stage, &format!("http://{nobody}/")).await;
    assert_eq!((attempt.status_code, attempt.error_class), (None, Some(ErrorClass::Connect)));

    let stage = Stage::set().await;
    let (_, attempt) = attempt_at(&stage, "https://no-such-host.invalid/").await;
    assert_eq!((attempt.status_code, attempt.error_class), (None, Some(ErrorClass::Dns)));
}

#[tokio::test]
async fn private_addresses_are_blocked_when_nobody_allows_them() {
    for url in ["literal", "https://localhost:PORT/", "https://169.254.169.254/latest/meta-data"] {
        let stage = Stage::set().await;
        let mut receiver = Receiver::answering(&[200]).await;
        let port = receiver.url.split(':').nth(2).unwrap().trim_end_matches("/hooks").to_owned();
        let url = if url == "literal" { receiver.url.clone() } else { url.replace("PORT", &port) };
        let (endpoint, _) = stage.endpoint(&url, &[MessageSent]).await;
        stage.append(MessageSent, new_id(), 1).await;
        let dispatcher = stage.dispatch_with(once(), "10.0.0.0/8", "5s");
        let delivery = stage.until_status(endpoint, DeliveryStatus::Exhausted).await;
        assert_eq!(delivery.attempts[0].error_class, Some(ErrorClass::Blocked), "{url}");
        dispatcher.stop().await;
        assert_eq!(receiver.rest().len(), 0, "{url}");
    }
}
