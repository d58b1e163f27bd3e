//! A request of the real dispatcher, byte for byte as it came over a socket.

use std::{collections::BTreeMap, net::Ipv4Addr};

use serde_json::json;
use tests::{PATIENCE, Stack};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::OnceCell,
};

/// What a receiver got.
#[derive(Debug, Clone)]
pub struct Captured {
    /// The secret of the endpoint that it came to.
    pub secret: String,
    /// The first line.
    pub request_line: String,
    /// The headers, with their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body's bytes.
    pub body: Vec<u8>,
}

/// A request that tells of a campaign whose name is not in ASCII. All tests look at the same one; it is new enough for
/// them, since they allow for five minutes.
pub async fn captured() -> &'static Captured {
    &both().await.0
}

/// Another one to the same endpoint, whose secret was replaced since; the old one is signed with as well.
pub async fn captured_in_overlap() -> &'static Captured {
    &both().await.1
}

async fn both() -> &'static (Captured, Captured) {
    static CAPTURED: OnceCell<(Captured, Captured)> = OnceCell::const_new();
    CAPTURED.get_or_init(capture).await
}

async fn capture() -> (Captured, Captured) {
    let stack = Stack::start().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let url = format!("http://{}/webhooks/iris", listener.local_addr().expect("an address"));
    let created = stack.api.post("/webhooks", &json!({"url": url, "events": ["campaign.created"]})).await;
    let request = async |secret| {
        stack.campaign(&json!({"name": "Größe – 東京 💌 \"a\\b\""}), &[]).await;
        let taken = tokio::time::timeout(PATIENCE, take(&listener, secret)).await;
        taken.expect("a request of the dispatcher")
    };
    let first = request(created.text("secret")).await;
    let path = format!("/webhooks/{}/rotate-secret", created.text("id"));
    let rotated = stack.api.post(&path, &json!({"overlap_seconds": 3600})).await;
    (first, request(rotated.text("secret")).await)
}

/// Takes one request and acknowledges it.
async fn take(listener: &TcpListener, secret: String) -> Captured {
    let (mut stream, _) = listener.accept().await.expect("a connection");
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        assert_ne!(stream.read_buf(&mut bytes).await.expect("bytes"), 0, "the request broke off");
    };
    let mut body = bytes.split_off(head);
    let text = String::from_utf8(bytes).expect("a head in ASCII");
    let mut lines = text.trim_end().split("\r\n");
    let request_line = lines.next().unwrap_or_default().to_owned();
    let headers: BTreeMap<String, String> = lines
        .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("no header: {line}")))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers["content-length"].parse().expect("a length");
    while body.len() < length {
        assert_ne!(stream.read_buf(&mut body).await.expect("bytes"), 0, "the body broke off");
    }
    let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
    stream.write_all(answer).await.expect("the answer goes out");
    Captured { secret, request_line, headers, body }
}
