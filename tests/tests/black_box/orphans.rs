//! What iris started ends with it, also when it is killed.

#![cfg(target_os = "linux")]

use std::{fs, process::Stdio};

use tests::until;

/// The processes that a process has started; a thread of it may have, too.
fn children(parent: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Whether a process has ended; one that nobody waits for stays a zombie.
fn is_gone(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_demo_takes_its_processes_along() {
    let home = tempfile::tempdir().unwrap();
    let mut demo = tests::iris_command()
        .arg("demo")
        .env("IRIS_HOME", home.path())
        .env("IRIS_WORLD_BIN", tests::world())
        .env("DATABASE_URL", testkit::server_url().await)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(home.path().join("log")).unwrap())
        .spawn()
        .expect("iris starts");
    let started = until("the outside and the roles", async || {
        let started = children(demo.id());
        (started.len() == 4).then_some(started)
    })
    .await;
    demo.kill().unwrap();
    demo.wait().unwrap();
    until("all have ended", async || started.iter().all(|id| is_gone(*id)).then_some(())).await;
}
