//! Periodic jobs: a row per schedule holds its last tick, moved in the transaction that enqueues.

use std::{str::FromStr, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection};

use crate::{EnqueueError, Error, NewJob, Wake, enqueue};

/// A job that is enqueued at the times of a cron expression, in UTC, once over all replicas. Ticks that were missed
/// become one run.
#[derive(Debug, Clone)]
pub struct Schedule {
    name: String,
    expression: String,
    parsed: cron::Schedule,
    job: NewJob,
}

impl Schedule {
    /// A schedule. The expression has six or seven fields, the first of them seconds.
    pub fn new(name: &str, expression: &str, job: NewJob) -> Result<Self, Error> {
        let parsed = cron::Schedule::from_str(expression).map_err(|error| Error::BadSchedule {
            name: name.into(),
            expression: expression.into(),
            reason: error.to_string(),
        })?;
        Ok(Self { name: name.into(), expression: expression.into(), parsed, job })
    }

    /// The kind of its jobs.
    pub(crate) fn queue(&self) -> &'static str {
        self.job.queue()
    }

    /// Enqueues the job if a tick has passed since the last one, in a transaction of its own. Returns what to wake, and
    /// how long it is until the next tick. `known` is what the last call saw, so that this one need not look.
    pub(crate) async fn tick(
        &self,
        conn: &mut PgConnection,
        known: &mut Option<Tick>,
    ) -> Result<(Wake, Duration), Error> {
        let (tick, retry) = match known.take() {
            Some(tick) => (tick, OVERTAKEN),
            None => match self.look(conn).await? {
                Ok(tick) => (tick, BUSY),
                Err((tick, now)) => return Ok((Wake::none(), wait(tick, now, known))),
            },
        };
        let mut tx = conn.begin().await?;
        let Some(now) = self.take(&mut tx, tick).await? else {
            tx.rollback().await?;
            return Ok((Wake::none(), retry));
        };
        let (_, wake) =
            enqueue(&mut tx, std::slice::from_ref(&self.job)).await.map_err(|error| match error {
                EnqueueError::Database(error) => Error::Database(error),
                other => Error::BadSchedule {
                    name: self.name.clone(),
                    expression: self.expression.clone(),
                    reason: other.to_string(),
                },
            })?;
        tx.commit().await?;
        Ok((wake, wait(self.after(now), now, known)))
    }

    /// The tick after this time.
    fn after(&self, last: DateTime<Utc>) -> Option<Tick> {
        self.parsed.after(&last).next().map(|at| Tick { last, at })
    }

    /// The tick that is due; or the next one, and what time it is.
    async fn look(
        &self,
        conn: &mut PgConnection,
    ) -> Result<Result<Tick, (Option<Tick>, DateTime<Utc>)>, Error> {
        let row: Option<(DateTime<Utc>, DateTime<Utc>)> = sqlx::query_as(
            "select last_tick, now() from queue.schedules where name = $1 and expression = $2",
        )
        .bind(&self.name)
        .bind(&self.expression)
        .fetch_optional(&mut *conn)
        .await?;
        let (last, now) = match row {
            Some(row) => row,
            None => self.begin(conn).await?,
        };
        Ok(match self.after(last) {
            Some(tick) if tick.at <= now => Ok(tick),
            next => Err((next, now)),
        })
    }

    /// Writes that the schedule counts from now on, for it is new or has changed.
    async fn begin(&self, conn: &mut PgConnection) -> Result<(DateTime<Utc>, DateTime<Utc>), Error> {
        let row = sqlx::query_as(
            "insert into queue.schedules (name, expression, last_tick) values ($1, $2, now())
             on conflict (name) do update set expression = $2, last_tick = now(), updated_at = now()
             returning last_tick, now()",
        )
        .bind(&self.name)
        .bind(&self.expression)
        .fetch_one(conn)
        .await?;
        Ok(row)
    }

    /// Moves the last tick to now, and says when that is. `None` when the tick is not due, or another process takes it or
    /// has taken it.
    async fn take(&self, conn: &mut PgConnection, tick: Tick) -> Result<Option<DateTime<Utc>>, Error> {
        let taken = sqlx::query_scalar(
            "update queue.schedules set last_tick = now(), updated_at = now() where now() >= $4 and name = (
                select name from queue.schedules where name = $1 and expression = $2 and last_tick = $3
                for update skip locked)
             returning now()",
        )
        .bind(&self.name)
        .bind(&self.expression)
        .bind(tick.last)
        .bind(tick.at)
        .fetch_optional(conn)
        .await?;
        Ok(taken)
    }
}

/// A tick of a schedule, and the one before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tick {
    last: DateTime<Utc>,
    at: DateTime<Utc>,
}

/// How long it is until the tick; one that nothing else comes before is known to the next call.
fn wait(tick: Option<Tick>, now: DateTime<Utc>, known: &mut Option<Tick>) -> Duration {
    let until = tick.map_or(LOOK_MAX, |tick| (tick.at - now).to_std().unwrap_or_default());
    *known = tick.filter(|_| until <= LOOK_MAX);
    until.min(LOOK_MAX)
}

/// When another process holds the row it is moving the tick itself.
const BUSY: Duration = Duration::from_secs(1);
/// When another process has taken the tick, or the clocks differ a little, one looks again at once.
const OVERTAKEN: Duration = Duration::from_millis(20);
/// The schedule's row is looked at now and then, for another process may have moved it.
const LOOK_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Nothing, database};

    #[tokio::test]
    async fn a_tick_that_another_process_took_is_not_taken_again() {
        let database = database().await;
        let mut conn = database.pool().acquire().await.unwrap();
        let job = NewJob::new(&Nothing {}, "tenant").unwrap();
        let schedule = Schedule::new("every-second", "* * * * * *", job).unwrap();
        let mut known = None;
        let (wake, wait) = schedule.tick(&mut conn, &mut known).await.unwrap();
        assert!(wake.is_empty(), "the first tick is still to come");
        tokio::time::sleep(wait + Duration::from_millis(50)).await;
        let mut known_to_another = known;
        let (wake, _) = schedule.tick(&mut conn, &mut known).await.unwrap();
        assert!(!wake.is_empty());
        let (wake, _) = schedule.tick(&mut conn, &mut known_to_another).await.unwrap();
        assert!(wake.is_empty());
        let jobs: i64 =
            sqlx::query_scalar("select count(*) from queue.ready").fetch_one(&mut *conn).await.unwrap();
        assert_eq!(jobs, 1);
    }
}
