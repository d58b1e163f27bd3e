//! Raw conversations with the server over TCP, and what personas send back afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::mail::Received;
use crate::replies::Inbound;
use crate::sign::iris_verify;
use crate::testing::TestWorld;

const SECRET: &str = "inbound-secret";

/// One line-wise SMTP client.
struct Client(BufReader<TcpStream>);

impl Client {
    async fn connect(world: &TestWorld) -> Self {
        let mut client = Self(BufReader::new(TcpStream::connect(world.smtp).await.unwrap()));
        assert!(client.answer().await.starts_with("220 "));
        client
    }

    async fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// The last line of the next answer.
    async fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).await.unwrap();
            if line.as_bytes().get(3) != Some(&b'-') {
                return line.trim_end().to_owned();
            }
        }
    }

    async fn say(&mut self, line: &str) -> String {
        self.write(&format!("{line}\r\n")).await;
        self.answer().await
    }

    async fn open(&mut self, recipient: &str) -> String {
        self.say("EHLO test.example.com").await;
        self.say("MAIL FROM:<out@iris.example.com> BODY=8BITMIME SIZE=100").await;
        self.say(&format!("RCPT TO:<{recipient}>")).await
    }

    /// Sends one message in a transaction of its own and returns the final answer.
    async fn send(&mut self, recipient: &str, message_id: &str) -> String {
        assert!(self.open(recipient).await.starts_with("250 "));
        assert!(self.say("DATA").await.starts_with("354 "));
        self.write(&message(recipient, message_id)).await;
        self.answer().await
    }
}

fn message(recipient: &str, message_id: &str) -> String {
    format!(
        "From: Iris <out@iris.example.com>\r\nTo: <{recipient}>\r\nSubject: Hello\r\nMessage-ID: <{message_id}>\r\n\
         References: <a@iris.example.com> <b@iris.example.com>\r\nIn-Reply-To: <b@iris.example.com>\r\n\r\n\
         Hi\r\n..dot\r\n.\r\n"
    )
}

/// What an inbound endpoint got.
struct Post {
    headers: HeaderMap,
    body: Bytes,
}

impl Post {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap().to_str().unwrap()
    }

    fn message(&self) -> Received {
        Received::parse(&self.body).unwrap()
    }
}

/// An inbound endpoint that answers each post with the next status of a list, then with 200.
async fn inbound(statuses: &'static [u16]) -> (Inbound, mpsc::UnboundedReceiver<Post>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let next = Arc::new(AtomicU16::new(0));
    let take = move |State(sender): State<mpsc::UnboundedSender<Post>>, headers: HeaderMap, body: Bytes| {
        let place = usize::from(next.fetch_add(1, Ordering::Relaxed));
        sender.send(Post { headers, body }).unwrap();
        async move { StatusCode::from_u16(statuses.get(place).copied().unwrap_or(200)).unwrap() }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/inbound/email", listener.local_addr().unwrap()).parse().unwrap();
    let router = Router::new().route("/inbound/email", post(take)).with_state(sender);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let mailbox = Some("out@iris.example.com".to_owned());
    (Inbound { url: Some(url), secret: SECRET.to_owned(), mailbox }, receiver)
}

#[tokio::test]
async fn a_message_is_taken_and_recorded_without_its_dots() {
    let world = TestWorld::start(Inbound::default()).await;
    let mut client = Client::connect(&world).await;
    assert_eq!(client.send("accepts@example.com", "m1@iris").await, "250 2.0.0 Ok: 1");
    assert_eq!(client.say("QUIT").await, "221 2.0.0 Bye");

    let messages = world.get("/smtp/messages?recipient=Accepts@example.com").await;
    let record = &messages[0];
    assert_eq!(record["message_id"], "m1@iris");
    assert_eq!(record["in_reply_to"], "b@iris.example.com");
    assert_eq!(record["references"], 2);
    assert_eq!(record["subject"], "Hello");
    assert_eq!(record["persona"], "accepts");
    assert_eq!(record["to"], json!(["accepts@example.com"]));
    assert!(record["raw"].as_str().unwrap().ends_with("\r\n\r\nHi\r\n.dot\r\n"));
    let ids = world.get("/smtp/message_ids?after=0").await;
    assert_eq!(ids[0]["ordinal"], 0);
}

#[tokio::test]
async fn commands_may_come_in_one_packet() {
    let world = TestWorld::start(Inbound::default()).await;
    let mut client = Client::connect(&world).await;
    let recipient = "accepts@example.com";
    client
        .write(&format!(
            "EHLO a\r\nNOOP\r\nMAIL FROM:<>\r\nRCPT TO:<{recipient}>\r\nRCPT TO:<bounces@example.com>\r\nDATA\r\n"
        ))
        .await;
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(client.answer().await[..3].to_owned());
    }
    assert_eq!(answers, ["250", "250", "250", "250", "550", "354"]);
    client.write(&format!("{}RSET\r\nQUIT\r\n", message(recipient, "m1@iris"))).await;
    assert!(client.answer().await.starts_with("250 2.0.0 Ok: 1"));
    assert_eq!(client.answer().await, "250 2.0.0 Ok");
    assert!(client.answer().await.starts_with("221 "));
}

