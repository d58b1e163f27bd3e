//! Every move of a job between the tables, one at a time, by hand.

use std::time::Duration;

use crate::support::{claim, count, database, enqueue, lease, number};
use queue::{Enqueued, RunAt, groups, lanes};

#[tokio::test]
async fn a_rolled_back_job_never_was() {
    let database = database().await;
    let mut tx = database.pool().begin().await.unwrap();
    let (outcomes, wake) = queue::enqueue(&mut tx, &[number(1).key("k")]).await.unwrap();
    assert!(matches!(outcomes[..], [Enqueued::Added(_)]));
    assert!(!wake.is_empty());
    tx.rollback().await.unwrap();
    assert_eq!(count(database.pool(), "ready").await, 0);
    assert_eq!(count(database.pool(), "keys").await, 0);
}

#[tokio::test]
async fn a_duplicate_key_is_told_and_poisons_nothing() {
    let database = database().await;
    let pool = database.pool();
    let outcomes =
        enqueue(pool, &[number(1).key("a"), number(2), number(3).key("a"), number(4).key("b")]).await;
    assert_eq!(outcomes.iter().filter(|o| **o == Enqueued::Duplicate).count(), 1, "{outcomes:?}");
    let mut tx = pool.begin().await.unwrap();
    let (again, _) = queue::enqueue(&mut tx, &[number(5).key("b")]).await.unwrap();
    assert_eq!(again, [Enqueued::Duplicate]);
    let (other, _) = queue::enqueue(&mut tx, &[number(6)]).await.unwrap();
    assert!(matches!(other[..], [Enqueued::Added(_)]));
    tx.commit().await.unwrap();
    assert_eq!(count(pool, "ready").await, 4);
}

