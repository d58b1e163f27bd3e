//! The dispatcher under fire: the real roles of iris and a real PostgreSQL, customers that change things by the API all the
//! while, and receivers of every kind. Dispatchers and the API are killed, PostgreSQL goes away; in the end the receivers,
//! which share no code with us, say what was lost or came twice and whether anybody reached an address that nobody may.
//! Start reading at [`run`].

mod api;
mod faults;
mod network;
mod receivers;
mod report;
mod roles;
mod settle;
mod traffic;

use std::{
    net::{Ipv4Addr, TcpListener},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use reqwest::Method;
use serde_json::json;

use crate::database::Database;
use api::Client;
use receivers::{Endpoint, Receivers};
use report::{Found, Report};
use roles::{Program, Roles};
use traffic::Traffic;

/// How much to break.
#[derive(Debug, Args)]
pub struct Options {
    /// How long events flow and things are broken.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    minutes: u32,
    /// Print one JSON object as the last line of stdout.
    #[arg(long)]
    json: bool,
}

/// How many customers there are, each with a key of its own.
const CUSTOMERS: usize = 16;
/// How many changes have to be acknowledged before anything is broken, and how long that may take.
const WARM: u64 = 100;
const WARM_DEADLINE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);
/// Retries and the attempts themselves are short, so that a delivery can be exhausted within the run.
const RETRIES: &str = "1s,2s,4s";
const TIMEOUT: &str = "5s";
const CIRCUIT_PAUSE: &str = "3s";
/// The key that seals secrets.
const SECRET_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Everything that is there to be broken, and who judges.
#[derive(Debug)]
struct Stage {
    database: Database,
    roles: Arc<Roles>,
    receivers: Receivers,
    client: Client,
    keys: Vec<String>,
    begun: Instant,
}

impl Stage {
    fn say(&self, what: &str) {
        crate::stage::say(self.begun, what);
    }
}

/// An endpoint that the API knows.
#[derive(Debug)]
struct Registered {
    id: String,
    endpoint: Endpoint,
}

/// What has to be the run's own, where that can be had.
pub fn namespaces() -> &'static [&'static str] {
    network::wanted()
}

/// Runs, prints the report, and says whether every goal was reached.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    let scratch = tempfile::Builder::new().prefix("iris-chaos-").tempdir()?;
    let receivers = open_receivers(scratch.path()).await?;
    let (stage, admin) = set(receivers).await?;
    let watched = tokio::spawn(stage.roles.clone().watch());
    let registered = register(&stage, &admin).await?;
    stage.say(&format!("{} endpoints and {CUSTOMERS} customers", registered.len()));
    let flowing = Instant::now();
    let traffic = Traffic::start(&stage.client, &stage.receivers.control, &stage.keys);
    warm_up(&stage).await?;
    let outages = faults::run(&stage, options.minutes).await?;
    traffic.stop().await?;
    let seconds = flowing.elapsed().as_secs();
    stage.say("the events end");
    let arrived = settle::until_arrived(&stage).await?;
    settle::list_deliveries(&stage, &registered).await?;
    let stopped = stage.roles.stop().await;
    watched.await??;
    let mut problems = stage.roles.unexpected_ends().await;
    problems.extend(stopped.err().map(|error| format!("{error:#}")));
    if !arrived {
        problems.push("not everything arrived".to_owned());
    }
    let verdict = stage.receivers.report().await?;
    let left_out = stage.receivers.layout.left_out.clone();
    let memory_mib = stage.roles.memory_mib();
    let report = Report::new(&verdict, Found { outages, left_out, memory_mib, seconds, problems });
    report.print(options.json)?;
    Ok(report.is_reached())
}

/// Starts the receivers, where possible in a network of the run's own.
async fn open_receivers(scratch: &Path) -> anyhow::Result<Receivers> {
    let own = network::is_own();
    if !own {
        eprintln!("endpoints with names are left out: {}", network::MISSING);
        return Receivers::start(scratch, own).await;
    }
    network::bring_up()?;
    let receivers = Receivers::start(scratch, own).await?;
    network::add(&receivers.layout.addresses)?;
    network::resolve_here(scratch)?;
    Ok(receivers)
}

/// Starts the database and the roles; returns the first key too.
async fn set(receivers: Receivers) -> anyhow::Result<(Stage, String)> {
    let database = Database::start(false).await?;
    // A role that is killed comes back on the same port.
    let api = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.to_string();
    let program = Program::find(settings(database.url(), &api, &receivers))?;
    program.run(&["migrate"]).await?;
    let admin = program.run(&["keys", "bootstrap"]).await?.trim().to_owned();
    let roles = Roles::start(program, receivers.control.clone()).await?;
    let client = Client::new(&api)?;
    let mut keys = Vec::new();
    for n in 1..=CUSTOMERS {
        let new = json!({"name": format!("customer {n}"), "scopes": ["*"]});
        let made = client.insist(&admin, &Method::POST, "/keys", Some(&new)).await?;
        keys.push(made["data"]["key"].as_str().context("a key")?.to_owned());
    }
    Ok((Stage { database, roles, receivers, client, keys, begun: Instant::now() }, admin))
}

fn settings(database: &str, api: &str, receivers: &Receivers) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("DATABASE_URL", database.to_owned()),
        ("IRIS_SECRET_KEY", SECRET_KEY.to_owned()),
        ("IRIS_API_ADDR", api.to_owned()),
        ("IRIS_API_RATE_LIMITS", "false".to_owned()),
        ("IRIS_ADMIN_ADDR", "127.0.0.1:0".to_owned()),
        ("IRIS_WEBHOOK_ALLOW", receivers.layout.allow.clone()),
        ("IRIS_WEBHOOK_RETRIES", RETRIES.to_owned()),
        ("IRIS_WEBHOOK_TIMEOUT", TIMEOUT.to_owned()),
        ("IRIS_WEBHOOK_CIRCUIT_PAUSE", CIRCUIT_PAUSE.to_owned()),
    ];
    if network::is_own() {
        settings.push(("SSL_CERT_FILE", receivers.authority.display().to_string()));
    }
    settings
}

/// Registers every endpoint by the API, and tells the receivers what it signs with.
async fn register(stage: &Stage, admin: &str) -> anyhow::Result<Vec<Registered>> {
    let mut registered = Vec::new();
    for endpoint in &stage.receivers.layout.endpoints {
        let Endpoint { name, url, events, ordered, .. } = endpoint;
        let new = json!({"url": url, "events": events, "ordered": ordered, "description": name});
        let made = stage.client.insist(admin, &Method::POST, "/webhooks", Some(&new)).await?;
        let text =
            |field: &str| made["data"][field].as_str().context("a new endpoint has an id and a secret");
        let line = format!("secret {name} {}\n", text("secret")?);
        stage.receivers.control.ask(&line).await?;
        registered.push(Registered { id: text("id")?.to_owned(), endpoint: endpoint.clone() });
    }
    Ok(registered)
}

async fn warm_up(stage: &Stage) -> anyhow::Result<()> {
    let warm = async {
        loop {
            let status = stage.receivers.status().await?;
            if status.acknowledged >= WARM && status.requests >= WARM {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(WARM_DEADLINE, warm).await.context("events do not begin to flow")?
}
