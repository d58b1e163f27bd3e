//! What the tests of the dispatcher share: an account in a database of its own, receivers, and a running dispatcher.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::Request, response::Response};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::DateTime;
use clap::Parser;
use dispatcher::DispatcherConfig;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use shared::{
    Database,
    config::BaseConfig,
    db::{
        deliveries,
        endpoints::{self, Created, EndpointPatch, NewEndpoint},
        outbox,
        page::Page,
    },
    domain::{
        delivery::{Delivery, DeliveryStatus},
        endpoint::{new_secret, secret_place},
        endpoint_headers::SealedHeaders,
    },
    events::{EventType, NewEvent, samples},
    ids::new_id,
    secrets::SecretKey,
};
use sqlx::PgPool;
use testkit::{TestDatabase, assert_payload};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long a test waits for what must happen.
pub const SOON: Duration = Duration::from_secs(30);

/// One account in a database of its own.
pub struct Stage {
    db: TestDatabase,
    pub database: Database,
    pub account_id: Uuid,
    secret_key: String,
}

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    base: BaseConfig,
}

impl Stage {
    pub async fn set() -> Self {
        let db =
            TestDatabase::create_from("iris", async |pool: &PgPool| Ok(shared::db::migrate(pool).await?))
                .await
                .judging_events();
        let database = Database::connect(db.url(), "test", 8).unwrap();
        let account_id = new_id();
        let stage = Self { db, database, account_id, secret_key: SecretKey::generate() };
        stage.add_account(account_id).await;
        stage
    }

    pub async fn add_account(&self, id: Uuid) {
        sqlx::query("insert into accounts (id, name) values ($1, 'test')")
            .bind(id)
            .execute(self.pool())
            .await
            .unwrap();
    }

    pub fn pool(&self) -> &PgPool {
        self.database.pool()
    }

    /// Registers an endpoint and returns its id and secret.
    pub async fn endpoint_of(&self, account_id: Uuid, url: &str, events: &[EventType]) -> (Uuid, String) {
        let (id, secret) = (new_id(), new_secret());
        let key: SecretKey = self.secret_key.parse().unwrap();
        let sealed_secret = &key.seal(&secret_place(id), &secret).unwrap();
        let mut tx = self.database.begin().await.unwrap();
        let new = NewEndpoint {
            id,
            url,
            events,
            description: None,
            sealed_secret,
            rate_limit: None,
            ordered: false,
            headers: &SealedHeaders::default(),
        };
        let created = endpoints::create(&mut tx, account_id, &new).await.unwrap();
        assert!(matches!(created, Created::Endpoint(endpoint) if endpoint.id == id));
        tx.commit().await.unwrap();
        (id, secret)
    }

    pub async fn endpoint(&self, url: &str, events: &[EventType]) -> (Uuid, String) {
        self.endpoint_of(self.account_id, url, events).await
    }

    /// Gives an endpoint another secret and returns that.
    pub async fn rotate(&self, endpoint_id: Uuid, overlap: Duration) -> String {
        let secret = new_secret();
        let key: SecretKey = self.secret_key.parse().unwrap();
        let sealed = key.seal(&secret_place(endpoint_id), &secret).unwrap();
        let mut tx = self.database.begin().await.unwrap();
        let rotated = endpoints::rotate_secret(&mut tx, self.account_id, endpoint_id, &sealed, overlap).await;
        assert_eq!(rotated.unwrap().unwrap().id, endpoint_id);
        tx.commit().await.unwrap();
        secret
    }

    /// Stores an endpoint's own headers, unchecked.
    pub async fn set_headers(&self, endpoint_id: Uuid, headers: BTreeMap<String, String>) {
        let key: SecretKey = self.secret_key.parse().unwrap();
        let sealed = SealedHeaders::seal(&key, endpoint_id, &headers).unwrap();
        let patch = EndpointPatch { headers: Some(&sealed), ..EndpointPatch::default() };
        let mut tx = self.database.begin().await.unwrap();
        endpoints::update(&mut tx, self.account_id, endpoint_id, &patch).await.unwrap().unwrap();
        tx.commit().await.unwrap();
    }

