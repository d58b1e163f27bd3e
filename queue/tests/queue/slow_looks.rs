//! Turns while looks are slow, since somebody holds an old snapshot: every look counts as one here.

use std::time::Duration;

use queue::{NewJob, Rota, lanes};

use crate::support::{Number, claim_by, claim_next, database, enqueue, lease, number};

fn slow() -> Rota {
    Rota::slow_after(Duration::ZERO, Duration::ZERO)
}

fn of(tenant: &str, n: i64) -> NewJob {
    NewJob::new(&Number { n }, tenant).expect("a job")
}

#[tokio::test]
async fn lanes_go_on_from_where_they_stand_and_nobody_waits_for_long() {
    let database = database().await;
    let pool = database.pool();
    let lease = lease(pool).await;
    let mut rota = slow();
    let numbers = |claimed: Vec<(String, i64)>| claimed.into_iter().map(|(_, n)| n).collect::<Vec<_>>();
    enqueue(pool, &(0..4).map(|n| number(n).lane("known")).collect::<Vec<_>>()).await;
    assert_eq!(numbers(claim_next(pool, lease, &mut rota, 3).await), [0, 1, 2]);
    // Far ahead of where the lane stands, in a lane that is not known, and behind.
    let ahead = number(10).lane("known").priority(-5);
    let mut conn = pool.acquire().await.unwrap();
    lanes::close(&mut conn, "numbers", "m", Duration::from_secs(60), "closed").await.unwrap();
    lanes::close(&mut conn, "numbers", "b", Duration::from_secs(60), "closed").await.unwrap();
    let new = [
        number(11).lane("new"),
        of("a", 14).lane("known"),
        of("zz", 15).lane("any"),
        number(16).lane("m"),
        number(17).lane("newer"),
        of("b", 18).lane("b"),
        of("b", 19).lane("c"),
        of("c", 20).lane("c"),
    ];
    enqueue(pool, &[&[ahead, number(12).lane("known")], &new[..]].concat()).await;
    let mut found = Vec::new();
    for look in [true, false, false, false] {
        found.extend(numbers(claim_by(pool, lease, &mut rota, 9, look).await));
    }
    // On a slow machine everything may be looked at again meanwhile.
    let ahead = found.contains(&10);
    found.retain(|n| *n != 10);
    found.sort_unstable();
    assert_eq!(found, [3, 11, 12, 14, 15, 17, 19, 20]);
    enqueue(pool, &[number(13).lane("known")]).await;
    assert_eq!(numbers(claim_next(pool, lease, &mut rota, 9).await), [13], "a lane that was empty is known");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(numbers(claim_next(pool, lease, &mut rota, 9).await) == [10], !ahead);
}

#[tokio::test]
async fn one_looks_for_all() {
    let database = database().await;
    let pool = database.pool();
    let lease = lease(pool).await;
    let jobs = |from| (from..from + 4).map(|n| number(n).lane(format!("lane-{}", n % 4))).collect::<Vec<_>>();
    let (mut first, mut late) = (slow(), slow());
    enqueue(pool, &jobs(0)).await;
    assert_eq!(claim_by(pool, lease, &mut first, 9, true).await.len(), 4);
    // As if the last look had just been, and the jobs before its places were dead rows to be walked over.
    let told = "update queue.places set until = now() + interval '1 minute', places = array_fill(now(), array[cardinality(lanes)])";
    assert_eq!(sqlx::query(told).execute(pool).await.unwrap().rows_affected(), 1);
    enqueue(pool, &jobs(4)).await;
    sqlx::query(
        "update queue.ready set rank = now() - interval '11 seconds' where lane in ('lane-0', 'lane-1')",
    )
    .execute(pool)
    .await
    .unwrap();
    enqueue(pool, &[number(100).lane("another")]).await;
    let mut lanes: Vec<String> =
        claim_by(pool, lease, &mut late, 9, true).await.into_iter().map(|(lane, _)| lane).collect();
    lanes.sort_unstable();
    assert_eq!(
        lanes,
        ["another", "lane-2", "lane-3"],
        "from where the lanes stand on, and what is between them"
    );
    // Once nobody has told of late everything is looked at.
    sqlx::query("update queue.places set until = now()").execute(pool).await.unwrap();
    assert_eq!(claim_by(pool, lease, &mut slow(), 9, true).await.len(), 2);
    assert_eq!(
        sqlx::query_scalar::<_, i64>("select count(*) from queue.places").fetch_one(pool).await.unwrap(),
        2
    );
}

