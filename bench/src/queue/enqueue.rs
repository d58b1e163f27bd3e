//! What it costs to put a job in, beside a bare insert of the same text.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use queue::NewJob;
use sqlx::{PgConnection, PgPool};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{
    jobs::{self, JobShape},
    reference::statement,
};
use crate::{
    report::{Goal, Report, median},
    server::Server,
};

/// How long each way is measured in a round.
const MEASURED: Duration = Duration::from_secs(3);
/// Connections that put in one job, or many, at a time.
const ONE_CONNECTIONS: u32 = 8;
const MANY_CONNECTIONS: u32 = 4;
/// How many are many.
const MANY: u32 = 100;

/// A way to put something in.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    /// Into a plain table with a primary key.
    Plain,
    /// As a job.
    Job,
    /// As a job with a unique key.
    Keyed,
}

pub async fn measure(server: &Server, report: &mut Report, rounds: u32) -> anyhow::Result<()> {
    let ways = [
        (Way::Plain, ONE_CONNECTIONS, 1),
        (Way::Job, ONE_CONNECTIONS, 1),
        (Way::Keyed, ONE_CONNECTIONS, 1),
        (Way::Plain, MANY_CONNECTIONS, MANY),
        (Way::Job, MANY_CONNECTIONS, MANY),
    ];
    let mut rates: [Vec<f64>; 5] = Default::default();
    for _ in 0..rounds {
        for (rates, (way, connections, count)) in rates.iter_mut().zip(ways) {
            rates.push(rate(&server.pool, way, connections, count).await?);
        }
    }
    let [plain_one, one, keyed, plain_many, many] = rates.map(median);
    report.add("enqueue_one_per_second", one, Goal::None);
    report.add("enqueue_one_ratio", one / plain_one, Goal::AtLeast(0.7));
    report.add("enqueue_one_keyed_ratio", keyed / plain_one, Goal::None);
    report.add("enqueue_many_per_second", many, Goal::None);
    report.add("enqueue_many_ratio", many / plain_many, Goal::AtLeast(0.5));
    Ok(())
}

/// How many a second the connections put in together, `count` by each statement, into empty tables.
async fn rate(pool: &PgPool, way: Way, connections: u32, count: u32) -> anyhow::Result<f64> {
    jobs::reset(pool).await?;
    for name in ["drop plain", "create plain"] {
        sqlx::query(statement(name)?).execute(pool).await?;
    }
    let done = Arc::new(AtomicU32::new(0));
    let mut putting = JoinSet::new();
    let started = Instant::now();
    for _ in 0..connections {
        let (pool, done) = (pool.clone(), done.clone());
        putting.spawn(async move {
            let mut conn = pool.acquire().await?;
            while started.elapsed() < MEASURED {
                let from = done.fetch_add(count, Ordering::Relaxed);
                put(&mut conn, way, from, count).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = putting.join_next().await {
        ended??;
    }
    Ok(f64::from(done.load(Ordering::Relaxed)) / started.elapsed().as_secs_f64())
}

async fn put(conn: &mut PgConnection, way: Way, from: u32, count: u32) -> anyhow::Result<()> {
    if way == Way::Plain {
        let column = |text: fn(u32) -> String| (from..from + count).map(text).collect::<Vec<_>>();
        sqlx::query(statement("insert plain")?)
            .bind((0..count).map(|_| Uuid::now_v7()).collect::<Vec<_>>())
            .bind(column(|n| format!("tenant-{}", n % 10)))
            .bind(column(|n| jobs::lane(n % jobs::LANES)))
            .bind(column(|n| format!("project-{}/task-{n}", n % jobs::LANES)))
            .bind(column(|n| format!(r#"{{"n":{n},"ms":0,"tell":false}}"#)))
            .execute(conn)
            .await?;
        return Ok(());
    }
    let job = |n| -> anyhow::Result<NewJob> {
        let job = jobs::nth(n, JobShape::default())?;
        Ok(if way == Way::Keyed { job.key(format!("key-{n}")) } else { job })
    };
    let batch = (from..from + count).map(job).collect::<anyhow::Result<Vec<_>>>()?;
    let _ = queue::enqueue(conn, &batch).await?;
    Ok(())
}
