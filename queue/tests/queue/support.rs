//! A migrated database for each test, and a runtime on it.

use std::{str::FromStr, time::Duration};

use queue::{NewJob, Notifier, Rota, Runtime, RuntimeConfig, Schedule};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, migrate::Migrator, postgres::PgConnectOptions};
use testkit::TestDatabase;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Number {
    pub n: i64,
}

impl queue::JobKind for Number {
    const QUEUE: &'static str = "numbers";
    const MAX_ATTEMPTS: u16 = 3;
}

pub async fn database() -> TestDatabase {
    TestDatabase::create_from("queue", async |pool: &PgPool| {
        Ok(Migrator::with_migrations(queue::migrations()).run(pool).await?)
    })
    .await
}

pub fn runtime(database: &TestDatabase, name: &str) -> Runtime {
    runtime_with(database, name, Vec::new())
}

pub fn runtime_with(database: &TestDatabase, name: &str, schedules: Vec<Schedule>) -> Runtime {
    Runtime::start(RuntimeConfig {
        name: name.into(),
        connect: PgConnectOptions::from_str(database.url()).expect("a URL"),
        notifier: Notifier::start(database.pool()),
        seen_by_neighbours: true,
        listen: true,
        schedules,
    })
    .expect("the runtime starts")
}

pub fn number(n: i64) -> NewJob {
    NewJob::new(&Number { n }, "tenant").expect("a job")
}

pub async fn enqueue(pool: &PgPool, jobs: &[NewJob]) -> Vec<queue::Enqueued> {
    let mut tx = pool.begin().await.expect("a transaction");
    let (outcomes, wake) = queue::enqueue(&mut tx, jobs).await.expect("enqueued");
    tx.commit().await.expect("committed");
    Notifier::start(pool).send(wake);
    outcomes
}

pub async fn count(pool: &PgPool, table: &'static str) -> i64 {
    let sql = match table {
        "ready" => "select count(*) from queue.ready",
        "deferred" => "select count(*) from queue.deferred",
        "running" => "select count(*) from queue.running",
        "dead" => "select count(*) from queue.dead",
        "keys" => "select count(*) from queue.keys",
        "leases" => "select count(*) from queue.leases",
        _ => panic!("no such table"),
    };
    sqlx::query_scalar(sql).fetch_one(pool).await.expect("a count")
}

/// A lease without a process, for claims by hand.
pub async fn lease(pool: &PgPool) -> uuid::Uuid {
    let id = uuid::Uuid::now_v7();
    sqlx::query(
        "insert into queue.leases (id, name, expires_at) values ($1, 'hand', now() + interval '1 hour')",
    )
    .bind(id)
    .execute(pool)
    .await
    .expect("a lease");
    id
}

/// Claims by hand; returns (lane, payload) in the order of the claim.
pub async fn claim(pool: &PgPool, lease: uuid::Uuid, limit: usize) -> Vec<(String, i64)> {
    claim_next(pool, lease, &mut Rota::default(), limit).await
}

/// The same, going on where the rota stands, with the tenants and lanes that wait for their turn.
pub async fn claim_next(
    pool: &PgPool,
    lease: uuid::Uuid,
    rota: &mut Rota,
    limit: usize,
) -> Vec<(String, i64)> {
    claim_by(pool, lease, rota, limit, true).await
}

/// The same; `look` says that there may be something new.
pub async fn claim_by(
    pool: &PgPool,
    lease: uuid::Uuid,
    rota: &mut Rota,
    limit: usize,
    look: bool,
) -> Vec<(String, i64)> {
    let mut conn = pool.acquire().await.expect("a connection");
    let look = rota.wants_look() | look;
    let claims = rota.claim(&mut conn, lease, "numbers", limit, look).await.expect("a claim");
    let number = |payload| serde_json::from_str::<Number>(payload).expect("a payload").n;
    claims.iter().map(|(_, lane, payload)| (lane.to_owned(), number(payload))).collect()
}

const PATIENCE: Duration = Duration::from_secs(30);

/// What has to come, and comes soon.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// Waits until a count is reached.
pub async fn until(pool: &PgPool, table: &'static str, wanted: i64) {
    soon(async {
        while count(pool, table).await != wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
