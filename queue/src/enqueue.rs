//! How a job gets in: in the caller's transaction, one or ten thousand by one statement.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::{
    EnqueueError, GROUP_BYTES_MAX, GROUP_NAMES_MAX, Job, JobKind, NAME_BYTES_MAX, PAYLOAD_BYTES_MAX,
    TraceContext, Wake,
};

/// The most points of priority either way.
const PRIORITY_MAX: i16 = 10_000;

/// When a job may run, judged by the database's clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RunAt {
    /// As soon as a slot is free.
    Now,
    /// Not before this time.
    At(DateTime<Utc>),
    /// Not before this much later than the transaction's start.
    After(Duration),
}

/// A job to be enqueued.
#[derive(Debug, Clone)]
pub struct NewJob {
    queue: &'static str,
    payload: String,
    max_attempts: u16,
    priority: i16,
    run_at: RunAt,
    key: Option<String>,
    tenant: String,
    lane: String,
    group: Option<String>,
    cause: Option<(String, i64)>,
    trace: Option<TraceContext>,
}

impl NewJob {
    /// A job of kind `J` for a tenant, in a lane of the tenant's own.
    pub fn new<J: JobKind>(payload: &J, tenant: impl Into<String>) -> Result<Self, EnqueueError> {
        let payload = serde_json::to_string(payload)
            .map_err(|source| EnqueueError::Encode { queue: J::QUEUE.into(), source })?;
        let tenant = tenant.into();
        Ok(Self {
            queue: J::QUEUE,
            payload,
            max_attempts: J::MAX_ATTEMPTS,
            priority: 0,
            run_at: RunAt::Now,
            key: None,
            lane: tenant.clone(),
            tenant,
            group: None,
            cause: None,
            trace: None,
        })
    }

    /// The fairness key inside the queue: whatever must not be starved by its neighbours.
    #[must_use]
    pub fn lane(mut self, lane: impl Into<String>) -> Self {
        self.lane = lane.into();
        self
    }

    /// The cancel key, a path such as `project/task`.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// At most one unfinished job of the queue has this key; a second one is a [`Enqueued::Duplicate`].
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Lower runs first within a lane; 0 is the default. A point is worth a minute: a job runs before one of the next
    /// lower priority that has waited for less than a minute longer, so that none waits for ever. At most 10,000 points
    /// (a week) either way.
    #[must_use]
    pub fn priority(mut self, priority: i16) -> Self {
        self.priority = priority.clamp(-PRIORITY_MAX, PRIORITY_MAX);
        self
    }

    /// Not before this time.
    #[must_use]
    pub fn run_at(mut self, run_at: RunAt) -> Self {
        self.run_at = run_at;
        self
    }

    /// Ties this job to the one that makes it: if that one's group was cancelled since it was enqueued, this one is not
    /// enqueued, whatever its own group. It also carries on that one's trace.
    #[must_use]
    pub fn caused_by(mut self, job: &Job) -> Self {
        self.cause = job.group().map(|group| (group.to_owned(), job.epoch()));
        self.trace = Some(job.trace());
        self
    }

    /// Which step of a trace it comes of, when that is not the [current](TraceContext::current) one of the task that
    /// enqueues it.
    #[must_use]
    pub fn trace(mut self, trace: TraceContext) -> Self {
        self.trace = Some(trace);
        self
    }

    pub(crate) fn queue(&self) -> &'static str {
        self.queue
    }

    /// Whether it is due at once, with no key and no cause to be compared.
    fn is_plain(&self) -> bool {
        self.run_at == RunAt::Now && self.key.is_none() && self.cause.is_none()
    }

    fn check(&self) -> Result<(), EnqueueError> {
        if self.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(EnqueueError::PayloadTooLarge {
                queue: self.queue.into(),
                bytes: self.payload.len(),
            });
        }
        let names = [
            ("queue", Some(self.queue), NAME_BYTES_MAX),
            ("tenant", Some(self.tenant.as_str()), NAME_BYTES_MAX),
            ("lane", Some(self.lane.as_str()), NAME_BYTES_MAX),
            ("key", self.key.as_deref(), NAME_BYTES_MAX),
            ("group", self.group.as_deref(), GROUP_BYTES_MAX),
        ];
        for (what, value, max) in names {
            if let Some(value) = value
                && (value.is_empty() || value.len() > max || value.contains('\0'))
            {
                return Err(EnqueueError::BadName { what, value: value.chars().take(32).collect(), max });
            }
        }
        if let Some(group) = &self.group
            && (group.split('/').any(str::is_empty) || group.split('/').count() > GROUP_NAMES_MAX)
        {
            return Err(EnqueueError::BadGroup { value: group.chars().take(32).collect() });
        }
        Ok(())
    }
}

