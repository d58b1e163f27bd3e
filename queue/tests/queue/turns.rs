//! Whose turn it is: tenants, lanes, weights, caps and priorities.

use std::{collections::BTreeMap, time::Duration};

use queue::{NewJob, Rota, lanes};

use crate::support::{Number, claim, claim_by, claim_next, database, enqueue, lease, number};

/// A rota that takes no look for a slow one, however busy the machine is.
fn patient() -> Rota {
    Rota::slow_after(Duration::MAX, Duration::ZERO)
}

fn of(tenant: &str, n: i64) -> NewJob {
    NewJob::new(&Number { n }, tenant).expect("a job")
}

/// How many of the jobs of each number were claimed.
async fn served(pool: &sqlx::PgPool, rota: &mut Rota, limit: usize, claims: usize) -> BTreeMap<i64, usize> {
    served_by(pool, rota, limit, claims, true).await
}

async fn served_by(
    pool: &sqlx::PgPool,
    rota: &mut Rota,
    limit: usize,
    claims: usize,
    look: bool,
) -> BTreeMap<i64, usize> {
    let lease = lease(pool).await;
    let mut served = BTreeMap::new();
    for _ in 0..claims {
        for (_, n) in claim_by(pool, lease, rota, limit, look).await {
            *served.entry(n).or_default() += 1;
        }
    }
    served
}

#[tokio::test]
async fn tenants_get_the_same_over_many_small_claims() {
    for (tenants, limit) in [(6, 10), (7, 4), (3, 1), (120, 7)] {
        let database = database().await;
        let jobs: Vec<_> = (0..tenants)
            .flat_map(|t| (0..100).map(move |n| of(&format!("t{t}"), t).lane(format!("t{t}-{}", n % 3))))
            .collect();
        enqueue(database.pool(), &jobs).await;
        let claims = 240 / limit;
        let served = served(database.pool(), &mut patient(), limit, claims).await;
        let total = limit * claims;
        let fair = total / usize::try_from(tenants).unwrap();
        assert_eq!(
            served.len(),
            usize::try_from(tenants).unwrap(),
            "{tenants} tenants, {limit} at a time: {served:?}"
        );
        assert!(
            served.values().all(|got| got.abs_diff(fair) <= 2),
            "{tenants} tenants, {limit} at a time, about {fair} each: {served:?}"
        );
    }
}

#[tokio::test]
async fn a_tenants_lanes_get_the_same_and_its_number_of_lanes_gains_nothing() {
    let database = database().await;
    let pool = database.pool();
    let mut jobs: Vec<_> =
        (0..3000).map(|n| of("many", n % 300).lane(format!("lane-{:03}", n % 300))).collect();
    jobs.extend((0..300).map(|_| of("one", 1000)));
    enqueue(pool, &jobs).await;
    let served = served(pool, &mut patient(), 20, 20).await;
    assert!(served[&1000].abs_diff(200) <= 4, "half for the tenant with one lane: {}", served[&1000]);
    let lanes: Vec<usize> = (0..300).map(|n| served.get(&n).copied().unwrap_or_default()).collect();
    assert!(lanes.iter().all(|got| *got <= 1), "no lane twice before every lane once: {lanes:?}");
}

#[tokio::test]
async fn a_weight_is_a_share() {
    let database = database().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.unwrap();
    lanes::weigh(&mut conn, "heavy", 3).await.unwrap();
    let jobs: Vec<_> = (0..300).flat_map(|_| [of("heavy", 3), of("light", 1)]).collect();
    enqueue(pool, &jobs).await;
    let served = served(pool, &mut patient(), 10, 20).await;
    assert!(served[&3].abs_diff(150) <= 6, "{served:?}");
}

