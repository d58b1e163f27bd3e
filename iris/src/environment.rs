//! What processes that iris starts have from it: none of its own settings, and their end with its own.

use std::{ffi::OsString, io::Read};

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