    /// Appends `count` events of one resource, with the numbers from 0 on ([`Received::number`]), and returns their ids.
    pub async fn append(&self, kind: EventType, resource_id: Uuid, count: usize) -> Vec<Uuid> {
        let events: Vec<NewEvent> =
            (0..count).map(|number| event(self.account_id, kind, resource_id, number)).collect();
        let mut tx = self.database.begin().await.unwrap();
        let ids = outbox::append(&mut tx, &events).await.unwrap();
        tx.commit().await.unwrap();
        ids
    }

    /// Starts a dispatcher that may reach this machine.
    pub fn dispatch(&self, config: DispatcherConfig) -> Dispatcher {
        self.dispatch_with(config, "127.0.0.0/8", "5s")
    }

    pub fn dispatch_with(&self, config: DispatcherConfig, allow: &str, shutdown: &str) -> Dispatcher {
        let settings = Settings::try_parse_from([
            "test",
            "--database-url",
            self.db.url(),
            "--secret-key",
            &self.secret_key,
            "--webhook-allow",
            allow,
            "--shutdown",
            shutdown,
            "--admin-addr",
            "127.0.0.1:0",
        ]);
        let base = settings.unwrap_or_else(|error| panic!("{error}")).base;
        let stop = CancellationToken::new();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let running = runtime.spawn(dispatcher::run(config, base, stop.clone()));
        Dispatcher { runtime: Some(runtime), running, stop }
    }

    /// The deliveries to an endpoint, oldest first.
    pub async fn deliveries(&self, endpoint_id: Uuid) -> Vec<Delivery> {
        let mut conn = self.pool().acquire().await.unwrap();
        let page = Page::first(10_000);
        let mut rows = deliveries::list(&mut conn, self.account_id, endpoint_id, page).await.unwrap().rows;
        rows.reverse();
        rows
    }

    /// Waits until the deliveries to an endpoint are as wanted. The database has no signal for that.
    pub async fn until(&self, endpoint_id: Uuid, wanted: impl Fn(&[Delivery]) -> bool) -> Vec<Delivery> {
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            let deliveries = self.deliveries(endpoint_id).await;
            if wanted(&deliveries) {
                return deliveries;
            }
            assert!(tokio::time::Instant::now() < deadline, "not in time: {deliveries:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the only delivery to an endpoint has a status.
    pub async fn until_status(&self, endpoint_id: Uuid, status: DeliveryStatus) -> Delivery {
        self.until(endpoint_id, |all| all.len() == 1 && all[0].status == status).await.remove(0)
    }

    /// How many rows a query counts.
    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.pool()).await.unwrap()
    }
}

/// An event as the other roles append it. Its number is where a resource keeps what is not ours: in a contact's `custom`, in
/// what fills a message.
pub fn event(account_id: Uuid, kind: EventType, resource_id: Uuid, number: usize) -> NewEvent {
    let (_, mut data) = samples::event(kind, DateTime::UNIX_EPOCH);
    data["id"] = json!(resource_id);
    for free in ["custom", "variables"] {
        if let Some(fields) = data.get_mut(free) {
            fields["number"] = json!(number);
        }
    }
    NewEvent::new(account_id, kind, resource_id, data)
}

/// A test event for one endpoint.
pub fn test_event(account_id: Uuid, kind: EventType, endpoint_id: Uuid) -> NewEvent {
    let (id, data) = samples::test_event(kind, DateTime::UNIX_EPOCH);
    NewEvent { only_endpoint: Some(endpoint_id), ..NewEvent::new(account_id, kind, id, data) }
}

