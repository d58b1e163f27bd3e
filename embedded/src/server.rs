//! The life of a private server: found or launched, asked, stopped.

use std::fmt::Write;
use std::fs::File;
use std::path::Path;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::binaries::{Binaries, find_binaries_of};
use crate::home::{Home, remove_if_there};
use crate::launch::{halt, kill, launch};
use crate::postmaster::{self, Endpoint, PidFile, SOCKET_PORT, find_live};
use crate::user::Access;
use crate::{Error, Settings, cluster};

/// The superuser of a cluster that this crate makes.
pub(crate) const DATABASE_USER: &str = "iris";

pub(crate) const POLL: Duration = Duration::from_millis(2);
/// A private `PostgreSQL` that accepts connections.
///
/// The process that holds the lock of the directory owns the server and stops it, by [`Server::stop`] or when the
/// value is dropped. Any other process that starts on the same directory shares the server and leaves it running,
/// unless the owner has died by then. After a kill -9 of the owner the server runs on, and the next start adopts it.
#[derive(Debug)]
pub struct Server {
    home: Home,
    settings: Settings,
    endpoint: Endpoint,
    password: String,
    origin: Origin,
    owner: Option<Owner>,
}

#[derive(Debug)]
struct Owner {
    /// Held for as long as this value lives.
    _lock: File,
    /// The server, if this process started it: it has to be waited for when it ends.
    child: Option<Child>,
}

/// How a [`Server`] came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The cluster was made and its server started.
    Created,
    /// The cluster was there and its server was started, with recovery if it had not been stopped.
    Restarted,
    /// The server was running already.
    Adopted,
}

/// How [`Server::interrupt`] ends the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// It ends its sessions, writes its data and ends, as when an operator stops it.
    Stop,
    /// Its main process is killed; what it started ends by itself when it notices. The next start recovers.
    Kill,
}

/// What a [`Server`] does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It accepts connections.
    Ready,
    /// Its process lives and does not accept connections (yet, or any more).
    Busy,
    /// Its process is gone.
    Gone,
}

/// Starts the private `PostgreSQL` of a directory, or adopts the one that runs there.
pub fn start(settings: &Settings) -> Result<Server, Error> {
    start_in(Home::resolve(&settings.data_dir)?, settings)
}

pub(crate) fn start_in(home: Home, settings: &Settings) -> Result<Server, Error> {
    let deadline = Instant::now() + settings.start_deadline;
    loop {
        if let Some(lock) = home.try_lock()? {
            return start_as_owner(home, settings, lock, deadline);
        }
        // Another process owns the server, and may be starting it at this moment.
        if let Some(file) = find_live(&home.data()).filter(accepts) {
            tracing::info!(pid = file.pid, "shares the PostgreSQL that another process owns");
            let (password, settings) = (home.password()?, settings.clone());
            let endpoint = file.endpoint;
            return Ok(Server { home, settings, endpoint, password, origin: Origin::Adopted, owner: None });
        }
        wait(&home, settings, deadline)?;
    }
}

fn start_as_owner(home: Home, settings: &Settings, lock: File, deadline: Instant) -> Result<Server, Error> {
    while let Some(file) = find_live(&home.data()) {
        if postmaster::is_outdated(file.pid) {
            tracing::info!(pid = file.pid, "restarts PostgreSQL, whose program was upgraded under it");
            halt(&home, file.pid, None)?;
        } else if accepts(&file) {
            tracing::info!(pid = file.pid, "adopts the PostgreSQL that was left running");
            let (password, settings) = (home.password()?, settings.clone());
            let (endpoint, owner) = (file.endpoint, Some(Owner { _lock: lock, child: None }));
            return Ok(Server { home, settings, endpoint, password, origin: Origin::Adopted, owner });
        } else {
            wait(&home, settings, deadline)?;
        }
    }
    let binaries = binaries_for(&home, settings)?;
    let origin = if cluster::ensure(&home, &binaries)? { Origin::Created } else { Origin::Restarted };
    let (child, endpoint) = launch(&home, &binaries, settings, None, deadline)?;
    let (password, settings) = (home.password()?, settings.clone());
    let owner = Some(Owner { _lock: lock, child: Some(child) });
    Ok(Server { home, settings, endpoint, password, origin, owner })
}

pub(crate) fn accepts(file: &PidFile) -> bool {
    file.ready && file.endpoint.answers()
}

pub(crate) fn wait(home: &Home, settings: &Settings, deadline: Instant) -> Result<(), Error> {
    if Instant::now() < deadline {
        sleep(POLL);
        return Ok(());
    }
    let seconds = settings.start_deadline.as_secs();
    Err(Error::StartTimeout { dir: home.data(), seconds, log: home.log() })
}

