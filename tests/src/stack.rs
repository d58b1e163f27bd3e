//! The three roles as processes, on a database of the test's own, beside a simulated outside.

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{TestDatabase, assert_payload};

use crate::{Client, binaries, until};

/// The roles.
pub const ROLES: [&str; 3] = ["api", "worker", "dispatcher"];
/// The mailbox of the tests.
const MAILBOX: &str = "iris@iris.example.com";
const INBOUND_SECRET: &str = "an inbound secret for tests";

/// How a stack differs from the default.
#[derive(Debug, Clone)]
pub struct Options {
    /// The length of a day.
    pub day: &'static str,
    /// The retries of webhooks.
    pub retries: &'static str,
    /// What the roles log, and in which form.
    pub log: (&'static str, &'static str),
}

impl Default for Options {
    fn default() -> Self {
        Self { day: "1s", retries: "200ms,200ms,200ms", log: ("info", "text") }
    }
}

/// Everything runs. Dropping it kills all processes.
#[derive(Debug)]
pub struct Stack {
    /// The API, with an admin key.
    pub api: Client,
    /// The outside.
    pub world: Client,
    /// The admin key.
    pub key: String,
    /// The database.
    pub database: TestDatabase,
    environment: Vec<(String, String)>,
    roles: Vec<Option<Child>>,
    outside: Child,
    directory: TempDir,
}

