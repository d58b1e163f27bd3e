//! One running API for one test.

use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use shared::{
    Clock, Database,
    config::BaseConfig,
    db::{
        accounts,
        api_keys::{self, Created, NewApiKey},
    },
    mailbox::MailboxConfig,
    secrets::SecretKey,
};
use testkit::TestDatabase;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::contract;

/// What signs inbound mail in tests.
pub const INBOUND_SECRET: &str = "an inbound secret for tests";
/// The mailbox of tests.
pub const MAILBOX: &str = "iris@mail.example.com";

/// A running API on a database of its own, and a key for everything.
pub struct TestApp {
    /// Where it listens.
    pub url: String,
    /// A key with the scope `*`.
    pub key: String,
    /// The account of that key.
    pub account_id: Uuid,
    /// Its database.
    pub database: Database,
    /// Its clock.
    pub clock: Clock,
    /// What it seals secrets with.
    pub secret_key: SecretKey,
    config: api::ApiConfig,
    base: BaseConfig,
    client: Client,
    port: u16,
    shutdown: CancellationToken,
    server: Option<JoinHandle<anyhow::Result<()>>>,
    _test_database: TestDatabase,
}

impl TestApp {
    /// Starts one.
    pub async fn start() -> Self {
        Self::start_with(api_config()).await
    }

    /// Starts one whose keys have limits.
    pub async fn start_limited() -> Self {
        Self::start_with(api::ApiConfig { api_rate_limits: true, ..api_config() }).await
    }

    async fn start_with(config: api::ApiConfig) -> Self {
        let test_database =
            TestDatabase::create_from("iris", async |pool| Ok(shared::db::migrate(pool).await?)).await;
        let test_database = test_database.judging_events();
        let database = Database::connect(test_database.url(), "api-tests", 5).unwrap();
        let mut tx = database.begin().await.unwrap();
        let key = api_keys::bootstrap(&mut tx).await.unwrap().unwrap();
        let account_id = accounts::find_first(&mut tx).await.unwrap().unwrap().id;
        tx.commit().await.unwrap();

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (url, port) = (format!("http://{address}"), address.port());
        contract::watch(port, database.pool().clone());
        let shutdown = CancellationToken::new();
        let base = base_config(test_database.url());
        let (clock, secret_key) = (base.clock(), base.secret_key.clone());
        let server = tokio::spawn(api::serve(listener, config.clone(), base.clone(), shutdown.clone()));
        // The client insists on a provider, though it speaks plain HTTP here; the first test to come sets it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().timeout(Duration::from_secs(60)).no_proxy().build().unwrap();
        Self {
            url,
            config,
            base,
            key,
            account_id,
            database,
            clock,
            secret_key,
            client,
            port,
            shutdown,
            server: Some(server),
            _test_database: test_database,
        }
    }

    /// A request with the key for everything.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.request_as(&self.key, method, path)
    }

    /// A request with another key.
    pub fn request_as(&self, key: &str, method: Method, path: &str) -> RequestBuilder {
        self.anonymous(method, path).bearer_auth(key)
    }

    /// A request without a key.
    pub fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// GET: the status and the body.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.request(Method::GET, path)).await
    }

    /// POST: the status and the body.
    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        answer(self.request(Method::POST, path).json(&body)).await
    }

    /// PATCH: the status and the body.
    pub async fn patch(&self, path: &str, body: Value) -> (u16, Value) {
        answer(self.request(Method::PATCH, path).json(&body)).await
    }

    /// DELETE: the status and the body.
    pub async fn delete(&self, path: &str) -> (u16, Value) {
        answer(self.request(Method::DELETE, path)).await
    }

    /// A key of the account with some scopes.
    pub async fn key_with(&self, scopes: &[&str]) -> String {
        self.make_key(self.account_id, scopes).await
    }

    /// A key for everything in another account.
    pub async fn stranger(&self) -> String {
        let mut tx = self.database.begin().await.unwrap();
        let account = accounts::create(&mut tx, "stranger").await.unwrap();
        tx.commit().await.unwrap();
        self.make_key(account.id, &["*"]).await
    }

    async fn make_key(&self, account_id: Uuid, scopes: &[&str]) -> String {
        let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let new = NewApiKey { name: "test", scopes: &scopes, expires_at: None };
        let mut tx = self.database.begin().await.unwrap();
        let Created::Key(_, raw) = api_keys::create(&mut tx, account_id, &new).await.unwrap() else {
            panic!("the account has too many keys");
        };
        tx.commit().await.unwrap();
        raw
    }

    /// A campaign in draft.
    pub async fn campaign(&self) -> Value {
        let body = json!({"name": "Spring", "objective_type": "venue_dj", "location": "Brooklyn, NY"});
        created(self.post("/campaigns", body).await)
    }

    /// The audited actions so far, oldest first.
    pub async fn audited(&self) -> Vec<String> {
        sqlx::query_scalar("select action from api_audit_log where account_id = $1 order by id")
            .bind(self.account_id)
            .fetch_all(self.database.pool())
            .await
            .unwrap()
    }

    /// The types of the events in the outbox, oldest first.
    pub async fn events(&self) -> Vec<String> {
        sqlx::query_scalar("select type from outbox where account_id = $1 order by number")
            .bind(self.account_id)
            .fetch_all(self.database.pool())
            .await
            .unwrap()
    }

    /// How many rows a query counts.
    pub async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(self.database.pool()).await.unwrap()
    }

    /// Starts another server on the same database, for as long as this one runs, and returns its address.
    pub async fn replica(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(api::serve(listener, self.config.clone(), self.base.clone(), self.shutdown.clone()));
        url
    }

    /// Stops the server and waits for its end.
    pub async fn stop(&mut self) {
        self.shutdown.cancel();
        if let Some(server) = self.server.take() {
            server.await.unwrap().unwrap();
        }
    }

    /// Tells the server to stop, without waiting.
    pub fn begin_stop(&self) {
        self.shutdown.cancel();
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        contract::forget(self.port);
        self.shutdown.cancel();
    }
}

