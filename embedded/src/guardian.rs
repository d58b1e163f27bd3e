//! A server for one test run, which ends with the process that started it, however that process ends.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::error::cannot;
use crate::home::{Home, random_hex, set_mode};
use crate::{Error, Interruption, Server, Settings, server};

/// Waits until its input ends, which the system sees to when the process at the other end dies; then stops the
/// server of the home `$1` and removes `$1` and `$2`. Signals are ignored: a Ctrl-C or a hang-up comes to the whole
/// terminal, and the process at the other end decides what it means.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
read -r _
pid_file=$1/data/postmaster.pid
if [ -r "$pid_file" ]; then
    read -r pid <"$pid_file"
    kill -QUIT "$pid"
    turns=0
    while [ -e "$pid_file" ] && [ "$turns" -lt 250 ]; do
        sleep 0.02
        turns=$((turns + 1))
    done
fi
rm -rf "$1" "$2"
"#;

/// A private `PostgreSQL` in a temporary directory.
///
/// It is as durable as any other server of this crate, so that tests meet the same server; it only does not outlive
/// its process. A separate process stops it and removes its directory when this one dies, even by kill -9.
#[derive(Debug)]
pub struct Throwaway {
    server: Option<Server>,
    url: String,
    guardian: Guardian,
}

/// Starts a private `PostgreSQL` that ends with this process, small as tests want it.
pub fn start_throwaway() -> Result<Throwaway, Error> {
    start_throwaway_with(&[("shared_buffers", "64MB")])
}

/// The same with settings on top of the defaults of this crate, as `(name, value)`.
pub fn start_throwaway_with(config: &[(&str, &str)]) -> Result<Throwaway, Error> {
    let dir = std::env::temp_dir().join(format!("iris-test-{}", random_hex()?));
    fs::create_dir(&dir).map_err(cannot("create", &dir))?;
    start_throwaway_in(&dir, config)
}

/// The same in a directory that is there and empty, and is removed in the end.
pub fn start_throwaway_in(dir: &Path, config: &[(&str, &str)]) -> Result<Throwaway, Error> {
    set_mode(dir, 0o700)?;
    let home = Home::resolve(dir)?;
    // It comes before the server, so that there is no moment at which nobody would stop one.
    let guardian = Guardian::attach(&home.root, dir)?;
    let mut settings = Settings::new(dir);
    settings.binaries = std::env::var_os("IRIS_PG_BIN").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    settings
        .extra_config
        .extend(config.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let server = server::start_in(home, &settings)?;
    Ok(Throwaway { url: server.url(), server: Some(server), guardian })
}

impl Throwaway {
    /// The address for clients, as of [`Server::url`]. Its user may create databases.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Ends the server until [`Throwaway::resume`].
    pub fn interrupt(&mut self, how: Interruption) -> Result<(), Error> {
        self.server.as_mut().map_or(Ok(()), |server| server.interrupt(how))
    }

    /// Starts the server again at the same address, with recovery if it needs that, and says whether it was gone.
    pub fn resume(&mut self) -> Result<bool, Error> {
        self.server.as_mut().map_or(Ok(false), Server::ensure_running)
    }

    /// Stops the server and removes its directory. Dropping the value does the same without telling of a failure.
    pub fn stop(mut self) -> Result<(), Error> {
        let stopped = self.server.take().map_or(Ok(()), Server::stop);
        self.guardian.finish();
        stopped
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        drop(self.server.take());
        self.guardian.finish();
    }
}

/// The process that waits for the death of this one.
#[derive(Debug)]
struct Guardian {
    process: Child,
    /// Never written to; closed by [`Guardian::finish`] or by the system.
    life: Option<ChildStdin>,
}

impl Guardian {
    fn attach(root: &Path, dir: &Path) -> Result<Self, Error> {
        let shell = Path::new("/bin/sh");
        let mut command = Command::new(shell);
        command.args(["-c", SCRIPT, "guardian"]).arg(root).arg(dir).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut process = command.spawn().map_err(cannot("run", shell))?;
        let life = process.stdin.take();
        Ok(Self { process, life })
    }

    /// Lets it do its work, and waits until that is done.
    fn finish(&mut self) {
        drop(self.life.take());
        if let Err(error) = self.process.wait() {
            tracing::warn!(%error, "cannot wait for the guardian of a throwaway PostgreSQL");
        }
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.finish();
    }
}
