//! Runs the server's program, and ends it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::binaries::Binaries;
use crate::error::cannot;
use crate::home::{Home, remove_if_there};
use crate::postmaster::{self, Endpoint, PidFile, SOCKET_PORT, is_live};
use crate::server::{POLL, accepts, wait};
use crate::{Error, Settings, cluster};

/// The longest path of a unix socket, without the closing zero (`sun_path` of unix(7) and of macOS).
const SOCKET_PATH_BYTES_MAX: usize = if cfg!(target_os = "macos") { 103 } else { 107 };

/// How long a server may take to end its sessions and write its checkpoint.
const STOP_FAST: Duration = Duration::from_secs(10);
/// How long it may take to end without either; the next start then recovers from the log.
const STOP_IMMEDIATE: Duration = Duration::from_secs(5);

/// The defaults beneath [`Settings::extra_config`]. What makes `PostgreSQL` durable is not here: it is on by itself.
const CONFIG: [(&str, &str); 5] = [
    ("max_connections", "200"),
    ("shared_buffers", "128MB"),
    // Compiling a query costs more than it gains on short statements, and the planner guesses on new tables.
    ("jit", "off"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
];

/// What became of one run of the server.
enum Launch {
    Ready(Child),
    /// It ended, and the same again may succeed.
    Again,
}

/// Starts the server and returns once it accepts connections. The caller holds the lock and no server is live.
pub(crate) fn launch(
    home: &Home,
    binaries: &Binaries,
    settings: &Settings,
    wanted: Option<&Endpoint>,
    deadline: Instant,
) -> Result<(Child, Endpoint), Error> {
    loop {
        // What a killed server left in its private socket directory would be taken for a live one's.
        remove_if_there(&home.socket_dir())?;
        home.own_dir(&home.socket_dir(), 0o711)?;
        PidFile::remove_if_in_the_way(&home.data())
            .map_err(cannot("remove the stale pid file of", &home.data()))?;
        let endpoint = match wanted {
            Some(endpoint) => endpoint.clone(),
            None => choose_endpoint(home)?,
        };
        match launch_once(home, binaries, settings, &endpoint, deadline)? {
            Launch::Ready(child) => {
                tracing::info!(pid = child.id(), data = %home.data().display(), "PostgreSQL {} is ready", binaries.major);
                return Ok((child, endpoint));
            }
            Launch::Again => sleep(Duration::from_millis(50)),
        }
    }
}

fn choose_endpoint(home: &Home) -> Result<Endpoint, Error> {
    let socket = home.socket_dir().join(format!(".s.PGSQL.{SOCKET_PORT}"));
    if socket.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return Ok(Endpoint::Socket(home.socket_dir()));
    }
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    Ok(Endpoint::Loopback(free.map_err(cannot("find a free port for", &home.data()))?.port()))
}

fn launch_once(
    home: &Home,
    binaries: &Binaries,
    settings: &Settings,
    endpoint: &Endpoint,
    deadline: Instant,
) -> Result<Launch, Error> {
    let log = home.open_log()?;
    let log_start = log.metadata().map_err(cannot("read", &home.log()))?.len();
    let mut command = server_command(home, binaries, settings, endpoint);
    // A pipe would break under the server when this process dies, so both outputs are the log.
    command.stdout(log.try_clone().map_err(cannot("open", &home.log()))?).stderr(log);
    // In a group of its own, a Ctrl-C meant for the caller does not stop the server before its clients are done.
    command.process_group(0);
    let program = binaries.program("postgres");
    let mut child = command.spawn().map_err(cannot("run", &program))?;
    loop {
        if child.try_wait().map_err(cannot("wait for", &program))?.is_some() {
            let text = read_from(&home.log(), log_start);
            if is_passing(&text, endpoint) && Instant::now() < deadline {
                return Ok(Launch::Again);
            }
            let detail = cluster::last_word(&text).unwrap_or("it gave no reason").to_owned();
            return Err(Error::Exited { log: home.log(), detail });
        }
        if PidFile::read(&home.data()).is_some_and(|file| file.pid == child.id() && accepts(&file)) {
            return Ok(Launch::Ready(child));
        }
        if let Err(error) = wait(home, settings, deadline) {
            halt(home, child.id(), Some(&mut child))?;
            return Err(error);
        }
    }
}

