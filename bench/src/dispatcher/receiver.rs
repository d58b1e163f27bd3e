//! The receivers of all deliveries, as a process of its own: it verifies each request and writes it down. What judges the
//! dispatcher uses nothing of it, only the documentation of its headers.
//!
//! It does what each line of its input says: `listen answer|hang SECRET` opens a port for the next endpoint and names it;
//! `count` tells how many requests were answered with 200, how many were refused and how many were left without an answer;
//! `ledger` tells how many lines follow and how long the shortest body was, then one line for each request that was answered
//! with 200, in the order in which they came: endpoint, event, delivery, microseconds since 1970.

use std::{
    fmt::Write,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    HeaderMap, Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use sha2::Sha256;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use uuid::Uuid;

use crate::clock::now_us;

/// The longest body that is read.
const BODY_BYTES_MAX: usize = 1 << 20;
/// How long a request is left without an answer, which is longer than any sender waits.
const HANG: Duration = Duration::from_secs(45);
/// How far the time of a signature may be away.
const TOLERANCE_SECONDS: i64 = 300;
/// What the receivers answer.
const ANSWER: &[u8] = b"ok";
/// What every event's id begins with.
const EVENT_PREFIX: &str = "evt_";

/// Opens ports and serves them until its input ends.
pub async fn run() -> anyhow::Result<()> {
    let book = Arc::new(Mutex::new(Book::default()));
    let mut endpoints = 0;
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let mut output = tokio::io::stdout();
    output.write_all(b"ready\n").await?;
    output.flush().await?;
    while let Some(line) = input.next_line().await? {
        let answer = match line.split(' ').collect::<Vec<_>>()[..] {
            ["listen", manner @ ("answer" | "hang"), secret] => {
                let endpoint = Endpoint::new(endpoints, manner == "hang", secret)?;
                endpoints += 1;
                format!("{}\n", open(endpoint, book.clone()).await?)
            }
            ["count"] => lock(&book).count(),
            ["ledger"] => lock(&book).ledger(),
            _ => anyhow::bail!("{line} is no command"),
        };
        output.write_all(answer.as_bytes()).await?;
        output.flush().await?;
    }
    Ok(())
}

/// One endpoint.
struct Endpoint {
    number: u32,
    hangs: bool,
    key: Hmac<Sha256>,
}

/// One request that was answered with 200.
struct Receipt {
    endpoint: u32,
    event: Uuid,
    delivery: Uuid,
    at_us: i64,
}

/// What came.
#[derive(Default)]
struct Book {
    receipts: Vec<Receipt>,
    refused: u64,
    unanswered: u64,
    body_bytes_min: Option<usize>,
}

impl Book {
    fn count(&self) -> String {
        format!("{} {} {}\n", self.receipts.len(), self.refused, self.unanswered)
    }

    fn ledger(&self) -> String {
        let mut text = format!("{} {}\n", self.receipts.len(), self.body_bytes_min.unwrap_or(0));
        for Receipt { endpoint, event, delivery, at_us } in &self.receipts {
            let _ = writeln!(text, "{endpoint} {event} {delivery} {at_us}");
        }
        text
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves an endpoint; its port.
async fn open(endpoint: Endpoint, book: Arc<Mutex<Book>>) -> anyhow::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("no port for an endpoint")?;
    let port = listener.local_addr()?.port();
    let endpoint = Arc::new(endpoint);
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => _ = tokio::spawn(serve(stream, endpoint.clone(), book.clone())),
                // Out of files: what is open has to end first.
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(port)
}

async fn serve(stream: TcpStream, endpoint: Arc<Endpoint>, book: Arc<Mutex<Book>>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| receive(request, &endpoint, &book));
    // An error is the sender's way to end the connection.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn receive(
    request: Request<Incoming>,
    endpoint: &Endpoint,
    book: &Mutex<Book>,
) -> Result<Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await?.to_bytes();
    if endpoint.hangs {
        lock(book).unanswered += 1;
        tokio::time::sleep(HANG).await;
        return Ok(Response::default());
    }
    let receipt = endpoint.verify(&parts.headers, &body, now_us());
    let mut book = lock(book);
    let status = if let Some(receipt) = receipt {
        book.receipts.push(receipt);
        book.body_bytes_min = Some(book.body_bytes_min.unwrap_or(usize::MAX).min(body.len()));
        StatusCode::OK
    } else {
        book.refused += 1;
        StatusCode::UNAUTHORIZED
    };
    let mut response = Response::new(Full::new(Bytes::from_static(ANSWER)));
    *response.status_mut() = status;
    Ok(response)
}

