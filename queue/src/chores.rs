//! What has to be done now and then: timers, rescues, gauges, schedules. Each chore is a loop of its own, so that none
//! waits for another that is slow or fails.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::{
    CRASHES, CRASHES_MAX, Error, Schedule, Wake,
    beat::EXPIRY,
    complete::{Recorded, complete_many},
    gauges::{depths, export},
    runtime::{STATEMENT_DEADLINE, Shared},
    tick::{pause, sleep_unless, within},
};

/// How often queues are looked at without a wake, and expired leases are swept.
const POLL: Duration = Duration::from_secs(1);
/// The shortest pause between two looks at the timers.
const PROMOTE_PAUSE_MIN: Duration = Duration::from_millis(10);
/// How many due timers one statement promotes.
const PROMOTE_MAX: i32 = 5000;
/// How long after a failed claim the rows under this process's lease are compared with what it runs. The claim's
/// statement has ended by then, one way or the other.
const RECONCILE: Duration = Duration::from_secs(12);
/// How often the gauges are set.
const MEASURE: Duration = Duration::from_secs(10);
/// How often groups that govern nothing are forgotten, and how many are looked at.
const FORGET: Duration = Duration::from_secs(60);
const FORGET_MAX: i32 = 1000;
/// How often jobs whose lease row is gone altogether are looked for.
const ORPHANS: Duration = Duration::from_secs(60);

/// Does a chore again and again until the runtime stops: after the time that it returns, or a pause when it failed.
macro_rules! chore {
    ($tasks:ident, $what:literal, $shared:ident, $work:block) => {{
        let $shared = $shared.clone();
        $tasks.spawn(async move {
            let mut failures = 0;
            while !$shared.is_stopping() {
                let done: Result<Duration, Error> = async { $work }.await;
                rest(&$shared, $what, done, &mut failures).await;
            }
        });
    }};
}

async fn rest(shared: &Shared, what: &'static str, done: Result<Duration, Error>, failures: &mut u32) {
    let duration = match done {
        Ok(duration) => {
            *failures = 0;
            duration
        }
        Err(error) => {
            tracing::warn!(what, %error, "a chore of the queue failed; it is done again");
            *failures += 1;
            pause(*failures)
        }
    };
    sleep_unless(&shared.stopping, duration).await;
}

/// Starts the chores of a runtime.
pub(crate) fn start(tasks: &TaskTracker, shared: &Arc<Shared>, schedules: Vec<Schedule>) {
    chore!(tasks, "timers", shared, { Ok(promote(&shared).await?.max(PROMOTE_PAUSE_MIN)) });
    let mut orphans_at = Instant::now() + ORPHANS;
    chore!(tasks, "rescue", shared, {
        let orphans = Instant::now() >= orphans_at;
        rescue(&shared, orphans).await?;
        if orphans {
            orphans_at = Instant::now() + ORPHANS;
        }
        Ok(POLL)
    });
    chore!(tasks, "look", shared, {
        look(&shared).await?;
        cancel(&shared).await?;
        unpark(&shared).await?;
        Ok(POLL)
    });
    let mut reconcile_at = None;
    chore!(tasks, "reconcile", shared, {
        if shared.unheard.swap(false, Ordering::AcqRel) {
            reconcile_at.get_or_insert(Instant::now() + RECONCILE);
        }
        if reconcile_at.is_some_and(|at| Instant::now() >= at) {
            reconcile(&shared).await?;
            reconcile_at = None;
        }
        Ok(POLL)
    });
    chore!(tasks, "gauges", shared, {
        measure(&shared).await?;
        Ok(MEASURE)
    });
    let mut forgotten = String::new();
    chore!(tasks, "groups", shared, {
        forgotten = forget(&shared, &forgotten).await?;
        Ok(FORGET)
    });
    for schedule in schedules {
        chore!(tasks, "schedule", shared, { tick_schedule(&shared, &schedule).await });
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

/// Sets the gauges, when it is this process's turn to count after it did.
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
    let ready: Vec<(String,)> =
        within(sqlx::query_as("select * from queue.with_ready($1)").bind(queues).fetch_all(&shared.pool))
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
