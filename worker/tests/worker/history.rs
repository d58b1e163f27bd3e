//! What becomes of the history of webhooks: days go when their time is up, and nothing goes with them unseen.

use queue::{NewJob, Outcome};
use shared::jobs::{MaintainPartitions, SYSTEM_TENANT};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::bench::{Bench, soon};

/// Days before today that are: over; over soon, so that what waits is given up; not yet. The history is kept for thirty.
const OVER: i32 = 32;
const SOON_OVER: i32 = 30;
const KEPT: i32 = 29;

/// An endpoint, days in the past, and two deliveries on each with their events and attempts: one waits still.
async fn past(pool: &PgPool) {
    sqlx::raw_sql(
        "insert into endpoints (account_id, id, url, events, secret)
         select id, id, 'https://hooks.example/a', '{}', '' from accounts limit 1;
         create function noon(ago integer) returns timestamptz language sql as $$
            select (date_trunc('day', now() at time zone 'utc') - make_interval(days => ago, hours => -12)) at time zone 'utc'
         $$;
         create function make_day(parent text, ago integer) returns void language plpgsql as $$
         declare
            child text := parent || '_' || to_char(noon(ago) at time zone 'utc', 'YYYYMMDD');
         begin
            execute format('create table %I partition of %I for values from (%L) to (%L)', child, parent,
                uuid_v7_floor(noon(ago) - interval '12 hours'), uuid_v7_floor(noon(ago) + interval '12 hours'));
         end $$;",
    )
    .execute(pool)
    .await
    .unwrap();
    for ago in [OVER, SOON_OVER, KEPT] {
        sqlx::query("select make_day(t, $1) from unnest(array['events', 'deliveries', 'attempts']) as t")
            .bind(ago)
            .execute(pool)
            .await
            .unwrap();
        add(pool, ago).await;
    }
}

/// Two deliveries of a day, with their event and attempts; the first is pending.
async fn add(pool: &PgPool, ago: i32) {
    sqlx::query(
        "with event as (
            insert into events (account_id, id, type, resource_id, body, created_at)
            select e.account_id, uuid_v7_floor(noon($1)), 'message.sent', e.id, '{}', noon($1) from endpoints e
            returning account_id, id
        ), made as (
            insert into deliveries (account_id, id, endpoint_id, event_id, type, number, status, attempts, next_attempt_at)
            select v.account_id, uuid_v7_floor(noon($1) + make_interval(secs => n)), e.id, v.id, 'message.sent', n,
                case n when 1 then 'pending' else 'succeeded' end, 1, case n when 1 then now() end
            from event v, endpoints e, generate_series(1, 2) n
            returning account_id, id
        )
        insert into attempts (account_id, id, delivery_id, number, started_at, duration_ms)
        select account_id, id, id, 1, noon($1), 5 from made",
    )
    .bind(ago)
    .execute(pool)
    .await
    .unwrap();
}

/// Runs the job.
async fn maintain(bench: &mut Bench) {
    let mut tx = bench.tx().await;
    tx.enqueue(&[NewJob::new(&MaintainPartitions {}, SYSTEM_TENANT).unwrap()]).await.unwrap();
    tx.commit().await.unwrap();
    let claimed = soon(bench.maintains.next()).await.unwrap();
    let handled =
        worker::jobs::maintain_partitions::run(MaintainPartitions {}, claimed.job.clone(), bench.shared());
    let outcome = soon(handled).await.unwrap();
    assert_eq!(outcome, Outcome::Done);
    claimed.finish(outcome).await;
}