#[tokio::test]
async fn commands_out_of_order_or_out_of_bounds_are_refused() {
    let world = TestWorld::start(Inbound::default()).await;
    let mut client = Client::connect(&world).await;
    for (line, code) in [
        ("MAIL FROM:<a@example.com>", "503"),
        ("RCPT TO:<a@example.com>", "503"),
        ("HELO a", "250"),
        ("DATA", "503"),
        ("AUTH PLAIN", "502"),
        ("STARTTLS", "502"),
        ("WHAT", "500"),
        ("MAIL FROM:<a@example.com> SIZE=99999999", "552"),
        ("MAIL FROM:<a@example.com> SMTPUTF8", "555"),
        ("MAIL FROM:<a@example.com>", "250"),
        ("MAIL FROM:<a@example.com>", "503"),
        ("RCPT TO:<a@example.com> NOTIFY=FAILURE", "555"),
        ("DATA", "554"),
    ] {
        assert_eq!(client.say(line).await[..3], *code, "{line}");
    }
    assert_eq!(client.say(&"a".repeat(9_000)).await[..3], *"500");
}

#[tokio::test]
async fn personas_answer_rcpt_and_data_as_documented() {
    let world = TestWorld::start(Inbound::default()).await;
    let mut client = Client::connect(&world).await;
    assert!(client.open("bounces+1@example.com").await.starts_with("550 5.1.1"));
    assert!(client.open("tempfails@example.com").await.starts_with("451 4.3.0"));
    assert!(client.send("tempfails@example.com", "m1@iris").await.starts_with("250"));
    assert_eq!(client.send("dropsafter@example.com", "m2@iris").await, "");
    let mut client = Client::connect(&world).await;
    assert!(client.send("dropsafter@example.com", "m2@iris").await.starts_with("250"));

    let ledger = world.get("/smtp/ledger").await;
    for (field, count) in [
        ("accepted", 3),
        ("recipients", 2),
        ("duplicates", 1),
        ("rejected", 1),
        ("tempfailed", 1),
        ("dropped", 1),
    ] {
        assert_eq!(ledger[field], count, "{field}");
    }
    assert_eq!(ledger["bodies_by_ordinal"], json!({"0": 3}));
}

