//! What iris brings along when it is given no database: a private PostgreSQL, and secrets in IRIS_HOME.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use shared::secrets::SecretKey;
use tokio::{sync::oneshot, task::JoinHandle};

/// The database URL that stands for the private one until it is started.
pub const PRIVATE: &str = "private";
/// How often the private server is looked after.
const LOOK: Duration = Duration::from_secs(1);

/// The directory of everything that iris keeps.
#[derive(Debug, Clone)]
pub struct Local {
    home: PathBuf,
}

impl Local {
    /// IRIS_HOME, by default `.iris` in the current directory; made when it is missing.
    pub fn find() -> anyhow::Result<Self> {
        let home =
            std::env::var_os("IRIS_HOME").filter(|home| !home.is_empty()).unwrap_or_else(|| ".iris".into());
        let home = std::path::absolute(&home)
            .with_context(|| format!("IRIS_HOME: {} is no path", home.display()))?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&home)
            .with_context(|| format!("IRIS_HOME: {} cannot be made", home.display()))?;
        Ok(Self { home })
    }

    /// A directory of ours.
    pub fn directory(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.home.join(name);
        fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(path)
    }

    /// The key that seals secrets, made at the first start.
    pub fn secret_key(&self) -> anyhow::Result<String> {
        self.secret("secret-key", SecretKey::generate)
    }

    /// What signs the mail that the simulated outside hands in.
    pub fn inbound_secret(&self) -> anyhow::Result<String> {
        self.secret("inbound-secret", SecretKey::generate)
    }

    /// Where the first key of `iris up` is kept, so that its next start can print it again.
    pub fn first_key(&self) -> PathBuf {
        self.home.join("first-key")
    }

    /// Where a running `iris up` says how it is reached, for a shell to read.
    pub fn facts(&self) -> PathBuf {
        self.home.join("up.env")
    }

    /// A text only its owner may read, made at the first use. Two starts at once end up with the same one.
    fn secret(&self, name: &str, make: impl FnOnce() -> String) -> anyhow::Result<String> {
        let path = self.home.join(name);
        let read = || fs::read_to_string(&path).map(|text| text.trim().to_owned());
        match read() {
            Ok(text) if !text.is_empty() => return Ok(text),
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("{} cannot be read", path.display()));
            }
            Ok(_) | Err(_) => {}
        }
        let fresh = self.home.join(format!("{name}.{}", std::process::id()));
        write_private(&fresh, &make())?;
        let linked = fs::hard_link(&fresh, &path);
        let _ = fs::remove_file(&fresh);
        match linked {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("{} cannot be made", path.display())),
        }
        read().with_context(|| format!("{} cannot be read", path.display()))
    }

    /// Starts the private PostgreSQL, or shares the one that another process started.
    pub async fn start_postgres(&self) -> anyhow::Result<Postgres> {
        let mut settings = embedded::Settings::new(self.home.join("postgres"));
        settings.binaries =
            std::env::var_os("IRIS_PG_BIN").filter(|path| !path.is_empty()).map(PathBuf::from);
        let server = tokio::task::spawn_blocking(move || embedded::start(&settings)).await??;
        let url = server.url();
        let (stop, stopped) = oneshot::channel();
        Ok(Postgres { url, stop, keeper: tokio::task::spawn(keep(server, stopped)) })
    }
}

/// Writes a file that only its owner may read.
pub fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        writeln!(file, "{text}")?;
        file.sync_all()
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}

/// The private PostgreSQL while this process needs it.
#[derive(Debug)]
pub struct Postgres {
    url: String,
    stop: oneshot::Sender<()>,
    keeper: JoinHandle<()>,
}

impl Postgres {
    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops it, unless another process owns it.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.keeper.await;
    }
}

/// Starts the server again when it dies, and stops it at the end.
async fn keep(mut server: embedded::Server, mut stopped: oneshot::Receiver<()>) {
    while tokio::time::timeout(LOOK, &mut stopped).await.is_err() {
        let looked = tokio::task::spawn_blocking(move || {
            let looked = server.ensure_running();
            (server, looked)
        })
        .await;
        match looked {
            Ok((kept, looked)) => {
                server = kept;
                match looked {
                    Ok(true) => tracing::warn!("the private PostgreSQL had died and was started again"),
                    Ok(false) => {}
                    Err(error) => tracing::error!(%error, "the private PostgreSQL cannot be started again"),
                }
            }
            Err(error) => {
                tracing::error!(%error, "the private PostgreSQL is no longer looked after");
                return;
            }
        }
    }
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || server.stop()).await {
        tracing::error!(%error, "the private PostgreSQL was not stopped");
    }
}