#[tokio::test]
async fn closed_lanes_and_their_tenants_do_not_stand_in_the_way() {
    let database = database().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.unwrap();
    let mut jobs = Vec::new();
    for n in 0..500 {
        let lane = format!("closed-{n:04}");
        lanes::close(&mut conn, "numbers", &lane, Duration::from_secs(60), "circuit").await.unwrap();
        jobs.push(of("a", n).lane(&lane));
        jobs.push(of(&format!("b{n}"), n).lane(&lane));
    }
    jobs.push(of("a", 5000).lane("open"));
    jobs.push(of("c", 5001).lane("open too"));
    enqueue(pool, &jobs).await;
    let alone = served(pool, &mut patient(), 1, 200).await;
    assert_eq!(alone.into_iter().collect::<Vec<_>>(), [(5000, 1), (5001, 1)]);

    // Beside a tenant that is always busy.
    let mut jobs: Vec<_> = (0..300).map(|_| of("busy", 6000)).collect();
    jobs.push(of("a", 5000).lane("open"));
    enqueue(pool, &jobs).await;
    let beside = served(pool, &mut patient(), 2, 100).await;
    assert_eq!(beside[&5000], 1, "{beside:?}");
}

#[tokio::test]
async fn a_cap_counts_all_tenants_of_the_lane() {
    let database = database().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.unwrap();
    let cap = lanes::Limits { cap: Some(3), per_second: None };
    enqueue(pool, &[of("a", 1).lane("shared")]).await;
    let lease = lease(pool).await;
    assert_eq!(claim(pool, lease, 10).await.len(), 1);
    // The job that runs already counts.
    lanes::limit(&mut conn, "numbers", "shared", cap).await.unwrap();
    let jobs: Vec<_> = (0..20).flat_map(|n| [of("a", n).lane("shared"), of("b", n).lane("shared")]).collect();
    enqueue(pool, &jobs).await;
    let mut rota = patient();
    for _ in 0..10 {
        claim_next(pool, lease, &mut rota, 10).await;
    }
    let running: i64 =
        sqlx::query_scalar("select count(*) from queue.running").fetch_one(pool).await.unwrap();
    assert_eq!(running, 3);
}

#[tokio::test]
async fn a_job_that_runs_for_long_still_counts_for_its_lanes_cap() {
    let database = database().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.unwrap();
    let cap = lanes::Limits { cap: Some(3), per_second: None };
    lanes::limit(&mut conn, "numbers", "capped", cap).await.unwrap();
    enqueue(pool, &(0..9).map(|n| number(n).lane("capped")).collect::<Vec<_>>()).await;
    let lease = lease(pool).await;
    assert_eq!(claim(pool, lease, 1).await.len(), 1);
    sqlx::query("update queue.running set started_at = now() - interval '1 hour'")
        .execute(pool)
        .await
        .unwrap();
    let aged = "update queue.lanes set counted_from = '-infinity' where lane = 'capped'";
    sqlx::query(aged).execute(pool).await.unwrap();
    assert_eq!(claim(pool, lease, 1).await.len(), 1);
    let bound = "select counted_from between now() - interval '2 hours' and now() - interval '1 hour' from queue.lanes";
    assert!(sqlx::query_scalar::<_, bool>(bound).fetch_one(pool).await.unwrap());
    assert_eq!(claim(pool, lease, 9).await.len(), 1, "three in all");
    assert_eq!(claim(pool, lease, 9).await.len(), 0);
}

