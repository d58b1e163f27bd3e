//! The program that gives a command a server.

use std::process::{Command, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_with-postgres");

#[test]
fn gives_a_server_and_returns_the_status() {
    let output = Command::new(PROGRAM)
        .args(["--", "sh", "-c", "echo \"$IRIS_TEST_DATABASE_URL\"; exit 7"])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(7));
    let url = String::from_utf8_lossy(&output.stdout);
    let socket =
        url.split_once("host=").and_then(|(_, rest)| rest.split_once('&')).expect("it is on a socket").0;
    assert!(!std::path::Path::new(socket).exists(), "the server has ended: {socket}");
}

#[test]
fn passes_a_signal_on() {
    let mut child = Command::new(PROGRAM)
        .args(["--", "sh", "-c", "kill -TERM $PPID; exec sleep 60"])
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(128 + 15));
}

#[test]
fn says_how_it_is_used() {
    for arguments in [&[][..], &["--"], &["true", "x"]] {
        let output = Command::new(PROGRAM).args(arguments).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("usage: with-postgres -- command"));
    }
}
