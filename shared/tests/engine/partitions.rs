//! The daily partitions of the history tables.

use shared::db::partitions;
use sqlx::PgConnection;

use crate::fixture::Fixture;

#[tokio::test]
async fn rows_outside_all_partitions_are_counted_and_stop_no_day() {
    let fixture = Fixture::new().await;
    // The migration has made the partitions of the next eight days.
    for days in [9, 11, 40] {
        sqlx::query(
            "insert into events (account_id, id, type, resource_id, body, created_at)
             values ($1, uuid_v7_floor(now() + make_interval(days => $2)), 'campaign.created', $1, '{}', now())",
        )
        .bind(fixture.account_id)
        .bind(days)
        .execute(fixture.database.pool())
        .await
        .unwrap();
    }
    let mut conn = fixture.conn().await;
    let strays = partitions::count_strays(&mut conn).await.unwrap();
    let rows: Vec<_> = strays.iter().map(|stray| (stray.table.as_str(), stray.rows)).collect();
    assert_eq!(rows, [("attempts", 0), ("deliveries", 0), ("events", 3)]);

    assert_eq!(ensure_all(&mut conn, 12).await, 12, "four days of three tables");
    assert_eq!(ensure_all(&mut conn, 12).await, 0);
    let strays = partitions::count_strays(&mut conn).await.unwrap();
    assert_eq!(strays[2].rows, 1, "the others have moved into their days");
    let kept: i64 = sqlx::query_scalar("select count(*) from events").fetch_one(&mut *conn).await.unwrap();
    assert_eq!(kept, 3);
    let indexes: Vec<i64> = sqlx::query_scalar(
        "select count(*) from pg_inherits i join pg_index x on x.indrelid = i.inhrelid
         where i.inhparent = 'deliveries'::regclass group by i.inhrelid order by 1",
    )
    .fetch_all(&mut *conn)
    .await
    .unwrap();
    assert_eq!(indexes, [3; 14], "every day has the indexes of its table, once");
}

#[tokio::test]
async fn strays_that_somebody_holds_fail_no_call() {
    let fixture = Fixture::new().await;
    sqlx::query(
        "insert into events (account_id, id, type, resource_id, body, created_at)
         values ($1, uuid_v7_floor(now() + interval '9 days'), 'campaign.created', $1, '{}', now())",
    )
    .bind(fixture.account_id)
    .execute(fixture.database.pool())
    .await
    .unwrap();
    let mut holder = fixture.tx().await;
    sqlx::query("select from events_default for update").execute(&mut *holder).await.unwrap();
    // Each of three days waits for the holder.
    let mut conn = fixture.conn().await;
    assert_eq!(ensure_all(&mut conn, 11).await, 6, "the other two tables got theirs");
    holder.rollback().await.unwrap();
    assert_eq!(ensure_all(&mut conn, 11).await, 3);
}

/// Makes the partitions of all tables and returns how many were missing.
async fn ensure_all(conn: &mut PgConnection, days: i32) -> i32 {
    let mut made = 0;
    for table in partitions::TABLES {
        made += partitions::ensure(conn, table, days).await.expect("none of them fails");
    }
    made
}
