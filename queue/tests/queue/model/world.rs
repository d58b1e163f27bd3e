//! The queue's own functions on a real database, each beside the model's.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use proptest::sample::Index;
use queue::Enqueued;
use sqlx::{PgPool, Postgres, Transaction, pool::PoolConnection};
use uuid::Uuid;

use super::{
    job::{FAR, Job, MINUTE, Micros, Place, When},
    ops::{At, Ending, LANES, New, Op, PROCESSES, SESSIONS},
    sql,
    state::{Candidate, Lease, Model, Token},
};

/// More jobs than a sequence enqueues.
const EVERYTHING: usize = 200;

/// One run of operations.
pub struct World {
    pub model: Model,
    pub conn: PoolConnection<Postgres>,
    pool: PgPool,
    sessions: [Option<Transaction<'static, Postgres>>; SESSIONS],
    /// The lease of each process.
    pub processes: [Option<Uuid>; PROCESSES],
    /// The number of the last job or lease, and of the last timer that was made due.
    pub number: u64,
    /// The jobs by their payloads.
    pub numbers: BTreeMap<String, Uuid>,
    pub tick: Micros,
}

pub fn pick<T>(index: Index, from: &[T]) -> Option<&T> {
    if from.is_empty() { None } else { Some(index.get(from)) }
}

impl World {
    /// Empties the tables.
    pub async fn new(pool: &PgPool) -> Result<Self> {
        let mut conn = pool.acquire().await?;
        sqlx::raw_sql(
            "set lock_timeout = '5s';
             truncate queue.ready, queue.deferred, queue.running, queue.dead, queue.keys, queue.lanes, queue.groups,
                queue.leases, queue.deaths;
             insert into queue.leases (id, name, steady_since, beat_at, expires_at)
             values (gen_random_uuid(), 'steady', now() - interval '1 minute', now() + interval '1 hour', 'infinity')",
        )
        .execute(&mut *conn)
        .await?;
        let mut world = Self {
            model: Model::default(),
            conn,
            pool: pool.clone(),
            sessions: [const { None }; SESSIONS],
            processes: [None; PROCESSES],
            number: 0,
            numbers: BTreeMap::new(),
            tick: 0,
        };
        world.compare().await?;
        Ok(world)
    }

    /// Does the operation to both, and compares.
    pub async fn step(&mut self, op: Op) -> Result<()> {
        let what = format!("{op:?}");
        self.apply(op).await.with_context(|| what.clone())?;
        self.compare().await.with_context(|| what)
    }

    async fn apply(&mut self, op: Op) -> Result<()> {
        match op {
            Op::Enqueue { session, jobs } => self.enqueue(session, &jobs).await,
            Op::Commit(session) => self.end(session, true).await,
            Op::Rollback(session) => self.end(session, false).await,
            Op::Claim { process, limit } => self.claim(process, limit).await,
            Op::Complete(completions) => self.complete(&completions).await,
            Op::Lapse(process) => self.set_lease(process, Lease::Lapsed).await,
            Op::Renew(process) => self.set_lease(process, Lease::Held).await,
            Op::Lose(process) => self.set_lease(process, Lease::Lost).await,
            Op::Rescue { orphans } => self.rescue(orphans).await,
            Op::Due(index) => self.due(index).await,
            Op::Promote(limit) => self.promote(limit).await,
            Op::RetryDead(indexes) => self.retry_dead(Some(&indexes)).await,
            Op::RetryAll => self.retry_dead(None).await,
            Op::Discard(index) => self.discard(index).await,
            Op::Cancel(prefixes) => self.cancel(&prefixes).await,
            Op::Hold(prefix) => self.hold(prefix).await,
            Op::Release(prefix) => self.release(prefix).await,
            Op::Unpark => self.unpark().await,
            Op::Pause(lane, paused) => self.pause(lane, paused).await,
            Op::Cap(lane, cap) => self.cap(lane, cap).await,
        }
    }

