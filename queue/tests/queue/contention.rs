//! Many connections at once: claimers, cancellers, bulk enqueuers, and a transaction that stays open.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::{Number, count, database, enqueue, number, runtime, soon, until};
use queue::{Enqueued, NewJob, Outcome, Rota, lanes};
use rand::{Rng, seq::SliceRandom};
use sqlx::{
    PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use testkit::TestDatabase;
use tokio::task::JoinSet;
use uuid::Uuid;

pub const CROWD: usize = 16;
/// Longer than any statement takes, and shorter than a test waits for what does not come.
const STUCK: &str = "15s";

/// A connection for each of a crowd, on which a statement that waits for another transaction fails.
pub async fn crowd(database: &TestDatabase) -> PgPool {
    let connect = PgConnectOptions::from_str(database.url())
        .expect("a URL")
        .options([("statement_timeout", STUCK), ("lock_timeout", STUCK)]);
    PgPoolOptions::new().max_connections(40).connect_with(connect).await.expect("a pool")
}

/// Ends all jobs that run under a lease in the same way; returns how many were accepted.
pub async fn finish(conn: &mut PgConnection, lease: Uuid, outcome: &str) -> usize {
    let accepted: i64 = sqlx::query_scalar(
        "select count(*) from (
            select array_agg(id) as ids, array_agg(run) as runs, count(*)::int as n from queue.running where lease = $1) r
         cross join lateral queue.complete(r.ids, r.runs, array_fill($2::text, array[n]), array_fill(0::bigint, array[n]),
            array_fill('no'::text, array[n]), array_fill('refused'::text, array[n]))",
    )
    .bind(lease)
    .bind(outcome)
    .fetch_one(conn)
    .await
    .expect("completed");
    usize::try_from(accepted).expect("a count")
}

/// A lane of the test of the claimers, and what its jobs may not exceed.
#[derive(Default)]
struct Lane {
    cap: Option<i64>,
    per_second: Option<f64>,
    running: AtomicI64,
    started: AtomicUsize,
}

struct Claimers {
    lanes: BTreeMap<String, Lane>,
    began: Instant,
    numbers: Mutex<Vec<i64>>,
    done: AtomicUsize,
    total: usize,
}

impl Claimers {
    /// Notes a started job. It counts as running from after its claim's commit until before its completion is sent, which is
    /// less than the database has it, so that what is too much here is too much there.
    fn start(&self, lane: &str, number: i64) {
        let limits = &self.lanes[lane];
        let running = limits.running.fetch_add(1, Ordering::SeqCst) + 1;
        assert!(limits.cap.is_none_or(|cap| running <= cap), "{running} run in {lane}");
        let started = limits.started.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(per_second) = limits.per_second {
            // What was saved up in a second may be spent at once.
            let most = per_second * (self.began.elapsed().as_secs_f64() + 1.0) + 1.0;
            assert!(
                u32::try_from(started).is_ok_and(|started| f64::from(started) <= most),
                "{started} in {lane}"
            );
        }
        self.numbers.lock().expect("nobody panicked").push(number);
    }

    async fn claim(&self, pool: &PgPool) {
        let lease = crate::support::lease(pool).await;
        let mut conn = pool.acquire().await.expect("a connection");
        let mut rota = Rota::default();
        while self.done.load(Ordering::SeqCst) < self.total {
            let claims = rota.claim(&mut conn, lease, "numbers", 7, true).await.expect("a claim");
            let claimed: Vec<(String, i64)> = claims
                .iter()
                .map(|(_, lane, payload)| {
                    (lane.to_owned(), serde_json::from_str::<Number>(payload).expect("a number").n)
                })
                .collect();
            for (lane, number) in &claimed {
                self.start(lane, *number);
            }
            let work = rand::rng().random_range(0..4);
            tokio::time::sleep(Duration::from_millis(work)).await;
            for (lane, _) in &claimed {
                self.lanes[lane].running.fetch_sub(1, Ordering::SeqCst);
            }
            if !claimed.is_empty() {
                assert_eq!(finish(&mut conn, lease, "done").await, claimed.len());
                self.done.fetch_add(claimed.len(), Ordering::SeqCst);
            }
        }
    }

