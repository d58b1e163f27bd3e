//! One run: a load, the scenarios one after the other, quiet, and the verdict.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use sqlx::{PgPool, migrate::Migrator};
use uuid::Uuid;

use crate::{
    database::Database,
    fleet::{Fleet, Recipe, Role},
    jobs::HOPELESS,
    ledger::Ledger,
    namespaces,
    plan::{MINUTES_FULL, Plan, Scenario},
    report::Report,
    scenarios,
    stage::{Findings, Stage},
};

/// How much to break.
#[derive(Debug, Args)]
pub struct Options {
    /// How long the load lasts, at least 3; from 25 on the run has every scenario.
    #[arg(long, default_value_t = MINUTES_FULL)]
    minutes: u32,
    /// Print one JSON object as the last line of stdout.
    #[arg(long)]
    json: bool,
    /// Only these scenarios; the load then lasts as long as they do.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Scenario>,
}

impl Options {
    fn plan(&self) -> Plan {
        Plan::new(self.minutes, &self.only)
    }

    /// What has to be the run's own: mounts, where it fills a disk.
    pub fn namespaces(&self) -> &'static [&'static str] {
        if self.plan().has(Scenario::DiskFull) { &[namespaces::MOUNTS] } else { &[] }
    }
}

/// The jobs that are enqueued in a second, all generators together, and the goal for it.
const LOAD_PER_SECOND: u32 = 560;
const LOAD_PER_SECOND_MIN: u64 = 500;
/// What a generator with a wrong clock does of it.
const CLOCK_PER_SECOND: u32 = 100;
/// How far the clocks are wrong, in seconds.
pub const CLOCK_AHEAD_S: i32 = 3600;
/// The names of the processes; the twins' is the same.
const WORKERS: [&str; 4] = ["worker-1", "worker-2", TWIN, TWIN];
pub const TWIN: &str = "twin";
pub const AHEAD: &str = "worker-ahead";
pub const BEHIND: &str = "generator-behind";
/// How many jobs have to be done before anything is broken, and how long that may take.
const WARM: u64 = 1000;
const WARM_DEADLINE: Duration = Duration::from_secs(60);
/// How long the queue may take to become quiet.
const QUIET_DEADLINE: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(200);
/// What jobs write beside the queue's tables.
const SCHEMA: &str = "create table chaos.effects (job uuid not null, run integer not null)";

/// Runs, prints the report, and says whether every goal was reached.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    let plan = options.plan();
    let scratch = tempfile::Builder::new().prefix("iris-chaos-").tempdir()?;
    let database = Arc::new(Database::start(plan.has(Scenario::DiskFull)).await?);
    Migrator::with_migrations(queue::migrations()).run(&database.pool).await?;
    sqlx::raw_sql(SCHEMA).execute(&database.pool).await?;
    let ledger = Ledger::start(scratch.path()).await?;
    let fleet = Fleet::start(database.url(), ledger.clone(), recipes(&plan))?;
    let watched = tokio::spawn(fleet.clone().watch());
    let stage = Stage { database, fleet, ledger, begun: Instant::now() };
    warm_up(&stage).await?;
    let mut report = Report::new(&plan);
    scenarios::run_all(&stage, &plan, &mut report).await?;
    if options.only.is_empty() {
        let end = Duration::from_secs(u64::from(plan.minutes) * 60);
        tokio::time::sleep(end.saturating_sub(stage.begun.elapsed())).await;
    }
    stage.say("the load ends");
    stage.fleet.stop_generators().await?;
    let quiet = until_quiet(&stage).await?;
    stage.fleet.stop_workers().await?;
    watched.await??;
    hand_over(&stage).await?;
    let verdict = stage.ledger.report().await?;
    let mut load = judge_tables(&stage.database.pool).await?;
    load.expect(quiet, || format!("the queue was not quiet within {QUIET_DEADLINE:?}"));
    load.problems.extend(stage.fleet.unexpected_ends());
    judge_load(&verdict, &mut load);
    scenarios::judge_clock(&plan, &verdict, &mut report);
    report.finish(&verdict, load);
    report.print(options.json)?;
    Ok(report.is_reached())
}

fn recipes(plan: &Plan) -> Vec<Recipe> {
    let recipe = |name, role| Recipe { name, role, clock: None };
    let mut recipes: Vec<Recipe> = WORKERS.map(|name| recipe(name, Role::Worker)).into();
    let mut per_second = LOAD_PER_SECOND;
    if let (true, Some(library)) = (plan.has(Scenario::Clock), &plan.faketime) {
        per_second -= CLOCK_PER_SECOND;
        let wrong = |name, role, ahead_s| Recipe { name, role, clock: Some((ahead_s, library.clone())) };
        recipes.push(wrong(AHEAD, Role::Worker, CLOCK_AHEAD_S));
        recipes.push(wrong(BEHIND, Role::Generator { per_second: CLOCK_PER_SECOND }, -CLOCK_AHEAD_S));
    }
    recipes.push(recipe("generator", Role::Generator { per_second }));
    recipes
}

