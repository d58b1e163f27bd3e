//! Jobs that are made due before their time.

use std::time::Duration;

use queue::{
    Enqueued, RunAt, groups, lanes,
    operate::{Place, bring_forward},
};
use uuid::Uuid;

use crate::support::{claim, count, database, enqueue, lease, number, soon};

const LATER: RunAt = RunAt::After(Duration::from_secs(3600));

fn ids(outcomes: &[Enqueued]) -> Vec<Uuid> {
    let id = |outcome: &Enqueued| if let Enqueued::Added(id) = outcome { Some(*id) } else { None };
    outcomes.iter().filter_map(id).collect()
}

fn place(lane: &str) -> Place<'_> {
    Place { queue: "numbers", tenant: "tenant", lane }
}

#[tokio::test]
async fn a_timer_is_brought_forward_and_nothing_else_is() {
    let database = database().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.unwrap();
    let jobs = [
        number(1).run_at(LATER).lane("a").priority(5),
        number(2).lane("a"),
        number(3).run_at(LATER).lane("a"),
        number(4).run_at(LATER).lane("a").group("held"),
        number(5).lane("a").group("held"),
    ];
    let ids = ids(&enqueue(pool, &jobs).await);
    groups::hold(&mut conn, "held").await.unwrap();
    for (n, expected) in [(0, true), (0, false), (1, false), (3, false), (4, false)] {
        let (brought, wake) = bring_forward(&mut conn, place("a"), ids[n]).await.unwrap();
        assert_eq!((brought, wake.is_empty()), (expected, !expected), "{}", n + 1);
    }
    let lease = lease(pool).await;
    let claimed: Vec<i64> = claim(pool, lease, 10).await.into_iter().map(|(_, n)| n).collect();
    assert_eq!(claimed, [2, 1], "it keeps its priority");
    assert!(!bring_forward(&mut conn, place("a"), ids[0]).await.unwrap().0, "it runs");
    assert_eq!((count(pool, "deferred").await, count(pool, "running").await), (3, 2));
}

#[tokio::test]
async fn a_timer_that_somebody_moves_is_left_to_them() {
    let database = database().await;
    let pool = database.pool();
    let id = ids(&enqueue(pool, &[number(1).run_at(LATER)]).await)[0];
    let mut mover = pool.begin().await.unwrap();
    sqlx::query("select from queue.deferred for update").execute(&mut *mover).await.unwrap();
    let mut conn = pool.acquire().await.unwrap();
    assert!(!soon(bring_forward(&mut conn, place("tenant"), id)).await.unwrap().0);
    mover.rollback().await.unwrap();
    assert!(bring_forward(&mut conn, place("tenant"), id).await.unwrap().0);
}

#[tokio::test]
async fn the_first_of_an_ordered_lane_is_brought_forward_by_opening_it() {
    let database = database().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.unwrap();
    let _ = lanes::order(&mut conn, "numbers", "o", true).await.unwrap();
    let ids = ids(&enqueue(pool, &[number(1).lane("o"), number(2).lane("o")]).await);
    let lease = lease(pool).await;
    assert_eq!(claim(pool, lease, 1).await[0].1, 1);
    end_all(&mut conn, "retry", ids[0]).await;
    assert!(claim(pool, lease, 1).await.is_empty(), "both wait for the first");
    assert!(!bring_forward(&mut conn, place("o"), ids[1]).await.unwrap().0, "it is not the first");
    let (brought, wake) = bring_forward(&mut conn, place("o"), ids[0]).await.unwrap();
    assert!(brought && !wake.is_empty());
    assert_eq!(claim(pool, lease, 1).await[0].1, 1);
    end_all(&mut conn, "return", ids[0]).await;
    lanes::close(&mut conn, "numbers", "o", Duration::from_secs(60), "circuit").await.unwrap();
    let (brought, _) = bring_forward(&mut conn, place("o"), ids[0]).await.unwrap();
    assert!(!brought, "what is closed for another reason stays closed");
}

/// Ends what runs: one job with this outcome, to be tried in an hour, the others as if they had not begun.
async fn end_all(conn: &mut sqlx::PgConnection, outcome: &str, one: Uuid) {
    sqlx::query(
        "select queue.complete(array_agg(id), array_agg(run), array_agg(case when id = $2 then $1 else 'return' end),
            array_agg(3600000::bigint), array_agg(null::text), array_agg(null::text)) from queue.running",
    )
    .bind(outcome)
    .bind(one)
    .execute(conn)
    .await
    .expect("completed");
}