fn binaries_for(home: &Home, settings: &Settings) -> Result<Binaries, Error> {
    let data = home.data();
    let cluster = home.cluster_version().map(|major| (major, data.as_path()));
    let binaries = find_binaries_of(settings.binaries.as_deref(), cluster)?;
    let program = binaries.program("postgres");
    if home.user.can(Access::Execute, &program) {
        Ok(binaries)
    } else {
        Err(Error::Unreachable { user: home.user.name().to_owned(), path: program })
    }
}

impl Server {
    /// The address for clients such as sqlx, with the password. It stays the same while this value lives.
    pub fn url(&self) -> String {
        let password = &self.password;
        match &self.endpoint {
            Endpoint::Socket(dir) => {
                let dir = percent_encode(dir);
                format!(
                    "postgres://{DATABASE_USER}:{password}@localhost:{SOCKET_PORT}/postgres?host={dir}&sslmode=disable"
                )
            }
            Endpoint::Loopback(port) => {
                format!("postgres://{DATABASE_USER}:{password}@127.0.0.1:{port}/postgres?sslmode=disable")
            }
        }
    }

    /// The process of the server; `None` when it is gone.
    pub fn pid(&self) -> Option<u32> {
        find_live(&self.home.data()).map(|file| file.pid)
    }

    /// How this server came to be.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Whether this process owns the server and stops it.
    pub fn is_owner(&self) -> bool {
        self.owner.is_some()
    }

    /// Where the data, the log and the password really are.
    pub fn directory(&self) -> &Path {
        &self.home.root
    }

    /// What the server does now.
    pub fn status(&self) -> Status {
        match find_live(&self.home.data()) {
            None => Status::Gone,
            Some(file) if accepts(&file) => Status::Ready,
            Some(_) => Status::Busy,
        }
    }

    /// Ends the server, which this process must own, until [`Server::ensure_running`] starts it again.
    pub fn interrupt(&mut self, how: Interruption) -> Result<(), Error> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let Some(owner) = self.owner.as_mut() else { return Ok(()) };
        let mut child = owner.child.take();
        match how {
            Interruption::Stop => halt(&self.home, pid, child.as_mut()),
            Interruption::Kill => kill(&self.home, pid, child.as_mut()),
        }
    }

    /// Starts the server again at the same address if it is gone, and says whether it did.
    ///
    /// A process that shares the server does so only when the owner has died, and then becomes the owner.
    pub fn ensure_running(&mut self) -> Result<bool, Error> {
        if self.status() != Status::Gone {
            return Ok(false);
        }
        let Some(owner) = self.claim()? else { return Ok(false) };
        if let Some(mut child) = owner.child.take() {
            halt(&self.home, child.id(), Some(&mut child))?;
        }
        let deadline = Instant::now() + self.settings.start_deadline;
        let binaries = binaries_for(&self.home, &self.settings)?;
        let (child, _) = launch(&self.home, &binaries, &self.settings, Some(&self.endpoint), deadline)?;
        if let Some(owner) = &mut self.owner {
            owner.child = Some(child);
        }
        Ok(true)
    }

    /// Stops the server if this process owns it, or if its owner has died.
    pub fn stop(mut self) -> Result<(), Error> {
        self.stop_now()
    }

    fn stop_now(&mut self) -> Result<(), Error> {
        if self.claim()?.is_none() {
            return Ok(());
        }
        let Some(mut owner) = self.owner.take() else { return Ok(()) };
        if let Some(child) = &mut owner.child {
            halt(&self.home, child.id(), Some(child))?;
        }
        // Not this process's child: adopted, or started by hand.
        if let Some(file) = find_live(&self.home.data()) {
            halt(&self.home, file.pid, None)?;
        }
        // The socket's directory goes too, so that nothing offers an address without a server.
        remove_if_there(&self.home.socket_dir())
    }

    /// The ownership of the server, taken over if its owner has died.
    fn claim(&mut self) -> Result<Option<&mut Owner>, Error> {
        if self.owner.is_none() {
            self.owner = self.home.try_lock()?.map(|lock| Owner { _lock: lock, child: None });
        }
        Ok(self.owner.as_mut())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only the owner stops here; after `stop` there is none.
        if self.owner.is_some()
            && let Err(error) = self.stop_now()
        {
            tracing::warn!(%error, "PostgreSQL was not stopped");
        }
    }
}

/// A path as the value of a query parameter.
fn percent_encode(path: &Path) -> String {
    let mut text = String::new();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(char::from(*byte));
            }
            byte => write!(text, "%{byte:02X}").expect("a String takes all that is written to it"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_a_url() {
        assert_eq!(
            percent_encode(Path::new("/home/a b/ü&?/.iris-1_~")),
            "/home/a%20b/%C3%BC%26%3F/.iris-1_~"
        );
    }
}