/// A running dispatcher, on threads of its own.
pub struct Dispatcher {
    runtime: Option<tokio::runtime::Runtime>,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Dispatcher {
    /// Stops it as SIGTERM does.
    pub async fn stop(mut self) {
        self.stop.cancel();
        (&mut self.running).await.unwrap().unwrap();
    }

    /// Ends it as kill -9 does, as far as that can be done to a part of a process: nothing of it runs on.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A request as a receiver got it.
#[derive(Debug, Clone)]
pub struct Received {
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The number that its event was appended with.
    pub fn number(&self) -> usize {
        let body: Value = serde_json::from_str(&self.body).unwrap();
        let data = &body["data"];
        let number = data["variables"]["number"].as_u64().or_else(|| data["custom"]["number"].as_u64());
        usize::try_from(number.unwrap()).unwrap()
    }

    /// Verifies both signatures as a receiver would that knows only the documentation.
    pub fn verify(&self, secret: &str) {
        self.verify_overlap(&[secret]);
    }

    /// The same while it is signed by several secrets, the present one first.
    pub fn verify_overlap(&self, secrets: &[&str]) {
        let hmac = |key: &[u8], text: String| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
            mac.update(text.as_bytes());
            mac.finalize().into_bytes().to_vec()
        };
        let timestamp = self.header("x-iris-timestamp");
        let expected = hmac(secrets[0].as_bytes(), format!("{timestamp}.{}", self.body));
        assert_eq!(self.header("x-iris-signature"), hex::encode(expected));
        let id = self.header("webhook-id");
        let signature = |secret: &&str| {
            let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
            let signed = format!("{id}.{}.{}", self.header("webhook-timestamp"), self.body);
            format!("v1,{}", STANDARD.encode(hmac(&key, signed)))
        };
        let expected: Vec<String> = secrets.iter().map(signature).collect();
        assert_eq!(self.header("webhook-signature"), expected.join(" "));
        assert_eq!(id, self.header("x-iris-delivery"));
    }
}

/// A server that answers as it is told and tells what it got.
pub struct Receiver {
    pub url: String,
    received: mpsc::UnboundedReceiver<Received>,
    server: JoinHandle<()>,
}

impl Receiver {
    /// `answer` is given the number of the request, from 1.
    pub async fn start<F>(answer: impl Fn(usize) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hooks", listener.local_addr().unwrap());
        let (sender, received) = mpsc::unbounded_channel();
        let answer = Arc::new(answer);
        let number = Arc::new(AtomicUsize::new(0));
        let app = Router::new().fallback(move |request: Request| {
            let (sender, answer, number) = (sender.clone(), answer.clone(), number.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
                let text = |value: &axum::http::HeaderValue| value.to_str().unwrap().to_owned();
                let headers =
                    parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
                let body = String::from_utf8(body.to_vec()).unwrap();
                let received = Received { path: parts.uri.path().to_owned(), headers, body };
                let _ = sender.send(received);
                answer(number.fetch_add(1, Ordering::SeqCst) + 1).await
            }
        });
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, received, server }
    }

    /// Answers with the statuses in turn, the last one for ever.
    pub async fn answering(statuses: &'static [u16]) -> Self {
        Self::start(move |number| async move {
            let status = statuses[(number - 1).min(statuses.len() - 1)];
            Response::builder().status(status).body(Body::from(format!("answer {number}"))).unwrap()
        })
        .await
    }

    /// The next request; what it carries is as documented.
    pub async fn next(&mut self) -> Received {
        let next = tokio::time::timeout(SOON, self.received.recv()).await;
        let received = next.expect("a request in time").expect("a server");
        assert_payload(&received.body);
        received
    }

    /// What was received and not yet looked at; it too is as documented.
    pub fn rest(&mut self) -> Vec<Received> {
        let rest: Vec<Received> = std::iter::from_fn(|| self.received.try_recv().ok()).collect();
        for received in &rest {
            assert_payload(&received.body);
        }
        rest
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Settings whose retries come soon.
pub fn hasty() -> DispatcherConfig {
    DispatcherConfig { webhook_retries: "50ms,50ms,50ms".parse().unwrap(), ..DispatcherConfig::default() }
}