async fn warm_up(stage: &Stage) -> anyhow::Result<()> {
    stage.say(&format!("a load of {LOAD_PER_SECOND} jobs/s begins"));
    let warm = async {
        while stage.ledger.status().await?.acknowledged < WARM {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    };
    tokio::time::timeout(WARM_DEADLINE, warm).await.context("the load does not get going")?
}

/// Waits until nothing is ready, runs or is due later. False: it did not come to that.
async fn until_quiet(stage: &Stage) -> anyhow::Result<bool> {
    let deadline = Instant::now() + QUIET_DEADLINE;
    while Instant::now() < deadline {
        let left: i64 = sqlx::query_scalar(
            "select (select count(*) from queue.ready) + (select count(*) from queue.running)
                + (select count(*) from queue.deferred)",
        )
        .fetch_one(&stage.database.pool)
        .await?;
        if left == 0 {
            let status = stage.ledger.status().await?;
            stage.say(&format!("quiet: {} enqueued, {} acknowledged", status.enqueued, status.acknowledged));
            return Ok(true);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(false)
}

/// Tells the ledger what is in the tables in the end.
async fn hand_over(stage: &Stage) -> anyhow::Result<()> {
    let dead: Vec<(Uuid, String, i32, i16)> =
        sqlx::query_as("select id, reason, attempt, crashes from queue.dead")
            .fetch_all(&stage.database.pool)
            .await?;
    let left: Vec<(Uuid,)> = sqlx::query_as(
        "select id from queue.ready union all select id from queue.running union all select id from queue.deferred",
    )
    .fetch_all(&stage.database.pool)
    .await?;
    let dead =
        dead.iter().map(|(id, why, attempt, crashes)| format!("dead {id} {why} {attempt} {crashes}\n"));
    let left = left.iter().map(|(id,)| format!("left {id}\n"));
    stage.ledger.tell(&dead.chain(left).collect::<String>()).await
}

/// What SQL says: of a job that writes and completes in one transaction, both are there or neither is; and nobody is dead
/// who should not be.
async fn judge_tables(pool: &PgPool) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let (rows, twice): (i64, i64) =
        sqlx::query_as("select count(*), count(*) - count(distinct job) from chaos.effects")
            .fetch_one(pool)
            .await?;
    let undone: i64 = sqlx::query_scalar(
        "select count(*) from chaos.effects where job in (
            select id from queue.dead union all select id from queue.ready
            union all select id from queue.running union all select id from queue.deferred)",
    )
    .fetch_one(pool)
    .await?;
    findings.fact("effect_rows", rows);
    findings.expect(twice == 0, || format!("{twice} rows of effects are there twice"));
    findings.expect(undone == 0, || format!("{undone} jobs are there although their effect is committed"));
    let (crashed, given_up): (i64, i64) = sqlx::query_as(
        "select count(*) filter (where reason = 'crashed'),
            count(*) filter (where reason <> 'crashed' and (payload::jsonb ->> 'failures')::integer < $1)
         from queue.dead where queue <> 'aborting'",
    )
    .bind(i32::try_from(HOPELESS)?)
    .fetch_one(pool)
    .await?;
    findings.expect(crashed == 0, || format!("{crashed} jobs are dead for crashes of others"));
    findings.expect(given_up == 0, || format!("{given_up} jobs are dead that would have succeeded"));
    Ok(findings)
}

/// What the ledger says of the whole.
fn judge_load(verdict: &serde_json::Value, load: &mut Findings) {
    let totals = &verdict["totals"];
    if let Some(totals) = totals.as_object() {
        load.facts.extend(totals.clone());
    }
    let per_second = totals["enqueued_per_second"].as_u64().unwrap_or_default();
    load.expect(per_second >= LOAD_PER_SECOND_MIN, || {
        format!("only {per_second} jobs/s were enqueued: the machine is too slow or too busy for this run")
    });
    let there = totals["acknowledged_and_still_there"].as_u64().unwrap_or(u64::MAX);
    load.expect(there == 0, || format!("{there} acknowledged jobs are there still"));
    for spoilt in verdict["spoilt"].as_array().into_iter().flatten() {
        load.problems.push(format!("the ledger did not understand: {spoilt}"));
    }
    for what in ["lost", "twice_for_no_reason", "stale", "over"] {
        if let Some(jobs) = verdict["examples"].get(what) {
            load.facts.insert(format!("{what}_jobs"), jobs.clone());
        }
    }
}
