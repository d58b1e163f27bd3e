//! What must not get in, and what gets in and cannot be run.

use std::time::Duration;

use crate::support::{Number, count, database, enqueue, number, runtime, soon, until};
use queue::{EnqueueError, JobKind, NAME_BYTES_MAX, NewJob, Outcome, PAYLOAD_BYTES_MAX};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Letter(String);

impl JobKind for Letter {
    const QUEUE: &'static str = "letters";
}

#[derive(Debug, Serialize, Deserialize)]
struct LongName;

impl JobKind for LongName {
    const QUEUE: &'static str = "a-queue-whose-name-is-one-byte-longer-than-the-sixty-four-allowed";
}

#[tokio::test]
async fn names_and_payloads_are_measured_in_bytes_and_the_longest_still_pass() {
    let database = database().await;
    let mut tx = database.pool().begin().await.unwrap();
    let longest = "x".repeat(NAME_BYTES_MAX);
    // Two bytes each, so that the characters are fewer than the bytes.
    let too_long = "é".repeat(NAME_BYTES_MAX / 2 + 1);
    let letter = |bytes: usize| NewJob::new(&Letter("x".repeat(bytes - 2)), "tenant").unwrap();
    let good = [
        number(1).lane(&longest).key(&longest),
        NewJob::new(&Number { n: 2 }, &longest).unwrap(),
        letter(PAYLOAD_BYTES_MAX),
    ];
    assert!(LongName::QUEUE.len() == NAME_BYTES_MAX + 1 && too_long.chars().count() < NAME_BYTES_MAX);
    for (what, bad) in [
        ("lane", number(3).lane(&too_long)),
        ("key", number(3).key(&too_long)),
        ("tenant", NewJob::new(&Number { n: 3 }, &too_long).unwrap()),
        ("queue", NewJob::new(&LongName, "tenant").unwrap()),
    ] {
        let refused = queue::enqueue(&mut tx, &[good[0].clone(), bad]).await;
        assert!(
            matches!(&refused, Err(EnqueueError::BadName { what: of, .. }) if *of == what),
            "{refused:?}"
        );
    }
    let refused = queue::enqueue(&mut tx, &[good[0].clone(), letter(PAYLOAD_BYTES_MAX + 1)]).await;
    let Err(EnqueueError::PayloadTooLarge { bytes, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(bytes, PAYLOAD_BYTES_MAX + 1);
    // The caller's transaction goes on, and nothing of what was refused is in it.
    let _ = queue::enqueue(&mut tx, &good).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(count(database.pool(), "ready").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_a_process_does_not_know_is_left_for_one_that_does() {
    let database = database().await;
    let pool = database.pool();
    let ignorant = runtime(&database, "ignorant");
    let mut numbers = ignorant.source::<Number>(4);
    // In the same tenant and lane, and before it.
    let letter = NewJob::new(&Letter("a".into()), "tenant").unwrap();
    enqueue(pool, &[letter, number(1)]).await;
    soon(numbers.next()).await.unwrap().finish(Outcome::Done).await;
    until(pool, "running", 0).await;
    let left: (String, i32) =
        sqlx::query_as("select queue, run from queue.ready").fetch_one(pool).await.unwrap();
    assert_eq!(left, ("letters".into(), 0));
    let knowing = runtime(&database, "knowing");
    let mut letters = knowing.source::<Letter>(1);
    let claimed = soon(letters.next()).await.unwrap();
    assert_eq!((claimed.payload.0.as_str(), claimed.job.run()), ("a", 1));
    claimed.finish(Outcome::Done).await;
    until(pool, "running", 0).await;
    for runtime in [ignorant, knowing] {
        runtime.shutdown(Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_that_cannot_be_read_give_their_slot_and_key_back_and_say_why() {
    let database = database().await;
    let pool = database.pool();
    let bad: Vec<_> = (0..20).map(|n| number(n).key(format!("bad-{n}"))).collect();
    enqueue(pool, &bad).await;
    sqlx::query("update queue.ready set payload = '{\"m\":1}'").execute(pool).await.unwrap();
    enqueue(pool, &[number(100)]).await;
    let runtime = runtime(&database, "worker");
    // One slot, and all of them before the one that can be read.
    let mut source = runtime.source::<Number>(1);
    let claimed = soon(source.next()).await.unwrap();
    assert_eq!(claimed.payload.n, 100);
    claimed.finish(Outcome::Done).await;
    until(pool, "dead", 20).await;
    until(pool, "running", 0).await;
    let reasons: Vec<(String, String)> =
        sqlx::query_as("select distinct reason, last_error from queue.dead").fetch_all(pool).await.unwrap();
    let [(reason, error)] = reasons.as_slice() else { panic!("{reasons:?}") };
    assert!(reason == "undecodable" && error.contains("missing field `n`"), "{reasons:?}");
    assert_eq!(count(pool, "keys").await, 0);
    runtime.shutdown(Duration::from_secs(5)).await;
}