/// How many partitions there are of days before today, by table.
async fn past_days(pool: &PgPool) -> Vec<(String, i64)> {
    sqlx::query_as(
        "select i.inhparent::regclass::text, count(*) filter (where right(c.relname, 8) < to_char(now() at time zone 'utc', 'YYYYMMDD'))
         from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where c.relname ~ '[0-9]{8}$' and c.relkind = 'r' group by 1 order by 1",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

fn days(attempts: i64, deliveries: i64, events: i64) -> [(String, i64); 3] {
    [("attempts".into(), attempts), ("deliveries".into(), deliveries), ("events".into(), events)]
}

/// The statuses of what is left, the oldest first.
async fn statuses(pool: &PgPool) -> Vec<(String, bool)> {
    sqlx::query_as(
        "select status, finished_at is not null or next_attempt_at is null from deliveries order by id",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

const TOLD: &str = "select count(*) from notifications where type = 'webhook.expired'
    and resource ->> 'id' = (select id::text from endpoints) and body like 'The endpoint at hooks.example did not %'";

#[tokio::test]
async fn days_go_when_their_time_is_up_and_what_still_waits_is_told() {
    let mut bench = Bench::start("smtp://127.0.0.1:1").await;
    let pool = bench.database.pool().clone();
    past(&pool).await;
    assert_eq!(past_days(&pool).await, days(3, 3, 3));
    maintain(&mut bench).await;
    assert_eq!(past_days(&pool).await, days(2, 2, 2));
    let left = [("cancelled", true), ("succeeded", true), ("pending", false), ("succeeded", true)]
        .map(|(status, ended)| (status.to_owned(), ended));
    assert_eq!(statuses(&pool).await, left);
    assert_eq!(bench.count("select count(*) from events").await, 2);
    assert_eq!(bench.count("select count(*) from attempts").await, 4);
    assert_eq!(bench.count(TOLD).await, 1, "of two days, at once");
    maintain(&mut bench).await;
    assert_eq!(statuses(&pool).await, left);
    assert_eq!(bench.count(TOLD).await, 1);
}

#[tokio::test]
async fn notifications_go_after_ninety_days() {
    let mut bench = Bench::start("smtp://127.0.0.1:1").await;
    for days in [89, 91] {
        sqlx::query(
            "insert into notifications (account_id, id, type, title, body, resource, created_at)
             select id, gen_random_uuid(), 'discovery.failed', 'told', 'told', '{}', now() - make_interval(days => $1)
             from accounts",
        )
        .bind(days)
        .execute(bench.database.pool())
        .await
        .unwrap();
    }
    maintain(&mut bench).await;
    assert_eq!(bench.count("select count(*) from notifications").await, 1);
}

#[tokio::test]
async fn a_delivery_that_is_being_recorded_is_given_up_by_the_next_run() {
    let mut bench = Bench::start("smtp://127.0.0.1:1").await;
    let pool = bench.database.pool().clone();
    past(&pool).await;
    let mut recorder = bench.tx().await;
    sqlx::query("update deliveries set attempts = attempts + 1 where status = 'pending'")
        .execute(&mut *recorder)
        .await
        .unwrap();
    maintain(&mut bench).await;
    recorder.commit().await.unwrap();
    assert_eq!(past_days(&pool).await, days(2, 3, 2), "what is written to is not dropped");
    assert_eq!(bench.count("select count(*) from deliveries where status = 'pending'").await, 3);
    assert_eq!(bench.count(TOLD).await, 0);
    maintain(&mut bench).await;
    assert_eq!(past_days(&pool).await, days(2, 2, 2));
    assert_eq!(bench.count("select count(*) from deliveries where status = 'pending'").await, 1);
    assert_eq!(bench.count(TOLD).await, 1);
}

#[tokio::test]
async fn a_day_that_is_read_waits_for_the_next_run_and_so_do_no_others() {
    let mut bench = Bench::start("smtp://127.0.0.1:1").await;
    let pool = bench.database.pool().clone();
    past(&pool).await;
    let mut reader = bench.tx().await;
    sqlx::query("select count(*) from attempts").execute(&mut *reader).await.unwrap();
    maintain(&mut bench).await;
    assert_eq!(past_days(&pool).await, days(3, 2, 2));
    // Nobody else was kept out, and the reader has not noticed.
    add(&pool, KEPT - KEPT).await;
    sqlx::query("select count(*) from attempts").execute(&mut *reader).await.unwrap();
    reader.rollback().await.unwrap();
    maintain(&mut bench).await;
    assert_eq!(past_days(&pool).await, days(2, 2, 2));
}

/// As the dispatcher does: a delivery, then its attempt; events and deliveries read and made.
async fn dispatch(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    for statement in [
        "update deliveries set attempts = attempts + 1 where id = (
            select id from deliveries where status = 'pending' order by id desc limit 1)",
        "insert into attempts (account_id, id, delivery_id, number, started_at, duration_ms)
         select account_id, gen_random_uuid(), id, 1, now(), 5 from deliveries limit 1",
        "select v.body from deliveries d left join events v on v.account_id = d.account_id and v.id = d.event_id limit 10",
    ] {
        sqlx::query(statement).execute(&mut *tx).await?;
    }
    tx.commit().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_who_delivers_is_harmed_by_a_drop() {
    let mut bench = Bench::start("smtp://127.0.0.1:1").await;
    let pool = bench.database.pool().clone();
    past(&pool).await;
    let stop = CancellationToken::new();
    let busy: Vec<_> = (0..4)
        .map(|_| {
            let (pool, stop) = (pool.clone(), stop.clone());
            tokio::spawn(async move {
                let mut rounds = 0;
                while !stop.is_cancelled() {
                    dispatch(&pool).await.unwrap();
                    rounds += 1;
                }
                rounds
            })
        })
        .collect();
    soon(async {
        while past_days(&pool).await != days(2, 2, 2) {
            Box::pin(maintain(&mut bench)).await;
        }
    })
    .await;
    stop.cancel();
    for dispatcher in busy {
        assert!(dispatcher.await.unwrap() > 0);
    }
}

#[tokio::test]
async fn what_lies_outside_all_days_goes_too_once_it_is_old() {
    let mut bench = Bench::start("smtp://127.0.0.1:1").await;
    let pool = bench.database.pool().clone();
    past(&pool).await;
    for days in [-40, 31] {
        // More of them than one statement deletes.
        sqlx::query(
            "insert into attempts (account_id, id, delivery_id, number, started_at, duration_ms)
             select a.id, uuid_v7_floor(noon($1) + make_interval(secs => n * 0.01)), a.id, 1, now(), 5
             from accounts a, generate_series(1, 10001) n",
        )
        .bind(days)
        .execute(&pool)
        .await
        .unwrap();
        sqlx::query(
            "insert into deliveries (account_id, id, endpoint_id, event_id, type, number)
             select account_id, uuid_v7_floor(noon($1)), id, id, 'message.sent', 9 from endpoints",
        )
        .bind(days)
        .execute(&pool)
        .await
        .unwrap();
    }
    maintain(&mut bench).await;
    assert_eq!(
        bench.count("select count(*) from attempts_default").await,
        10_001,
        "those of the future stay"
    );
    assert_eq!(bench.count("select count(*) from deliveries_default where status = 'pending'").await, 1);
    assert_eq!(bench.count("select count(*) from deliveries_default").await, 1);
    assert_eq!(bench.count(TOLD).await, 1);
}