impl Stack {
    /// Starts everything.
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// Starts everything, with options.
    pub async fn start_with(options: Options) -> Self {
        let database = TestDatabase::create().await.judging_events();
        let directory = tempfile::tempdir().expect("a directory");
        let api = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a port");
        let (outside, addresses) = start_world(&directory, &format!("http://{api}/inbound/email"));
        let smtp = addresses["smtp"].as_str().expect("an address");
        let environment = [
            ("DATABASE_URL", database.url().to_owned()),
            ("IRIS_SECRET_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into()),
            ("IRIS_API_ADDR", api.to_string()),
            // Tests ask again and again.
            ("IRIS_API_RATE_LIMITS", "false".into()),
            ("IRIS_ADMIN_ADDR", "127.0.0.1:0".into()),
            ("IRIS_DAY", options.day.into()),
            ("IRIS_SMTP_URL", format!("smtp://{smtp}")),
            ("IRIS_SMTP_FROM", format!("Iris <{MAILBOX}>")),
            ("IRIS_INBOUND_SECRET", INBOUND_SECRET.into()),
            ("IRIS_WEBHOOK_ALLOW", "127.0.0.0/8".into()),
            ("IRIS_WEBHOOK_RETRIES", options.retries.into()),
            ("IRIS_LOG", options.log.0.into()),
            ("IRIS_LOG_FORMAT", options.log.1.into()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let run = |args: &[&str]| {
            let output = command(&environment, args).output().expect("iris runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("text")
        };
        run(&["migrate"]);
        let key = run(&["keys", "bootstrap"]).trim().to_owned();
        let places = crate::repository().join("world/data/places.csv");
        run(&["places", "load", places.to_str().expect("a path")]);
        let mut stack = Self {
            api: Client::new(&format!("http://{api}"), Some(&key)),
            world: Client::new(&format!("http://{}", addresses["http"].as_str().expect("an address")), None),
            key,
            database,
            environment,
            roles: Vec::new(),
            outside,
            directory,
        };
        for role in ROLES {
            let child = stack.spawn(role);
            stack.roles.push(Some(child));
        }
        stack.until_ready().await;
        stack
    }

    /// Waits until the API answers and the mailbox is there.
    pub async fn until_ready(&self) {
        until("the API is ready", async || self.api.answers("/health/ready").await.then_some(())).await;
        until("the mailbox is connected", async || {
            let query = "select exists (select 1 from channel_accounts)";
            let there: bool = sqlx::query_scalar(query).fetch_one(self.database.pool()).await.ok()?;
            there.then_some(())
        })
        .await;
    }

    /// Kills a role with SIGKILL, and waits for its end.
    pub fn kill(&mut self, role: &str) {
        let index = index(role);
        let mut child = self.roles[index].take().expect("the role runs");
        child.kill().expect("killed");
        child.wait().expect("ended");
    }

    /// Starts a killed role again.
    pub fn restart(&mut self, role: &str) {
        let child = self.spawn(role);
        self.roles[index(role)] = Some(child);
    }

    /// Runs the binary with the settings of the roles.
    pub fn command(&self, args: &[&str]) -> Command {
        command(&self.environment, args)
    }

    /// The log of a role.
    pub fn log(&self, role: &str) -> String {
        std::fs::read_to_string(self.log_path(role)).unwrap_or_default()
    }

    /// The records of a role's log, when that is JSON.
    pub fn records(&self, role: &str) -> Vec<Value> {
        self.log(role).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The metrics of a role, when its log is JSON.
    pub async fn metrics(&self, role: &str) -> String {
        let addr = until("the admin address", async || {
            let records = self.records(role);
            let record = records.iter().find(|record| record["message"] == "admin address")?;
            record["addr"].as_str().map(ToOwned::to_owned)
        })
        .await;
        Client::new(&format!("http://{addr}"), None).text("/metrics").await
    }

    /// Registers a webhook at a receiver of the outside that verifies; returns (id, secret).
    pub async fn hook(&self, name: &str, events: &[&str]) -> (String, String) {
        let url = format!("{}/hooks/{name}", self.world.base());
        let created = self.api.post("/webhooks", &json!({"url": url, "events": events})).await;
        let (id, secret) = (created.text("id"), created.text("secret"));
        let told = self.world.put(&format!("/hooks/{name}"), &json!({"secret": secret})).await;
        assert!(told.status.is_success(), "{told:?}");
        (id, secret)
    }

    /// What a receiver of the outside got, the bodies in the order of the attempts; each is as documented.
    pub async fn received(&self, name: &str) -> Vec<Value> {
        let attempts = self.world.get(&format!("/hooks/{name}/events?limit=10000")).await.body;
        let attempts = attempts.as_array().unwrap_or_else(|| panic!("no list: {attempts}"));
        let bodies: Vec<Value> = attempts.iter().map(|attempt| attempt["body"].clone()).collect();
        for body in &bodies {
            assert_payload(&body.to_string());
        }
        bodies
    }

    /// Creates a campaign with contacts of the given addresses, not active yet; returns its id.
    pub async fn campaign(&self, fields: &Value, addresses: &[&str]) -> String {
        let mut body = json!({"name": "A campaign", "objective_type": "venue_dj", "approval": "auto"});
        for (name, value) in fields.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let id = self.api.post("/campaigns", &body).await.text("id");
        let contacts: Vec<Value> = addresses
            .iter()
            .enumerate()
            .map(|(n, address)| json!({"email": address, "first_name": format!("Person {n}"), "company": "The Venue"}))
            .collect();
        if !contacts.is_empty() {
            let body = json!({"contacts": contacts, "campaign_id": id});
            self.api.post("/contacts/bulk-import", &body).await.data();
        }
        id
    }

    /// Activates a campaign.
    pub async fn activate(&self, id: &str) {
        self.api.patch(&format!("/campaigns/{id}"), &json!({"status": "active"})).await.data();
    }

    /// Waits until a campaign has a status.
    pub async fn until_status(&self, id: &str, status: &str) -> Value {
        until(&format!("campaign {status}"), async || {
            let campaign = self.api.get(&format!("/campaigns/{id}")).await.data().clone();
            (campaign["status"] == status).then_some(campaign)
        })
        .await
    }

    /// What the mail server of the outside took for an address.
    pub async fn mail(&self, address: &str) -> Vec<Value> {
        let path = format!("/smtp/messages?recipient={}", address.replace('+', "%2B"));
        self.world.get(&path).await.body.as_array().cloned().unwrap_or_default()
    }

    /// The messages of a campaign with their step, by the database.
    pub async fn messages(&self, campaign: &str) -> Vec<(i32, String)> {
        sqlx::query_as(
            "select step, status from messages where campaign_id = $1::uuid and step is not null order by step, id",
        )
        .bind(campaign)
        .fetch_all(self.database.pool())
        .await
        .expect("messages")
    }

    fn spawn(&self, role: &str) -> Child {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.log_path(role)).expect("a log");
        // It ends with the test, however that ends: its stdin does.
        command(&self.environment, &["--stop-at-eof", role])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the role starts")
    }

    fn log_path(&self, role: &str) -> PathBuf {
        self.directory.path().join(format!("{role}.log"))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for role in ROLES {
                eprintln!("--- the log of the {role} ---\n{}", self.log(role));
            }
        }
        for child in self.roles.iter_mut().flatten().chain([&mut self.outside]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn index(role: &str) -> usize {
    ROLES.iter().position(|known| *known == role).expect("a role")
}

fn command(environment: &[(String, String)], args: &[&str]) -> Command {
    let mut command = binaries::iris_command();
    command.args(args).envs(environment.iter().map(|(name, value)| (name, value)));
    command
}

fn start_world(directory: &TempDir, inbound_url: &str) -> (Child, Value) {
    let log = std::fs::File::create(directory.path().join("world.log")).expect("a log");
    let mut command = Command::new(binaries::world());
    binaries::without_settings(&mut command);
    let mut child = command
        .args([
            "--stop-at-eof",
            "--smtp",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--day-ms",
            "1000",
            "--inbound-url",
            inbound_url,
        ])
        .arg("--dir")
        .arg(directory.path())
        .env("IRIS_INBOUND_SECRET", INBOUND_SECRET)
        .env("IRIS_SMTP_FROM", MAILBOX)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .expect("the outside starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    (child, serde_json::from_str(&line).expect("the addresses of the outside"))
}