#[tokio::test]
async fn ten_thousand_jobs_are_one_statement() {
    let database = database().await;
    let jobs: Vec<_> = (0..10_000).map(|n| number(n).lane(format!("lane-{}", n % 50))).collect();
    enqueue(database.pool(), &jobs).await;
    assert_eq!(count(database.pool(), "ready").await, 10_000);
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Long(String);

impl queue::JobKind for Long {
    const QUEUE: &'static str = "long";
}

#[tokio::test]
async fn bad_jobs_are_refused_before_the_database() {
    let database = database().await;
    let mut conn = database.pool().acquire().await.unwrap();
    for bad in [
        number(1).lane("x".repeat(65)),
        number(1).key(""),
        number(1).group("g".repeat(201)),
        number(1).group("a//b"),
        number(1).group("a/b/c/d/e"),
        number(1).lane("a\0b"),
    ] {
        assert!(queue::enqueue(&mut conn, &[bad]).await.is_err());
    }
    let long = queue::NewJob::new(&Long("x".repeat(70_000)), "tenant").unwrap();
    assert!(matches!(
        queue::enqueue(&mut conn, &[long]).await,
        Err(queue::EnqueueError::PayloadTooLarge { .. })
    ));
}

#[tokio::test]
async fn one_keyed_job_per_key_under_contention() {
    let database = database().await;
    let pool = database.pool();
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 0..8 {
        let pool = pool.clone();
        tasks.spawn(async move {
            let mut jobs: Vec<_> = (0..200).map(|n| number(n).key(format!("key-{n}"))).collect();
            // Each enqueuer in an order of its own: only the sorting inside the statement prevents deadlocks.
            jobs.rotate_left(seed * 25);
            if seed % 2 == 0 {
                jobs.reverse();
            }
            enqueue(&pool, &jobs).await.iter().filter(|o| matches!(o, Enqueued::Added(_))).count()
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().sum::<usize>(), 200);
    assert_eq!(count(pool, "keys").await, 200);
}

#[tokio::test]
async fn a_claim_serves_tenants_then_lanes_in_turn() {
    let database = database().await;
    let pool = database.pool();
    let mut jobs: Vec<_> = (0..100).map(|n| number(n).lane("big")).collect();
    jobs.push(number(1000).lane("small"));
    jobs.push(queue::NewJob::new(&crate::support::Number { n: 2000 }, "other tenant").unwrap());
    enqueue(pool, &jobs).await;
    let claimed = claim(pool, lease(pool).await, 8).await;
    let numbers: Vec<i64> = claimed.iter().map(|(_, n)| *n).collect();
    assert!(numbers.contains(&1000), "the small lane waits behind the big one: {numbers:?}");
    assert!(numbers.contains(&2000), "the small tenant waits behind the big one: {numbers:?}");
    assert!(numbers.contains(&0) && !numbers.contains(&99), "within a lane the oldest first: {numbers:?}");
}

#[tokio::test]
async fn a_lower_priority_number_runs_first() {
    let database = database().await;
    let pool = database.pool();
    enqueue(pool, &[number(1), number(2).priority(-5), number(3).priority(5)]).await;
    let claimed = claim(pool, lease(pool).await, 2).await;
    assert_eq!(claimed.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [2, 1]);
}

#[tokio::test]
async fn a_cap_holds_over_concurrent_claimers() {
    let database = database().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.unwrap();
    lanes::limit(&mut conn, "numbers", "capped", lanes::Limits { cap: Some(7), per_second: None })
        .await
        .unwrap();
    drop(conn);
    let jobs: Vec<_> = (0..200).map(|n| number(n).lane("capped")).collect();
    enqueue(pool, &jobs).await;
    let lease = lease(pool).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let pool = pool.clone();
        tasks.spawn(async move {
            let mut claimed = 0;
            for _ in 0..10 {
                claimed += claim(&pool, lease, 5).await.len();
            }
            claimed
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().sum::<usize>(), 7);
    assert_eq!(count(pool, "running").await, 7);
}

#[tokio::test]
async fn closed_and_paused_lanes_wait_and_hide_nothing_else() {
    let database = database().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.unwrap();
    lanes::close(&mut conn, "numbers", "closed", Duration::from_secs(60), "circuit").await.unwrap();
    let _ = lanes::pause(&mut conn, "numbers", "paused", true).await.unwrap();
    enqueue(pool, &[number(1).lane("closed"), number(2).lane("paused"), number(3).lane("open")]).await;
    let lease = lease(pool).await;
    assert_eq!(claim(pool, lease, 10).await, [("open".to_owned(), 3)]);
    let _ = lanes::open(&mut conn, "numbers", "closed").await.unwrap();
    let _ = lanes::pause(&mut conn, "numbers", "paused", false).await.unwrap();
    assert_eq!(claim(pool, lease, 10).await.len(), 2);
}

#[tokio::test]
async fn a_cancelled_group_survives_nowhere() {
    let database = database().await;
    let pool = database.pool();
    enqueue(
        pool,
        &[
            number(1).group("c/1").key("ready"),
            number(2).group("c/1").run_at(RunAt::After(Duration::from_secs(60))).key("timer"),
            number(3).group("c/2"),
            number(4).group("c"),
            number(5).group("c-other"),
            number(6).group("c0"),
        ],
    )
    .await;
    let mut conn = pool.acquire().await.unwrap();
    let (removed, _wake) = groups::cancel(&mut conn, "c/1").await.unwrap();
    assert_eq!(removed, 2);
    assert_eq!(count(pool, "keys").await, 0, "a cancelled job's key is free again");
    let (removed, _wake) = groups::cancel(&mut conn, "c").await.unwrap();
    assert_eq!(removed, 2, "the prefix reaches what is below it, and no neighbour");
    let claimed = claim(pool, lease(pool).await, 10).await;
    assert_eq!(claimed.iter().map(|(_, n)| *n).collect::<std::collections::BTreeSet<_>>(), [5, 6].into());
    // A job enqueued after the cancel belongs to the new epoch.
    enqueue(pool, &[number(7).group("c/1")]).await;
    assert_eq!(claim(pool, lease(pool).await, 10).await.len(), 1);
}

#[tokio::test]
async fn a_job_enqueued_in_a_transaction_older_than_the_cancel_is_dropped_at_the_claim() {
    let database = database().await;
    let pool = database.pool();
    let mut tx = pool.begin().await.unwrap();
    let _ = queue::enqueue(&mut tx, &[number(1).group("g/1")]).await.unwrap();
    let mut conn = pool.acquire().await.unwrap();
    let (removed, _wake) = groups::cancel(&mut conn, "g").await.unwrap();
    assert_eq!(removed, 0);
    tx.commit().await.unwrap();
    assert_eq!(count(pool, "ready").await, 1);
    assert!(claim(pool, lease(pool).await, 10).await.is_empty());
    assert_eq!(count(pool, "ready").await, 0);
}

#[tokio::test]
async fn a_held_group_waits_until_it_is_released() {
    let database = database().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.unwrap();
    enqueue(pool, &[number(1).group("h/1"), number(2).group("other")]).await;
    groups::hold(&mut conn, "h").await.unwrap();
    enqueue(pool, &[number(3).group("h/2")]).await;
    let lease = lease(pool).await;
    assert_eq!(claim(pool, lease, 10).await.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [2]);
    assert_eq!(count(pool, "deferred").await, 2);
    let wake = groups::release(&mut conn, "h").await.unwrap();
    assert!(!wake.is_empty());
    assert_eq!(claim(pool, lease, 10).await.len(), 2);
}

#[tokio::test]
async fn what_a_claim_parks_while_the_group_is_released_is_found() {
    let database = database().await;
    let pool = database.pool();
    enqueue(pool, &[number(1).group("h/1")]).await;
    // As if it had been enqueued while the hold was not yet to be seen.
    sqlx::query("insert into queue.groups (prefix, held) values ('h', true)").execute(pool).await.unwrap();
    let mut resuming = pool.begin().await.unwrap();
    assert!(groups::release(&mut resuming, "h").await.unwrap().is_empty());
    // The claim cannot know of a release that has not committed.
    let lease = lease(pool).await;
    assert!(claim(pool, lease, 10).await.is_empty());
    resuming.commit().await.unwrap();
    let queues: Vec<String> =
        sqlx::query_scalar("select queue.unpark_released()").fetch_one(pool).await.unwrap();
    assert_eq!(queues, ["numbers"]);
    assert_eq!(claim(pool, lease, 10).await.len(), 1);
}

#[tokio::test]
async fn due_timers_of_a_held_group_are_parked_and_keep_nobody_waiting() {
    let database = database().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.unwrap();
    groups::hold(&mut conn, "h").await.unwrap();
    let later = RunAt::After(Duration::from_secs(60));
    let mut jobs: Vec<_> = (0..50).map(|n| number(n).group(format!("h/{n}")).run_at(later)).collect();
    jobs.push(number(1000).group("free").run_at(later));
    enqueue(pool, &jobs).await;
    sqlx::query("update queue.deferred set run_at = now()").execute(pool).await.unwrap();
    promote_all(pool).await;
    assert_eq!(count(pool, "ready").await, 1);
    assert_eq!(count(pool, "deferred").await, 50);
    let _ = groups::cancel(&mut conn, "h").await.unwrap();
    assert_eq!(count(pool, "deferred").await, 0, "a cancel ends the hold and what it held");
    enqueue(pool, &[number(1).group("h/1")]).await;
    assert_eq!(claim(pool, lease(pool).await, 10).await.len(), 2);
}

#[tokio::test]
async fn a_group_is_forgotten_when_nothing_is_left_that_it_governs() {
    let database = database().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.unwrap();
    for group in ["idle/1", "idle/2", "ready/1", "timer", "running/1", "dead/1", "held", "new"] {
        let _ = groups::cancel(&mut conn, group).await.unwrap();
    }
    enqueue(pool, &[number(1).group("running/1"), number(2).group("dead/1")]).await;
    claim(pool, lease(pool).await, 10).await;
    sqlx::query(
        "with gone as (delete from queue.running where grp = 'dead/1' returning *)
         insert into queue.dead (shard, id, queue, tenant, lane, priority, grp, max_attempts, payload, reason)
         select shard, id, queue, tenant, lane, priority, grp, max_attempts, payload, 'crashed' from gone",
    )
    .execute(pool)
    .await
    .unwrap();
    enqueue(
        pool,
        &[
            number(1).group("ready/1"),
            number(2).group("timer/1").run_at(RunAt::After(Duration::from_secs(60))),
        ],
    )
    .await;
    groups::hold(&mut conn, "held").await.unwrap();
    age_groups(pool, "new").await;
    assert_eq!(forget_groups(pool).await, ["dead/1", "held", "new", "ready/1", "running/1", "timer"]);
}

/// Makes groups, all but one, so old that they may be forgotten.
async fn age_groups(pool: &sqlx::PgPool, except: &str) {
    sqlx::query("update queue.groups set updated_at = now() - interval '2 days' where prefix <> $1")
        .bind(except)
        .execute(pool)
        .await
        .expect("the groups");
}

/// Forgets what may be forgotten; returns the groups that are left.
async fn forget_groups(pool: &sqlx::PgPool) -> Vec<String> {
    let mut after = Some(String::new());
    while let Some(last) = after {
        after = sqlx::query_scalar("select queue.forget_groups($1, 3)")
            .bind(last)
            .fetch_one(pool)
            .await
            .expect("a pass");
    }
    sqlx::query_scalar("select prefix from queue.groups order by prefix")
        .fetch_all(pool)
        .await
        .expect("the groups")
}

#[tokio::test]
async fn a_group_that_somebody_enqueues_for_is_not_forgotten() {
    let database = database().await;
    let pool = database.pool();
    let of_group = |n| number(n).group("a/b");
    // Each way in: one usual job, several, and jobs of all kinds.
    for jobs in [vec![of_group(1)], vec![of_group(1), of_group(2)], vec![of_group(1).key("only")]] {
        let mut conn = pool.acquire().await.unwrap();
        for group in ["a", "a/b"] {
            let _ = groups::cancel(&mut conn, group).await.unwrap();
        }
        age_groups(pool, "").await;
        let mut tx = pool.begin().await.unwrap();
        let _ = queue::enqueue(&mut tx, &jobs).await.unwrap();
        assert_eq!(forget_groups(pool).await, ["a", "a/b"]);
        // What is not committed is not found, and so is told by its epoch: the sum of those above it, which one alone that
        // came after the others were forgotten would not reach.
        let _ = groups::cancel(&mut conn, "a/b").await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(claim(pool, lease(pool).await, 10).await, []);
        age_groups(pool, "").await;
        assert_eq!(forget_groups(pool).await, [""; 0]);
    }
}

#[tokio::test]
async fn timers_are_promoted_when_due_and_not_before() {
    let database = database().await;
    let pool = database.pool();
    enqueue(
        pool,
        &[
            number(1).run_at(RunAt::After(Duration::from_secs(3600))),
            number(2).run_at(RunAt::At(chrono::DateTime::UNIX_EPOCH)),
        ],
    )
    .await;
    assert_eq!(count(pool, "ready").await, 1, "what is due already is ready at once");
    sqlx::query("update queue.deferred set run_at = now() - interval '1 second'")
        .execute(pool)
        .await
        .unwrap();
    let (promoted,): (i32,) =
        sqlx::query_as("select promoted from queue.promote(100, null)").fetch_one(pool).await.unwrap();
    assert_eq!(promoted, 1);
    assert_eq!(count(pool, "ready").await, 2);
}

#[tokio::test]
async fn a_claim_under_a_lapsed_lease_is_refused() {
    let database = database().await;
    let pool = database.pool();
    enqueue(pool, &[number(1)]).await;
    let lease = lease(pool).await;
    sqlx::query("update queue.leases set expires_at = now() - interval '1 second'")
        .execute(pool)
        .await
        .unwrap();
    let mut conn = pool.acquire().await.unwrap();
    let refused = queue::Rota::default().claim(&mut conn, lease, "numbers", 1, true).await.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().as_deref(), Some("QL001"));
    assert_eq!(count(pool, "ready").await, 1);
}

#[tokio::test]
async fn the_third_crash_ends_a_job_and_no_crash_is_an_attempt() {
    let database = database().await;
    let pool = database.pool();
    enqueue(pool, &[number(1).key("k")]).await;
    steady(pool).await;
    for crash in 1..=3 {
        let lease = lease(pool).await;
        assert_eq!(claim(pool, lease, 1).await.len(), 1, "crash {crash}");
        expire(pool, lease).await;
        rescue(pool, false).await;
        promote_all(pool).await;
    }
    let dead: (String, i32, i16) =
        sqlx::query_as("select reason, attempt, crashes from queue.dead").fetch_one(pool).await.unwrap();
    assert_eq!(dead, ("crashed".into(), 0, 3));
    assert_eq!(count(pool, "keys").await, 0);
}

#[tokio::test]
async fn a_job_is_not_blamed_for_deaths_that_happen_without_it_but_not_for_ever() {
    let database = database().await;
    let pool = database.pool();
    enqueue(pool, &[number(1)]).await;
    steady(pool).await;
    for crash in 1..=10 {
        assert_eq!(count(pool, "dead").await, 0, "crash {crash}");
        let held = lease(pool).await;
        assert_eq!(claim(pool, held, 1).await.len(), 1, "crash {crash}");
        for lease in [held, lease(pool).await] {
            expire(pool, lease).await;
        }
        rescue(pool, false).await;
        promote_all(pool).await;
    }
    let dead: (String, i16) =
        sqlx::query_as("select reason, crashes from queue.dead").fetch_one(pool).await.unwrap();
    assert_eq!(dead, ("crashed".into(), 10));
}

#[tokio::test]
async fn running_jobs_without_a_lease_row_are_found() {
    let database = database().await;
    let pool = database.pool();
    enqueue(pool, &[number(1)]).await;
    claim(pool, lease(pool).await, 1).await;
    sqlx::query("delete from queue.leases").execute(pool).await.unwrap();
    steady(pool).await;
    rescue(pool, true).await;
    assert_eq!(count(pool, "deferred").await, 1);
}

/// The lease of a process that has beaten all the time, so that rescues may happen.
async fn steady(pool: &sqlx::PgPool) {
    sqlx::query(
        "insert into queue.leases (id, name, steady_since, expires_at)
         values (gen_random_uuid(), 'steady', now() - interval '1 minute', now() + interval '1 hour')",
    )
    .execute(pool)
    .await
    .expect("the database answers");
}

async fn rescue(pool: &sqlx::PgPool, orphans: bool) {
    sqlx::query("select * from queue.rescue(3, 10, interval '6 seconds', $1, '{}')")
        .bind(orphans)
        .execute(pool)
        .await
        .expect("the database answers");
}

#[tokio::test]
async fn nobody_is_rescued_until_the_database_has_taken_beats_for_an_expiry() {
    let database = database().await;
    let pool = database.pool();
    let steady = async || -> bool {
        sqlx::query_scalar("select queue.is_steady(interval '6 seconds')").fetch_one(pool).await.unwrap()
    };
    let lease = async |since: f64, beat: f64| {
        sqlx::query(
            "insert into queue.leases (id, name, steady_since, beat_at, expires_at)
             values (gen_random_uuid(), 'x', clock_timestamp() - make_interval(secs => $1),
                clock_timestamp() - make_interval(secs => $2), clock_timestamp() + interval '6 seconds')",
        )
        .bind(since)
        .bind(beat)
        .execute(pool)
        .await
        .unwrap();
    };
    assert!(!steady().await, "there is no lease at all");
    lease(0.0, 0.0).await;
    assert!(!steady().await, "a process that has just come cannot tell an outage from a death");
    lease(1000.0, 5.5).await;
    assert!(!steady().await, "a gap of more than half an expiry");
    lease(4.0, 2.0).await;
    assert!(steady().await, "three short lives in a row are as good as a long one");
    sqlx::query(
        "with ended as (delete from queue.leases where steady_since < clock_timestamp() - interval '3 seconds' returning *)
         insert into queue.deaths (lease, steady_since, beat_at) select id, steady_since, beat_at from ended",
    )
    .execute(pool)
    .await
    .unwrap();
    assert!(steady().await, "also when they have been rescued meanwhile");
    sqlx::query("delete from queue.deaths").execute(pool).await.unwrap();
    assert!(!steady().await);
}

async fn expire(pool: &sqlx::PgPool, lease: uuid::Uuid) {
    sqlx::query("update queue.leases set expires_at = now() - interval '1 second' where id = $1")
        .bind(lease)
        .execute(pool)
        .await
        .expect("the database answers");
}

/// Makes every timer due, and promotes it.
async fn promote_all(pool: &sqlx::PgPool) {
    sqlx::query("update queue.deferred set run_at = now()")
        .execute(pool)
        .await
        .expect("the database answers");
    sqlx::query("select * from queue.promote(1000, null)").execute(pool).await.expect("the database answers");
}