    /// What is left must all run to its end: nothing is stuck anywhere.
    pub async fn drain(&mut self) -> Result<()> {
        let ended = (0..SESSIONS).map(Op::Commit);
        let opened = LANES.into_iter().flat_map(|lane| [Op::Pause(lane, false), Op::Cap(lane, None)]);
        let released = self.model.held().into_iter().map(Op::Release);
        let lapsed = (0..PROCESSES).map(Op::Lapse);
        let last = [Op::Unpark, Op::Rescue { orphans: true }];
        let ops: Vec<Op> = ended.chain(opened).chain(released).chain(lapsed).chain(last).collect();
        for op in ops {
            self.apply(op).await?;
        }
        self.compare().await?;
        let timers: Vec<Uuid> =
            self.model.jobs.values().filter(|job| job.is_timer()).map(|job| job.id).collect();
        for id in timers {
            self.set_due(id).await?;
        }
        self.step(Op::Promote(EVERYTHING)).await?;
        self.step(Op::Claim { process: 0, limit: EVERYTHING }).await?;
        for token in self.current() {
            self.record(&[(token, Ending::Done)]).await?;
        }
        self.compare().await?;
        let left: Vec<&Job> = self.model.jobs.values().filter(|job| !job.is_dead()).collect();
        ensure!(left.is_empty(), "never run: {left:?}");
        Ok(())
    }

    async fn compare(&mut self) -> Result<()> {
        let (rows, keys, clock) = sql::tables(&mut self.conn).await?;
        self.model.compare(&rows, &keys, clock)?;
        for id in self.model.volatile() {
            self.set_due(id).await?;
        }
        Ok(())
    }

    /// The tokens of all jobs that run.
    pub fn current(&self) -> Vec<Token> {
        let runs = |token: &&Token| {
            self.model.jobs.get(&token.id).is_some_and(|job| job.is_running() && job.run == token.run)
        };
        self.model.tokens.iter().filter(runs).cloned().collect()
    }

    async fn enqueue(&mut self, session: Option<usize>, jobs: &[New]) -> Result<()> {
        let jobs: Vec<Candidate> = jobs.iter().map(|new| self.candidate(session, new)).collect();
        let fates = match session {
            None => sql::enqueue(&mut self.conn, &jobs).await?,
            Some(session) => {
                if self.sessions[session].is_none() {
                    self.sessions[session] = Some(self.pool.begin().await?);
                }
                let Some(tx) = &mut self.sessions[session] else { return Ok(()) };
                sql::enqueue(tx, &jobs).await?
            }
        };
        for (new, fate) in jobs.iter().zip(&fates) {
            if let Enqueued::Added(id) = fate {
                self.numbers.insert(new.number.to_string(), *id);
            }
        }
        self.model.enqueue(session, jobs, &fates)
    }

    fn candidate(&mut self, session: Option<usize>, new: &New) -> Candidate {
        self.number += 1;
        let from = self.model.clock;
        let written = |later: Micros| When::Written { from, later, spread: 0 };
        let cause = new.cause.and_then(|index| pick(index, &self.model.tokens)).cloned();
        let rank = written(Micros::from(new.priority) * MINUTE);
        // In a transaction that stays open the clock stands still, and delays count from its start.
        let at = if session.is_some() && matches!(new.at, At::InAnHour) { At::Far } else { new.at };
        let place = match at {
            At::InAnHour => Place::Timer { at: written(3_600_000_000) },
            At::Far => Place::Timer { at: When::At(FAR) },
            At::Now | At::Past if self.model.is_held(new.group) => Place::Held { rank },
            At::Now | At::Past => Place::Ready { rank },
        };
        let job = Job {
            id: Uuid::nil(),
            tenant: new.tenant,
            lane: new.lane,
            priority: new.priority,
            group: new.group,
            // An enqueue waits for a transaction that has the same key and is still open.
            key: new.key.filter(|key| !self.model.is_key_pending(key, session)),
            max_attempts: new.max_attempts,
            since: 0,
            attempt: 0,
            crashes: 0,
            run: 0,
            last_error: None,
            place,
        };
        Candidate { job, number: self.number, at, cause: cause.filter(|token| token.group.is_some()) }
    }

    async fn end(&mut self, session: usize, commit: bool) -> Result<()> {
        let Some(tx) = self.sessions[session].take() else { return Ok(()) };
        if commit {
            tx.commit().await?;
            self.model.commit(session);
        } else {
            tx.rollback().await?;
            self.model.open[session].clear();
        }
        Ok(())
    }
}
