//! What the test asks of the database by itself.

use std::{collections::HashSet, time::Duration};

use anyhow::Result;
use chrono::DateTime;
use queue::{Enqueued, JobKind, NewJob, RunAt};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::{
    job::{FAR, Micros, Row},
    ops::{At, Ending, TENANTS},
    state::{Candidate, Token},
};

pub const QUEUE: &str = "model";
/// What every failed attempt says.
pub const ERROR: &str = "no";

/// All jobs, the keys as (key, job), and the time at which they are so.
const TABLES: &str = "
    with jobs as (
        select id as job, 'ready' as place, tenant, lane, priority, grp, key, max_attempts, attempt, crashes, run, last_error,
            null::uuid as lease, null::boolean as capped, null as reason, epoch, rank as time
        from queue.ready
        union all
        select id, case when run_at = 'infinity' then 'held' else 'timer' end, tenant, lane, priority, grp, key, max_attempts,
            attempt, crashes, run, last_error, null, null, null, epoch, case when run_at = 'infinity' then rank else run_at end
        from queue.deferred
        union all
        select id, 'running', tenant, lane, priority, grp, key, max_attempts, attempt, crashes, run, last_error, lease, capped,
            null, epoch, rank
        from queue.running
        union all
        select id, 'dead', tenant, lane, priority, grp, key, max_attempts, attempt, crashes, run, last_error, null, null,
            reason, epoch, rank
        from queue.dead
    )
    select
        (select coalesce(jsonb_agg(to_jsonb(j) || jsonb_build_object('time', (extract(epoch from j.time) * 1000000)::bigint)), '[]')
         from jobs j),
        (select coalesce(jsonb_agg(jsonb_build_array(k.key, k.job_id)), '[]') from queue.keys k),
        (extract(epoch from clock_timestamp()) * 1000000)::bigint";

type Tables = (Json<Vec<Row>>, Json<Vec<(String, Uuid)>>, Micros);

pub async fn tables(conn: &mut PgConnection) -> Result<Tables> {
    Ok(sqlx::query_as(TABLES).fetch_one(conn).await?)
}

pub async fn set_due(conn: &mut PgConnection, id: Uuid, at: Micros) -> Result<()> {
    sqlx::query("update queue.deferred set run_at = 'epoch'::timestamptz + $2 * interval '1 microsecond' where id = $1")
        .bind(id)
        .bind(at)
        .execute(conn)
        .await?;
    Ok(())
}

pub async fn rescue(conn: &mut PgConnection, orphans: bool) -> Result<(i32, i32)> {
    Ok(sqlx::query_as(
        "select coalesce(sum(rescued), 0)::int, coalesce(sum(died), 0)::int
         from queue.rescue($1, $2, interval '6 seconds', $3, '{}')",
    )
    .bind(queue::CRASHES)
    .bind(queue::CRASHES_MAX)
    .bind(orphans)
    .fetch_one(conn)
    .await?)
}

/// The kinds differ only in their number of attempts.
#[derive(Serialize, Deserialize)]
struct Numbered<const ATTEMPTS: u16>(u64);

impl<const ATTEMPTS: u16> JobKind for Numbered<ATTEMPTS> {
    const QUEUE: &'static str = QUEUE;
    const MAX_ATTEMPTS: u16 = ATTEMPTS;
}

fn new_job(new: &Candidate) -> Result<NewJob> {
    let (job, tenant) = (&new.job, new.job.tenant);
    let blank = match job.max_attempts {
        1 => NewJob::new(&Numbered::<1>(new.number), tenant)?,
        2 => NewJob::new(&Numbered::<2>(new.number), tenant)?,
        _ => NewJob::new(&Numbered::<3>(new.number), tenant)?,
    };
    let run_at = match new.at {
        At::Now => RunAt::Now,
        At::Past => RunAt::At(DateTime::UNIX_EPOCH),
        At::Far => RunAt::At(DateTime::from_timestamp_micros(FAR).unwrap_or_default()),
        At::InAnHour => RunAt::After(Duration::from_secs(3600)),
    };
    let mut made = blank.lane(job.lane).priority(job.priority).run_at(run_at);
    if let Some(group) = job.group {
        made = made.group(group);
    }
    if let Some(key) = job.key {
        made = made.key(key);
    }
    Ok(made)
}

