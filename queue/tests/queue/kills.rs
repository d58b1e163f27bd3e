//! A process that dies between any two statements of a job which writes a row and enqueues the next one.

use std::{io::Read, process::Stdio, str::FromStr, time::Duration};

use crate::support::{count, database, enqueue, until};
use apalis::prelude::{BoxDynError, Data, WorkerBuilder};
use queue::{Job, JobKind, NewJob, Notifier, Outcome, Runtime, RuntimeConfig};
use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::process::{Child, Command};

/// Where a process dies.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Point {
    BeforeBegin,
    AfterBegin,
    AfterRow,
    AfterEnqueue,
    AfterComplete,
    /// The commit is sent and its answer not awaited.
    DuringCommit,
    AfterCommit,
    AfterWake,
}

const POINTS: [Point; 8] = [
    Point::BeforeBegin,
    Point::AfterBegin,
    Point::AfterRow,
    Point::AfterEnqueue,
    Point::AfterComplete,
    Point::DuringCommit,
    Point::AfterCommit,
    Point::AfterWake,
];
/// How many jobs follow each other. Each chain is killed once, so there are as many as places to be killed at.
const STEPS: usize = 3;
const CHAINS: usize = STEPS * POINTS.len();
const PROCESSES: usize = 4;
const URL: &str = "QUEUE_TEST_KILLED_URL";
const DEADLINE: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Step {
    chain: usize,
    step: usize,
}

impl JobKind for Step {
    const QUEUE: &'static str = "steps";
}

impl Step {
    fn job(&self) -> NewJob {
        NewJob::new(self, format!("chain-{}", self.chain))
            .expect("a job")
            .group(format!("chains/{}", self.chain))
    }

    fn next(&self) -> Option<Self> {
        (self.step + 1 < STEPS).then(|| Self { chain: self.chain, step: self.step + 1 })
    }

    /// Whether the process is to die here: the first time that anyone comes to the place where the chain is killed.
    async fn is_killed_at(&self, point: Point, pool: &PgPool) -> Result<bool, sqlx::Error> {
        if self.chain / POINTS.len() != self.step || POINTS[self.chain % POINTS.len()] != point {
            return Ok(false);
        }
        let noted = sqlx::query("insert into kills values ($1) on conflict do nothing")
            .bind(i64::try_from(self.chain).unwrap_or_default())
            .execute(pool)
            .await?;
        Ok(noted.rows_affected() == 1)
    }

    async fn die_at(&self, point: Point, pool: &PgPool) -> Result<(), sqlx::Error> {
        if self.is_killed_at(point, pool).await? { die() } else { Ok(()) }
    }
}

fn die() -> ! {
    let _ = kill_process(getpid(), Signal::KILL);
    std::process::abort()
}

async fn run(
    step: Step,
    job: Job,
    pool: Data<PgPool>,
    notifier: Data<Notifier>,
) -> Result<Outcome, BoxDynError> {
    step.die_at(Point::BeforeBegin, &pool).await?;
    let mut tx = pool.begin().await?;
    step.die_at(Point::AfterBegin, &pool).await?;
    sqlx::query("insert into steps values ($1, $2)")
        .bind(i64::try_from(step.chain)?)
        .bind(i64::try_from(step.step)?)
        .execute(&mut *tx)
        .await?;
    step.die_at(Point::AfterRow, &pool).await?;
    let next: Vec<NewJob> = step.next().iter().map(|next| next.job().caused_by(&job)).collect();
    let (_, wake) = queue::enqueue(&mut tx, &next).await?;
    step.die_at(Point::AfterEnqueue, &pool).await?;
    job.complete(&mut tx, &Outcome::Done).await?;
    step.die_at(Point::AfterComplete, &pool).await?;
    let is_killed = step.is_killed_at(Point::DuringCommit, &pool).await?;
    let mut commit = std::pin::pin!(tx.commit());
    if is_killed {
        // The first poll sends it.
        let _ = futures::poll!(commit.as_mut());
        die();
    }
    commit.await?;
    step.die_at(Point::AfterCommit, &pool).await?;
    notifier.send(wake);
    step.die_at(Point::AfterWake, &pool).await?;
    Ok(Outcome::Done)
}

/// Not a test, but the process that the test below starts again and again. It ends with whoever started it.
#[test]
#[ignore = "a process of the test below, not a test by itself"]
fn a_process_to_be_killed() {
    let Ok(url) = std::env::var(URL) else { return };
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    tokio.spawn(async move {
        let connect = PgConnectOptions::from_str(&url).expect("a URL");
        let pool = PgPoolOptions::new().max_connections(3).connect_lazy_with(connect.clone());
        let notifier = Notifier::start(&pool);
        let runtime = Runtime::start(RuntimeConfig {
            name: "killed".into(),
            connect,
            notifier: notifier.clone(),
            seen_by_neighbours: true,
            listen: true,
            schedules: Vec::new(),
        })
        .expect("the runtime starts");
        let backend = runtime.backend::<Step>(1);
        let worker = WorkerBuilder::new("steps").backend(backend).data(pool).data(notifier).build(run);
        worker.run().await.expect("the worker runs");
    });
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    std::process::exit(0);
}

fn start(url: &str) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "kills::a_process_to_be_killed", "--nocapture"])
        .env(URL, url)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("a process")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_any_two_statements_leaves_no_step_out_and_does_none_twice() {
    let database = database().await;
    let pool = database.pool();
    sqlx::raw_sql(
        "create table steps (chain bigint, step bigint);
         create table kills (chain bigint primary key)",
    )
    .execute(pool)
    .await
    .unwrap();
    let jobs: Vec<NewJob> = (0..CHAINS).map(|chain| Step { chain, step: 0 }.job()).collect();
    enqueue(pool, &jobs).await;
    let mut processes = tokio::task::JoinSet::new();
    for _ in 0..PROCESSES {
        let url = database.url().to_owned();
        processes.spawn(async move {
            loop {
                let mut process = start(&url);
                // Waiting would close it, and the process ends when it is closed.
                let _life = process.stdin.take();
                process.wait().await.expect("a process");
            }
        });
    }
    let rows = async |sql: &'static str| -> usize {
        usize::try_from(sqlx::query_scalar::<_, i64>(sql).fetch_one(pool).await.unwrap()).unwrap()
    };
    let done = async {
        while rows("select count(*) from steps").await < CHAINS * STEPS
            || rows("select count(*) from kills").await < CHAINS
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for table in ["ready", "deferred", "running"] {
            until(pool, table, 0).await;
        }
    };
    tokio::time::timeout(DEADLINE, done).await.expect("every place has its kill, and every chain its end");
    processes.shutdown().await;

    let steps: Vec<(i64, i64)> =
        sqlx::query_as("select chain, step from steps order by chain, step").fetch_all(pool).await.unwrap();
    let expected: Vec<(i64, i64)> = (0..i64::try_from(CHAINS).unwrap())
        .flat_map(|chain| (0..i64::try_from(STEPS).unwrap()).map(move |step| (chain, step)))
        .collect();
    assert_eq!(steps, expected);
    assert_eq!(count(pool, "dead").await, 0);
}
