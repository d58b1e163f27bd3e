//! Bringing the schema up to date beside what already uses it.

use std::time::Duration;

use shared::db;
use sqlx::{Connection, PgConnection, postgres::PgPoolOptions};
use testkit::TestDatabase;

#[tokio::test]
async fn a_migration_waits_longer_than_a_statement_may() {
    let test = TestDatabase::create_from("iris", async |pool| Ok(db::migrate(pool).await?)).await;
    // The deadlines of those that serve people, shortened.
    let hasty = PgPoolOptions::new().connect_lazy_with(
        db::connect_options(test.url(), "test")
            .unwrap()
            .options([("statement_timeout", "50ms"), ("lock_timeout", "50ms")]),
    );
    let mut other = PgConnection::connect(test.url()).await.unwrap();
    let mut busy = other.begin().await.unwrap();
    sqlx::query("lock table _sqlx_migrations").execute(&mut *busy).await.unwrap();
    let migrating = tokio::spawn(async move { db::migrate(&hasty).await });
    let waiting = "select exists (select 1 from pg_locks where not granted and relation = '_sqlx_migrations'::regclass)";
    while !sqlx::query_scalar::<_, bool>(waiting).fetch_one(&mut *busy).await.unwrap() {
        assert!(!migrating.is_finished(), "{:?}", migrating.await);
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    busy.commit().await.unwrap();
    migrating.await.unwrap().unwrap();
}
