//! What can go wrong, each in one line that says what, where and what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Why `PostgreSQL` could not be found, started or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no `PostgreSQL` server that is new enough on this system.
    #[error(
        "no PostgreSQL server binaries (15 or newer) found{found}; install them: {}, or set IRIS_PG_BIN",
        install_hint()
    )]
    NoBinaries {
        /// What was found instead, as ` (found …)`, or nothing.
        found: String,
    },
    /// The directory named by the caller does not hold a usable server.
    #[error("IRIS_PG_BIN={}: {reason}", dir.display())]
    BadBinaries {
        /// The directory that was named.
        dir: PathBuf,
        /// Why it does not serve.
        reason: String,
    },
    /// The cluster was made by a major version that is not installed.
    #[error(
        "the database in {} was made by PostgreSQL {data} and only {found} is installed; install PostgreSQL {data}, or dump it there and restore it here",
        dir.display()
    )]
    DataVersion {
        /// The directory of the cluster.
        dir: PathBuf,
        /// The major version that made it.
        data: u32,
        /// The major versions that are installed.
        found: String,
    },
    /// `PostgreSQL` refuses to run as root and there is no user to drop to.
    #[error(
        "PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody` to run it as; run iris as another user"
    )]
    NoUser,
    /// The user that `PostgreSQL` runs as cannot use a file it needs.
    #[error("{user} cannot reach {}; make it and the directories above it accessible: chmod o+x", path.display())]
    Unreachable {
        /// The user the server runs as.
        user: String,
        /// What it cannot reach.
        path: PathBuf,
    },
    /// The data was kept elsewhere and is not there any more.
    #[error(
        "{} says that the database is in {}, which does not exist; restore it, or delete that file to begin with an empty one",
        file.display(), dir.display()
    )]
    LostData {
        /// The file that names the place.
        file: PathBuf,
        /// The place that is missing.
        dir: PathBuf,
    },
    /// A directory that only root may have made belongs to somebody else.
    #[error("{} exists and does not belong to root; remove it and start again", path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `initdb` failed.
    #[error("initdb could not make a database in {}: {detail}", dir.display())]
    InitDb {
        /// The directory of the cluster.
        dir: PathBuf,
        /// The last thing it said.
        detail: String,
    },
    /// The server ended while it was starting.
    #[error("PostgreSQL did not start: {detail} (log: {})", log.display())]
    Exited {
        /// The server's log file.
        log: PathBuf,
        /// The last thing it said.
        detail: String,
    },
    /// The server did not get ready in time.
    #[error("PostgreSQL in {} was not ready after {seconds} s (log: {})", dir.display(), log.display())]
    StartTimeout {
        /// The directory of the cluster.
        dir: PathBuf,
        /// How long it was given.
        seconds: u64,
        /// The server's log file.
        log: PathBuf,
    },
    /// The server did not stop, not even at once and without a checkpoint.
    #[error("PostgreSQL (process {pid}) does not stop; look at {}", log.display())]
    StopTimeout {
        /// The process of the server.
        pid: u32,
        /// The server's log file.
        log: PathBuf,
    },
}

/// Names the failed action and its file, for `map_err`.
pub(crate) fn cannot(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Io { action, path, source }
}

fn install_hint() -> &'static str {
    if cfg!(target_os = "macos") { "brew install postgresql@17" } else { "apt-get install postgresql" }
}
