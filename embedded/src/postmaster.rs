//! Tells a live server of a directory from a dead one.
//!
//! `postmaster.pid` outlives a server that was killed, its process id may since belong to another program, and a
//! killed child that nobody has waited for still takes signals. So the file is only a hint: the process must exist,
//! must not be a zombie and must work in this data directory, and the server must answer on its socket.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Asks the server whether it speaks TLS: it answers one byte before any authentication (`PostgreSQL`'s protocol,
/// `SSLRequest`).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// On the unix socket in this directory.
    Socket(PathBuf),
    /// On this port of 127.0.0.1.
    Loopback(u16),
}

/// The port in the name of the unix socket; nothing listens on it.
pub(crate) const SOCKET_PORT: u16 = 5432;

impl Endpoint {
    /// Whether a `PostgreSQL` answers there.
    pub(crate) fn answers(&self) -> bool {
        let answer = match self {
            Self::Socket(dir) => UnixStream::connect(dir.join(format!(".s.PGSQL.{SOCKET_PORT}")))
                .and_then(|stream| {
                    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
                    Ok(stream)
                })
                .and_then(ask),
            Self::Loopback(port) => {
                TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, *port).into(), PROBE_TIMEOUT)
                    .and_then(|stream| {
                        stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
                        Ok(stream)
                    })
                    .and_then(ask)
            }
        };
        answer.is_ok_and(|byte| byte == b'N' || byte == b'S')
    }
}

fn ask(mut stream: impl Read + Write) -> std::io::Result<u8> {
    let mut answer = [0];
    stream.write_all(&SSL_REQUEST)?;
    stream.read_exact(&mut answer)?;
    Ok(answer[0])
}

/// What `postmaster.pid` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PidFile {
    pub(crate) pid: u32,
    pub(crate) endpoint: Endpoint,
    /// The server has said that it accepts connections.
    pub(crate) ready: bool,
}

impl PidFile {
    fn path(data: &Path) -> PathBuf {
        data.join("postmaster.pid")
    }

    /// The file of a data directory. `None` when it is missing or was written only in part.
    pub(crate) fn read(data: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(Self::path(data)).ok()?)
    }

    /// Its lines: pid, data directory, start time, port, socket directory, listen address, shared memory, status.
    fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let pid = lines.first()?.parse().ok().filter(|pid| *pid > 1)?;
        let port = lines.get(3).and_then(|port| port.parse().ok()).unwrap_or(SOCKET_PORT);
        let endpoint = match lines.get(4) {
            Some(dir) if !dir.is_empty() => Endpoint::Socket(PathBuf::from(dir)),
            _ => Endpoint::Loopback(port),
        };
        Some(Self { pid, endpoint, ready: lines.get(7) == Some(&"ready") })
    }

    /// Removes the file if it would keep `PostgreSQL` from starting although its server is dead.
    ///
    /// Where its process is gone the file stays: `PostgreSQL` replaces it, after it has looked, by what the file says,
    /// for orphans that still work on the data. Only a zombie or a stranger with the same process id is in the way.
    pub(crate) fn remove_if_in_the_way(data: &Path) -> std::io::Result<()> {
        let in_the_way = Self::read(data).is_none_or(|file| exists(file.pid));
        match if in_the_way { fs::remove_file(Self::path(data)) } else { Ok(()) } {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The live server of a data directory, ready or not.
pub(crate) fn find_live(data: &Path) -> Option<PidFile> {
    PidFile::read(data).filter(|file| is_live(file.pid, data))
}

/// Whether `pid` is a living process that works in `data`.
pub(crate) fn is_live(pid: u32, data: &Path) -> bool {
    if Path::new("/proc/self/stat").exists() { is_live_by_proc(pid, data) } else { is_live_by_ps(pid, data) }
}

fn is_live_by_proc(pid: u32, data: &Path) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The state follows the program's name, which stands in parentheses and may hold any character.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    if matches!(state, None | Some('Z' | 'X')) {
        return false;
    }
    match fs::read_link(format!("/proc/{pid}/cwd")) {
        Ok(directory) => directory == data,
        // A hardened system hides it from other users: then the command line has to do.
        Err(_) => fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| names_data(&line, data)),
    }
}

