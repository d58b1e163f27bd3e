//! What has to be done now and then: timers, rescues, gauges, schedules. Each chore is a loop of its own, so that none
//! waits for another that is slow or fails.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use tokio::{sync::Notify, time::Instant};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::{
    CRASHES, CRASHES_MAX, Error, Schedule, Wake,
    beat::EXPIRY,
    complete::{Recorded, complete_many},
    gauges::{Gauges, depths},
    neighbours::Identity,
    runtime::{STATEMENT_DEADLINE, Shared, lock},
    schedule::Tick,
    tick::{pause, sleep_unless, unpanicked, within},
    vacuum::Vacuum,
};

/// How often one looks whether there is anything to do: ready jobs without a wake, due timers, expired leases.
const POLL: Duration = Duration::from_secs(1);
/// A promotion that takes longer than this is slow. All timers are looked at again after so many times as long.
const TIMERS_SLOW: Duration = Duration::from_millis(20);
const TIMERS_SLOW_TIMES: u32 = 20;
/// How far back timers are looked for then: what committed later than it was due by more than this waits until all are
/// looked at.
const TIMERS_LAG: Duration = Duration::from_secs(10);
/// How long after a lease expires one looks for it.
const EXPIRY_MARGIN: Duration = Duration::from_millis(20);
/// How often timers are promoted and leases swept although no look has found anything to do, for looks may fail.
const UNASKED: Duration = Duration::from_secs(10);
/// The shortest pause between two looks at the timers.
const PROMOTE_PAUSE_MIN: Duration = Duration::from_millis(10);
/// How many due timers one statement promotes.
const PROMOTE_MAX: i32 = 5000;
/// How long after a failed claim the rows under this process's lease are compared with what it runs: once when the
/// claim's statement has most likely ended, and once when it has for certain, one way or the other.
const RECONCILE: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(12)];
/// How often the gauges are set.
const MEASURE: Duration = Duration::from_secs(10);
/// How often groups that govern nothing are forgotten, and how many are looked at.
const FORGET: Duration = Duration::from_secs(60);
const FORGET_MAX: i32 = 1000;
/// How often jobs whose lease row is gone altogether are looked for.
const ORPHANS: Duration = Duration::from_secs(60);

/// Does a chore again and again until the runtime stops: after the time that it returns, or a pause when it failed, or
/// when it is asked to.
macro_rules! chore {
    ($tasks:ident, $what:literal, $shared:ident, $asked:expr, $work:block) => {{
        let ($shared, asked) = ($shared.clone(), $asked);
        $tasks.spawn(async move {
            let mut failures = 0;
            while !$shared.is_stopping() {
                let done: Result<Duration, Error> = unpanicked(async { $work }).await;
                let pause = pause_after($what, done, &mut failures);
                tokio::select! {
                    () = sleep_unless(&$shared.stopping, pause) => {}
                    // One that fails is not asked: it would fail as fast as it is.
                    () = asked.notified(), if failures == 0 => {}
                }
            }
        });
    }};
}

fn pause_after(what: &'static str, done: Result<Duration, Error>, failures: &mut u32) -> Duration {
    match done {
        Ok(duration) => {
            *failures = 0;
            duration
        }
        Err(error) => {
            tracing::warn!(what, %error, "a chore of the queue failed; it is done again");
            *failures += 1;
            pause(*failures)
        }
    }
}

/// What a look asks others to do.
#[derive(Default)]
struct Asked {
    timers: Arc<Notify>,
    /// From which time on timers are looked for, while looking for all of them is slow.
    timers_from: Arc<Mutex<Option<DateTime<Utc>>>>,
    rescue: Arc<Notify>,
    /// The leases of processes of this machine that are dead.
    dead: Arc<Mutex<Vec<Uuid>>>,
}

