//! Makes the cluster on the first start.

use std::fs::{self, File};

use crate::binaries::Binaries;
use crate::error::cannot;
use crate::home::{Home, remove_if_there, write_private};
use crate::{Error, server};

/// Makes the cluster if there is none. The caller holds the lock.
///
/// It grows under another name and gets its own by a rename, so that a process killed on the way leaves nothing
/// that looks like a cluster.
pub(crate) fn ensure(home: &Home, binaries: &Binaries) -> Result<bool, Error> {
    if home.has_cluster() {
        return Ok(false);
    }
    let new = home.root.join("data.new");
    let pwfile = home.root.join("initdb.password");
    remove_if_there(&new)?;
    home.own_dir(&new, 0o700)?;
    // The kept password is readable by this process's user only, and initdb may run as another.
    write_private(&pwfile, &home.password()?)?;
    home.user.own(&pwfile)?;
    let mut command = home.user.command(&binaries.program("initdb"));
    command.current_dir(&home.root).arg("--pgdata").arg(&new).arg("--pwfile").arg(&pwfile);
    command.args([
        "--username",
        server::DATABASE_USER,
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
    ]);
    let output = command.output().map_err(cannot("run", &binaries.program("initdb")));
    remove_if_there(&pwfile)?;
    let output = output?;
    if !output.status.success() {
        remove_if_there(&new)?;
        let text = String::from_utf8_lossy(&output.stderr);
        let detail = last_word(&text).unwrap_or("it gave no reason").to_owned();
        return Err(Error::InitDb { dir: home.data(), detail });
    }
    fs::rename(&new, home.data()).map_err(cannot("rename", &new))?;
    File::open(&home.root).and_then(|dir| dir.sync_all()).map_err(cannot("sync", &home.root))?;
    Ok(true)
}

/// The line of `PostgreSQL`'s output that says most: the last error, or else the last line.
pub(crate) fn last_word(text: &str) -> Option<&str> {
    let lines = || text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    lines().find(|line| line.contains("FATAL:") || line.contains("error:")).or_else(|| lines().next())
}

#[cfg(test)]
mod tests {
    use super::last_word;

    #[test]
    fn the_last_error_says_most() {
        for (text, word) in [
            ("", None),
            ("starting\nready\n\n", Some("ready")),
            ("LOG: a\nFATAL:  the port is taken\nLOG: shut down\n", Some("FATAL:  the port is taken")),
            ("initdb: error: no space\ninitdb: removing\n", Some("initdb: error: no space")),
        ] {
            assert_eq!(last_word(text), word);
        }
    }
}