/// What became of one job of an [`enqueue`] call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// It will run.
    Added(Uuid),
    /// An unfinished job of its queue has the same key.
    Duplicate,
    /// Its group was cancelled after the job that causes it was enqueued.
    Cancelled,
}

impl Enqueued {
    /// The id of the job, if it will run.
    pub fn id(self) -> Option<Uuid> {
        match self {
            Self::Added(id) => Some(id),
            Self::Duplicate | Self::Cancelled => None,
        }
    }
}

/// Enqueues jobs in the caller's transaction with one statement, and says for each, in order, what became of it. The
/// rows it writes are its own, and those of its groups it only keeps from being forgotten, so open transactions that enqueue
/// never wait for each other, but for those with the same key. The [`Wake`] is to be sent once the transaction has committed.
pub async fn enqueue(
    conn: &mut PgConnection,
    jobs: &[NewJob],
) -> Result<(Vec<Enqueued>, Wake), EnqueueError> {
    for job in jobs {
        job.check()?;
    }
    if jobs.is_empty() {
        return Ok((Vec::new(), Wake::none()));
    }
    let ids: Vec<Uuid> = jobs.iter().map(|_| Uuid::now_v7()).collect();
    let plain = jobs.iter().all(NewJob::is_plain)
        && if let ([job], [id]) = (jobs, ids.as_slice()) {
            enqueue_one(conn, job, *id).await?
        } else {
            enqueue_plain(conn, jobs, &ids).await?
        };
    let enqueued = if plain {
        ids.iter().map(|id| Enqueued::Added(*id)).collect()
    } else {
        enqueue_any(conn, jobs, &ids).await?
    };
    let mut wake = Wake::none();
    for (job, enqueued) in jobs.iter().zip(&enqueued) {
        let later = delay_ms(job.run_at).is_some_and(|ms| ms > 0);
        if matches!(enqueued, Enqueued::Added(_)) && !later {
            wake.add_job(job.queue, &job.tenant, &job.lane);
        }
    }
    Ok((enqueued, wake))
}

/// One usual job: it is added and it is ready, so that a bare insert does. False, and nothing done, if its group is held. The
/// groups' rows are locked as they are read: one that is just forgotten counts no more.
async fn enqueue_one(conn: &mut PgConnection, job: &NewJob, id: Uuid) -> Result<bool, sqlx::Error> {
    let inserted = sqlx::query(
        "insert into queue.ready (shard, id, queue, tenant, lane, priority, grp, epoch, max_attempts, payload, trace, rank)
         select $1, $2, $3, $4, $5, $6, $7, g.epoch, $8, $9, $10, queue.rank_of(clock_timestamp(), $6)
         from (
            select coalesce(sum(s.epoch), 0)::bigint as epoch, coalesce(bool_or(s.held), false) as held from (
                select g.epoch, g.held from queue.groups g
                where $7 is not null and g.prefix = any (queue.prefixes($7)) for key share) s
         ) g where not g.held",
    )
    .bind(shard_of(&job.tenant))
    .bind(id)
    .bind(job.queue)
    .bind(&job.tenant)
    .bind(&job.lane)
    .bind(job.priority)
    .bind(&job.group)
    .bind(i32::from(job.max_attempts))
    .bind(&job.payload)
    .bind(job.trace.or_else(TraceContext::current).map(|trace| trace.to_string()))
    .execute(conn)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// Many usual jobs. False, and nothing done, if a group of theirs is held.
async fn enqueue_plain(conn: &mut PgConnection, jobs: &[NewJob], ids: &[Uuid]) -> Result<bool, sqlx::Error> {
    // Neighbours in the index are inserted one after the other; within a lane the order is the caller's.
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|n| (&jobs[*n].tenant, &jobs[*n].lane));
    let sorted = || order.iter().map(|n| &jobs[*n]);
    let prefixes: BTreeSet<&str> =
        jobs.iter().filter_map(|job| job.group.as_deref()).flat_map(prefixes).collect();
    let current = TraceContext::current();
    sqlx::query_scalar("select queue.enqueue_plain($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)")
        .bind(prefixes.into_iter().collect::<Vec<_>>())
        .bind(order.iter().map(|n| ids[*n]).collect::<Vec<_>>())
        .bind(sorted().map(|job| shard_of(&job.tenant)).collect::<Vec<_>>())
        .bind(sorted().map(|job| job.queue).collect::<Vec<_>>())
        .bind(sorted().map(|job| job.tenant.as_str()).collect::<Vec<_>>())
        .bind(sorted().map(|job| job.lane.as_str()).collect::<Vec<_>>())
        .bind(sorted().map(|job| job.priority).collect::<Vec<_>>())
        .bind(sorted().map(|job| job.group.as_deref()).collect::<Vec<_>>())
        .bind(sorted().map(|job| i32::from(job.max_attempts)).collect::<Vec<_>>())
        .bind(sorted().map(|job| job.payload.as_str()).collect::<Vec<_>>())
        .bind(sorted().map(|job| job.trace.or(current).map(|trace| trace.to_string())).collect::<Vec<_>>())
        .fetch_one(conn)
        .await
}

