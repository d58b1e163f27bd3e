//! `iris queue`: what an operator sees and does, by the binary.

use serde_json::Value;
use tests::{Stack, until};

/// What a command prints, when it succeeds.
#[track_caller]
fn iris(stack: &Stack, args: &[&str]) -> String {
    let output = stack.command(&[&["queue"], args].concat()).output().expect("iris runs");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// What it prints as JSON, a row a line.
#[track_caller]
fn rows(stack: &Stack, args: &[&str]) -> Vec<Value> {
    let text = iris(stack, &[args, &["--json"]].concat());
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Why it refuses: the last line of stderr.
#[track_caller]
fn refused(stack: &Stack, args: &[&str]) -> String {
    let output = stack.command(&[&["queue"], args].concat()).output().expect("iris runs");
    assert!(!output.status.success() && output.stdout.is_empty(), "{args:?}: {output:?}");
    let stderr = String::from_utf8(output.stderr).expect("text");
    stderr.lines().last().unwrap_or_default().to_owned()
}

/// Puts jobs into a queue whose kind cannot read them, or that nobody knows.
async fn put(stack: &Stack, queue: &str, lane: &str, count: i32) {
    sqlx::query(
        "insert into queue.ready (shard, id, queue, tenant, lane, priority, max_attempts, payload)
         select 0, gen_random_uuid(), $1, 't', $2, 0, 3, '{}' from generate_series(1, $3)",
    )
    .bind(queue)
    .bind(lane)
    .bind(count)
    .execute(stack.database.pool())
    .await
    .expect("jobs");
}

/// Waits until so many jobs of a queue are in a state; depths are counted every ten seconds.
async fn until_depth(stack: &Stack, queue: &str, state: &str, count: u64) -> Value {
    until(&format!("{count} {state} jobs of {queue}"), async || {
        let row = rows(stack, &["list", "--queue", queue]).pop()?;
        (row[state] == count).then_some(row)
    })
    .await
}

/// Waits until so many jobs of `send` are listed as dead; returns their ids.
async fn until_dead(stack: &Stack, count: usize) -> Vec<String> {
    until(&format!("{count} dead jobs"), async || {
        let dead = rows(stack, &["list", "--dead", "--queue", "send"]);
        let id = |row: &Value| row["id"].as_str().map(ToOwned::to_owned);
        (dead.len() == count).then(|| dead.iter().filter_map(id).collect())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_and_mends_the_queue() {
    let stack = Stack::start().await;
    put(&stack, "send", "somewhere", 3).await;
    put(&stack, "fax", "line", 2).await;

    // What nobody claims is said to be so, and what somebody does is not.
    let fax = until_depth(&stack, "fax", "ready", 2).await;
    assert_eq!(fax["claimed"], false);
    let send = until_depth(&stack, "send", "dead", 3).await;
    assert_eq!(send["claimed"], true);
    let table = iris(&stack, &["list"]);
    let line = |queue: &str| table.lines().find(|line| line.starts_with(queue)).expect("a line").to_owned();
    assert!(line("fax").ends_with("nobody claims it"), "{table}");
    assert!(!line("send").contains("nobody claims it") && !line("deliver").contains("nobody"), "{table}");
    assert_eq!(rows(&stack, &["list", "--queue", "nosuch"]), Vec::<Value>::new());

    // Dead jobs: listed, at most so many, and shown one by one.
    let dead = until_dead(&stack, 3).await;
    assert_eq!(rows(&stack, &["list", "--dead", "--limit", "2"]).len(), 2);
    assert!(iris(&stack, &["list", "--dead"]).contains("undecodable"));
    let shown = iris(&stack, &["show", &dead[0]]);
    for text in [&dead[0], "undecodable", "somewhere", "missing field"] {
        assert!(shown.contains(text), "{text} is not in {shown}");
    }
    let row = rows(&stack, &["show", &dead[0]]).pop().expect("a row");
    assert_eq!(
        (&row["state"], &row["reason"], &row["attempt"]),
        (&"dead".into(), &"undecodable".into(), &1.into())
    );

    // One is retried while the queue is paused, and waits; then all are, and die again when it goes on.
    assert_eq!(iris(&stack, &["pause", "send"]), "send is paused\n");
    assert_eq!(iris(&stack, &["retry", &dead[0]]), "1 jobs are ready again\n");
    let row = rows(&stack, &["show", &dead[0]]).pop().expect("a row");
    assert_eq!((&row["state"], &row["attempt"]), (&"ready".into(), &0.into()));
    assert_eq!(iris(&stack, &["retry", "--queue", "send"]), "2 jobs are ready again\n");
    assert_eq!(iris(&stack, &["retry", "--queue", "send"]), "0 jobs are ready again\n");
    until_depth(&stack, "send", "paused", 3).await;
    assert_eq!(iris(&stack, &["resume", "send"]), "send goes on\n");
    until_dead(&stack, 3).await;

    // A lane alone.
    assert_eq!(iris(&stack, &["pause", "send", "--lane", "somewhere"]), "send, lane somewhere is paused\n");
    assert_eq!(iris(&stack, &["retry", &dead[0], &dead[1]]), "2 jobs are ready again\n");
    put(&stack, "send", "elsewhere", 1).await;
    let left = until_dead(&stack, 2).await;
    assert!(left.contains(&dead[2]), "the other lane went on");
    assert_eq!(rows(&stack, &["show", &dead[0]])[0]["state"], "ready");
    iris(&stack, &["resume", "send", "--lane", "somewhere"]);
    until_dead(&stack, 4).await;

    assert_eq!(iris(&stack, &["discard", &dead[0]]), "1 dead jobs forgotten\n");
    assert_eq!(iris(&stack, &["discard", &dead[0]]), "0 dead jobs forgotten\n");
    assert_eq!(iris(&stack, &["discard", "--queue", "send"]), "3 dead jobs forgotten\n");
    assert_eq!(iris(&stack, &["list", "--dead"]), "");
    refusals(&stack, &dead[0]);
    // None of them has paused anything.
    let paused: bool = sqlx::query_scalar("select exists (select 1 from queue.lanes where paused)")
        .fetch_one(stack.database.pool())
        .await
        .unwrap();
    assert!(!paused);
}

fn refusals(stack: &Stack, gone: &str) {
    assert!(refused(stack, &["show", gone]).contains(&format!("no unfinished job has the id {gone}")));
    assert!(refused(stack, &["show", "17"]).contains("17"));
    for bad in [
        &["show"][..],
        &["retry"],
        &["discard"],
        &["retry", gone, "--queue", "send"],
        &["retry", "not-an-id"],
        &["retry", "--queue", ""],
        &["discard", "--queue", ""],
        &["list", "--dead", "--limit", "0"],
        &["list", "--dead", "--limit", "10001"],
        &["pause"],
        &["pause", ""],
        // An empty variable of a script must not pause the whole queue.
        &["pause", "send", "--lane", ""],
        &["mend"],
    ] {
        assert_ne!(refused(stack, bad), "", "{bad:?}");
    }
}
