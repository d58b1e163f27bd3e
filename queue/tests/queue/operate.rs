//! What an operator looks at and does.

use std::time::Duration;

use queue::{
    NewJob, Outcome, RunAt, depths, groups, lanes, oldest_waiting,
    operate::{Dead, discard_dead, find_job, list_dead, retry_dead},
};

use crate::support::{Number, claim, count, database, enqueue, lease, number, runtime, soon, until};

#[tokio::test]
async fn depths_tell_what_waits_for_what() {
    let database = database().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.unwrap();
    lanes::close(&mut conn, "numbers", "closed", Duration::from_secs(60), "circuit").await.unwrap();
    let _ = lanes::pause(&mut conn, "numbers", "paused", true).await.unwrap();
    lanes::limit(&mut conn, "numbers", "full", lanes::Limits { cap: Some(1), per_second: None })
        .await
        .unwrap();
    enqueue(pool, &[number(1).lane("full")]).await;
    assert_eq!(claim(pool, lease(pool).await, 10).await.len(), 1);
    enqueue(
        pool,
        &[
            number(2).lane("full"),
            number(3).lane("closed"),
            number(4).lane("closed"),
            number(5).lane("paused"),
            number(6),
            number(7).group("held"),
            number(8).run_at(RunAt::After(Duration::from_secs(60))),
        ],
    )
    .await;
    groups::hold(&mut conn, "held").await.unwrap();
    sqlx::query("update queue.ready set rank = rank - interval '90 seconds' where lane = 'closed'")
        .execute(pool)
        .await
        .unwrap();
    let found = depths(&mut conn).await.unwrap();
    let [depth] = found.as_slice() else { panic!("one queue: {found:?}") };
    assert_eq!(
        (
            depth.ready,
            depth.throttled,
            depth.closed,
            depth.paused,
            depth.running,
            depth.timers,
            depth.held,
            depth.dead
        ),
        (5, 1, 2, 1, 1, 1, 1, 0)
    );
    assert!(depth.oldest_open_seconds.unwrap() < 60.0 && depth.oldest_seconds.unwrap() > 60.0, "{depth:?}");
    assert!(!depth.claimed, "no process claims it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_somebody_claims_is_said_to_be() {
    let database = database().await;
    let runtime = runtime(&database, "worker");
    let source = runtime.source::<Number>(1);
    let mut conn = database.pool().acquire().await.unwrap();
    soon(async {
        loop {
            sqlx::query("update queue.counted set at = '-infinity'").execute(&mut *conn).await.unwrap();
            if depths(&mut conn).await.unwrap().iter().any(|depth| depth.queue == "numbers" && depth.claimed)
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    drop(source);
    runtime.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_jobs_are_listed_retried_and_discarded() {
    let database = database().await;
    let pool = database.pool();
    let runtime = runtime(&database, "worker");
    let mut source = runtime.source::<Number>(4);
    let jobs = [number(1).key("one").group("g/1"), number(2), number(3)];
    enqueue(pool, &jobs).await;
    let refuse = async |source: &mut queue::Source<Number>, jobs: usize| {
        for _ in 0..jobs {
            let claimed = soon(source.next()).await.unwrap();
            let error = format!("number {}", claimed.payload.n);
            claimed.finish(Outcome::Dead { error }).await;
        }
    };
    refuse(&mut source, 3).await;
    let mut conn = pool.acquire().await.unwrap();
    until(pool, "dead", 3).await;
    let dead = list_dead(&mut conn, Some("numbers"), 10).await.unwrap();
    assert!(list_dead(&mut conn, Some("other"), 10).await.unwrap().is_empty());
    assert_eq!(list_dead(&mut conn, None, 2).await.unwrap(), dead[..2]);
    let first = dead.iter().find(|job| job.payload == r#"{"n":1}"#).unwrap();
    assert_eq!(find_job(&mut conn, first.id).await.unwrap().as_ref(), Some(first));
    assert_eq!((first.state.as_str(), first.reason.as_deref(), first.attempt), ("dead", Some("refused"), 1));
    assert_eq!(first.last_error.as_deref(), Some("number 1"));

    // Its key is another job's by now: it stays dead until that one is gone.
    enqueue(pool, &[number(4).key("one").run_at(RunAt::After(Duration::from_secs(60)))]).await;
    let (retried, wake) = retry_dead(&mut conn, Dead::Ids(&[first.id])).await.unwrap();
    assert_eq!((retried, wake.is_empty()), (0, true));
    sqlx::query("with gone as (delete from queue.deferred) delete from queue.keys")
        .execute(pool)
        .await
        .unwrap();
    // Somebody asks for this very job, so a cancel of its group since then does not hold it back.
    let _ = groups::cancel(&mut conn, "g").await.unwrap();
    assert_eq!(retry_dead(&mut conn, Dead::Ids(&[first.id])).await.unwrap().0, 1);
    let again = soon(source.next()).await.unwrap();
    assert_eq!((again.job.id(), again.job.attempt(), again.job.run()), (first.id, 0, 2));
    again.finish(Outcome::Done).await;

    assert_eq!(retry_dead(&mut conn, Dead::Queue("numbers", 1)).await.unwrap().0, 1);
    refuse(&mut source, 1).await;
    until(pool, "dead", 2).await;
    assert_eq!(discard_dead(&mut conn, Dead::Ids(&[first.id])).await.unwrap(), 0);
    assert_eq!(discard_dead(&mut conn, Dead::Queue("numbers", 10)).await.unwrap(), 2);
    assert_eq!(count(pool, "dead").await, 0);
    runtime.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_paused_queue_gives_nothing_until_it_is_resumed() {
    let database = database().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.unwrap();
    enqueue(pool, &[number(1), NewJob::new(&Number { n: 2 }, "other").unwrap().lane("x")]).await;
    let _ = lanes::pause_queue(&mut conn, "numbers", true).await.unwrap();
    let lease = lease(pool).await;
    assert!(claim(pool, lease, 10).await.is_empty());
    assert_eq!(depths(&mut conn).await.unwrap()[0].paused, 2);
    let wake = lanes::pause_queue(&mut conn, "numbers", false).await.unwrap();
    assert!(!wake.is_empty());
    assert_eq!(claim(pool, lease, 10).await.len(), 2);
}

/// The state, reason, lanes and age in minutes of what waits longest, in the order of the states.
async fn oldest(pool: &sqlx::PgPool) -> Vec<(String, Option<String>, i64, i64)> {
    let mut conn = pool.acquire().await.expect("a connection");
    let mut found: Vec<_> = oldest_waiting(&mut conn, "numbers")
        .await
        .expect("what waits")
        .into_iter()
        .map(|waiting| {
            #[expect(clippy::cast_possible_truncation, reason = "some minutes")]
            let minutes = (waiting.seconds.unwrap_or(0.0) / 60.0) as i64;
            (waiting.state, waiting.reason, waiting.lanes, minutes)
        })
        .collect();
    found.sort();
    found
}

#[tokio::test]
async fn what_waits_longest_is_told_by_what_it_waits_for() {
    let database = database().await;
    let pool = database.pool();
    let nothing = [("again".to_owned(), None, 0, 0), ("ready".to_owned(), None, 0, 0)];
    assert_eq!(oldest(pool).await, nothing);
    let mut conn = pool.acquire().await.unwrap();
    lanes::close(&mut conn, "numbers", "closed", Duration::from_secs(60), "circuit").await.unwrap();
    let _ = lanes::pause(&mut conn, "numbers", "paused", true).await.unwrap();
    for (lane, cap, per_second) in
        [("full", Some(1), None), ("rated", None, Some(0.001)), ("idle", Some(1), None)]
    {
        lanes::limit(&mut conn, "numbers", lane, lanes::Limits { cap, per_second }).await.unwrap();
    }
    let _ = lanes::order(&mut conn, "numbers", "ordered", true).await.unwrap();
    let _ = lanes::order(&mut conn, "numbers", "unbegun", true).await.unwrap();
    enqueue(pool, &[number(0).lane("full"), number(0).lane("rated"), number(0).lane("ordered")]).await;
    assert_eq!(claim(pool, lease(pool).await, 10).await.len(), 3);
    let jobs: Vec<NewJob> = [
        ("full", 2),
        ("rated", 3),
        ("ordered", 4),
        ("closed", 6),
        ("paused", 7),
        ("idle", 8),
        ("unbegun", 9),
        ("open", 10),
        ("open", 11),
        ("retried", 12),
        ("other", 1),
    ]
    .map(|(lane, minutes)| number(minutes).lane(lane))
    .into();
    enqueue(pool, &jobs).await;
    let other = NewJob::new(&Number { n: 5 }, "another").unwrap().lane("open");
    enqueue(pool, &[other, number(20).run_at(RunAt::After(Duration::from_secs(60)))]).await;
    // Each job is as many minutes old as its number says; some have run before.
    sqlx::raw_sql(
        "update queue.ready set created_at = now() - make_interval(mins => (payload::jsonb ->> 'n')::int + 0, secs => 30);
         update queue.ready set run = 1 where lane = 'retried';
         update queue.deferred set created_at = now() - interval '20 minutes';",
    )
    .execute(pool)
    .await
    .unwrap();
    let expected = |again: i64| {
        [
            ("again", None, 1, again),
            ("closed", Some("circuit"), 1, 6),
            ("paused", None, 1, 7),
            ("ready", None, 5, 11),
            ("throttled", None, 3, 4),
        ]
        .map(|(state, reason, lanes, minutes)| (state.to_owned(), reason.map(str::to_owned), lanes, minutes))
    };
    assert_eq!(oldest(pool).await, expected(12), "a timer that has not run waits for nothing but its time");
    sqlx::query("update queue.deferred set run = 1").execute(pool).await.unwrap();
    assert_eq!(oldest(pool).await, expected(20), "a retry does");

    let _ = lanes::pause_queue(&mut conn, "numbers", true).await.unwrap();
    let all = oldest(pool).await;
    assert_eq!(all[1], ("paused".to_owned(), None, 11, 12), "{all:?}");
}