fn is_live_by_ps(pid: u32, data: &Path) -> bool {
    let exists = exists(pid);
    let output = Command::new("ps")
        .args(["-ww", "-o", "stat=,command=", "-p", &pid.to_string()])
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if exists => !output.stdout.starts_with(b"Z") && names_data(&output.stdout, data),
        Ok(_) => false,
        Err(_) => exists && PidFile::read(data).is_some_and(|file| file.endpoint.answers()),
    }
}

/// Whether a command line is that of a server on `data`, which [`crate::start`] always names in full.
fn names_data(command_line: &[u8], data: &Path) -> bool {
    let data = data.as_os_str().as_encoded_bytes();
    command_line.windows(data.len()).any(|window| window == data)
}

/// Whether the program of the process has been replaced on disk since it was started, by an upgrade.
pub(crate) fn is_outdated(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe"))
        .is_ok_and(|program| program.as_os_str().as_encoded_bytes().ends_with(b" (deleted)"))
}

fn exists(pid: u32) -> bool {
    let Some(pid) = as_pid(pid) else { return false };
    // A process of another user exists too, although it may not be signalled.
    !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

/// Sends a signal; a process that is gone already is no error, since that is what signals here are for.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(process) = as_pid(pid)
        && let Err(error) = kill_process(process, signal)
    {
        tracing::debug!(pid, %error, "the server did not take a signal");
    }
}

fn as_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_pid_file() {
        let text = "4711\n/h/data\n1700000000\n5432\n/h/sock\n\n  123 4\nready   \n";
        let endpoint = Endpoint::Socket(PathBuf::from("/h/sock"));
        assert_eq!(PidFile::parse(text), Some(PidFile { pid: 4711, endpoint, ready: true }));
        let text = "4711\n/h/data\n1700000000\n40123\n\n127.0.0.1\n  123 4\nstarting\n";
        let endpoint = Endpoint::Loopback(40123);
        assert_eq!(PidFile::parse(text), Some(PidFile { pid: 4711, endpoint, ready: false }));
        assert_eq!(PidFile::parse(""), None);
        assert_eq!(PidFile::parse("-4711\n"), None);
    }

    #[test]
    fn a_process_is_live_only_in_its_own_directory() {
        let here = std::env::current_dir().expect("a working directory");
        let pid = std::process::id();
        assert!(is_live_by_proc(pid, &here));
        assert!(!is_live_by_proc(pid, Path::new("/nonexistent")));
    }

    #[test]
    fn a_zombie_is_dead() {
        let here = std::env::current_dir().expect("a working directory");
        let mut child = Command::new("true").spawn().expect("it runs");
        let pid = child.id();
        let stat = format!("/proc/{pid}/stat");
        while !fs::read_to_string(&stat).expect("a child stays until it is waited for").contains(") Z ") {
            std::thread::yield_now();
        }
        assert!(exists(pid), "a zombie takes signals");
        assert!(!is_live_by_proc(pid, &here));
        assert!(!is_live_by_ps(pid, &here));
        child.wait().expect("it can be waited for");
        assert!(!exists(pid));
    }

    #[test]
    fn ps_names_the_data_directory() {
        let mut child = Command::new("sleep").args(["60", "0"]).spawn().expect("it runs");
        let pid = child.id();
        while !is_live_by_ps(pid, Path::new("sleep 60 0")) {
            std::thread::yield_now();
        }
        assert!(!is_live_by_ps(pid, Path::new("/h/data")));
        child.kill().and_then(|()| child.wait()).expect("it can be ended");
    }

    #[test]
    fn a_file_in_the_way_is_removed_and_another_stays() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = PidFile::path(dir.path());
        fs::write(&path, format!("{}\n", std::process::id())).expect("it can be written");
        PidFile::remove_if_in_the_way(dir.path()).expect("it can be removed");
        assert!(!path.exists(), "the process id belongs to somebody else now");

        let mut child = Command::new("true").spawn().expect("it runs");
        child.wait().expect("it can be waited for");
        fs::write(&path, format!("{}\n", child.id())).expect("it can be written");
        PidFile::remove_if_in_the_way(dir.path()).expect("there is nothing to do");
        assert!(path.exists(), "PostgreSQL itself looks at it");
    }
}
