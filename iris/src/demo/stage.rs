//! The parts of the demo: a database of its own, the outside, and the roles.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context;
use shared::Database;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use url::Url;
use uuid::Uuid;

use super::{client::Client, processes::Processes};
use crate::{
    local::Local,
    places, roles,
    world::{self, MAILBOX, World},
};

/// Everything that plays.
#[derive(Debug)]
pub struct Stage {
    /// Where logs and ledgers are.
    pub directory: PathBuf,
    /// The demo's own database.
    pub database: Database,
    /// The outside.
    pub world: World,
    /// The roles.
    pub processes: Processes,
    /// The API, with the first admin key.
    pub client: Client,
    server: String,
    name: String,
}

impl Stage {
    /// Brings everything up.
    pub async fn set(local: &Local, server: &str, day: Duration) -> anyhow::Result<Self> {
        let directory = local.directory("demo")?.join(Uuid::now_v7().simple().to_string());
        std::fs::create_dir_all(&directory)?;
        let name = format!("iris_demo_{}", Uuid::new_v4().simple());
        let url = create_database(server, &name).await?;
        let database = roles::migrated(&url).await?;
        let key = roles::bootstrap(&database).await?.context("a fresh database has a key already")?;
        places::load(&database, world::places().await?.as_slice()).await?;

        // A role that is killed comes back on the same port.
        let api = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let inbound_secret = local.inbound_secret()?;
        let world = World::start(&world::Options {
            directory: &directory,
            mailbox: MAILBOX,
            inbound_secret: &inbound_secret,
            inbound_url: &format!("http://{api}/inbound/email"),
            day,
        })
        .await?;
        let environment = [
            ("DATABASE_URL", url),
            ("IRIS_SECRET_KEY", local.secret_key()?),
            ("IRIS_API_ADDR", api.to_string()),
            // One key plays every customer, and asks again and again how far they are.
            ("IRIS_API_RATE_LIMITS", "false".into()),
            ("IRIS_ADMIN_ADDR", "127.0.0.1:0".into()),
            ("IRIS_DAY", format!("{}ms", day.as_millis())),
            ("IRIS_SMTP_URL", format!("smtp://{}", world.addresses.smtp)),
            ("IRIS_SMTP_FROM", format!("Iris <{MAILBOX}>")),
            ("IRIS_INBOUND_SECRET", inbound_secret),
            ("IRIS_WEBHOOK_ALLOW", "127.0.0.0/8".into()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let processes = Processes::start(&directory, environment)?;
        let client =
            Client::new(&format!("http://{api}"), &format!("http://{}", world.addresses.http), &key)?;
        Ok(Self { directory, database, world, processes, client, server: server.to_owned(), name })
    }

    /// Takes everything down; logs and ledgers stay.
    pub async fn strike(self) {
        self.processes.stop().await;
        self.world.stop().await;
        self.database.close().await;
        if let Err(error) = drop_database(&self.server, &self.name).await {
            tracing::warn!(%error, database = self.name, "the demo's database was not dropped");
        }
    }
}

async fn create_database(server: &str, name: &str) -> anyhow::Result<String> {
    let mut conn = PgConnection::connect(server).await.context("the PostgreSQL cannot be reached")?;
    conn.execute(AssertSqlSafe(format!("create database {name}")))
        .await
        .context("the demo makes a database of its own, which this user may not")?;
    conn.close().await?;
    let mut url = Url::parse(server).context("DATABASE_URL is no URL")?;
    url.set_path(name);
    Ok(url.into())
}

async fn drop_database(server: &str, name: &str) -> anyhow::Result<()> {
    let mut conn = PgConnection::connect(server).await?;
    conn.execute(AssertSqlSafe(format!("drop database if exists {name} with (force)"))).await?;
    Ok(conn.close().await?)
}
