//! The database of a run: a private PostgreSQL that can be ended and started again, and whose disk can be filled.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use embedded::{Interruption, Throwaway, start_throwaway_in, start_throwaway_with};
use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tempfile::TempDir;

use crate::namespaces;

/// What connections of ours are called in the database: nobody ends those on purpose.
pub const NAME: &str = "chaos";
/// The settings in which the server differs from PostgreSQL's own. Nothing here makes it less durable.
const CONFIG: [(&str, &str); 3] =
    [("max_connections", "100"), ("shared_buffers", "256MB"), ("max_wal_size", "512MB")];
/// How large the memory disk is where the disk gets filled.
const DISK_MB: u32 = 6144;
/// How long the database may take to answer again.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);
/// How long one try of it may take, and the pause after it.
const TRY_DEADLINE: Duration = Duration::from_secs(2);
const TRY_PAUSE: Duration = Duration::from_millis(20);
/// What shows that writing works.
const SCHEMA: &str = "create schema chaos;
    create table chaos.probes (at timestamptz not null default now());";

/// A private PostgreSQL, and connections of ours to it.
#[derive(Debug)]
pub struct Database {
    server: Arc<Mutex<Throwaway>>,
    url: String,
    /// For looking, which it may do at any time but an outage.
    pub pool: PgPool,
    disk: Option<Disk>,
}

impl Database {
    /// Starts one; on a small disk of its own if one is wanted and can be had.
    pub async fn start(on_disk: bool) -> anyhow::Result<Self> {
        let (server, disk) = tokio::task::spawn_blocking(move || start_server(on_disk)).await??;
        let url = server.url().to_owned();
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(10))
            .connect_with(PgConnectOptions::from_str(&url)?.application_name(NAME))
            .await?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await?;
        Ok(Self { server: Arc::new(Mutex::new(server)), url, pool, disk })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The disk that may be filled; none if there is none.
    pub fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// A connection of ours beside the pool.
    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        let options = PgConnectOptions::from_str(&self.url)?.application_name(NAME);
        Ok(tokio::time::timeout(TRY_DEADLINE, options.connect()).await??)
    }

    /// Ends the server.
    pub async fn interrupt(&self, how: Interruption) -> anyhow::Result<()> {
        self.with_server(move |server| server.interrupt(how)).await
    }

    /// Starts the server again, and says whether it was gone.
    pub async fn resume(&self) -> anyhow::Result<bool> {
        self.with_server(Throwaway::resume).await
    }

    async fn with_server<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Throwaway) -> Result<T, embedded::Error> + Send + 'static,
    ) -> anyhow::Result<T> {
        let server = self.server.clone();
        let done = tokio::task::spawn_blocking(move || {
            work(&mut server.lock().unwrap_or_else(PoisonError::into_inner))
        });
        Ok(done.await??)
    }

    /// Waits until a new connection can write.
    pub async fn until_it_writes(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + ANSWER_DEADLINE;
        loop {
            let error = match tokio::time::timeout(TRY_DEADLINE, self.write_once()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error,
                Err(error) => error.into(),
            };
            if Instant::now() > deadline {
                return Err(error.context("PostgreSQL does not answer any more"));
            }
            tokio::time::sleep(TRY_PAUSE).await;
        }
    }

    async fn write_once(&self) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        sqlx::query("insert into chaos.probes default values").execute(&mut connection).await?;
        Ok(connection.close().await?)
    }
}

fn start_server(on_disk: bool) -> anyhow::Result<(Throwaway, Option<Disk>)> {
    let disk = if on_disk { Disk::mount().inspect_err(|error| eprintln!("{error:#}")).ok() } else { None };
    let server = match &disk {
        Some(disk) => start_throwaway_in(disk.path(), &CONFIG),
        None => start_throwaway_with(&CONFIG),
    };
    Ok((server.context("the PostgreSQL of the run")?, disk))
}

/// A disk in memory that holds the database and nothing else. It is gone when this process is.
#[derive(Debug)]
pub struct Disk {
    directory: TempDir,
}

impl Disk {
    fn mount() -> anyhow::Result<Self> {
        // Without mounts of our own one would be left behind by a kill.
        if !namespaces::has(namespaces::MOUNTS) {
            bail!("a disk that can be filled needs root, for its mount");
        }
        let directory = tempfile::Builder::new().prefix("iris-chaos-disk-").tempdir()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={DISK_MB}m,mode=0711"), "tmpfs"])
            .arg(directory.path())
            .stdin(Stdio::null())
            .output()
            .context("mount")?;
        if !mounted.status.success() {
            bail!("no disk can be mounted: {}", String::from_utf8_lossy(&mounted.stderr).trim());
        }
        Ok(Self { directory })
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Where what fills it goes.
    pub fn ballast(&self) -> PathBuf {
        self.directory.path().join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What is not unmounted here is with the process.
        let _ = Command::new("umount").arg(self.directory.path()).status();
    }
}