#[tokio::test]
async fn jobs_of_the_usual_priorities_do_not_wait_for_a_look() {
    let database = database().await;
    let pool = database.pool();
    let lease = lease(pool).await;
    let mut rota = slow();
    let usual = |n| [number(n).lane("lane").priority(2), number(n + 1).lane("lane").priority(-2)];
    enqueue(pool, &usual(0)).await;
    assert_eq!(claim_by(pool, lease, &mut rota, 9, true).await.len(), 2);
    for n in [2, 4, 6] {
        enqueue(pool, &usual(n)).await;
        assert_eq!(claim_by(pool, lease, &mut rota, 9, true).await.len(), 2, "{n}");
    }
}

#[tokio::test]
async fn what_commits_late_is_found_where_it_is_named() {
    let database = database().await;
    let pool = database.pool();
    let lease = lease(pool).await;
    let mut rota = slow();
    enqueue(pool, &[number(0).lane("lane")]).await;
    assert_eq!(claim_by(pool, lease, &mut rota, 9, true).await.len(), 1);
    for n in [1, 2] {
        enqueue(pool, &[number(n).lane("lane")]).await;
        // As if its transaction had been open for so long.
        sqlx::query("update queue.ready set rank = now() - interval '5 seconds'")
            .execute(pool)
            .await
            .unwrap();
        rota.expect("tenant", "lane");
        assert_eq!(claim_by(pool, lease, &mut rota, 9, false).await, [("lane".to_owned(), n)]);
    }
}

#[tokio::test]
async fn what_was_claimed_unheard_is_found_again() {
    let database = database().await;
    let pool = database.pool();
    let lease = lease(pool).await;
    let mut rota = slow();
    enqueue(pool, &[number(0).lane("lane")]).await;
    assert_eq!(claim_by(pool, lease, &mut rota, 9, true).await.len(), 1);
    // By the time at which it is given back its place lies far behind where the lane stands.
    let aged = "update queue.running set rank = rank - interval '15 seconds', crashes = 1";
    sqlx::query(aged).execute(pool).await.unwrap();
    let given_back = "select queue.complete(array_agg(id), array_agg(run), '{lost}', '{0}', '{null}', '{null}') from queue.running";
    sqlx::query(given_back).execute(pool).await.unwrap();
    sqlx::query("select queue.promote(10, null)").execute(pool).await.unwrap();
    assert_eq!(claim_by(pool, lease, &mut rota, 9, true).await, [("lane".to_owned(), 0)]);
    let kept: (i32, i16) =
        sqlx::query_as("select attempt, crashes from queue.running").fetch_one(pool).await.unwrap();
    assert_eq!(kept, (0, 1), "it never started");
}

#[tokio::test]
async fn a_claim_that_failed_spoils_none_after_it() {
    let database = database().await;
    let pool = database.pool();
    let jobs: Vec<NewJob> = (0..40).map(|n| number(n).lane(format!("lane-{}", n % 4))).collect();
    enqueue(pool, &jobs).await;
    let lease = lease(pool).await;
    // While every look counts as slow, the lanes are known over several claims, with what each was asked for.
    let mut rota = slow();
    assert_eq!(claim_next(pool, lease, &mut rota, 4).await.len(), 4);
    let mut conn = pool.acquire().await.unwrap();
    let lapsed = rota.claim(&mut conn, uuid::Uuid::now_v7(), "numbers", 8, true).await;
    assert!(lapsed.is_err(), "nobody claims without a lease");
    assert_eq!(claim_next(pool, lease, &mut rota, 8).await.len(), 8);
}
