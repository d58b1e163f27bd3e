//! Mounts, and where they are wanted a network, that are this run's alone: they end with it, however it ends.

use std::{
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

/// Set for the process that has some, to which.
const PRIVATE: &str = "IRIS_CHAOS_PRIVATE";
/// What each is called by unshare(1).
pub const MOUNTS: &str = "--mount";
pub const NETWORK: &str = "--net";

/// Starts this program again with namespaces of its own. Where that is not possible it goes on without.
pub fn enter(wanted: &[&str]) {
    let inside = std::env::var_os(PRIVATE).is_some();
    if wanted.is_empty() || inside || !rustix::process::geteuid().is_root() {
        return;
    }
    // A container's root may not be allowed to.
    let mut attempt = Command::new("unshare");
    attempt
        .args(wanted)
        .args(["--", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if !attempt.status().is_ok_and(|status| status.success()) {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let error = Command::new("unshare")
        .args(wanted)
        .arg("--")
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(PRIVATE, wanted.join(" "))
        .exec();
    tracing::warn!(%error, "nothing of its own");
}

/// Whether this process has a namespace of its own.
pub fn has(which: &str) -> bool {
    std::env::var(PRIVATE).is_ok_and(|has| has.split(' ').any(|one| one == which))
}