/// Enqueues in one statement, and returns what became of each job, in order. A job that another one makes is made by hand,
/// for only a runtime gives out the [`queue::Job`] that its cause is read from.
pub async fn enqueue(conn: &mut PgConnection, jobs: &[Candidate]) -> Result<Vec<Enqueued>> {
    if jobs.iter().all(|new| new.cause.is_none()) {
        let jobs = jobs.iter().map(new_job).collect::<Result<Vec<_>>>()?;
        return Ok(queue::enqueue(conn, &jobs).await?.0);
    }
    let ids: Vec<Uuid> = jobs.iter().map(|_| Uuid::now_v7()).collect();
    let texts = |f: &dyn Fn(&Candidate) -> Option<&'static str>| jobs.iter().map(f).collect::<Vec<_>>();
    let run_at = |at| match at {
        At::Past => Some(DateTime::UNIX_EPOCH),
        At::Far => DateTime::from_timestamp_micros(FAR),
        At::Now | At::InAnHour => None,
    };
    let fates: Vec<String> = sqlx::query_scalar(
        "select fate from queue.enqueue($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) order by n",
    )
    .bind(&ids)
    .bind(jobs.iter().map(|new| i16::from(new.job.tenant == TENANTS[1])).collect::<Vec<_>>())
    .bind(vec![QUEUE; jobs.len()])
    .bind(texts(&|new| Some(new.job.tenant)))
    .bind(texts(&|new| Some(new.job.lane)))
    .bind(jobs.iter().map(|new| new.job.priority).collect::<Vec<_>>())
    .bind(texts(&|new| new.job.group))
    .bind(texts(&|new| new.cause.as_ref().and_then(|cause| cause.group)))
    .bind(jobs.iter().map(|new| new.cause.as_ref().map(|cause| cause.epoch)).collect::<Vec<_>>())
    .bind(texts(&|new| new.job.key))
    .bind(jobs.iter().map(|new| new.job.max_attempts).collect::<Vec<_>>())
    .bind(jobs.iter().map(|new| new.number.to_string()).collect::<Vec<_>>())
    .bind(vec![None::<&str>; jobs.len()])
    .bind(jobs.iter().map(|new| run_at(new.at)).collect::<Vec<_>>())
    .bind(jobs.iter().map(|new| matches!(new.at, At::InAnHour).then_some(3_600_000_i64)).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    Ok(fates
        .iter()
        .zip(ids)
        .map(|(fate, id)| match fate.as_str() {
            "added" => Enqueued::Added(id),
            "cancelled" => Enqueued::Cancelled,
            _ => Enqueued::Duplicate,
        })
        .collect())
}

/// Completes in one statement, and returns the tokens that were accepted.
pub async fn complete(conn: &mut PgConnection, endings: &[(Token, Ending)]) -> Result<HashSet<(Uuid, i32)>> {
    let outcome = |ending| match ending {
        Ending::Done => "done",
        Ending::Cancelled => "cancelled",
        Ending::Retry { .. } => "retry",
        Ending::Snooze { .. } => "snooze",
        Ending::Handback => "handback",
        Ending::Dead => "dead",
    };
    let delay = |ending| match ending {
        Ending::Retry { delay_ms } | Ending::Snooze { delay_ms } => delay_ms,
        _ => 0,
    };
    let failed = |ending| matches!(ending, Ending::Retry { .. } | Ending::Dead);
    let accepted: Vec<(Uuid, i32)> = sqlx::query_as("select * from queue.complete($1, $2, $3, $4, $5, $6)")
        .bind(endings.iter().map(|(token, _)| token.id).collect::<Vec<_>>())
        .bind(endings.iter().map(|(token, _)| token.run).collect::<Vec<_>>())
        .bind(endings.iter().map(|(_, ending)| outcome(*ending)).collect::<Vec<_>>())
        .bind(endings.iter().map(|(_, ending)| delay(*ending)).collect::<Vec<_>>())
        .bind(endings.iter().map(|(_, ending)| failed(*ending).then_some(ERROR)).collect::<Vec<_>>())
        .bind(
            endings
                .iter()
                .map(|(_, ending)| (*ending == Ending::Dead).then_some("refused"))
                .collect::<Vec<_>>(),
        )
        .fetch_all(conn)
        .await?;
    Ok(accepted.into_iter().collect())
}
