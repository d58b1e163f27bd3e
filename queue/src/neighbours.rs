//! Whether another process of the same machine is dead. Then nobody needs to wait until its lease expires.

/// A process as the kernel of its machine knows it.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// Which machine and process namespace `pid` is meant in: what runs elsewhere has another one.
    pub(crate) machine: String,
    pub(crate) pid: i32,
    /// When it started, in clock ticks since the machine did; the kernel gives a process id out again.
    pub(crate) started: i64,
}

#[cfg(target_os = "linux")]
impl Identity {
    /// This process; `None` where the kernel does not say, or /proc is that of another process namespace: the numbers
    /// there are not those that signals go to.
    pub(crate) fn own() -> Option<Self> {
        let process = procfs::process::Process::myself().ok()?;
        if process.pid() != rustix::process::getpid().as_raw_nonzero().get() {
            return None;
        }
        let namespaces = process.namespaces().ok()?.0;
        let namespace = |name: &str| namespaces.get(std::ffi::OsStr::new(name)).map(|found| found.identifier);
        // Where there are namespaces of time, start times are shifted by theirs.
        let (pids, times) = (namespace("pid")?, namespace("time").unwrap_or_default());
        let boot = procfs::sys::kernel::random::boot_id().ok()?;
        let host = rustix::system::uname();
        Some(Self {
            machine: format!("{} {pids} {times} {}", boot.trim(), host.nodename().to_string_lossy()),
            pid: process.pid(),
            started: started(&process)?,
        })
    }

    /// Whether a process of this one's machine is dead beyond doubt.
    pub(crate) fn is_dead(pid: i32, started_then: i64) -> bool {
        let Some(id) = rustix::process::Pid::from_raw(pid.max(0)) else { return false };
        if rustix::process::test_kill_process(id) == Err(rustix::io::Errno::SRCH) {
            return true;
        }
        // The number may be another's by now. What cannot be looked at is taken to live.
        procfs::process::Process::new(pid)
            .ok()
            .and_then(|process| started(&process))
            .is_some_and(|now| now != started_then)
    }
}

#[cfg(target_os = "linux")]
fn started(process: &procfs::process::Process) -> Option<i64> {
    process.stat().ok().and_then(|stat| i64::try_from(stat.starttime).ok())
}

#[cfg(not(target_os = "linux"))]
impl Identity {
    /// Other systems do not say which process ids are of the same machine.
    pub(crate) fn own() -> Option<Self> {
        None
    }

    pub(crate) fn is_dead(_: i32, _: i64) -> bool {
        false
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_dead_when_it_is_gone_or_its_number_is_anothers() {
        let own = Identity::own().unwrap();
        assert!(!Identity::is_dead(own.pid, own.started));
        assert!(Identity::is_dead(own.pid, own.started + 1), "the number is another's by now");
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let started = started(&procfs::process::Process::new(pid).unwrap()).unwrap();
        assert!(!Identity::is_dead(pid, started));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(Identity::is_dead(pid, started));
    }

    #[test]
    fn numbers_that_are_no_process_say_nothing() {
        for pid in [0, -1, i32::MIN] {
            assert!(!Identity::is_dead(pid, 0));
        }
    }
}
