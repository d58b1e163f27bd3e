//! Who the server runs as: `PostgreSQL` refuses to run as root, so root drops to another user for its children.

use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Error;
use crate::error::cannot;

/// The variables of libpq and of the server that would change what the children do.
const VARIABLES: [&str; 8] =
    ["PGDATA", "PGPORT", "PGHOST", "PGUSER", "PGDATABASE", "PGOPTIONS", "PGPASSWORD", "PGSERVICE"];

/// The user that the server and `initdb` run as.
#[derive(Debug, Clone)]
pub(crate) enum User {
    /// The user of this process.
    Same,
    /// Another one, because this process is root.
    Other { uid: u32, gid: u32, name: String },
}

impl User {
    /// Whoever owns the cluster in `data`, or for a new one `postgres`, or else `nobody`.
    pub(crate) fn choose(data: &Path) -> Result<Self, Error> {
        if !is_root() {
            return Ok(Self::Same);
        }
        if let Ok(metadata) = data.metadata()
            && metadata.uid() != 0
        {
            let name = format!("the user with id {}", metadata.uid());
            return Ok(Self::Other { uid: metadata.uid(), gid: metadata.gid(), name });
        }
        ["postgres", "nobody"].into_iter().find_map(Self::named).ok_or(Error::NoUser)
    }

    fn named(name: &str) -> Option<Self> {
        let id = |flag| {
            let output = Command::new("id").args([flag, name]).stdin(Stdio::null()).output().ok()?;
            String::from_utf8_lossy(&output.stdout).trim().parse().ok()
        };
        Some(Self::Other { uid: id("-u")?, gid: id("-g")?, name: format!("the user `{name}`") })
    }

    /// How messages call this user.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Same => "this user",
            Self::Other { name, .. } => name,
        }
    }

    /// A command that runs as this user, in English and free of the caller's `PostgreSQL` settings.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for name in VARIABLES {
            command.env_remove(name);
        }
        // With a time zone given, initdb need not search all there are for the one of the system.
        command.env("LC_ALL", "C").env("TZ", "UTC").stdin(Stdio::null());
        if let Self::Other { uid, gid, .. } = self {
            command.uid(*uid).gid(*gid);
        }
        command
    }

    /// Gives a file that this process made to the user of the server.
    pub(crate) fn own(&self, path: &Path) -> Result<(), Error> {
        match self {
            Self::Same => Ok(()),
            Self::Other { uid, gid, .. } => {
                chown(path, Some(*uid), Some(*gid)).map_err(cannot("change the owner of", path))
            }
        }
    }

    /// Whether the user can use `path`. The system is asked as that user, since modes are not the whole truth.
    pub(crate) fn can(&self, test: Access, path: &Path) -> bool {
        if matches!(self, Self::Same) {
            return true;
        }
        let script = match test {
            Access::Enter => "cd -- \"$1\"",
            Access::Execute => "test -x \"$1\"",
        };
        let mut command = self.command(Path::new("/bin/sh"));
        command.args(["-c", script, "sh"]).arg(path).current_dir("/");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

/// What [`User::can`] asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Access {
    /// To use a directory as the working directory.
    Enter,
    /// To run a program.
    Execute,
}

/// Whether this process has the rights of root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