/// A group's path and the paths above it.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(end, _)| &path[..end]).chain([path])
}

/// Jobs of which some are timers, or have keys or causes to be compared.
async fn enqueue_any(
    conn: &mut PgConnection,
    jobs: &[NewJob],
    ids: &[Uuid],
) -> Result<Vec<Enqueued>, sqlx::Error> {
    let current = TraceContext::current();
    let column = |f: &dyn Fn(&NewJob) -> Option<String>| jobs.iter().map(f).collect::<Vec<_>>();
    let rows = sqlx::query(
        "select * from queue.enqueue($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    )
    .bind(ids)
    .bind(jobs.iter().map(|j| shard_of(&j.tenant)).collect::<Vec<_>>())
    .bind(jobs.iter().map(|j| j.queue).collect::<Vec<_>>())
    .bind(jobs.iter().map(|j| j.tenant.as_str()).collect::<Vec<_>>())
    .bind(jobs.iter().map(|j| j.lane.as_str()).collect::<Vec<_>>())
    .bind(jobs.iter().map(|j| j.priority).collect::<Vec<_>>())
    .bind(column(&|j| j.group.clone()))
    .bind(column(&|j| j.cause.as_ref().map(|(group, _)| group.clone())))
    .bind(jobs.iter().map(|j| j.cause.as_ref().map(|(_, epoch)| *epoch)).collect::<Vec<_>>())
    .bind(column(&|j| j.key.clone()))
    .bind(jobs.iter().map(|j| i32::from(j.max_attempts)).collect::<Vec<_>>())
    .bind(jobs.iter().map(|j| j.payload.as_str()).collect::<Vec<_>>())
    .bind(column(&|j| j.trace.or(current).map(|trace| trace.to_string())))
    .bind(jobs.iter().map(|j| if let RunAt::At(at) = j.run_at { Some(at) } else { None }).collect::<Vec<_>>())
    .bind(jobs.iter().map(|j| delay_ms(j.run_at)).collect::<Vec<_>>())
    .fetch_all(&mut *conn)
    .await?;
    let mut outcomes = vec![Enqueued::Duplicate; jobs.len()];
    for row in rows {
        let number: i64 = row.try_get("n")?;
        let index = usize::try_from(number - 1).unwrap_or_default();
        outcomes[index] = match row.try_get("fate")? {
            "added" => Enqueued::Added(ids[index]),
            "cancelled" => Enqueued::Cancelled,
            _ => Enqueued::Duplicate,
        };
    }
    Ok(outcomes)
}

fn delay_ms(run_at: RunAt) -> Option<i64> {
    match run_at {
        RunAt::After(delay) => Some(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX)),
        RunAt::Now | RunAt::At(_) => None,
    }
}

/// The shard of a tenant: FNV-1a modulo 16, the same in every process and release.
pub(crate) fn shard_of(tenant: &str) -> i16 {
    let hash = tenant.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    i16::try_from(hash % 16).unwrap_or_default()
}
