//! Ordered lanes, whose jobs run one after the other, and slow ones, which get half of the slots.

use std::time::Duration;

use chrono::{DateTime, Utc};
use queue::{Outcome, Recorded, Room, Rota, complete_many, lanes};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{Number, count, database, enqueue, lease, number, runtime, soon, until};

/// Claims units of up to four by hand; returns the jobs as (lane, number).
async fn claim_units(pool: &PgPool, lease: Uuid, slots: usize, slow: usize) -> Vec<(String, i64)> {
    let mut conn = pool.acquire().await.expect("a connection");
    let room = Room { slots, slow, unit: 4 };
    let claims = Rota::default().claim(&mut conn, lease, "numbers", room, true).await.expect("a claim");
    let number = |payload| serde_json::from_str::<Number>(payload).expect("a payload").n;
    claims.iter().map(|(_, lane, payload)| (lane.to_owned(), number(payload))).collect()
}

async fn order(pool: &PgPool, lane: &str) {
    let mut conn = pool.acquire().await.expect("a connection");
    let _ = lanes::order(&mut conn, "numbers", lane, true).await.expect("ordered");
}

async fn fill(pool: &PgPool, lane: &str, count: i64) {
    enqueue(pool, &(1..=count).map(|n| number(n).lane(lane)).collect::<Vec<_>>()).await;
}

fn numbers(claimed: &[(String, i64)], lane: &str) -> Vec<i64> {
    claimed.iter().filter(|(of, _)| of == lane).map(|(_, n)| *n).collect()
}

#[tokio::test]
async fn an_ordered_lane_gives_a_unit_for_a_slot_and_nothing_while_it_runs() {
    let database = database().await;
    let pool = database.pool();
    order(pool, "ordered").await;
    fill(pool, "ordered", 9).await;
    fill(pool, "free", 9).await;
    let lease = lease(pool).await;
    let claimed = claim_units(pool, lease, 2, 0).await;
    assert_eq!(numbers(&claimed, "ordered"), [1, 2, 3, 4]);
    assert_eq!(numbers(&claimed, "free"), [1], "the unit has taken one slot");
    let claimed = claim_units(pool, lease, 20, 0).await;
    assert_eq!(numbers(&claimed, "ordered"), [] as [i64; 0]);
    assert_eq!(numbers(&claimed, "free").len(), 8);
    sqlx::query("delete from queue.running").execute(pool).await.unwrap();
    assert_eq!(numbers(&claim_units(pool, lease, 20, 0).await, "ordered"), [5, 6, 7, 8]);
}

