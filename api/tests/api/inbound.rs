//! Mail that is handed in.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use sha2::Sha256;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::app::{INBOUND_SECRET, MAILBOX, TestApp, answer, created, failed, ok, scrubbed};

const MAIL: &str = "From: Alex <alex@example.com>\r\nTo: iris@mail.example.com\r\nSubject: hello\r\n\
                    Message-ID: <1@example.com>\r\nDate: Wed, 29 Apr 2026 12:00:00 +0000\r\n\r\nhello there\r\n";

fn signature(secret: &str, timestamp: i64, body: &str) -> String {
    let mut hmac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    hmac.update(format!("{timestamp}.{body}").as_bytes());
    hex::encode(hmac.finalize().into_bytes())
}

fn signed(app: &TestApp, secret: &str, timestamp: i64, body: &'static str) -> RequestBuilder {
    app.anonymous(Method::POST, "/inbound/email")
        .header("x-iris-mailbox", MAILBOX)
        .header("x-iris-timestamp", timestamp.to_string())
        .header("x-iris-signature", signature(secret, timestamp, body))
        .body(body)
}

/// Hands in a mail until the server has stored its mailbox, which it does after it has begun to listen.
async fn hand_in(app: &TestApp, body: &'static str) -> (u16, serde_json::Value) {
    while app.count("select count(*) from channel_accounts where secrets <> ''").await == 0 {
        tokio::task::yield_now().await;
    }
    answer(signed(app, INBOUND_SECRET, app.clock.now().timestamp(), body)).await
}

#[tokio::test]
async fn a_signed_mail_is_stored_once() {
    let app = TestApp::start().await;
    let (status, body) = hand_in(&app, MAIL).await;
    insta::assert_json_snapshot!("inbound.email", scrubbed(&body));
    assert_eq!(ok((status, body))["outcome"], "unmatched");
    let again = ok(hand_in(&app, MAIL).await);
    assert_eq!((&again["outcome"], &again["duplicate"]), (&"duplicate".into(), &true.into()));
    assert_eq!(app.count("select count(*) from inbound_emails").await, 1);
}

#[tokio::test]
async fn a_mail_without_a_right_and_fresh_signature_is_refused() {
    let app = TestApp::start().await;
    ok(hand_in(&app, MAIL).await);
    let now = app.clock.now().timestamp();
    let other = "From: a@example.com\r\nMessage-ID: <2@example.com>\r\n\r\nhello\r\n";
    let refused = async |request: RequestBuilder| {
        failed(answer(request).await, 400, "HOOK_001");
    };
    refused(signed(&app, "another secret of tests", now, other)).await;
    refused(signed(&app, INBOUND_SECRET, now - 301, other)).await;
    refused(signed(&app, INBOUND_SECRET, now + 330, other)).await;
    refused(signed(&app, INBOUND_SECRET, now, other).body("From: b@example.com\r\n\r\nforged\r\n")).await;
    refused(app.anonymous(Method::POST, "/inbound/email").body(other)).await;
    let unknown = signature(INBOUND_SECRET, now, other);
    refused(
        app.anonymous(Method::POST, "/inbound/email")
            .header("x-iris-mailbox", "nobody@mail.example.com")
            .header("x-iris-timestamp", now.to_string())
            .header("x-iris-signature", unknown)
            .body(other),
    )
    .await;
    assert_eq!(app.count("select count(*) from inbound_emails").await, 1);
}

#[tokio::test]
async fn what_is_no_mail_is_refused() {
    let app = TestApp::start().await;
    failed(hand_in(&app, "").await, 400, "HOOK_003");
    failed(hand_in(&app, "no headers at all").await, 400, "HOOK_003");
    assert_eq!(app.count("select count(*) from inbound_emails").await, 0);
}

/// Announces the largest mail, sends none of it, and returns the first bytes of the answer.
async fn announce(app: &TestApp, mailbox: &str) -> (TcpStream, String) {
    let mut connection = TcpStream::connect(app.url.strip_prefix("http://").unwrap()).await.unwrap();
    let head = format!(
        "POST /inbound/email HTTP/1.1\r\nhost: iris\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\
         x-iris-mailbox: {mailbox}\r\nx-iris-timestamp: {}\r\nx-iris-signature: {}\r\n\r\n",
        30 * 1024 * 1024,
        app.clock.now().timestamp(),
        "00".repeat(32)
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    connection.read_exact(&mut status).await.unwrap();
    (connection, String::from_utf8(status.to_vec()).unwrap())
}

#[tokio::test]
async fn who_announces_mail_and_sends_none_keeps_nobody_with_a_key_from_writing() {
    let app = TestApp::start().await;
    ok(hand_in(&app, MAIL).await);
    let checks = async {
        assert_eq!(
            announce(&app, "nobody@example.com").await.1,
            "HTTP/1.1 400",
            "it is refused before its body"
        );
        let mut silent = Vec::new();
        for _ in 0..64 {
            let (connection, status) = announce(&app, MAILBOX).await;
            assert_eq!(status, "HTTP/1.1 100");
            silent.push(connection);
        }
        created(app.post("/campaigns", json!({"name": "a", "objective_type": "sales"})).await);
        failed(hand_in(&app, MAIL).await, 503, "SERVER_009");
        drop(silent);
        while hand_in(&app, MAIL).await.0 != 200 {}
    };
    timeout(Duration::from_secs(25), checks).await.unwrap();
}
