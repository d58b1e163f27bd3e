//! The programs of tests/interop/, each beside the code that it asks.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
};

use super::cases::Case;

/// How long a judge may take; one that is compiled takes longest.
const DEADLINE: Duration = Duration::from_secs(300);

/// A program that judges, and the code that it asks.
pub struct Judge {
    /// How it is run.
    pub command: &'static [&'static str],
    /// Its file in tests/interop/.
    pub program: &'static str,
    /// The name that it expects the code under.
    pub code_name: &'static str,
    /// The code.
    pub code: String,
}

impl Judge {
    /// Fails unless the judge says of every case what it has to. A language that is not installed is said so.
    pub async fn check(&self, cases: &[Case], arrange: impl FnOnce(&Path, &mut Command)) {
        let Some(verdicts) = self.ask(cases, arrange).await else { return };
        assert_eq!(verdicts.len(), cases.len());
        let wrong: Vec<&str> = cases
            .iter()
            .zip(verdicts)
            .filter(|(case, verdict)| case.accepted != *verdict)
            .map(|(case, _)| case.what)
            .collect();
        assert!(wrong.is_empty(), "{} judges wrong: {wrong:?}", self.program);
    }

    async fn ask(&self, cases: &[Case], arrange: impl FnOnce(&Path, &mut Command)) -> Option<Vec<bool>> {
        let directory = tempfile::tempdir().expect("a directory");
        let original = tests::repository().join("tests/interop").join(self.program);
        fs::copy(original, directory.path().join(self.program)).expect("the judge");
        fs::write(directory.path().join(self.code_name), &self.code).expect("its code");
        let mut command = command(&directory, self.command);
        arrange(directory.path(), &mut command);
        let mut child = start(&mut command)?;
        let secret = &cases.first().expect("a case").request.secret;
        let given =
            json!({"secret": secret, "cases": cases.iter().map(Case::to_json).collect::<Vec<Value>>()});
        let mut stdin = child.stdin.take().expect("a pipe");
        let judged = async {
            // A judge that does not compile reads nothing; its own words say why.
            let _ = stdin.write_all(given.to_string().as_bytes()).await;
            drop(stdin);
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(DEADLINE, judged).await.expect("in time").expect("its output");
        assert!(output.status.success(), "{}: {}", self.program, String::from_utf8_lossy(&output.stderr));
        Some(serde_json::from_slice(&output.stdout).expect("verdicts"))
    }
}

/// A command that works in a directory and ends with the test.
pub fn command(directory: &TempDir, words: &[&str]) -> Command {
    let (program, arguments) = words.split_first().expect("a program");
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory.path()).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts a program, or says that it is not installed.
pub fn start(command: &mut Command) -> Option<Child> {
    match command.spawn() {
        Ok(child) => Some(child),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let program = command.as_std().get_program().display().to_string();
            // Written past what the harness keeps from a test that passes.
            let _ = writeln!(io::stderr(), "skipped: {program} is not installed");
            None
        }
        Err(error) => panic!("{command:?}: {error}"),
    }
}