/// What is read of a body.
#[derive(Deserialize)]
struct Event<'a> {
    id: &'a str,
}

impl Endpoint {
    fn new(number: u32, hangs: bool, secret: &str) -> anyhow::Result<Self> {
        Ok(Self { number, hangs, key: Hmac::new_from_slice(secret.as_bytes())? })
    }

    /// The receipt of a request whose signature is right: one bare digest of 64 lowercase hex characters, over the time,
    /// a dot and the body, at a time that is about now.
    fn verify(&self, headers: &HeaderMap, body: &[u8], at_us: i64) -> Option<Receipt> {
        let header = |name: &str| headers.get(name)?.to_str().ok();
        let timestamp = header("x-iris-timestamp")?;
        let signature = header("x-iris-signature")?;
        if signature.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        let mut digest = [0; 32];
        hex::decode_to_slice(signature, &mut digest).ok()?;
        let mut mac = self.key.clone();
        for part in [timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        mac.verify_slice(&digest).ok()?;
        if (timestamp.parse::<i64>().ok()? - at_us / 1_000_000).abs() > TOLERANCE_SECONDS {
            return None;
        }
        let event: Event = serde_json::from_slice(body).ok()?;
        Some(Receipt {
            endpoint: self.number,
            event: Uuid::try_parse(event.id.strip_prefix(EVENT_PREFIX)?).ok()?,
            delivery: Uuid::try_parse(header("x-iris-delivery")?).ok()?,
            at_us,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_714_392_000;
    const BODY: &[u8] = br#"{"id":"evt_0190000000007000800000000000000a","data":{}}"#;
    // printf '%s' '1714392000.{"id":"evt_0190000000007000800000000000000a","data":{}}' | openssl dgst -sha256 -hmac whsec_aXJpcw==
    const SIGNATURE: &str = "7878081d21fa17594b8420a6bdae99cd1e37078d92b885e2d2dc2659f13e82d6";

    fn headers(changed: &[(&'static str, &'static str)]) -> HeaderMap {
        let sent = [
            ("x-iris-timestamp", "1714392000"),
            ("x-iris-signature", SIGNATURE),
            ("x-iris-delivery", "01900000-0000-7000-8000-00000000000b"),
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in sent.iter().chain(changed) {
            headers.insert(*name, value.parse().expect("a header value"));
        }
        headers
    }

    #[test]
    fn only_what_is_signed_rightly_is_received() {
        let endpoint = Endpoint::new(7, false, "whsec_aXJpcw==").unwrap();
        let verify =
            |headers: &HeaderMap, body: &[u8], now: i64| endpoint.verify(headers, body, now * 1_000_000);
        let receipt = verify(&headers(&[]), BODY, NOW).unwrap();
        assert_eq!(receipt.endpoint, 7);
        assert_eq!(receipt.event, Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_000a));
        assert_eq!(receipt.delivery, Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_000b));
        assert!(verify(&headers(&[]), BODY, NOW + 301).is_none(), "too old");
        assert!(verify(&headers(&[]), &BODY[1..], NOW).is_none(), "another body");
        for changed in [
            ("x-iris-timestamp", "1714392001"),
            ("x-iris-signature", ""),
            ("x-iris-signature", "00"),
            ("x-iris-delivery", "1"),
        ] {
            assert!(verify(&headers(&[changed]), BODY, NOW).is_none(), "{changed:?}");
        }
        let upper: &'static str = SIGNATURE.to_uppercase().leak();
        assert!(verify(&headers(&[("x-iris-signature", upper)]), BODY, NOW).is_none(), "not lowercase");
        let other = Endpoint::new(7, false, "whsec_aXJpcx==").unwrap();
        assert!(other.verify(&headers(&[]), BODY, NOW * 1_000_000).is_none(), "another key");
    }

    #[test]
    fn what_was_answered_stands_in_the_ledger() {
        let mut book = Book::default();
        assert_eq!(book.ledger(), "0 0\n");
        book.receipts.push(Receipt { endpoint: 3, event: Uuid::nil(), delivery: Uuid::max(), at_us: 5 });
        book.body_bytes_min = Some(600);
        book.refused = 2;
        assert_eq!(book.count(), "1 2 0\n");
        assert_eq!(
            book.ledger(),
            "1 600\n3 00000000-0000-0000-0000-000000000000 ffffffff-ffff-ffff-ffff-ffffffffffff 5\n"
        );
    }
}