/// Starts the chores of a runtime.
pub(crate) fn start(tasks: &TaskTracker, shared: &Arc<Shared>, schedules: Vec<Schedule>) {
    let asked = Asked::default();
    let nobody = Arc::new(Notify::new());
    let timers_from = asked.timers_from.clone();
    let mut all_at = Instant::now();
    chore!(tasks, "timers", shared, asked.timers.clone(), {
        Ok(promote(&shared, &timers_from, &mut all_at).await?.max(PROMOTE_PAUSE_MIN))
    });
    let mut orphans_at = Instant::now() + ORPHANS;
    let dead = asked.dead.clone();
    chore!(tasks, "rescue", shared, asked.rescue.clone(), {
        let orphans = Instant::now() >= orphans_at;
        let dead = std::mem::take(&mut *lock(&dead));
        rescue(&shared, orphans, &dead).await?;
        if orphans {
            orphans_at = Instant::now() + ORPHANS;
        }
        Ok(UNASKED)
    });
    chore!(tasks, "look", shared, nobody.clone(), {
        let next = look(&shared, &asked).await?;
        cancel(&shared).await?;
        Ok(next)
    });
    let mut reconcile_at: Vec<Instant> = Vec::new();
    chore!(tasks, "reconcile", shared, nobody.clone(), {
        if shared.unheard.swap(false, Ordering::AcqRel) {
            // While claims go on failing the first comparison is not put off again and again.
            let first = reconcile_at.first().copied().unwrap_or(Instant::now() + RECONCILE[0]);
            reconcile_at = vec![first, Instant::now() + RECONCILE[1]];
        }
        if reconcile_at.first().is_some_and(|at| Instant::now() >= *at) {
            reconcile(&shared).await?;
            reconcile_at.remove(0);
        }
        Ok(POLL)
    });
    let mut gauges = Gauges::default();
    chore!(tasks, "gauges", shared, nobody.clone(), {
        measure(&shared, &mut gauges).await?;
        Ok(MEASURE)
    });
    let mut vacuum = Vacuum::default();
    chore!(tasks, "vacuum", shared, nobody.clone(), { vacuum.tick(&shared).await });
    let mut forgotten = String::new();
    chore!(tasks, "groups", shared, nobody.clone(), {
        forgotten = forget(&shared, &forgotten).await?;
        Ok(FORGET)
    });
    for schedule in schedules {
        let mut known = None;
        chore!(tasks, "schedule", shared, nobody.clone(), {
            tick_schedule(&shared, &schedule, &mut known).await
        });
    }
}

/// What a promotion found.
#[derive(Debug, FromRow)]
struct Promoted {
    count: i32,
    queues: Vec<String>,
    next_ms: Option<f64>,
    at: DateTime<Utc>,
    took_ms: f64,
}

/// Moves due timers to `ready`; returns how long it is until the next one. When that takes long, somebody's old snapshot
/// keeps what was promoted in the index: then only what came due of late is looked at, and all of it at `all_at`.
async fn promote(
    shared: &Shared,
    from: &Mutex<Option<DateTime<Utc>>>,
    all_at: &mut Instant,
) -> Result<Duration, Error> {
    loop {
        let known = *lock(from);
        let since = known.filter(|_| Instant::now() < *all_at);
        if known.is_some() && since.is_none() {
            // Should this one take too long to be answered, those of late are looked at again.
            *all_at = Instant::now() + UNASKED;
        }
        let found: Promoted = within(
            sqlx::query_as(
                "select promoted as count, queues, (extract(epoch from next_at - clock_timestamp()) * 1000)::float8 as next_ms, at,
                    took_ms
                 from queue.promote($1, $2)",
            )
            .bind(PROMOTE_MAX)
            .bind(since)
            .fetch_one(&shared.pool),
        )
        .await?;
        wake(shared, &found.queues);
        if found.count >= PROMOTE_MAX {
            continue;
        }
        if since.is_none() {
            *all_at = Instant::now() + pause_when_slow(found.took_ms);
        }
        *lock(from) = (Instant::now() < *all_at).then(|| found.at - TIMERS_LAG);
        // A timer that is made meanwhile and is due before is found by a look.
        let next = found.next_ms.and_then(|ms| Duration::try_from_secs_f64((ms / 1000.0).max(0.0)).ok());
        let all = all_at.saturating_duration_since(Instant::now());
        let longest = if all.is_zero() { UNASKED } else { all.min(UNASKED) };
        return Ok(next.map_or(longest, |next| next.min(longest)));
    }
}