fn base_config(database_url: &str) -> BaseConfig {
    BaseConfig {
        database_url: database_url.to_owned(),
        database_connections: 8,
        secret_key: SecretKey::generate().parse().unwrap(),
        day: Duration::from_secs(86_400),
        webhook_allow: "127.0.0.1".parse().unwrap(),
        history_keep: Duration::from_secs(30 * 86_400),
        mailbox: MailboxConfig {
            smtp_url: Some("smtp://127.0.0.1:1".parse().unwrap()),
            smtp_from: Some(format!("Iris <{MAILBOX}>").parse().unwrap()),
            inbound_secret: Some(INBOUND_SECRET.to_owned()),
        },
        seen_by_neighbours: true,
        admin_addr: "127.0.0.1:0".parse().unwrap(),
        shutdown: Duration::from_secs(20),
    }
}

fn api_config() -> api::ApiConfig {
    api::ApiConfig {
        api_addr: "127.0.0.1:0".parse().unwrap(),
        public_url: None,
        api_connections_max: 100.try_into().unwrap(),
        api_requests_max: 100.try_into().unwrap(),
        api_streams_max: 2.try_into().unwrap(),
        // Tests ask again and again; those of the limits have their own.
        api_rate_limits: false,
    }
}

/// Sends a request: the status and the body as JSON, which must be what the document says of the operation.
pub async fn answer(request: RequestBuilder) -> (u16, Value) {
    let (client, request) = request.build_split();
    let request = request.unwrap();
    let (method, url) = (request.method().to_string(), request.url().clone());
    let response = client.execute(request).await.unwrap();
    let request_id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let (status, body) = read(response).await;
    contract::judge(contract::Answer {
        port: url.port().unwrap_or_default(),
        method: &method,
        path: url.path(),
        status,
        request_id: &request_id,
        body: &body,
    })
    .await;
    (status, body)
}

/// The status and the body as JSON.
pub async fn read(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"));
    (status, body)
}

/// The data of an answer that must be 200.
#[track_caller]
pub fn ok((status, body): (u16, Value)) -> Value {
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["success"], true);
    body["data"].clone()
}

/// The data of an answer that must be 201.
#[track_caller]
pub fn created((status, body): (u16, Value)) -> Value {
    assert_eq!(status, 201, "{body}");
    assert_eq!(body["success"], true);
    body["data"].clone()
}

/// The fields that a failed answer names, once its status and code are these.
#[track_caller]
pub fn failed((status, body): (u16, Value), expected: u16, code: &str) -> Vec<String> {
    assert_eq!((status, body["error"]["code"].as_str()), (expected, Some(code)), "{body}");
    assert_eq!(body["success"], false);
    let details = body["error"]["details"].as_array().cloned().unwrap_or_default();
    details.iter().map(|detail| detail["field"].as_str().unwrap().to_owned()).collect()
}

/// The body with what differs from run to run replaced, for snapshots.
pub fn scrubbed(body: &Value) -> Value {
    match body {
        Value::String(text) => Value::String(scrub(text)),
        Value::Array(items) => items.iter().map(scrubbed).collect(),
        Value::Object(fields) => {
            let scrub = |(name, value): (&String, &Value)| match (name.as_str(), value) {
                ("next_cursor", Value::String(_)) => (name.clone(), "[cursor]".into()),
                _ => (name.clone(), scrubbed(value)),
            };
            fields.iter().map(scrub).collect()
        }
        other => other.clone(),
    }
}

fn scrub(text: &str) -> String {
    let is_time = text.len() == 24 && text.ends_with('Z') && text.as_bytes()[10] == b'T';
    for (holds, placeholder) in [
        (Uuid::try_parse(text).is_ok(), "[id]"),
        (is_time, "[time]"),
        (text.starts_with('<') && text.ends_with('>'), "[message-id]"),
        (text.starts_with("req_"), "[request]"),
        (text.starts_with("evt_"), "[event]"),
        (text.starts_with("is_live_"), "[key]"),
        (text.starts_with("whsec_"), "[secret]"),
    ] {
        if holds {
            return placeholder.to_owned();
        }
    }
    text.to_owned()
}
