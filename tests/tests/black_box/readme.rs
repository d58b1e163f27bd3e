//! Every command of README's tutorial, in its order, in one shell.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

/// The blocks marked as shell commands.
fn commands() -> String {
    let text = fs::read_to_string(tests::repository().join("README.md")).expect("a README");
    let blocks: Vec<&str> =
        text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
    assert!(blocks.len() > 8, "the tutorial is gone");
    blocks.concat()
}

#[test]
fn the_tutorial_runs_as_it_is_written() {
    let directory = tempfile::tempdir().unwrap();
    // The private PostgreSQL may run as another user, who must get through.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
    // What `./run` does before it starts the binary, this test's own run has done.
    let run = format!("#!/bin/sh\nexec '{}' \"$@\"\n", tests::iris().display());
    fs::write(directory.path().join("run"), run).unwrap();
    fs::set_permissions(directory.path().join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    let script = format!("set -eu\ntrap 'kill %1 2>/dev/null; wait' EXIT\n{}trap - EXIT\n", commands());
    let mut command = Command::new("timeout");
    tests::without_settings(&mut command);
    let output = command
        .args(["180", "bash", "-mc", &script])
        .current_dir(directory.path())
        .env_remove("IRIS_HOME")
        .env("IRIS_API_ADDR", "127.0.0.1:0")
        .env("IRIS_WORLD_BIN", tests::world())
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let log = fs::read_to_string(directory.path().join("up.log")).unwrap_or_default();
    assert!(output.status.success(), "{stdout}\n{stderr}\n{log}");
    assert!(!stdout.contains("\"success\":false"), "{stdout}");
    assert!(stdout.matches("\"success\":true").count() >= 6, "{stdout}");
}