#[tokio::test]
async fn a_reply_is_posted_signed_and_again_after_a_503() {
    let (inbound, mut posts) = inbound(&[503]).await;
    let world = TestWorld::start(inbound).await;
    Client::connect(&world).await.send("replies-1@example.com", "m1@iris").await;

    let first = posts.recv().await.unwrap();
    let second = posts.recv().await.unwrap();
    assert_eq!(first.body, second.body);
    assert_eq!(second.header("content-type"), "message/rfc822");
    assert_eq!(second.header("x-iris-mailbox"), "out@iris.example.com");
    let (timestamp, signature) = (second.header("x-iris-timestamp"), second.header("x-iris-signature"));
    assert!(iris_verify(SECRET, timestamp, &second.body, signature));
    let reply = second.message();
    assert_eq!(reply.from, "replies-1@example.com");
    assert_eq!(reply.in_reply_to.as_deref(), Some("m1@iris"));
    assert_eq!(reply.references, ["a@iris.example.com", "b@iris.example.com", "m1@iris"]);

    let manual = manual(&world).await;
    assert_eq!((manual["outcome"].as_str(), manual["status"].as_u64()), (Some("accepted"), Some(200)));
    // The endpoint has both posts before the world has both answers.
    while world.get("/smtp/ledger").await["replies_pending"] != 0 {}
    let ledger = world.get("/smtp/ledger").await;
    assert_eq!((&ledger["replies_sent"], &ledger["replies_accepted"]), (&json!(2), &json!(2)));
}

async fn manual(world: &TestWorld) -> Value {
    let body =
        json!({"from": "eve@example.com", "to_message_id": "<m1@iris>", "subject": "Hi", "text": "Yes"});
    world.client.post(world.url("/reply")).json(&body).send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn a_refused_reply_is_final() {
    let (inbound, mut posts) = inbound(&[401]).await;
    let world = TestWorld::start(inbound).await;
    let ended = manual(&world).await;
    assert_eq!((ended["outcome"].as_str(), ended["attempts"].as_u64()), (Some("refused"), Some(1)));
    assert_eq!(posts.recv().await.unwrap().message().in_reply_to.as_deref(), Some("m1@iris"));
    assert_eq!(world.get("/smtp/ledger").await["replies_refused"], 1);
}

#[tokio::test]
async fn a_late_reply_answers_the_first_follow_up_and_no_duplicate() {
    let (inbound, mut posts) = inbound(&[]).await;
    let world = TestWorld::start(inbound).await;
    let mut client = Client::connect(&world).await;
    for message_id in ["m1@iris", "m1@iris", "m2@iris", "m3@iris"] {
        client.send("latereply@example.com", message_id).await;
    }
    assert_eq!(posts.recv().await.unwrap().message().in_reply_to.as_deref(), Some("m2@iris"));
    let ledger = world.get("/smtp/ledger").await;
    assert_eq!((&ledger["replies_sent"], &ledger["duplicates"]), (&json!(1), &json!(1)));
    assert_eq!(ledger["bodies_by_ordinal"], json!({"0": 2, "1": 1, "2": 1}));
}

#[tokio::test]
async fn a_dsn_bounce_comes_back_as_a_report() {
    let (inbound, mut posts) = inbound(&[]).await;
    let world = TestWorld::start(inbound).await;
    Client::connect(&world).await.send("dsnbounces@venue.example.com", "m1@iris").await;
    let post = posts.recv().await.unwrap();
    assert_eq!(post.message().from, "mailer-daemon@venue.example.com");
    let text = String::from_utf8_lossy(&post.body).into_owned();
    assert!(text.contains("report-type=delivery-status"), "{text}");
    assert!(text.contains("Message-ID: <m1@iris>"), "{text}");
}

#[tokio::test]
async fn a_server_that_is_down_closes_old_and_new_connections() {
    let world = TestWorld::start(Inbound::default()).await;
    let mut old = Client::connect(&world).await;
    let down = json!({"fail_connections": true});
    assert_eq!(world.put("/smtp/behaviour", &down).await, 200);
    assert_eq!(old.answer().await, "");
    let mut new = TcpStream::connect(world.smtp).await.unwrap();
    let mut rest = Vec::new();
    new.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    world.put("/smtp/behaviour", &json!({})).await;
    Client::connect(&world).await;
}

#[tokio::test]
async fn a_body_is_recorded_before_its_answer_is_paused() {
    let world = TestWorld::start(Inbound::default()).await;
    world.put("/smtp/behaviour", &json!({"pause_before_final_ms": 3_600_000})).await;
    let mut client = Client::connect(&world).await;
    client.open("accepts@example.com").await;
    client.say("DATA").await;
    client.write(&message("accepts@example.com", "m1@iris")).await;
    while world.get("/smtp/ledger").await["accepted"] != 1 {}
}
