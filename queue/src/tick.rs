//! The loops of a runtime. Each goes on for ever, through every outage of the database, until the runtime stops.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rand::Rng;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    CRASHES, CRASHES_MAX, Error, Schedule, Wake,
    beat::EXPIRY,
    claim::Raw,
    complete::{Recorded, complete_many},
    gauges::{depths, export},
    rota::Rota,
    runtime::{STATEMENT_DEADLINE, Shared, Tracked},
    wake::{GROUPS_CHANNEL, READY_CHANNEL},
};

/// The most jobs of one claim.
const CLAIM_MAX: usize = 500;
/// How often queues are looked at without a wake, due timers are promoted and expired leases are swept.
const POLL: Duration = Duration::from_secs(1);
/// The shortest pause between two looks at the timers.
const PROMOTE_PAUSE_MIN: Duration = Duration::from_millis(10);
/// How many due timers one statement promotes.
const PROMOTE_MAX: i32 = 5000;
/// How long the completer gathers outcomes, and how many it writes at once.
const GATHER: Duration = Duration::from_millis(3);
const COMPLETE_MAX: usize = 1000;
/// How long after a failed claim the rows under this process's lease are compared with what it runs. The claim's
/// statement has ended by then, one way or the other.
const RECONCILE: Duration = Duration::from_secs(12);
/// How often the gauges are set.
const MEASURE: Duration = Duration::from_secs(10);
/// How often groups that govern nothing are forgotten, and how many are looked at.
const FORGET: Duration = Duration::from_secs(60);
const FORGET_MAX: i32 = 1000;
/// How long the listener may hear nothing before its connection is tried.
const SILENCE: Duration = Duration::from_secs(30);
/// How often jobs whose lease row is gone altogether are looked for.
const ORPHANS: Duration = Duration::from_secs(60);

/// The pause after the `failures`-th failure in a row: 50 ms doubling to 2 s, with jitter, so that replicas do not
/// come back together.
fn pause(failures: u32) -> Duration {
    let longest = Duration::from_millis(50 * 2_u64.pow(failures.min(6))).min(Duration::from_secs(2));
    longest.mul_f64(rand::rng().random_range(0.5..1.0))
}

/// Runs a statement under the runtime's deadline.
async fn within<T>(statement: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(STATEMENT_DEADLINE, statement).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Error::Deadline(STATEMENT_DEADLINE)),
    }
}

async fn sleep_unless(stop: &CancellationToken, duration: Duration) {
    let _ = tokio::time::timeout(duration, stop.cancelled()).await;
}

/// What the claimer knows of one queue.
#[derive(Default)]
struct Queue {
    rota: Rota,
    /// Whether another claim may find jobs without a wake.
    more: bool,
}

/// Claims for all queues, never more than their free slots.
pub(crate) async fn claim_all(shared: Arc<Shared>) {
    let mut queues: HashMap<&'static str, Queue> = HashMap::default();
    let mut failures = 0;
    while !shared.is_stopping() {
        let mut claimed = false;
        let mut failed = false;
        for name in wanted(&shared, &queues) {
            claimed = true;
            if let Err(error) = claim_one(&shared, name, queues.entry(name).or_default()).await {
                failed = true;
                if !matches!(error, Error::LeaseLapsed) {
                    tracing::warn!(queue = name, %error, "a claim failed");
                }
            }
        }
        if failed {
            failures += 1;
            sleep_unless(&shared.stopping, pause(failures)).await;
        } else if !claimed {
            failures = 0;
            tokio::select! { () = shared.work.notified() => {}, () = shared.stopping.cancelled() => {} }
        }
    }
}

