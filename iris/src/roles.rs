//! One role, or one operator's command, in this process.

use std::{future::Future, path::Path};

use anyhow::Context;
use shared::{Database, config::BaseConfig, db};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    cli,
    local::{Local, PRIVATE, Postgres},
};

/// The API.
pub async fn api(config: cli::Api, local: Option<Local>) -> anyhow::Result<()> {
    with_database(config.base, local, |base, stop| api::run(config.role, base, stop)).await
}

/// The worker.
pub async fn worker(config: cli::Worker, local: Option<Local>) -> anyhow::Result<()> {
    with_database(config.base, local, |base, stop| worker::run(config.role, base, stop)).await
}

/// The dispatcher.
pub async fn dispatcher(config: cli::Dispatcher, local: Option<Local>) -> anyhow::Result<()> {
    with_database(config.base, local, |base, stop| dispatcher::run(config.role, base, stop)).await
}

/// The schema.
pub async fn migrate(config: cli::Migrate, local: Option<Local>) -> anyhow::Result<()> {
    with_command(&config.place, local, async |database| {
        tracing::info!(version = db::newest_migration(), "the schema is up to date");
        database.close().await;
        Ok(())
    })
    .await
}

/// The operator's keys.
pub async fn keys(config: cli::Keys, local: Option<Local>) -> anyhow::Result<()> {
    let cli::KeysCommand::Bootstrap(place) = config.command;
    with_command(&place, local, async |database| {
        match bootstrap(&database).await? {
            Some(key) => println!("{key}"),
            None => anyhow::bail!("there is a live key already; make others with POST /keys"),
        }
        Ok(())
    })
    .await
}

/// The venues.
pub async fn places(config: cli::Places, local: Option<Local>) -> anyhow::Result<()> {
    let cli::PlacesCommand::Load { file, place } = config.command;
    with_command(&place, local, async |database| {
        let count = load_places(&database, &file).await?;
        println!("{count} venues loaded");
        Ok(())
    })
    .await
}

/// The durable queue.
pub async fn queue(config: cli::Queue, local: Option<Local>) -> anyhow::Result<()> {
    let cli::Queue { command, json, place } = config;
    with_command(&place, local, async |database| crate::queue_command::run(&database, command, json).await)
        .await
}

async fn load_places(database: &Database, file: &Path) -> anyhow::Result<usize> {
    let reader = std::fs::File::open(file).with_context(|| format!("{} cannot be read", file.display()))?;
    crate::places::load(database, reader).await
}

/// Makes the first key, if there is none.
pub async fn bootstrap(database: &Database) -> anyhow::Result<Option<String>> {
    let mut tx = database.begin().await?;
    let key = db::api_keys::bootstrap(&mut tx).await?;
    tx.commit().await?;
    Ok(key)
}

/// The URL of the database, with the private server started when it is meant.
pub async fn start_database(url: &str, local: Option<&Local>) -> anyhow::Result<(String, Option<Postgres>)> {
    match local {
        Some(local) if url == PRIVATE => {
            let postgres = local.start_postgres().await?;
            Ok((postgres.url().to_owned(), Some(postgres)))
        }
        _ => Ok((url.to_owned(), None)),
    }
}

/// Runs a role until SIGTERM or SIGINT. On the private database the schema is brought up to date first; on a given one
/// that is the operator's step.
async fn with_database<F>(
    mut base: BaseConfig,
    local: Option<Local>,
    role: impl FnOnce(BaseConfig, CancellationToken) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let (url, postgres) = start_database(&base.database_url, local.as_ref()).await?;
    base.database_url = url;
    if postgres.is_some() {
        migrated(&base.database_url).await?.close().await;
    }
    let ran = role(base, stop_signal()?).await;
    if let Some(postgres) = postgres {
        postgres.stop().await;
    }
    ran
}

/// Runs a command on a database whose schema is up to date.
async fn with_command(
    place: &cli::Where,
    local: Option<Local>,
    command: impl AsyncFnOnce(Database) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (url, postgres) = start_database(&place.database_url, local.as_ref()).await?;
    let ran = async { command(migrated(&url).await?).await };
    let ran = ran.await;
    if let Some(postgres) = postgres {
        postgres.stop().await;
    }
    ran
}

/// A connection to a database, with its schema brought up to date.
pub async fn migrated(url: &str) -> anyhow::Result<Database> {
    let database = Database::connect(url, "iris-migrate", 2)
        .context("DATABASE_URL is not the address of a PostgreSQL")?;
    db::migrate(database.pool()).await.context("the schema cannot be brought up to date")?;
    Ok(database)
}

/// Cancelled by the first SIGTERM or SIGINT.
pub fn stop_signal() -> anyhow::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let signalled = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("stopping");
        signalled.cancel();
    });
    Ok(stop)
}