    /// What is seen at one instant.
    async fn watch(&self, pool: &PgPool) {
        while self.done.load(Ordering::SeqCst) < self.total {
            let running: Vec<(String, i64)> =
                sqlx::query_as("select lane, count(*) from queue.running group by lane")
                    .fetch_all(pool)
                    .await
                    .expect("counts");
            for (lane, running) in running {
                assert!(self.lanes[&lane].cap.is_none_or(|cap| running <= cap), "{running} run in {lane}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_claimers_run_each_job_once_within_caps_and_rates() {
    let database = database().await;
    let pool = crowd(&database).await;
    let mut conn = pool.acquire().await.unwrap();
    let mut all = BTreeMap::new();
    let mut jobs = Vec::new();
    for n in 0..12_i64 {
        let (name, jobs_of, cap, per_second) = match n % 3 {
            0 => (format!("free-{n}"), 100, None, None),
            1 => (format!("capped-{n}"), 60, Some(n % 4 + 1), None),
            _ => (format!("rated-{n}"), 40, None, Some(10.0)),
        };
        let limits = lanes::Limits { cap: cap.map(|cap| i32::try_from(cap).unwrap()), per_second };
        if n % 3 > 0 {
            lanes::limit(&mut conn, "numbers", &name, limits).await.unwrap();
        }
        // Two tenants share each lane.
        jobs.extend((0..jobs_of).map(|job| {
            let payload = Number { n: n * 1000 + job };
            NewJob::new(&payload, format!("tenant-{}", job % 2)).unwrap().lane(&name)
        }));
        all.insert(name, Lane { cap, per_second, ..Lane::default() });
    }
    enqueue(&pool, &jobs).await;
    let claimers = Arc::new(Claimers {
        lanes: all,
        began: Instant::now(),
        numbers: Mutex::default(),
        done: AtomicUsize::new(0),
        total: jobs.len(),
    });
    let mut tasks = JoinSet::new();
    for n in 0..=CROWD {
        let (claimers, pool) = (claimers.clone(), pool.clone());
        tasks.spawn(async move {
            if n < CROWD { claimers.claim(&pool).await } else { claimers.watch(&pool).await }
        });
    }
    soon(tasks.join_all()).await;
    let numbers = std::mem::take(&mut *claimers.numbers.lock().unwrap());
    let distinct: BTreeSet<i64> = numbers.iter().copied().collect();
    assert_eq!((numbers.len(), distinct.len()), (jobs.len(), jobs.len()), "none twice, none left out");
    for table in ["ready", "deferred", "running", "dead"] {
        assert_eq!(count(&pool, table).await, 0, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_bulk_enqueuers_over_the_same_keys_add_each_once_and_never_deadlock() {
    let database = database().await;
    let pool = crowd(&database).await;
    let mut tasks = JoinSet::new();
    let together = Arc::new(tokio::sync::Barrier::new(CROWD));
    for n in 0..CROWD {
        let (pool, together) = (pool.clone(), together.clone());
        tasks.spawn(async move {
            let first = n * 40;
            let mut jobs: Vec<NewJob> =
                (first..first + 400).map(|key| number(1).key(format!("key-{key}"))).collect();
            jobs.shuffle(&mut rand::rng());
            // Some give up first: their keys are free for those who wait.
            for commits in [n % 4 > 0, true] {
                let mut tx = pool.begin().await.expect("a transaction");
                if n % 4 > 0 || !commits {
                    together.wait().await;
                }
                let (outcomes, _) = queue::enqueue(&mut tx, &jobs).await.expect("enqueued");
                tokio::time::sleep(Duration::from_millis(5)).await;
                if commits {
                    tx.commit().await.expect("committed");
                    assert!(outcomes.iter().all(|outcome| *outcome != Enqueued::Cancelled));
                    return outcomes.iter().filter(|outcome| matches!(outcome, Enqueued::Added(_))).count();
                }
                tx.rollback().await.expect("rolled back");
            }
            0
        });
    }
    let added: usize = soon(tasks.join_all()).await.into_iter().sum();
    let keys = (CROWD - 1) * 40 + 400;
    assert_eq!(added, keys);
    let distinct: i64 =
        sqlx::query_scalar("select count(distinct key) from queue.ready").fetch_one(&pool).await.unwrap();
    assert_eq!(usize::try_from(distinct).unwrap(), keys);
    assert_eq!((count(&pool, "ready").await, count(&pool, "keys").await), (distinct, distinct));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_transaction_that_stays_open_and_its_jobs_run_after_its_commit() {
    let database = database().await;
    let pool = crowd(&database).await;
    let runtime = runtime(&database, "worker");
    let mut source = runtime.source::<Number>(8);
    let job = |n: i64| number(n).lane("shared").group(format!("shared/{}", n % 3)).key(format!("key-{n}"));
    let mut open = pool.begin().await.unwrap();
    let (outcomes, wake) = queue::enqueue(&mut open, &(0..50).map(job).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(outcomes.len(), 50);
    let mut tasks = JoinSet::new();
    for n in 0..8 {
        let pool = pool.clone();
        tasks.spawn(async move {
            for batch in 0..5 {
                let first = 1000 * (n + 1) + 20 * batch;
                enqueue(&pool, &(first..first + 20).map(job).collect::<Vec<_>>()).await;
            }
        });
    }
    soon(tasks.join_all()).await;
    let mut ran = BTreeSet::new();
    while ran.len() < 800 {
        let claimed = soon(source.next()).await.unwrap();
        assert!(claimed.payload.n >= 1000 && ran.insert(claimed.payload.n), "{}", claimed.payload.n);
        claimed.finish(Outcome::Done).await;
    }
    until(&pool, "running", 0).await;
    assert_eq!(count(&pool, "ready").await, 0, "all but those of the open transaction have run");
    open.commit().await.unwrap();
    queue::Notifier::start(&pool).send(wake);
    for _ in 0..50 {
        let claimed = soon(source.next()).await.unwrap();
        assert!(claimed.payload.n < 50 && ran.insert(claimed.payload.n), "{}", claimed.payload.n);
        claimed.finish(Outcome::Done).await;
    }
    until(&pool, "running", 0).await;
    runtime.shutdown(Duration::from_secs(5)).await;
}