/// How long not all timers are looked at again when that took so long; not at all when it was quick.
fn pause_when_slow(took_ms: f64) -> Duration {
    let took = Duration::try_from_secs_f64(took_ms.max(0.0) / 1000.0).unwrap_or_default();
    if took < TIMERS_SLOW { Duration::ZERO } else { (took * TIMERS_SLOW_TIMES).min(UNASKED) }
}

/// Frees jobs that were parked while their group was released.
async fn unpark(shared: &Shared) -> Result<(), Error> {
    let (queues,): (Vec<String>,) =
        within(sqlx::query_as("select queue.unpark_released()").fetch_one(&shared.pool)).await?;
    wake(shared, &queues);
    Ok(())
}

/// Lets this process and the others look at queues that got jobs.
fn wake(shared: &Shared, queues: &[String]) {
    shared.notifier.send(Wake::of(queues));
}

/// Sets the gauges, when it is this process's turn to count after it did.
async fn measure(shared: &Shared, gauges: &mut Gauges) -> Result<(), Error> {
    let depths = async {
        let mut conn = shared.pool.acquire().await?;
        depths(&mut conn).await
    };
    gauges.set(&within(depths).await?);
    Ok(())
}

/// Forgets some of the groups that govern nothing; returns where to go on.
async fn forget(shared: &Shared, after: &str) -> Result<String, Error> {
    let forget = sqlx::query_as("select queue.forget_groups($1, $2)").bind(after).bind(FORGET_MAX);
    let (last,): (Option<String>,) = within(forget.fetch_one(&shared.pool)).await?;
    Ok(last.unwrap_or_default())
}

/// What a look finds.
#[derive(Debug, FromRow)]
struct Found {
    ready: Vec<String>,
    next_timer_ms: Option<f64>,
    expired: bool,
    next_expiry_ms: Option<f64>,
    released: bool,
    neighbours: Vec<Uuid>,
    pids: Vec<i32>,
    started: Vec<i64>,
}

impl Found {
    /// The leases of the processes of this machine that are dead.
    fn dead(&self) -> impl Iterator<Item = Uuid> {
        let neighbours = self.neighbours.iter().zip(&self.pids).zip(&self.started);
        neighbours
            .filter(|((_, pid), started)| Identity::is_dead(**pid, **started))
            .map(|((lease, _), _)| *lease)
    }
}

/// Looks what there is to do: queues of this process with ready jobs, for wakes can be lost; timers that are due before
/// the next look; leases that expired, and those of dead neighbours; and groups that were released. Returns when to look
/// again.
async fn look(shared: &Shared, asked: &Asked) -> Result<Duration, Error> {
    let queues: Vec<&'static str> = shared.queues().keys().copied().collect();
    let timers_from = *lock(&asked.timers_from);
    let found: Found = within(
        sqlx::query_as("select * from queue.look($1, $2, $3)")
            .bind(queues)
            .bind(shared.identity.as_ref().map(|identity| identity.machine.as_str()))
            .bind(timers_from)
            .fetch_one(&shared.pool),
    )
    .await?;
    for queue in &found.ready {
        shared.mark(queue);
    }
    if found.next_timer_ms.is_some_and(|ms| ms <= POLL.as_secs_f64() * 1000.0) {
        asked.timers.notify_one();
    }
    let dead: Vec<Uuid> = found.dead().collect();
    if found.expired || !dead.is_empty() {
        *lock(&asked.dead) = dead;
        asked.rescue.notify_one();
    }
    if found.released {
        unpark(shared).await?;
    }
    let expiry = found.next_expiry_ms.and_then(|ms| Duration::try_from_secs_f64(ms.max(0.0) / 1000.0).ok());
    Ok(expiry.map_or(POLL, |expiry| (expiry + EXPIRY_MARGIN).min(POLL)))
}

