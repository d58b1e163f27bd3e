//! Databases for tests, over a real server.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use testkit::{TestDatabase, server_url};
use uuid::Uuid;

static MIGRATIONS: AtomicUsize = AtomicUsize::new(0);

async fn migrated() -> TestDatabase {
    TestDatabase::create_from("testkit_counter", async |pool| {
        MIGRATIONS.fetch_add(1, Ordering::SeqCst);
        sqlx::query("CREATE TABLE counter (n int NOT NULL)").execute(pool).await?;
        sqlx::query("INSERT INTO counter VALUES (0)").execute(pool).await?;
        Ok(())
    })
    .await
}

async fn increments_its_own() {
    let begin = Instant::now();
    let database = migrated().await;
    println!("database from a template: {} ms", begin.elapsed().as_millis());
    let n: i32 = sqlx::query_scalar("UPDATE counter SET n = n + 1 RETURNING n")
        .fetch_one(database.pool())
        .await
        .expect("the table is there");
    assert_eq!(n, 1, "no other test's change is seen");
    assert!(MIGRATIONS.load(Ordering::SeqCst) <= 1, "the template is made once, maybe by an earlier run");
}

#[tokio::test]
async fn copies_are_apart_1() {
    increments_its_own().await;
}

#[tokio::test]
async fn copies_are_apart_2() {
    increments_its_own().await;
}

#[tokio::test]
async fn many_at_once_make_one_template() {
    let tests: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(increments_its_own());
            })
        })
        .collect();
    for test in tests {
        test.join().expect("it passes");
    }
}

#[tokio::test]
async fn an_empty_database_is_dropped_with_its_value() {
    let database = TestDatabase::create().await;
    let name: String =
        sqlx::query_scalar("SELECT current_database()").fetch_one(database.pool()).await.expect("it answers");
    assert!(name.starts_with("t_"), "{name}");
    let mut other = PgConnection::connect(database.url()).await.expect("the address serves");
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_stat_user_tables")
        .fetch_one(&mut other)
        .await
        .expect("it answers");
    assert_eq!(tables, 0);
    drop(database);

    let mut admin = PgConnection::connect(&server_url().await).await.expect("the server answers");
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_database WHERE datname = $1")
        .bind(&name)
        .fetch_one(&mut admin)
        .await
        .expect("it answers");
    assert_eq!(left, 0, "open connections do not keep it");
}

#[tokio::test]
async fn a_test_fails_that_leaves_an_event_that_is_not_as_documented() {
    for table in ["outbox", "events"] {
        let database = TestDatabase::create().await.judging_events();
        sqlx::raw_sql("CREATE TABLE outbox (body text); CREATE TABLE events (body text)")
            .execute(database.pool())
            .await
            .expect("tables");
        let insert = format!("INSERT INTO {table} VALUES ('{{\"event\": \"message.burnt\"}}')");
        sqlx::raw_sql(AssertSqlSafe(insert.as_str())).execute(database.pool()).await.expect("a row");
        let url = database.url().to_owned();
        let panic = catch_unwind(AssertUnwindSafe(|| drop(database))).expect_err("the event is found");
        let message = panic.downcast_ref::<String>().expect("it says what is wrong");
        assert!(message.contains("message.burnt"), "{message}");
        assert!(PgConnection::connect(&url).await.is_err(), "the database is dropped all the same");
    }
    let none = TestDatabase::create().await.judging_events();
    let panic = catch_unwind(AssertUnwindSafe(|| drop(none))).expect_err("nothing can be read");
    assert!(panic.downcast_ref::<String>().expect("it says so").contains("cannot be read"));
}

#[tokio::test]
async fn a_failed_migration_leaves_no_template() {
    let key = format!("testkit_failing_{}", Uuid::new_v4().simple());
    let again = key.clone();
    let failed = tokio::spawn(async move {
        TestDatabase::create_from(&key, async |_| anyhow::bail!("no such table")).await
    });
    let panic = failed.await.expect_err("it cannot be made").into_panic();
    let message = panic.downcast_ref::<String>().expect("it says why");
    assert!(message.ends_with("was not made: no such table"), "{message}");
    let database = TestDatabase::create_from(&again, async |_| Ok(())).await;
    assert!(database.url().contains("/t_"));
}
