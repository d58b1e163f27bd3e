//! Starts a private `PostgreSQL` from the server binaries of the system.
//!
//! [`start`] takes a directory and gives back a [`Server`] that answers at [`Server::url`]. The first start makes
//! the cluster (UTF-8, C locale, password over a private unix socket); a later one finds it again, in whatever
//! state the last process left it: a server that still runs is adopted, one that was killed is started and
//! recovers by itself. Nothing is downloaded and nothing is made faster by being less durable: fsync stays on.
//!
//! Everything here blocks; async code calls it from `spawn_blocking`. Start reading at [`start`], then
//! `server.rs` for the life of the server and `postmaster.rs` for how a live one is told from a dead one.

mod binaries;
mod cluster;
mod error;
mod guardian;
mod home;
mod launch;
mod postmaster;
mod server;
mod user;

use std::path::PathBuf;
use std::time::Duration;

pub use binaries::{Binaries, find_binaries};
pub use error::Error;
pub use guardian::{Throwaway, start_throwaway, start_throwaway_in, start_throwaway_with};
pub use server::{Interruption, Origin, Server, Status, start};

/// The oldest major version of `PostgreSQL` that is accepted.
pub const MAJOR_MIN: u32 = 15;

/// What [`start`] needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory that holds the cluster, its socket, log and password. It is made when it is missing.
    pub data_dir: PathBuf,
    /// The directory of the server binaries to use (`IRIS_PG_BIN`); `None` looks for them on the system.
    pub binaries: Option<PathBuf>,
    /// `PostgreSQL` settings on top of the defaults of this crate, as `(name, value)`; the last one of a name wins.
    /// A server that runs already keeps those it was started with.
    pub extra_config: Vec<(String, String)>,
    /// How long a start may take. Crash recovery of a large database is slow, and a server that ends by itself
    /// is noticed at once, so this only bounds a server that hangs. 5 minutes by default.
    pub start_deadline: Duration,
}

impl Settings {
    /// The default settings for a cluster in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            binaries: None,
            extra_config: Vec::new(),
            start_deadline: Duration::from_mins(5),
        }
    }
}