/// Gives back the jobs of leases that have expired, and of those of `dead` processes.
async fn rescue(shared: &Shared, orphans: bool, dead: &[Uuid]) -> Result<(), Error> {
    let rescued: Vec<(String, i64, i64)> = within(
        sqlx::query_as(
            "select queue, rescued, died from queue.rescue($1, $2, make_interval(secs => $3), $4, $5)",
        )
        .bind(CRASHES)
        .bind(CRASHES_MAX)
        .bind(EXPIRY.as_secs_f64())
        .bind(orphans)
        .bind(dead)
        .fetch_all(&shared.pool),
    )
    .await?;
    for (queue, rescued, died) in rescued {
        tracing::warn!(queue, rescued, died, "rescued the jobs of a process that died");
        let count = |count: i64| u64::try_from(count).unwrap_or_default();
        metrics::counter!("queue_rescued_total", "queue" => queue.clone()).increment(count(rescued));
        metrics::counter!("queue_crashed_total", "queue" => queue).increment(count(died));
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

async fn tick_schedule(
    shared: &Shared,
    schedule: &Schedule,
    known: &mut Option<Tick>,
) -> Result<Duration, Error> {
    let tick = async {
        let mut conn = shared.pool.acquire().await?;
        schedule.tick(&mut conn, known).await
    };
    let (wake, next) = tokio::time::timeout(STATEMENT_DEADLINE, tick)
        .await
        .map_err(|_| Error::Deadline(STATEMENT_DEADLINE))??;
    if shared.queues().contains_key(schedule.queue()) {
        // This process runs it; should it be too busy, the others' looks find the job.
        if !wake.is_empty() {
            shared.mark(schedule.queue());
        }
    } else {
        shared.notifier.send(wake);
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use futures::FutureExt;
    use sqlx::{PgPool, postgres::PgConnectOptions};

    use super::*;
    use crate::{
        NewJob, Notifier, RunAt, Runtime, RuntimeConfig, enqueue,
        testing::{Nothing, database},
    };

    /// What a look asks for: (timers, rescue).
    async fn asked(shared: &Shared) -> (bool, bool) {
        let asked = Asked::default();
        look(shared, &asked).await.expect("a look");
        (asked.timers.notified().now_or_never().is_some(), asked.rescue.notified().now_or_never().is_some())
    }

    async fn enqueue_after(pool: &PgPool, delay: Duration) {
        let job = NewJob::new(&Nothing {}, "tenant").expect("a job").run_at(RunAt::After(delay));
        let mut conn = pool.acquire().await.expect("a connection");
        let _ = enqueue(&mut conn, &[job]).await.expect("enqueued");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_look_asks_for_what_there_is_to_do_and_for_nothing_else() {
        let database = database().await;
        let runtime = Runtime::start(RuntimeConfig {
            name: "looker".into(),
            connect: PgConnectOptions::from_str(database.url()).unwrap(),
            notifier: Notifier::disabled(),
            seen_by_neighbours: false,
            listen: false,
            schedules: Vec::new(),
        })
        .unwrap();
        let (pool, shared) = (database.pool(), runtime.shared());
        assert_eq!(asked(shared).await, (false, false));
        enqueue_after(pool, Duration::from_secs(3600)).await;
        assert_eq!(asked(shared).await, (false, false));
        // The runtime's own chores may be faster.
        let timer = async {
            loop {
                enqueue_after(pool, Duration::from_millis(900)).await;
                if asked(shared).await == (true, false) {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), timer).await.unwrap();
        // Nobody is rescued before the database has taken beats for some seconds.
        sqlx::query(
            "insert into queue.leases (id, name, expires_at) values (gen_random_uuid(), 'gone', now())",
        )
        .execute(pool)
        .await
        .unwrap();
        assert!(asked(shared).await.1);
        runtime.shutdown(Duration::from_secs(1)).await;
    }
}