/// The queues that may have ready jobs and have a free slot.
fn wanted(shared: &Shared, known: &HashMap<&'static str, Queue>) -> Vec<&'static str> {
    let mut queues = shared.queues();
    queues.retain(|_, slots| !slots.sender.is_closed());
    let wanted = queues.iter().filter(|(name, slots)| {
        let may_have = slots.look.load(Ordering::Acquire) || known.get(*name).is_some_and(|queue| queue.more);
        may_have && slots.free.available_permits() > 0
    });
    wanted.map(|(name, _)| *name).collect()
}

async fn claim_one(shared: &Arc<Shared>, name: &'static str, queue: &mut Queue) -> Result<(), Error> {
    let Some((free, sender, look)) =
        shared.queues().get(name).map(|slots| (slots.free.clone(), slots.sender.clone(), slots.look.clone()))
    else {
        return Ok(());
    };
    let Some(lease) = shared.heart.lease() else {
        // The first beat marks all queues.
        return Err(Error::LeaseLapsed);
    };
    let limit = free.available_permits().min(CLAIM_MAX);
    let Ok(mut permits) = free.try_acquire_many_owned(u32::try_from(limit).unwrap_or_default()) else {
        return Ok(());
    };
    // Cleared before the look, so that a wake that comes during it is not lost.
    let looks = look.swap(false, Ordering::AcqRel);
    let started = Instant::now();
    let claim = async {
        let mut conn = shared.pool.acquire().await?;
        queue.rota.claim(&mut conn, lease.id, name, limit, looks).await
    };
    let claims = match within(claim).await {
        Ok(claims) => claims,
        Err(error) => {
            look.store(true, Ordering::Release);
            let lapsed = matches!(&error, Error::Database(sqlx::Error::Database(e)) if e.code().as_deref() == Some("QL001"));
            if lapsed {
                return Err(Error::LeaseLapsed);
            }
            shared.unheard.store(true, Ordering::Release);
            return Err(error);
        }
    };
    metrics::histogram!("queue_claim_seconds", "queue" => name).record(started.elapsed().as_secs_f64());
    queue.more = claims.more;
    for row in claims.rows {
        let capped = row.capped;
        let (job, payload) = row.split(name);
        let Some(permit) = permits.split(1) else { break };
        let tracked = shared.track(&job, capped);
        let raw = Raw { job, payload, lease: lease.clone(), permit, tracked };
        if let Err(mpsc::error::SendError(raw)) = sender.send(raw) {
            raw.hand_back();
        }
    }
    Ok(())
}

/// Records outcomes in batches. One that cannot be written is kept and tried again: it is accepted as long as its
/// attempt token is current.
pub(crate) async fn complete_all(shared: Arc<Shared>, mut receiver: mpsc::Receiver<(Recorded, Tracked)>) {
    let mut batch: Vec<(Recorded, Tracked)> = Vec::new();
    loop {
        let first = tokio::select! {
            biased;
            first = receiver.recv() => first,
            () = shared.stopped.cancelled() => None,
        };
        let Some(first) = first else { return };
        batch.push(first);
        let gather = tokio::time::sleep(GATHER);
        tokio::pin!(gather);
        while batch.len() < COMPLETE_MAX {
            tokio::select! {
                biased;
                more = receiver.recv() => match more { Some(more) => batch.push(more), None => break },
                () = &mut gather => break,
            }
        }
        batch.sort_by_key(|(recorded, _)| recorded.id);
        let outcomes: Vec<Recorded> = batch.iter().map(|(recorded, _)| recorded.clone()).collect();
        write(&shared, &outcomes).await;
        batch.clear();
    }
}

async fn write(shared: &Shared, outcomes: &[Recorded]) {
    let mut failures = 0;
    loop {
        let started = Instant::now();
        let complete = async {
            let mut conn = shared.pool.acquire().await?;
            complete_many(&mut conn, outcomes).await
        };
        match within(complete).await {
            Ok(accepted) => {
                metrics::histogram!("queue_complete_seconds").record(started.elapsed().as_secs_f64());
                for outcome in outcomes {
                    let label = if accepted.contains(&outcome.token()) { outcome.label() } else { "stale" };
                    metrics::counter!("queue_outcomes_total", "outcome" => label).increment(1);
                }
                return;
            }
            Err(error) => {
                tracing::warn!(%error, outcomes = outcomes.len(), "outcomes were not recorded; trying again");
                failures += 1;
            }
        }
        if shared.stopped.is_cancelled() {
            tracing::warn!(
                outcomes = outcomes.len(),
                "stopped before outcomes were recorded; their jobs run again"
            );
            return;
        }
        sleep_unless(&shared.stopped, pause(failures)).await;
    }
}

/// Promotes timers, sweeps leases, looks for ready jobs without a wake, tells cancelled jobs, and ticks schedules.
pub(crate) async fn keep_time(shared: Arc<Shared>, schedules: Vec<Schedule>) {
    let mut orphans_at = Instant::now() + ORPHANS;
    let mut reconcile_at: Option<Instant> = None;
    let mut forget_at = Instant::now() + FORGET;
    let mut forgotten = String::new();
    let mut measure_at = Instant::now();
    let mut sweep_at = Instant::now() + POLL;
    let mut schedules: Vec<(Schedule, Instant)> =
        schedules.into_iter().map(|s| (s, Instant::now())).collect();
    let mut failures = 0;
    while !shared.is_stopping() {
        let round = async {
            let next = promote(&shared).await?;
            if Instant::now() >= sweep_at {
                sweep_at = Instant::now() + POLL;
                look(&shared).await?;
                let orphans = Instant::now() >= orphans_at;
                if orphans {
                    orphans_at = Instant::now() + ORPHANS;
                }
                rescue(&shared, orphans).await?;
                cancel(&shared).await?;
                unpark(&shared).await?;
            }
            if shared.unheard.swap(false, Ordering::AcqRel) {
                reconcile_at = Some(Instant::now() + RECONCILE);
            }
            if reconcile_at.is_some_and(|at| Instant::now() >= at) {
                reconcile(&shared).await?;
                reconcile_at = None;
            }
            if Instant::now() >= measure_at {
                measure_at = Instant::now() + MEASURE;
                measure(&shared).await?;
            }
            if Instant::now() >= forget_at {
                forget_at = Instant::now() + FORGET;
                forgotten = forget(&shared, &forgotten).await?;
            }
            for (schedule, due) in &mut schedules {
                if Instant::now() >= *due {
                    *due = Instant::now() + tick_schedule(&shared, schedule).await?;
                }
            }
            Ok::<_, Error>(next)
        };
        match round.await {
            Ok(next) => {
                failures = 0;
                let due =
                    schedules.iter().map(|(_, due)| due.saturating_duration_since(Instant::now())).min();
                let until = next.min(due.unwrap_or(POLL)).max(PROMOTE_PAUSE_MIN);
                sleep_unless(&shared.stopping, until).await;
            }
            Err(error) => {
                tracing::warn!(%error, "the queue's time-keeping failed");
                failures += 1;
                sleep_unless(&shared.stopping, pause(failures)).await;
            }
        }
    }
}

/// Moves due timers to `ready`; returns how long it is until the next one.
async fn promote(shared: &Shared) -> Result<Duration, Error> {
    loop {
        let (promoted, queues, next_ms): (i32, Vec<String>, Option<f64>) = within(
            sqlx::query_as(
                "select promoted, queues, (extract(epoch from next_at - clock_timestamp()) * 1000)::float8
                 from queue.promote($1)",
            )
            .bind(PROMOTE_MAX)
            .fetch_one(&shared.pool),
        )
        .await?;
        let mut wake = Wake::none();
        for queue in &queues {
            shared.mark(queue);
            wake.add(queue);
        }
        shared.notifier.send(wake);
        if promoted < PROMOTE_MAX {
            let next = next_ms
                .map_or(POLL, |ms| Duration::from_secs_f64((ms / 1000.0).clamp(0.0, POLL.as_secs_f64())));
            return Ok(next.min(POLL));
        }
    }
}

/// Frees jobs that were parked while their group was released.
async fn unpark(shared: &Shared) -> Result<(), Error> {
    let (queues,): (Vec<String>,) =
        within(sqlx::query_as("select queue.unpark_released()").fetch_one(&shared.pool)).await?;
    let mut wake = Wake::none();
    for queue in &queues {
        shared.mark(queue);
        wake.add(queue);
    }
    shared.notifier.send(wake);
    Ok(())
}

/// Sets the gauges.
async fn measure(shared: &Shared) -> Result<(), Error> {
    let depths = async {
        let mut conn = shared.pool.acquire().await?;
        depths(&mut conn).await
    };
    export(&within(depths).await?);
    Ok(())
}

/// Forgets some of the groups that govern nothing; returns where to go on.
async fn forget(shared: &Shared, after: &str) -> Result<String, Error> {
    let forget = sqlx::query_as("select queue.forget_groups($1, $2)").bind(after).bind(FORGET_MAX);
    let (last,): (Option<String>,) = within(forget.fetch_one(&shared.pool)).await?;
    Ok(last.unwrap_or_default())
}

/// Finds the queues of this process that have ready jobs, for wakes can be lost.
async fn look(shared: &Shared) -> Result<(), Error> {
    let queues: Vec<&'static str> = shared.queues().keys().copied().collect();
    let ready: Vec<(String,)> = within(
        sqlx::query_as(
            "select q.queue from unnest($1::text[]) q(queue)
             where exists (select 1 from queue.ready r where r.queue = q.queue)",
        )
        .bind(queues)
        .fetch_all(&shared.pool),
    )
    .await?;
    for (queue,) in &ready {
        shared.mark(queue);
    }
    Ok(())
}

async fn rescue(shared: &Shared, orphans: bool) -> Result<(), Error> {
    let (rescued, died): (i32, i32) = within(
        sqlx::query_as("select rescued, died from queue.rescue($1, $2, make_interval(secs => $3), $4)")
            .bind(CRASHES)
            .bind(CRASHES_MAX)
            .bind(EXPIRY.as_secs_f64())
            .bind(orphans)
            .fetch_one(&shared.pool),
    )
    .await?;
    if rescued > 0 || died > 0 {
        tracing::warn!(rescued, died, "rescued the jobs of a process that died");
        metrics::counter!("queue_rescued_total").increment(u64::try_from(rescued).unwrap_or_default());
        metrics::counter!("queue_crashed_total").increment(u64::try_from(died).unwrap_or_default());
    }
    Ok(())
}

/// Cancels the tokens of running jobs whose group was cancelled.
pub(crate) async fn cancel(shared: &Shared) -> Result<(), Error> {
    let grouped: Vec<(Uuid, String, i64)> = shared
        .tracked()
        .values()
        .filter_map(|job| job.group().map(|group| (job.id(), group.to_owned(), job.epoch())))
        .collect();
    if grouped.is_empty() {
        return Ok(());
    }
    let cancelled: Vec<(Uuid,)> = within(
        sqlx::query_as(
            "select t.id from unnest($1::uuid[], $2::text[], $3::int8[]) t(id, grp, epoch)
             cross join lateral queue.group_of(t.grp) g where g.epoch > t.epoch",
        )
        .bind(grouped.iter().map(|(id, _, _)| *id).collect::<Vec<_>>())
        .bind(grouped.iter().map(|(_, group, _)| group.as_str()).collect::<Vec<_>>())
        .bind(grouped.iter().map(|(_, _, epoch)| *epoch).collect::<Vec<_>>())
        .fetch_all(&shared.pool),
    )
    .await?;
    for (id,) in cancelled {
        if let Some(job) = shared.tracked().get(&id) {
            job.cancelled().cancel();
        }
    }
    Ok(())
}

/// Hands back jobs that were claimed under this process's lease without its knowing: the answer of a claim can be lost
/// with its connection.
async fn reconcile(shared: &Arc<Shared>) -> Result<(), Error> {
    let Some(lease) = shared.heart.lease() else { return Ok(()) };
    let running: Vec<(Uuid, i32)> = within(
        sqlx::query_as(
            "select id, run from queue.running where lease = $1 and started_at < now() - make_interval(secs => $2)",
        )
        .bind(lease.id)
        .bind(STATEMENT_DEADLINE.as_secs_f64())
        .fetch_all(&shared.pool),
    )
    .await?;
    let lost: Vec<(Uuid, i32)> = {
        let tracked = shared.tracked();
        running.into_iter().filter(|(id, run)| tracked.get(id).is_none_or(|job| job.run() != *run)).collect()
    };
    if lost.is_empty() {
        return Ok(());
    }
    tracing::warn!(jobs = lost.len(), "handing back jobs whose claim was not heard of");
    let outcomes: Vec<Recorded> = lost.into_iter().map(|(id, run)| Recorded::lost(id, run)).collect();
    let complete = async {
        let mut conn = shared.pool.acquire().await?;
        complete_many(&mut conn, &outcomes).await
    };
    within(complete).await?;
    shared.mark_all();
    Ok(())
}

async fn tick_schedule(shared: &Shared, schedule: &Schedule) -> Result<Duration, Error> {
    let tick = async {
        let mut tx = shared.pool.begin().await?;
        let (wake, next) = schedule.tick(&mut tx).await?;
        tx.commit().await?;
        Ok::<_, Error>((wake, next))
    };
    let (wake, next) = tokio::time::timeout(STATEMENT_DEADLINE, tick)
        .await
        .map_err(|_| Error::Deadline(STATEMENT_DEADLINE))??;
    shared.notifier.send(wake);
    Ok(next)
}

/// Listens for wakes on a connection of its own. After every (re)connection all queues are looked at, for wakes of
/// the meantime are lost.
pub(crate) async fn listen(shared: Arc<Shared>) {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(STATEMENT_DEADLINE)
        .connect_lazy_with(shared.connect.clone());
    let mut failures = 0;
    while !shared.is_stopping() {
        let listened = tokio::select! {
            listened = listen_once(&shared, &pool) => listened,
            () = shared.stopping.cancelled() => return,
        };
        if let Err(error) = listened {
            tracing::warn!(%error, "listening for wakes failed; polling meanwhile");
            failures += 1;
        } else {
            failures = 0;
        }
        sleep_unless(&shared.stopping, pause(failures)).await;
    }
}

/// Returns when the connection is lost.
async fn listen_once(shared: &Arc<Shared>, pool: &sqlx::PgPool) -> Result<(), Error> {
    let mut listener = within(PgListener::connect_with(pool)).await?;
    within(listener.listen_all([READY_CHANNEL, GROUPS_CHANNEL])).await?;
    shared.mark_all();
    loop {
        let Ok(received) = tokio::time::timeout(SILENCE, listener.try_recv()).await else {
            // A connection whose other end is gone without a word stays silent for ever.
            within(sqlx::query("select 1").execute(&mut listener)).await?;
            continue;
        };
        let Some(notification) = received? else { return Ok(()) };
        if notification.channel() == GROUPS_CHANNEL {
            if let Err(error) = cancel(shared).await {
                tracing::debug!(%error, "cancelled groups were not read; the next look finds them");
            }
        } else {
            for queue in notification.payload().split(',') {
                shared.mark(queue);
            }
        }
    }
}