#[tokio::test]
async fn what_comes_back_ahead_of_where_a_look_saw_the_lane_begin_goes_first() {
    let database = database().await;
    let pool = database.pool();
    order(pool, "lane").await;
    fill(pool, "lane", 8).await;
    let lease = lease(pool).await;
    assert_eq!(claim_units(pool, lease, 1, 0).await.len(), 4);
    // Another process looks now, and what runs comes back before it claims.
    let head: DateTime<Utc> =
        sqlx::query_scalar("select min(rank) from queue.ready").fetch_one(pool).await.unwrap();
    sqlx::query(
        "select queue.complete(array_agg(id), array_agg(run), array_agg('return'::text), array_agg(0::bigint),
            array_agg(null::text), array_agg(null::text)) from queue.running",
    )
    .execute(pool)
    .await
    .unwrap();
    let taken: Vec<String> = sqlx::query_scalar(
        "select payload from queue.take($1, 'numbers', '{tenant}', '{lane}', '{1}', array[$2]::timestamptz[], 0, 4)
         order by rank",
    )
    .bind(lease)
    .bind(head)
    .fetch_all(pool)
    .await
    .unwrap();
    assert_eq!(taken, [1, 2, 3, 4].map(|n| format!(r#"{{"n":{n}}}"#)));
}

#[tokio::test]
async fn jobs_that_run_already_are_waited_for() {
    let database = database().await;
    let pool = database.pool();
    fill(pool, "lane", 5).await;
    let lease = lease(pool).await;
    assert_eq!(claim_units(pool, lease, 2, 0).await.len(), 2, "not ordered yet");
    order(pool, "lane").await;
    assert_eq!(claim_units(pool, lease, 5, 0).await.len(), 0);
    sqlx::query("delete from queue.running").execute(pool).await.unwrap();
    assert_eq!(numbers(&claim_units(pool, lease, 5, 0).await, "lane"), [3, 4, 5]);
}

#[tokio::test]
async fn a_job_that_has_to_wait_keeps_its_place_and_closes_the_lane() {
    let database = database().await;
    let pool = database.pool();
    order(pool, "numbers").await;
    for (wait, closed) in [
        (Outcome::Retry { error: "no".into(), after: Some(Duration::from_secs(600)) }, true),
        (Outcome::snooze(Duration::from_secs(600)), true),
        (Outcome::Return, false),
    ] {
        sqlx::query("delete from queue.ready").execute(pool).await.unwrap();
        order(pool, "lane").await;
        fill(pool, "lane", 3).await;
        let runtime = runtime(&database, "one");
        let mut source = runtime.source_of_units::<Number>(1, 4);
        let mut first = soon(source.next()).await.unwrap();
        let rest = first.take_rest();
        assert_eq!([&rest[0], &rest[1]].map(|claimed| claimed.payload.n), [2, 3]);
        assert!(first.job.is_ordered());
        for claimed in rest {
            claimed.confirm(Outcome::Return).await.unwrap();
        }
        let _ = first.confirm(wait).await;
        let is_closed = "select coalesce(closed_until > now() + interval '9 minutes', false) from queue.lanes where lane = 'lane'";
        assert_eq!(sqlx::query_scalar::<_, bool>(is_closed).fetch_one(pool).await.unwrap(), closed);
        if closed {
            let order = "select array_agg((payload::json ->> 'n')::int8 order by rank, id) from queue.ready";
            assert_eq!(sqlx::query_scalar::<_, Vec<i64>>(order).fetch_one(pool).await.unwrap(), [1, 2, 3]);
            let mut conn = pool.acquire().await.unwrap();
            let _ = lanes::open(&mut conn, "numbers", "lane").await.unwrap();
        }
        let mut again = soon(source.next()).await.unwrap();
        assert_eq!((again.payload.n, again.take_rest().len()), (1, 2));
        again.finish(Outcome::Done).await;
        drop(source);
        runtime.shutdown(Duration::from_secs(5)).await;
        sqlx::query("delete from queue.running").execute(pool).await.unwrap();
    }
}

#[tokio::test]
async fn rescued_jobs_of_an_ordered_lane_go_back_to_their_places_and_the_first_has_crashed() {
    let database = database().await;
    let pool = database.pool();
    order(pool, "lane").await;
    fill(pool, "lane", 5).await;
    let dead = lease(pool).await;
    assert_eq!(claim_units(pool, dead, 1, 0).await.len(), 4);
    sqlx::query("select queue.rescue(3, 10, interval '6 seconds', false, array[$1]::uuid[])")
        .bind(dead)
        .execute(pool)
        .await
        .unwrap();
    assert_eq!((count(pool, "running").await, count(pool, "deferred").await), (0, 0));
    let crashes = "select array_agg(crashes::int4 order by rank, id) from queue.ready";
    assert_eq!(sqlx::query_scalar::<_, Vec<i32>>(crashes).fetch_one(pool).await.unwrap(), [1, 0, 0, 0, 0]);
    assert_eq!(numbers(&claim_units(pool, lease(pool).await, 1, 0).await, "lane"), [1, 2, 3, 4]);
}

#[tokio::test]
async fn many_runners_and_failures_keep_the_order() {
    let database = database().await;
    let pool = database.pool();
    order(pool, "lane").await;
    let (done, mut finished) = tokio::sync::mpsc::unbounded_channel();
    let runtimes: Vec<_> = ["one", "two", "three"].map(|name| runtime(&database, name)).into();
    let mut runners = Vec::new();
    for runtime in &runtimes {
        let mut source = runtime.source_of_units::<Number>(3, 4);
        let done = done.clone();
        runners.push(tokio::spawn(async move {
            while let Some(mut first) = source.next().await {
                let mut unit = first.take_rest();
                unit.insert(0, first);
                let mut failed = false;
                for claimed in unit {
                    let (n, failures) = (claimed.payload.n, claimed.job.attempt());
                    if failed {
                        claimed.finish(Outcome::Return).await;
                    } else if n % 7 == 0 && failures == 0 {
                        failed = true;
                        let after = Some(Duration::from_millis(50));
                        claimed.finish(Outcome::Retry { error: "the first time".into(), after }).await;
                    } else {
                        claimed.confirm(Outcome::Done).await.expect("recorded");
                        let _ = done.send(n);
                    }
                }
            }
        }));
    }
    fill(pool, "lane", 30).await;
    let mut seen = Vec::new();
    while seen.len() < 30 {
        seen.push(soon(finished.recv()).await.unwrap());
    }
    assert_eq!(seen, (1..=30).collect::<Vec<_>>());
    for runtime in runtimes {
        runtime.shutdown(Duration::from_secs(5)).await;
    }
    for runner in runners {
        runner.await.unwrap();
    }
}

#[tokio::test]
async fn an_unreadable_job_blocks_nothing_of_its_unit() {
    let database = database().await;
    let pool = database.pool();
    order(pool, "lane").await;
    fill(pool, "lane", 3).await;
    sqlx::query("update queue.ready set payload = '{}' where payload = '{\"n\":1}'")
        .execute(pool)
        .await
        .unwrap();
    let runtime = runtime(&database, "one");
    let mut source = runtime.source_of_units::<Number>(1, 4);
    let mut first = soon(source.next()).await.unwrap();
    assert_eq!((first.payload.n, first.take_rest()[0].payload.n), (2, 3));
    until(pool, "dead", 1).await;
    runtime.shutdown(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn slow_lanes_share_half_of_the_slots() {
    let database = database().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.unwrap();
    let slow = ["slow-1", "slow-2", "slow-3"];
    let states = slow.map(|lane| lanes::State { lane, cap: Some(5), slow: true, closed: None });
    let _ = lanes::set(&mut conn, "numbers", &states).await.unwrap();
    for lane in slow {
        fill(pool, lane, 5).await;
    }
    let runtime = runtime(&database, "one");
    let mut source = runtime.source::<Number>(4);
    let (first, second) = (soon(source.next()).await.unwrap(), soon(source.next()).await.unwrap());
    assert!([&first, &second].iter().all(|claimed| claimed.job.lane().starts_with("slow")));
    // Both slots that they may have are taken; the others are left to the rest.
    fill(pool, "free", 6).await;
    for _ in 0..6 {
        let free = soon(source.next()).await.unwrap();
        assert_eq!(free.job.lane(), "free");
        free.confirm(Outcome::Done).await.unwrap();
    }
    assert_eq!(count(pool, "running").await, 2);
    // The end of one makes room for the next, whichever lane it is in.
    first.confirm(Outcome::Done).await.unwrap();
    let next = soon(source.next()).await.unwrap();
    assert!(next.job.lane().starts_with("slow"));
    next.confirm(Outcome::Done).await.unwrap();
    second.confirm(Outcome::Done).await.unwrap();
    for _ in 0..12 {
        soon(source.next()).await.unwrap().confirm(Outcome::Done).await.unwrap();
    }
    runtime.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_job_that_turns_out_slow_counts_among_those_of_slow_lanes() {
    let database = database().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.unwrap();
    let runtime = runtime(&database, "one");
    let mut source = runtime.source::<Number>(4);
    fill(pool, "usual", 1).await;
    let usual = soon(source.next()).await.unwrap();
    usual.slow_down();
    usual.slow_down();
    let states =
        ["slow-1", "slow-2"].map(|lane| lanes::State { lane, cap: Some(5), slow: true, closed: None });
    let _ = lanes::set(&mut conn, "numbers", &states).await.unwrap();
    fill(pool, "slow-1", 3).await;
    fill(pool, "slow-2", 3).await;
    let slow = soon(source.next()).await.unwrap();
    assert!(slow.job.lane().starts_with("slow"));
    fill(pool, "free", 6).await;
    for _ in 0..6 {
        let free = soon(source.next()).await.unwrap();
        assert_eq!(free.job.lane(), "free", "half of the slots are taken by what is slow");
        free.confirm(Outcome::Done).await.unwrap();
    }
    usual.confirm(Outcome::Done).await.unwrap();
    let next = soon(source.next()).await.unwrap();
    assert!(next.job.lane().starts_with("slow"), "its end makes room for another slow one");
    assert_eq!(count(pool, "running").await, 2);
    runtime.shutdown(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn lanes_that_are_slowed_down_stay_closed() {
    let database = database().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.unwrap();
    let limits = lanes::Limits { cap: Some(10), per_second: None };
    lanes::limit(&mut conn, "numbers", "closed", limits).await.unwrap();
    lanes::close(&mut conn, "numbers", "closed", Duration::from_secs(60), "retry").await.unwrap();
    lanes::slow_down(&mut conn, "numbers", &["closed".into(), "unknown".into()], 1).await.unwrap();
    let row: (String, i32, bool, bool) =
        sqlx::query_as("select lane, cap, slow, closed_until > now() from queue.lanes")
            .fetch_one(pool)
            .await
            .unwrap();
    assert_eq!(row, ("closed".into(), 1, true, true));
}

#[tokio::test]
async fn a_stale_outcome_of_an_ordered_lane_closes_nothing() {
    let database = database().await;
    let pool = database.pool();
    order(pool, "lane").await;
    fill(pool, "lane", 1).await;
    let runtime = runtime(&database, "one");
    let mut source = runtime.source_of_units::<Number>(1, 4);
    let claimed = soon(source.next()).await.unwrap();
    sqlx::query("update queue.running set run = run + 1").execute(pool).await.unwrap();
    let recorded = Recorded::new(&claimed.job, Outcome::snooze(Duration::from_secs(60)));
    let mut conn = pool.acquire().await.unwrap();
    assert!(complete_many(&mut conn, &[recorded]).await.unwrap().is_empty());
    let closed = "select count(*) from queue.lanes where closed_until is not null";
    assert_eq!(sqlx::query_scalar::<_, i64>(closed).fetch_one(pool).await.unwrap(), 0);
    runtime.shutdown(Duration::from_millis(100)).await;
}