fn server_command(home: &Home, binaries: &Binaries, settings: &Settings, endpoint: &Endpoint) -> Command {
    let mut command = home.user.command(&binaries.program("postgres"));
    command.current_dir(&home.root).arg("-D").arg(home.data());
    let mut set = |name: &str, value: &str| {
        command.arg("-c").arg(format!("{name}={value}"));
    };
    for (name, value) in CONFIG {
        set(name, value);
    }
    for (name, value) in &settings.extra_config {
        set(name, value);
    }
    // Last, so that nothing above opens the server to others.
    match endpoint {
        Endpoint::Socket(dir) => {
            // The setting is a list, in which a quoted item may hold commas and spaces.
            let dir = dir.to_string_lossy().replace('"', "\"\"");
            set("unix_socket_directories", &format!("\"{dir}\""));
            set("listen_addresses", "");
            set("port", &SOCKET_PORT.to_string());
        }
        Endpoint::Loopback(port) => {
            set("unix_socket_directories", "");
            set("listen_addresses", "127.0.0.1");
            set("port", &port.to_string());
        }
    }
    command
}

/// Whether a start failed for a reason that goes away: the last session of a killed server is still ending, or
/// somebody else took the free port first.
fn is_passing(log: &str, endpoint: &Endpoint) -> bool {
    log.contains("pre-existing shared memory block")
        || (matches!(endpoint, Endpoint::Loopback(_)) && log.contains("could not create any TCP/IP sockets"))
}

/// What was written to the log since `start`; nothing when it cannot be read, since it only explains.
fn read_from(log: &Path, start: u64) -> String {
    let mut bytes = Vec::new();
    let read = File::open(log).and_then(|mut file| {
        file.seek(SeekFrom::Start(start))?;
        file.read_to_end(&mut bytes)
    });
    if let Err(error) = read {
        tracing::debug!(%error, "the server's log cannot be read");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Stops a server: its sessions are ended and its data is written; if that takes too long it ends at once.
pub(crate) fn halt(home: &Home, pid: u32, mut child: Option<&mut Child>) -> Result<(), Error> {
    let data = home.data();
    // Both signals are PostgreSQL's own: SIGINT is a fast shutdown, SIGQUIT an immediate one.
    for (how, patience) in [(Signal::INT, STOP_FAST), (Signal::QUIT, STOP_IMMEDIATE)] {
        postmaster::signal(pid, how);
        if has_ended(&data, pid, child.as_deref_mut(), patience) {
            return Ok(());
        }
    }
    Err(Error::StopTimeout { pid, log: home.log() })
}

/// Ends a server's main process without a word. Its sessions end when they notice.
pub(crate) fn kill(home: &Home, pid: u32, child: Option<&mut Child>) -> Result<(), Error> {
    postmaster::signal(pid, Signal::KILL);
    if has_ended(&home.data(), pid, child, STOP_IMMEDIATE) {
        return Ok(());
    }
    Err(Error::StopTimeout { pid, log: home.log() })
}

/// Waits for the end of a server for so long at most, and says whether it came.
fn has_ended(data: &Path, pid: u32, mut child: Option<&mut Child>, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let reaped = child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))));
        if reaped || (child.is_none() && !is_live(pid, data)) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_passing_failures_are_tried_again() {
        let socket = Endpoint::Socket("/sock".into());
        let orphans = "FATAL:  pre-existing shared memory block (key 1, ID 2) is still in use";
        let taken = "FATAL:  could not create any TCP/IP sockets";
        assert!(is_passing(orphans, &socket));
        assert!(!is_passing(taken, &socket));
        assert!(is_passing(taken, &Endpoint::Loopback(4000)));
        assert!(!is_passing("FATAL:  data directory has wrong ownership", &socket));
    }
}
