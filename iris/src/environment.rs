//! What processes that iris starts have from it: none of its own settings, and their end with its own.

use std::{ffi::OsString, io::Read};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is about this machine, and not a setting of a role.
const OF_THE_MACHINE: [&str; 3] = ["IRIS_HOME", "IRIS_PG_BIN", "IRIS_WORLD_BIN"];

/// The settings of iris in this process's environment, which another that is given its own must not see: a key of an AI
/// provider would be paid for by whoever looks at the demo.
pub fn own_settings() -> impl Iterator<Item = OsString> {
    std::env::vars_os().map(|(name, _)| name).filter(|name| is_setting(&name.to_string_lossy()))
}

fn is_setting(name: &str) -> bool {
    name.starts_with("IRIS_") && !OF_THE_MACHINE.contains(&name)
}

/// How many files and sockets a role may come to need: each request under way is one, and so is each kept connection.
const OPEN_FILES: u64 = 65_536;

/// Allows this process as many open files as it may come to need, or as the system lets it: many systems allow 1,024 unless
/// asked.
pub fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(OPEN_FILES, |maximum| maximum.min(OPEN_FILES));
    if limit.current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit })
    {
        tracing::warn!(%error, wanted, "the limit of open files stays as it is");
    }
}

/// Asks this process to stop, as SIGTERM does, when its stdin ends.
pub fn terminate_at_eof() {
    // A thread, for a read of stdin cannot be called off.
    std::thread::spawn(|| {
        let mut input = [0; 64];
        while std::io::stdin().read(&mut input).is_ok_and(|bytes| bytes > 0) {}
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_told_from_the_machines_facts() {
        assert!(is_setting("IRIS_ANTHROPIC_API_KEY") && is_setting("IRIS_DAY"));
        for name in ["IRIS_HOME", "IRIS_PG_BIN", "IRIS_WORLD_BIN", "PATH", "DATABASE_URL"] {
            assert!(!is_setting(name), "{name}");
        }
    }
}
