//! Jobs run by a runtime: outcomes, fencing, cancellation, shutdown, schedules, outages.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::{Number, count, database, enqueue, number, runtime, runtime_with, soon, until};
use apalis::prelude::{BoxDynError, Data, WorkerBuilder};
use queue::{CompleteError, Job, NewJob, Outcome, RunAt, Schedule, Unconfirmed, groups};
use sqlx::Connection;
use tokio::sync::mpsc;

type Seen = mpsc::UnboundedSender<(i64, Job)>;

async fn tell(payload: Number, job: Job, seen: Data<Seen>) -> Result<Outcome, BoxDynError> {
    let _ = seen.send((payload.n, job));
    match payload.n {
        n if n < 0 => Err("below zero".into()),
        13 => panic!("thirteen"),
        _ => Ok(Outcome::Done),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn apalis_workers_run_jobs_and_their_outcomes_are_recorded() {
    let database = database().await;
    let pool = database.pool();
    let runtime = runtime(&database, "worker");
    let (seen, mut heard) = mpsc::unbounded_channel::<(i64, Job)>();
    let worker = WorkerBuilder::new("numbers").backend(runtime.backend::<Number>(8)).data(seen).build(tell);
    let running = tokio::spawn(worker.run());
    enqueue(pool, &[number(1), number(2), number(13), number(-1)]).await;
    let mut numbers: Vec<i64> = Vec::new();
    for _ in 0..4 {
        numbers.push(soon(heard.recv()).await.unwrap().0);
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [-1, 1, 2, 13]);
    until(pool, "running", 0).await;
    // The panic and the error wait for their backoff: durable, counted, with the reason.
    let retries: Vec<(i32, String)> = sqlx::query_as(
        "select attempt, last_error from queue.deferred where run_at > now() order by last_error",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert_eq!(retries, [(1, "below zero".into()), (1, "panicked: thirteen".into())]);
    runtime.shutdown(Duration::from_secs(5)).await;
    soon(running).await.unwrap().unwrap();
    assert_eq!(count(pool, "leases").await, 0, "the lease is given up");
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_end_in_dead_after_the_kinds_attempts() {
    let database = database().await;
    let pool = database.pool();
    let runtime = runtime(&database, "worker");
    let mut source = runtime.source::<Number>(1);
    enqueue(pool, &[number(1).key("k")]).await;
    for attempt in 0..3 {
        let claimed = soon(source.next()).await.unwrap();
        assert_eq!(claimed.job.attempt(), attempt);
        assert_eq!(claimed.job.is_last_attempt(), attempt == 2);
        let after = Some(Duration::from_millis(1));
        claimed.finish(Outcome::Retry { error: "no".into(), after }).await;
    }
    until(pool, "dead", 1).await;
    let reason: String = sqlx::query_scalar("select reason from queue.dead").fetch_one(pool).await.unwrap();
    assert_eq!(reason, "exhausted");
    runtime.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snooze_counts_no_attempt_and_a_payload_that_cannot_be_read_blocks_nothing() {
    let database = database().await;
    let pool = database.pool();
    enqueue(pool, &[number(1), number(2)]).await;
    sqlx::query("update queue.ready set payload = '{\"n\": \"two\"}' where payload = '{\"n\":2}'")
        .execute(pool)
        .await
        .unwrap();
    let runtime = runtime(&database, "worker");
    let mut source = runtime.source::<Number>(4);
    for _ in 0..3 {
        let claimed = soon(source.next()).await.unwrap();
        assert_eq!((claimed.payload.n, claimed.job.attempt()), (1, 0));
        claimed.finish(Outcome::snooze(Duration::from_millis(1))).await;
    }
    until(pool, "dead", 1).await;
    let reason: String = sqlx::query_scalar("select reason from queue.dead").fetch_one(pool).await.unwrap();
    assert_eq!(reason, "undecodable");
    runtime.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn completion_commits_with_the_effects_or_not_at_all() {
    let database = database().await;
    let pool = database.pool();
    sqlx::query("create table effects (n bigint)").execute(pool).await.unwrap();
    let runtime = runtime(&database, "worker");
    let mut source = runtime.source::<Number>(1);
    enqueue(pool, &[number(1)]).await;
    let claimed = soon(source.next()).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("insert into effects values (1)").execute(&mut *tx).await.unwrap();
    claimed.job.complete(&mut tx, &Outcome::Done).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(count(pool, "running").await, 1, "the rollback took the completion with it");
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("insert into effects values (1)").execute(&mut *tx).await.unwrap();
    claimed.job.complete(&mut tx, &Outcome::Done).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(count(pool, "running").await, 0);
    runtime.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_token_records_nothing() {
    let database = database().await;
    let pool = database.pool();
    let runtime = runtime(&database, "worker");
    let mut source = runtime.source::<Number>(2);
    enqueue(pool, &[number(1)]).await;
    let first = soon(source.next()).await.unwrap();
    // Somebody rescues the job and it is claimed again: the first run is stale.
    sqlx::query(
        "with moved as (delete from queue.running returning *)
         insert into queue.ready (shard, id, queue, tenant, lane, priority, run, max_attempts, payload)
         select shard, id, queue, tenant, lane, priority, run, max_attempts, payload from moved",
    )
    .execute(pool)
    .await
    .unwrap();
    let second = soon(source.next()).await.unwrap();
    assert_eq!((first.job.id(), first.job.run() + 1), (second.job.id(), second.job.run()));
    let mut conn = pool.acquire().await.unwrap();
    let stale = first.job.complete(&mut conn, &Outcome::Done).await;
    assert!(matches!(stale, Err(CompleteError::Stale)));
    assert_eq!(soon(first.confirm(Outcome::Done)).await, Err(Unconfirmed::Stale));
    assert_eq!(soon(second.confirm(Outcome::Done)).await, Ok(()));
    assert_eq!(count(pool, "running").await, 0, "what was confirmed is recorded");
    runtime.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_a_group_drops_its_running_handler_but_not_a_protected_one() {
    async fn wait(payload: Number, job: Job, seen: Data<Seen>) -> Result<Outcome, BoxDynError> {
        if payload.n == 2 {
            job.protect();
        }
        let _ = seen.send((payload.n, job.clone()));
        job.cancelled().cancelled().await;
        if payload.n == 1 {
            std::future::pending::<()>().await;
        }
        let _ = seen.send((payload.n * 100, job));
        Ok(Outcome::Done)
    }
    let database = database().await;
    let pool = database.pool();
    let runtime = runtime(&database, "worker");
    let (seen, mut heard) = mpsc::unbounded_channel::<(i64, Job)>();
    let worker = WorkerBuilder::new("numbers").backend(runtime.backend::<Number>(8)).data(seen).build(wait);
    let running = tokio::spawn(worker.run());
    enqueue(pool, &[number(1).group("g/1"), number(2).group("g/2")]).await;
    soon(heard.recv()).await.unwrap();
    soon(heard.recv()).await.unwrap();
    let mut conn = pool.acquire().await.unwrap();
    let (_, wake) = groups::cancel(&mut conn, "g").await.unwrap();
    queue::Notifier::start(pool).send(wake);
    assert_eq!(soon(heard.recv()).await.unwrap().0, 200, "only the protected handler goes on");
    until(pool, "running", 0).await;
    assert_eq!(count(pool, "ready").await + count(pool, "deferred").await, 0);
    runtime.shutdown(Duration::from_secs(5)).await;
    soon(running).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_hands_back_what_did_not_start_and_drops_what_does_not_end() {
    async fn stay(_: Number, job: Job, seen: Data<Seen>) -> Result<Outcome, BoxDynError> {
        let _ = seen.send((0, job));
        std::future::pending().await
    }
    let database = database().await;
    let pool = database.pool();
    let runtime = runtime(&database, "worker");
    let (seen, mut heard) = mpsc::unbounded_channel::<(i64, Job)>();
    let worker = WorkerBuilder::new("numbers").backend(runtime.backend::<Number>(2)).data(seen).build(stay);
    let running = tokio::spawn(worker.run());
    enqueue(pool, &(0..5).map(number).collect::<Vec<_>>()).await;
    soon(heard.recv()).await.unwrap();
    soon(heard.recv()).await.unwrap();
    soon(runtime.shutdown(Duration::from_millis(200))).await;
    soon(running).await.unwrap().unwrap();
    assert_eq!(count(pool, "ready").await, 5);
    let counted: i64 = sqlx::query_scalar("select sum(attempt + crashes)::int8 from queue.ready")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(counted, 0, "neither an attempt nor a crash");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_survives_its_connections() {
    let database = database().await;
    let pool = database.pool();
    let runtime = runtime(&database, "worker");
    let mut source = runtime.source::<Number>(4);
    for n in 0..10 {
        enqueue(pool, &[number(n)]).await;
        let claimed = soon(source.next()).await.unwrap();
        sqlx::query(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and application_name = 'worker'",
        )
        .execute(pool)
        .await
        .unwrap();
        claimed.finish(Outcome::Done).await;
    }
    until(pool, "running", 0).await;
    assert_eq!(count(pool, "ready").await + count(pool, "deferred").await, 0);
    runtime.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_ticks_once_over_all_replicas() {
    let database = database().await;
    let pool = database.pool();
    let schedule = || vec![Schedule::new("every-second", "* * * * * *", number(1)).unwrap()];
    let runtimes: Vec<_> =
        (0..3).map(|n| runtime_with(&database, &format!("replica-{n}"), schedule())).collect();
    let mut source = runtimes[0].source::<Number>(8);
    let started = std::time::Instant::now();
    for _ in 0..3 {
        soon(source.next()).await.unwrap().finish(Outcome::Done).await;
    }
    let most = started.elapsed().as_secs() + 2;
    let left = count(pool, "ready").await + count(pool, "running").await;
    assert!(u64::try_from(left).unwrap() + 3 <= most, "{left} jobs are left after {most} ticks at most");
    for runtime in runtimes {
        runtime.shutdown(Duration::from_secs(5)).await;
    }
    assert!(Schedule::new("bad", "every day", number(1)).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_process_is_rescued_and_its_successor_of_the_same_name_is_not_confused_with_it() {
    let database = database().await;
    let pool = database.pool();
    enqueue(pool, &[number(1)]).await;
    let gone = crate::support::lease(pool).await;
    assert_eq!(crate::support::claim(pool, gone, 1).await.len(), 1);
    sqlx::query("update queue.leases set name = 'worker', expires_at = now()").execute(pool).await.unwrap();
    let runtime = runtime(&database, "worker");
    let mut source = runtime.source::<Number>(4);
    let claimed = soon(source.next()).await.unwrap();
    assert_eq!((claimed.job.crashes(), claimed.job.attempt(), claimed.job.run()), (1, 0, 2));
    claimed.finish(Outcome::Done).await;
    until(pool, "running", 0).await;
    runtime.shutdown(Duration::from_secs(5)).await;
}

/// A lease for an hour whose holder says to be a process of the runtime's machine.
async fn neighbour(pool: &sqlx::PgPool, started_after: i64, backend: i32) -> uuid::Uuid {
    let id = uuid::Uuid::now_v7();
    sqlx::query(
        "insert into queue.leases (id, name, expires_at, machine, pid, started, backend)
         select $1, 'neighbour', now() + interval '1 hour', machine, pid, started + $2, $3
         from queue.leases where name = 'worker'",
    )
    .bind(id)
    .bind(started_after)
    .bind(backend)
    .execute(pool)
    .await
    .expect("the database answers");
    id
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_is_seen_dead_is_rescued_long_before_its_lease_expires() {
    let database = database().await;
    let pool = database.pool();
    let runtime = runtime(&database, "worker");
    until(pool, "leases", 1).await;
    enqueue(pool, &[number(1), number(2)]).await;
    let mut beats = sqlx::PgConnection::connect(database.url()).await.unwrap();
    let backend: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut beats).await.unwrap();
    let dead = neighbour(pool, 1, backend).await;
    let alive = neighbour(pool, 0, 0).await;
    for lease in [dead, alive] {
        assert_eq!(crate::support::claim(pool, lease, 1).await.len(), 1);
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(count(pool, "running").await, 2, "the connection of its beats is still there");
    beats.close().await.unwrap();
    until(pool, "running", 1).await;
    until(pool, "ready", 1).await;
    let holds: uuid::Uuid =
        sqlx::query_scalar("select lease from queue.running").fetch_one(pool).await.unwrap();
    assert_eq!(holds, alive);
    let deaths: uuid::Uuid =
        sqlx::query_scalar("select lease from queue.deaths").fetch_one(pool).await.unwrap();
    assert_eq!(deaths, dead);
    runtime.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_claimers_runs_each_job_once() {
    let database = database().await;
    let pool = database.pool();
    let jobs: Vec<NewJob> = (0..2000)
        .map(|n| {
            number(n).lane(format!("lane-{}", n % 37)).run_at(if n % 3 == 0 {
                RunAt::After(Duration::from_millis(u64::try_from(n % 500).unwrap()))
            } else {
                RunAt::Now
            })
        })
        .collect();
    enqueue(pool, &jobs).await;
    let ran = Arc::new(AtomicUsize::new(0));
    let runtimes: Vec<_> = (0..4).map(|n| runtime(&database, &format!("replica-{n}"))).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for runtime in &runtimes {
        let (mut source, ran) = (runtime.source::<Number>(50), ran.clone());
        tasks.spawn(async move {
            let mut numbers = Vec::new();
            while let Some(claimed) = source.next().await {
                numbers.push(claimed.payload.n);
                ran.fetch_add(1, Ordering::Relaxed);
                claimed.finish(Outcome::Done).await;
            }
            numbers
        });
    }
    soon(async {
        while ran.load(Ordering::Relaxed) < 2000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    until(pool, "running", 0).await;
    for runtime in runtimes {
        runtime.shutdown(Duration::from_secs(5)).await;
    }
    let mut numbers: Vec<i64> = tasks.join_all().await.into_iter().flatten().collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..2000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_job_survives_the_cancel_of_its_group_and_the_death_of_its_process() {
    let database = database().await;
    let pool = database.pool();
    let runtime = runtime(&database, "worker");
    let mut source = runtime.source::<Number>(4);
    enqueue(pool, &[number(1).group("g/1"), number(2).group("g/2")]).await;
    let mut conn = pool.acquire().await.unwrap();
    let mut claimed = Vec::new();
    for _ in 0..2 {
        claimed.push(soon(source.next()).await.unwrap());
    }
    let first = claimed.iter().find(|claimed| claimed.payload.n == 1).unwrap();
    first.job.detach(&mut conn).await.unwrap();
    let (_, wake) = groups::cancel(&mut conn, "g").await.unwrap();
    queue::Notifier::start(pool).send(wake);
    // The process dies, so to say: its jobs run under a lease that nobody holds.
    sqlx::query("update queue.running set lease = gen_random_uuid()").execute(pool).await.unwrap();
    sqlx::query(
        "insert into queue.leases (id, name, steady_since, expires_at)
         values (gen_random_uuid(), 'steady', now() - interval '1 minute', now() + interval '1 hour')",
    )
    .execute(pool)
    .await
    .unwrap();
    sqlx::query("select * from queue.rescue(3, 10, interval '6 seconds', true, '{}')")
        .execute(pool)
        .await
        .unwrap();
    let rescued = soon(source.next()).await.unwrap();
    assert_eq!((rescued.payload.n, rescued.job.run()), (1, 2));
    assert!(first.job.detach(&mut conn).await.is_err(), "the first run is stale");
    rescued.finish(Outcome::Done).await;
    until(pool, "running", 0).await;
    assert_eq!(count(pool, "ready").await + count(pool, "deferred").await, 0, "the other one was cancelled");
    drop(claimed);
    runtime.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cancelled_job_enqueues_does_not_survive_whatever_its_group() {
    let database = database().await;
    let pool = database.pool();
    let runtime = runtime(&database, "worker");
    let mut source = runtime.source::<Number>(4);
    enqueue(pool, &[number(1).group("g/1")]).await;
    let claimed = soon(source.next()).await.unwrap();
    let next = [
        number(2).group("g/2").caused_by(&claimed.job),
        number(3).group("other").caused_by(&claimed.job),
        number(4).caused_by(&claimed.job),
    ];
    // Enqueued before the cancel: only what is in the group goes.
    let added = enqueue(pool, &next).await;
    assert!(added.iter().all(|outcome| matches!(outcome, queue::Enqueued::Added(_))));
    let _ = groups::cancel(&mut pool.acquire().await.unwrap(), "g").await.unwrap();
    assert_eq!(enqueue(pool, &next).await, [queue::Enqueued::Cancelled; 3]);
    claimed.finish(Outcome::Cancelled).await;
    runtime.shutdown(Duration::from_secs(1)).await;
}
