//! Cancels against everything that moves jobs between the tables at the same time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    contention::{CROWD, crowd, finish},
    support::{count, database, enqueue, lease, soon},
};
use queue::{JobKind, NewJob, Rota, RunAt, groups};
use rand::Rng;
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use tokio::task::JoinSet;
use uuid::Uuid;

const JOBS: usize = 30;
const KEPT: usize = 4;
const MOVERS: usize = 8;

/// A job that is never finished; its payload is its group.
#[derive(Serialize, Deserialize)]
struct Endless(String);

impl JobKind for Endless {
    const QUEUE: &'static str = "endless";
    const MAX_ATTEMPTS: u16 = u16::MAX;
}

/// What the tasks share: whether the cancel of each group has committed, how often jobs were moved, and whether the movers
/// may stop.
#[derive(Default)]
struct Stage {
    cancelled: [AtomicBool; CROWD],
    moves: AtomicUsize,
    over: AtomicBool,
}

impl Stage {
    /// Waits until jobs were moved so many times more.
    async fn passed(&self, moves: usize) {
        let until = self.moves.load(Ordering::SeqCst) + moves;
        while self.moves.load(Ordering::SeqCst) < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn cancelled(&self) -> Vec<String> {
        let groups = self.cancelled.iter().enumerate();
        groups.filter(|(_, flag)| flag.load(Ordering::SeqCst)).map(|(n, _)| format!("gone/{n}")).collect()
    }
}

/// Claims, and says whose jobs it got.
async fn claim(conn: &mut PgConnection, lease: Uuid, limit: usize) -> Vec<String> {
    let claims = Rota::default().claim(conn, lease, Endless::QUEUE, limit, true).await.expect("a claim");
    claims
        .iter()
        .map(|(_, _, payload)| serde_json::from_str::<Endless>(payload).expect("a group").0)
        .collect()
}

/// Enqueues another job like one that runs, in its name.
async fn follow(conn: &mut PgConnection, lease: Uuid) {
    sqlx::query(
        "select e.fate from (select * from queue.running where lease = $1 and grp like 'gone/%' limit 1) r
         cross join lateral queue.enqueue(array[gen_random_uuid()], array[r.shard], array[r.queue], array[r.tenant],
            array[r.lane], array[r.priority], array[r.grp], array[r.grp], array[r.epoch], array[null::text],
            array[r.max_attempts], array[r.payload], array[null::text], array[null::timestamptz], array[null::bigint]) e",
    )
    .bind(lease)
    .execute(conn)
    .await
    .expect("enqueued");
}

/// Claims and ends jobs in every way that leaves them in the queue, and dies now and then.
async fn move_jobs(pool: &PgPool, stage: &Stage) {
    let mut conn = pool.acquire().await.expect("a connection");
    let mut held = lease(pool).await;
    while !stage.over.load(Ordering::SeqCst) {
        let before = stage.cancelled();
        let claimed = claim(&mut conn, held, 20).await;
        let survivors: Vec<&String> = claimed.iter().filter(|group| before.contains(group)).collect();
        assert!(survivors.is_empty(), "claimed after their cancel: {survivors:?}");
        if rand::rng().random_bool(0.3) {
            follow(&mut conn, held).await;
        }
        let outcomes = [Some("retry"), Some("snooze"), Some("handback"), Some("handback"), None];
        let outcome = outcomes[rand::rng().random_range(0..outcomes.len())];
        if let Some(outcome) = outcome {
            finish(&mut conn, held, outcome).await;
        } else {
            lapse(&mut conn, held).await;
            held = lease(pool).await;
        }
        stage.moves.fetch_add(1, Ordering::SeqCst);
    }
    lapse(&mut conn, held).await;
}

/// Its process has died.
async fn lapse(conn: &mut PgConnection, lease: Uuid) {
    sqlx::query("update queue.leases set expires_at = now() - interval '1 second' where id = $1")
        .bind(lease)
        .execute(conn)
        .await
        .expect("the lease lapses");
}

/// Promotes and rescues; nobody is to blame for these deaths.
async fn tend(pool: &PgPool) {
    sqlx::query("select queue.promote(50, null)").execute(pool).await.expect("promoted");
    sqlx::query("select queue.rescue(30000, 30000, interval '6 seconds', false, '{}')")
        .execute(pool)
        .await
        .expect("rescued");
}

/// Cancels one group: at once, or in a transaction that stays open for a while.
async fn cancel(pool: &PgPool, stage: &Stage, n: usize) {
    stage.passed(MOVERS * (n / 2 + 1)).await;
    let mut tx = pool.begin().await.expect("a transaction");
    let _ = groups::cancel(&mut tx, &format!("gone/{n}")).await.expect("cancelled");
    if n.is_multiple_of(2) {
        stage.passed(8 * MOVERS).await;
    }
    tx.commit().await.expect("committed");
    stage.cancelled[n].store(true, Ordering::SeqCst);
}

fn jobs() -> Vec<NewJob> {
    let groups = (0..CROWD).map(|n| format!("gone/{n}")).chain((0..KEPT).map(|n| format!("kept/{n}")));
    groups
        .flat_map(|group| (0..JOBS).map(move |n| (group.clone(), n)))
        .map(|(group, n)| {
            let due = RunAt::After(Duration::from_millis(u64::try_from(n).unwrap_or_default() * 20));
            let job = NewJob::new(&Endless(group.clone()), format!("tenant-{}", n % 3)).expect("a job");
            let job = job.lane(format!("lane-{}", n % 5)).run_at(if n % 2 == 0 { RunAt::Now } else { due });
            if n % 3 == 0 { job.key(format!("{group}-{n}")).group(group) } else { job.group(group) }
        })
        .collect()
}

/// Lets everything that is left run: what is due at whatever time is due now.
async fn settle(pool: &PgPool) -> Vec<String> {
    tend(pool).await;
    assert_eq!(count(pool, "running").await, 0, "all leases have lapsed");
    sqlx::query("update queue.deferred set run_at = now()").execute(pool).await.expect("due");
    sqlx::query("select queue.promote(100000, null)").execute(pool).await.expect("promoted");
    let mut conn = pool.acquire().await.expect("a connection");
    let last = lease(pool).await;
    let mut claimed = Vec::new();
    while count(pool, "ready").await > 0 {
        claimed.extend(claim(&mut conn, last, 100).await);
    }
    claimed
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_survives_a_cancel_whatever_moves_it_meanwhile_and_nothing_else_is_lost() {
    let database = database().await;
    let pool = crowd(&database).await;
    sqlx::query(
        "insert into queue.leases (id, name, steady_since, beat_at, expires_at)
         values (gen_random_uuid(), 'steady', now() - interval '1 minute', now() + interval '1 hour', 'infinity')",
    )
    .execute(&pool)
    .await
    .unwrap();
    enqueue(&pool, &jobs()).await;
    let stage = Arc::new(Stage::default());
    let mut movers = JoinSet::new();
    for n in 0..=MOVERS {
        let (pool, stage) = (pool.clone(), stage.clone());
        movers.spawn(async move {
            if n < MOVERS {
                return move_jobs(&pool, &stage).await;
            }
            while !stage.over.load(Ordering::SeqCst) {
                tend(&pool).await;
            }
        });
    }
    let mut cancellers = JoinSet::new();
    for n in 0..CROWD {
        let (pool, stage) = (pool.clone(), stage.clone());
        cancellers.spawn(async move { cancel(&pool, &stage, n).await });
    }
    soon(cancellers.join_all()).await;
    soon(stage.passed(3 * MOVERS)).await;
    stage.over.store(true, Ordering::SeqCst);
    soon(movers.join_all()).await;

    let mut left = soon(settle(&pool)).await;
    left.sort_unstable();
    let mut kept: Vec<String> =
        (0..KEPT).flat_map(|n| std::iter::repeat_n(format!("kept/{n}"), JOBS)).collect();
    kept.sort_unstable();
    assert_eq!(left, kept, "all that was not cancelled, and nothing that was");
    assert_eq!(count(&pool, "deferred").await + count(&pool, "dead").await, 0);
    let strays: i64 = sqlx::query_scalar(
        "select count(*) from queue.keys k where not exists (select 1 from queue.running r where r.id = k.job_id)",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!((count(&pool, "keys").await, strays), (i64::try_from(KEPT * JOBS / 3).unwrap(), 0));
}