#[tokio::test]
async fn a_rate_is_kept_over_many_claims() {
    let database = database().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.unwrap();
    let rate = lanes::Limits { cap: None, per_second: Some(0.001) };
    lanes::limit(&mut conn, "numbers", "slow", rate).await.unwrap();
    enqueue(pool, &(0..20).map(|n| number(n).lane("slow")).collect::<Vec<_>>()).await;
    let slow = served(pool, &mut patient(), 5, 10).await;
    assert_eq!(slow.values().sum::<usize>(), 1);

    // What was not used of a second can be used later in it, and no more.
    let rate = lanes::Limits { cap: None, per_second: Some(20.0) };
    lanes::limit(&mut conn, "numbers", "fast", rate).await.unwrap();
    enqueue(pool, &(0..200).map(|n| number(n).lane("fast")).collect::<Vec<_>>()).await;
    let (mut rota, lease, mut claimed) = (patient(), lease(pool).await, 0);
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_millis(3300) {
        claimed += claim_next(pool, lease, &mut rota, 100).await.len();
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a small count")]
    let rate = claimed as f64 / seconds;
    assert!((14.0..=28.0).contains(&rate), "{claimed} in {seconds} s");
}

#[tokio::test]
async fn lanes_beyond_the_window_have_their_turns_without_a_wake() {
    let database = database().await;
    let pool = database.pool();
    let jobs: Vec<_> =
        (0..3000).map(|n| of("one", n % 300 / 100).lane(format!("lane-{:03}", n % 300))).collect();
    enqueue(pool, &jobs).await;
    let mut rota = patient();
    served(pool, &mut rota, 1, 1).await;
    let served = served_by(pool, &mut rota, 50, 30, false).await;
    assert!(
        served.values().all(|got| got.abs_diff(500) <= 100),
        "a third for each hundred lanes: {served:?}"
    );
}

#[tokio::test]
async fn a_lane_that_is_expected_is_not_looked_for() {
    let database = database().await;
    let pool = database.pool();
    let (lease, mut rota) = (lease(pool).await, patient());
    let numbers = |claimed: Vec<(String, i64)>| claimed.into_iter().map(|(_, n)| n).collect::<Vec<_>>();
    assert!(claim_by(pool, lease, &mut rota, 1, true).await.is_empty());
    enqueue(pool, &(0..4).map(|n| number(n).lane("new")).collect::<Vec<_>>()).await;
    enqueue(pool, &[number(5).lane("unexpected")]).await;
    rota.expect("tenant", "new");
    assert_eq!(numbers(claim_by(pool, lease, &mut rota, 1, false).await), [0]);
    assert_eq!(numbers(claim_by(pool, lease, &mut rota, 9, false).await), [1, 2, 3], "nobody looked");
    enqueue(pool, &(6..9).map(|n| number(n).lane("new")).collect::<Vec<_>>()).await;
    // A known lane begins where the look saw it begin, unless something may have come ahead of that.
    let mut looked = numbers(claim_by(pool, lease, &mut rota, 2, true).await);
    looked.sort_unstable();
    assert_eq!(looked, [5, 6]);
    enqueue(pool, &[number(9).lane("new").priority(-5)]).await;
    rota.expect("tenant", "new");
    assert_eq!(numbers(claim_by(pool, lease, &mut rota, 9, false).await), [9, 7, 8]);
}

#[tokio::test]
async fn a_lane_that_is_expected_again_and_again_does_not_keep_the_others_from_their_turns() {
    let database = database().await;
    let pool = database.pool();
    let (lease, mut rota) = (lease(pool).await, patient());
    enqueue(pool, &(0..300).map(|n| number(n).lane(format!("lane-{n}"))).collect::<Vec<_>>()).await;
    let mut served = std::collections::BTreeSet::new();
    // 300 lanes and the busy one in their turns, 20 at a time.
    for _ in 0..18 {
        enqueue(pool, &[number(1000).lane("busy")]).await;
        rota.expect("tenant", "busy");
        served.extend(claim_by(pool, lease, &mut rota, 20, false).await.into_iter().map(|(_, n)| n));
    }
    assert_eq!(served.len(), 301);
}

#[tokio::test]
async fn an_expected_lane_has_room_for_another_tenant_of_it() {
    let database = database().await;
    let pool = database.pool();
    let (lease, mut rota) = (lease(pool).await, patient());
    let mut conn = pool.acquire().await.unwrap();
    let cap = lanes::Limits { cap: Some(10), per_second: None };
    lanes::limit(&mut conn, "numbers", "shared", cap).await.unwrap();
    assert!(claim_by(pool, lease, &mut rota, 1, true).await.is_empty());
    let mut jobs: Vec<_> = (0..5).map(|n| of("b", n).lane("shared")).collect();
    jobs.push(of("a", 10).lane("shared"));
    enqueue(pool, &jobs).await;
    rota.expect("a", "shared");
    rota.expect("b", "shared");
    let mut claimed = 0;
    for _ in 0..3 {
        claimed += claim_by(pool, lease, &mut rota, 20, false).await.len();
    }
    assert_eq!(claimed, 6);
}

#[tokio::test]
async fn a_tenants_end_in_a_full_lane_lets_the_others_of_the_lane_in() {
    let database = database().await;
    let pool = database.pool();
    let (lease, mut rota) = (lease(pool).await, patient());
    let mut conn = pool.acquire().await.unwrap();
    let cap = lanes::Limits { cap: Some(1), per_second: None };
    lanes::limit(&mut conn, "numbers", "shared", cap).await.unwrap();
    let jobs = (0..4).flat_map(|n| [of("a", n).lane("shared"), of("b", n + 10).lane("shared")]);
    enqueue(pool, &jobs.collect::<Vec<_>>()).await;
    let mut served = Vec::new();
    let mut look = true;
    for _ in 0..8 {
        let [claimed] = &claim_by(pool, lease, &mut rota, 5, look).await[..] else { panic!("{served:?}") };
        let tenant = if claimed.1 < 10 { "a" } else { "b" };
        served.push(tenant);
        // Whoever finds the lane full knows that both wait there.
        assert!(claim_by(pool, lease, &mut rota, 5, look).await.is_empty());
        assert!(claim_by(pool, lease, &mut rota, 5, look).await.is_empty());
        look = false;
        sqlx::query("delete from queue.running").execute(pool).await.unwrap();
        rota.expect(tenant, "shared");
    }
    let turns = served.chunk_by(|a, b| a == b).map(<[_]>::len).max();
    assert!(turns <= Some(2), "neither has the lane to itself: {served:?}");
}

#[tokio::test]
async fn an_expected_lane_is_not_slept_over_behind_one_that_is_empty() {
    let database = database().await;
    let pool = database.pool();
    let (lease, mut rota) = (lease(pool).await, patient());
    assert!(claim_by(pool, lease, &mut rota, 1, true).await.is_empty());
    let mut conn = pool.acquire().await.unwrap();
    for _ in 0..30 {
        rota.expect("tenant", "empty");
        let found = rota.claim(&mut conn, lease, "numbers", 1, false).await.unwrap();
        assert_eq!((found.iter().count(), found.may_have_more()), (0, false));
    }
    enqueue(pool, &[number(1).lane("full")]).await;
    rota.expect("tenant", "empty");
    rota.expect("tenant", "full");
    let found = rota.claim(&mut conn, lease, "numbers", 1, false).await.unwrap();
    assert!(found.iter().count() == 1 || found.may_have_more());
}

#[tokio::test]
async fn a_weight_is_known_when_its_tenant_comes_back() {
    let database = database().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.unwrap();
    lanes::weigh(&mut conn, "heavy", 3).await.unwrap();
    let (lease, mut rota) = (lease(pool).await, patient());
    enqueue(pool, &[of("heavy", 0)]).await;
    assert_eq!(claim_by(pool, lease, &mut rota, 1, true).await.len(), 1);
    assert!(claim_by(pool, lease, &mut rota, 1, true).await.is_empty());
    let jobs: Vec<_> = (0..20).flat_map(|_| [of("heavy", 3), of("light", 1)]).collect();
    enqueue(pool, &jobs).await;
    rota.expect("heavy", "heavy");
    rota.expect("light", "light");
    let claimed = claim_by(pool, lease, &mut rota, 12, false).await;
    assert_eq!(claimed.iter().filter(|(_, n)| *n == 3).count(), 9);
}

#[tokio::test]
async fn more_tenants_than_are_remembered_have_all_their_lanes_served() {
    let database = database().await;
    let pool = database.pool();
    for part in 0..4 {
        let jobs: Vec<_> = (part * 300..(part + 1) * 300)
            .flat_map(|t| {
                (0..8).map(move |n| {
                    of(&format!("tenant-{t:04}"), n % 2).lane(["aa", "zz"][usize::from(n % 2 == 1)])
                })
            })
            .collect();
        enqueue(pool, &jobs).await;
    }
    let served = served(pool, &mut patient(), 300, 16).await;
    assert!(served[&1] * 3 > served[&0], "the lane with the greater name gets its share: {served:?}");
}

#[tokio::test]
async fn full_lanes_are_not_looked_at_without_end() {
    let database = database().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.unwrap();
    let cap = lanes::Limits { cap: Some(1), per_second: None };
    let mut jobs = Vec::new();
    for n in 0..150 {
        let lane = format!("lane-{n:03}");
        lanes::limit(&mut conn, "numbers", &lane, cap).await.unwrap();
        jobs.extend([of("one", n).lane(&lane), of("one", n).lane(&lane)]);
    }
    enqueue(pool, &jobs).await;
    let lease = lease(pool).await;
    let mut rota = patient();
    let (mut claimed, mut claims) = (0, 0);
    loop {
        let found = rota.claim(&mut conn, lease, "numbers", 200, claims == 0).await.unwrap();
        claimed += found.iter().count();
        claims += 1;
        if !found.may_have_more() {
            break;
        }
    }
    assert_eq!(claimed, 150);
    assert!(claims < 60, "{claims} claims");
}

#[tokio::test]
async fn held_jobs_ahead_in_the_lane_keep_nobody_waiting() {
    let database = database().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.unwrap();
    let held: Vec<_> = (0..100).map(|n| number(n).lane("mailbox").group(format!("h/{n}"))).collect();
    enqueue(pool, &held[..50]).await;
    // As if they had been enqueued while the hold was not yet to be seen.
    sqlx::query("insert into queue.groups (prefix, held) values ('h', true)").execute(pool).await.unwrap();
    enqueue(pool, &held[50..]).await;
    let parked: i64 = sqlx::query_scalar("select count(*) from queue.deferred where run_at = 'infinity'")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(parked, 50, "what comes to a held group is parked at once");
    enqueue(pool, &[number(1000).lane("mailbox")]).await;
    let lease = lease(pool).await;
    let mut rota = patient();
    let mut claims = 0;
    loop {
        let found = rota.claim(&mut conn, lease, "numbers", 10, claims == 0).await.unwrap();
        claims += 1;
        if found.iter().next().is_some() {
            break;
        }
        assert!(found.may_have_more(), "asleep after {claims} claims");
    }
    assert_eq!(claims, 6, "ten at a time, without a wake");
}

#[tokio::test]
async fn what_is_set_for_a_lane_holds_although_the_turns_are_older() {
    let database = database().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.unwrap();
    enqueue(pool, &(0..40).map(|n| number(n).lane("lane")).collect::<Vec<_>>()).await;
    let lease = lease(pool).await;
    let mut rota = patient();
    assert_eq!(claim_by(pool, lease, &mut rota, 2, true).await.len(), 2);
    let cap = lanes::Limits { cap: Some(5), per_second: None };
    lanes::limit(&mut conn, "numbers", "lane", cap).await.unwrap();
    assert_eq!(claim_by(pool, lease, &mut rota, 10, false).await.len(), 3);
    lanes::limit(&mut conn, "numbers", "lane", lanes::Limits::default()).await.unwrap();
    assert_eq!(claim_by(pool, lease, &mut rota, 2, true).await.len(), 2);
    let _ = lanes::pause_queue(&mut conn, "numbers", true).await.unwrap();
    assert!(claim_by(pool, lease, &mut rota, 2, false).await.is_empty());
}

#[tokio::test]
async fn a_priority_is_worth_minutes_and_starves_nobody() {
    let database = database().await;
    let pool = database.pool();
    enqueue(pool, &[number(1).priority(5), number(2), number(3).priority(-5)]).await;
    sqlx::query("update queue.ready set rank = rank - interval '6 minutes' where priority = 5")
        .execute(pool)
        .await
        .unwrap();
    let lease = lease(pool).await;
    let order: Vec<i64> = claim(pool, lease, 3).await.into_iter().map(|(_, n)| n).collect();
    assert_eq!(order, [3, 1, 2], "one that waited for six minutes goes before a new one of five points more");
}
