//! A network of the run's own, in which every address is ours: one of the public internet, where receivers with names
//! are, and those that nobody may reach, where somebody waits for whoever does. Nothing leaves it.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

use crate::namespaces;

/// What sets addresses.
const IP: &str = "ip";
/// Why there is none.
pub const MISSING: &str = "a network of its own needs root, unshare(1) and ip(8)";

/// What has to be the run's own, where that can be had.
pub fn wanted() -> &'static [&'static str] {
    let mut version = Command::new(IP);
    version.arg("-V").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let there = version.status().is_ok_and(|status| status.success());
    if there { &[namespaces::MOUNTS, namespaces::NETWORK] } else { &[] }
}

/// Whether this run has one.
pub fn is_own() -> bool {
    namespaces::has(namespaces::NETWORK)
}

/// Lets processes reach each other in it.
pub fn bring_up() -> anyhow::Result<()> {
    execute(Command::new(IP).args(["link", "set", "lo", "up"]))
}

/// Makes addresses ours.
pub fn add(addresses: &[String]) -> anyhow::Result<()> {
    for address in addresses {
        execute(Command::new(IP).args(["address", "add", &format!("{address}/32"), "dev", "lo"]))?;
    }
    Ok(())
}

/// Lets resolvers ask nobody but the name server at 127.0.0.1. The directory holds what they read.
pub fn resolve_here(directory: &Path) -> anyhow::Result<()> {
    let settings = [
        ("resolv.conf", "nameserver 127.0.0.1\n"),
        // Some systems ask a service that knows the world outside.
        ("nsswitch.conf", "hosts: files dns\n"),
    ];
    for (name, text) in settings {
        let (ours, theirs) = (directory.join(name), Path::new("/etc").join(name));
        std::fs::write(&ours, text)?;
        if theirs.exists() {
            execute(Command::new("mount").arg("--bind").args([&ours, &theirs]))?;
        }
    }
    Ok(())
}

fn execute(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
