//! The whole receiver of docs/webhooks.md, with iris on the other side.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tests::{PATIENCE, Stack, until};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    net::TcpStream,
    process::ChildStdout,
};

use super::{
    capture::Captured,
    cases::iris_signature,
    example,
    judges::{command, start},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_receiver_takes_each_event_once_and_from_iris_alone() {
    let stack = Stack::start().await;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).unwrap().port();
    let url = format!("http://127.0.0.1:{port}/");
    let hook = stack.api.post("/webhooks", &json!({"url": url, "events": ["campaign.created"]})).await;
    let (id, secret) = (hook.text("id"), hook.text("secret"));

    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("verify.mjs"), example("JavaScript", "javascript")).unwrap();
    fs::write(directory.path().join("receiver.mjs"), example("A whole receiver", "javascript")).unwrap();
    let mut command = command(&directory, &["node", "receiver.mjs"]);
    command.env("PORT", port.to_string()).env("IRIS_WEBHOOK_SECRET", &secret);
    let Some(mut receiver) = start(&mut command) else { return };
    let mut lines = BufReader::new(receiver.stdout.take().unwrap()).lines();
    until("the receiver listens", async || TcpStream::connect(("127.0.0.1", port)).await.ok()).await;

    stack.campaign(&json!({}), &[]).await;
    let first = acknowledged(&stack, &id, 1).await;
    assert_eq!(next_line(&mut lines).await, first);

    let body: (String,) = sqlx::query_as("select body from events where type = 'campaign.created'")
        .fetch_one(stack.database.pool())
        .await
        .unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().to_string();
    let again = Captured {
        secret: secret.clone(),
        request_line: String::new(),
        headers: [("x-iris-timestamp".to_owned(), now.clone())].into(),
        body: body.0.into_bytes(),
    };
    for (secret, status) in [(secret.as_str(), 204), ("whsec_b3RoZXI=", 401)] {
        let request = http
            .post(&url)
            .header("x-iris-timestamp", &now)
            .header("x-iris-signature", iris_signature(secret, &again))
            .body(again.body.clone());
        assert_eq!(request.send().await.unwrap().status(), status, "{secret}");
    }

    stack.campaign(&json!({}), &[]).await;
    let second = acknowledged(&stack, &id, 2).await;
    assert_ne!(first, second);
    assert_eq!(next_line(&mut lines).await, second, "the duplicate and the forgery are not handled");
}

/// Waits until so many deliveries were acknowledged at their first attempt; returns the newest event as the receiver
/// prints it.
async fn acknowledged(stack: &Stack, endpoint: &str, deliveries: usize) -> String {
    let newest = until("the delivery is recorded", async || {
        let list = stack.api.get(&format!("/webhooks/{endpoint}/deliveries")).await;
        let list = list.data().as_array().cloned().unwrap_or_default();
        let ended: Vec<&Value> = list.iter().filter(|delivery| delivery["status"] != "pending").collect();
        (ended.len() == deliveries).then(|| list[0].clone())
    })
    .await;
    assert_eq!(newest["attempts"].as_array().map(Vec::len), Some(1), "{newest}");
    assert_eq!(newest["attempts"][0]["status_code"], 204, "{newest}");
    format!(
        "{} {}",
        newest["event"].as_str().unwrap_or_default(),
        newest["event_id"].as_str().unwrap_or_default()
    )
}

async fn next_line(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
    line.expect("a line in time").expect("a line").expect("the receiver runs")
}
