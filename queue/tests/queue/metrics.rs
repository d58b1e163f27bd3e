//! What a process tells of its work: every way in which a run can end is counted once.

use std::{sync::OnceLock, time::Duration};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use queue::{CompleteError, NewJob, Outcome, Recorded, complete_many};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

use crate::support::{database, enqueue, runtime, soon};

#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    n: i64,
}

impl queue::JobKind for Measured {
    const QUEUE: &'static str = "measured";
    const MAX_ATTEMPTS: u16 = 2;
}

/// The recorder of all tests in this process.
fn scrape() -> String {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    let install = || {
        let builder = PrometheusBuilder::new().set_buckets(&[60.0, 3600.0]).expect("buckets");
        builder.install_recorder().expect("the first recorder")
    };
    HANDLE.get_or_init(install).render()
}

/// The value of a line; 0 without one.
fn value(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().expect("a whole number"))
}

fn outcomes(text: &str) -> Vec<(&'static str, u64)> {
    ["done", "cancelled", "retry", "snooze", "dead", "handback", "stale"]
        .into_iter()
        .map(|outcome| {
            (
                outcome,
                value(text, &format!(r#"queue_outcomes_total{{queue="measured",outcome="{outcome}"}}"#)),
            )
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

async fn one(source: &mut queue::Source<Measured>, pool: &PgPool, n: i64) -> queue::Claimed<Measured> {
    enqueue(pool, &[NewJob::new(&Measured { n }, "tenant").expect("a job").priority(-2)]).await;
    soon(source.next()).await.expect("a job")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_of_a_run_is_counted_once() {
    scrape();
    let database = database().await;
    let pool = database.pool();
    let runtime = runtime(&database, "worker");
    let mut source = runtime.source::<Measured>(4);

    // By the completer, as done, as a retry, and as the retry that is one too many.
    one(&mut source, pool, 1).await.confirm(Outcome::Done).await.unwrap();
    let again = || Outcome::Retry { error: "no".into(), after: Some(Duration::ZERO) };
    one(&mut source, pool, 2).await.confirm(again()).await.unwrap();
    soon(source.next()).await.unwrap().confirm(again()).await.unwrap();
    // In a transaction of the handler's.
    let claimed = one(&mut source, pool, 3).await;
    let mut tx = pool.begin().await.unwrap();
    claimed.job.complete(&mut tx, &Outcome::Snooze { after: Duration::from_secs(3600) }).await.unwrap();
    tx.commit().await.unwrap();
    drop(claimed);
    // In one that was rolled back: what counts is what was recorded in the end.
    let claimed = one(&mut source, pool, 4).await;
    let mut tx = pool.begin().await.unwrap();
    claimed.job.complete(&mut tx, &Outcome::Done).await.unwrap();
    tx.rollback().await.unwrap();
    claimed.confirm(Outcome::Cancelled).await.unwrap();
    // By hand, in a batch, where another run has overtaken one of the two.
    let (kept, lost) = (one(&mut source, pool, 5).await, one(&mut source, pool, 6).await);
    sqlx::query("update queue.running set run = run + 1 where id = $1")
        .bind(lost.job.id())
        .execute(pool)
        .await
        .unwrap();
    let batch = [&kept, &lost].map(|claimed| Recorded::new(&claimed.job, Outcome::Done));
    let accepted = complete_many(&mut pool.acquire().await.unwrap(), &batch).await.unwrap();
    for recorded in &batch {
        recorded.count(accepted.contains(&recorded.token()));
        recorded.count(accepted.contains(&recorded.token()));
    }
    let stale = lost.job.complete(&mut pool.acquire().await.unwrap(), &Outcome::Done).await;
    assert!(matches!(stale, Err(CompleteError::Stale)));
    drop((kept, lost));

    let expected = [("done", 2), ("cancelled", 1), ("retry", 1), ("snooze", 1), ("dead", 1), ("stale", 1)];
    let text = scrape();
    assert_eq!(outcomes(&text), expected, "{text}");
    let count = |name: &str| value(&text, name);
    assert_eq!(count(r#"queue_pickup_seconds_count{queue="measured"}"#), 7);
    // A priority moves a job's place in its lane by minutes, but not the time since when it is ready.
    assert_eq!(count(r#"queue_pickup_seconds_bucket{queue="measured",le="60"}"#), 7);
    assert_eq!(count(r#"queue_complete_seconds_count{queue="measured"}"#), 4);
    assert_eq!(count(r#"queue_run_seconds_count{queue="measured",outcome="done"}"#), 2);
    assert_eq!(count(r#"queue_run_seconds_count{queue="measured",outcome="stale"}"#), 1);
    assert!(count(r#"queue_claim_seconds_count{queue="measured"}"#) >= 7);
    runtime.shutdown(Duration::from_secs(5)).await;
}

#[derive(Debug, Serialize, Deserialize)]
struct Orphan {}

impl queue::JobKind for Orphan {
    const QUEUE: &'static str = "orphans";
}

#[tokio::test(flavor = "multi_thread")]
async fn rescues_are_counted_by_queue() {
    scrape();
    let database = database().await;
    let pool = database.pool();
    enqueue(pool, &[NewJob::new(&Orphan {}, "a").unwrap(), NewJob::new(&Orphan {}, "b").unwrap()]).await;
    let lease = crate::support::lease(pool).await;
    let mut conn = pool.acquire().await.unwrap();
    queue::Rota::default().claim(&mut conn, lease, "orphans", 2, true).await.unwrap();
    // One of the two has died with its process too often already.
    sqlx::query("update queue.running set crashes = 9 where tenant = 'a'").execute(pool).await.unwrap();
    sqlx::query("update queue.leases set expires_at = now() where id = $1")
        .bind(lease)
        .execute(pool)
        .await
        .unwrap();
    let runtime = runtime(&database, "worker");
    let counts = || {
        let text = scrape();
        ["rescued", "crashed"].map(|what| value(&text, &format!(r#"queue_{what}_total{{queue="orphans"}}"#)))
    };
    soon(async {
        while counts() != [1, 1] {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    runtime.shutdown(Duration::from_secs(5)).await;
}
