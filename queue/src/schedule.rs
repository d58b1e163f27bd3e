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

    /// Enqueues the job if a tick has passed since the last one, in a transaction of its own. Returns what to wake, and
    /// how long it is until the next tick.
    pub(crate) async fn tick(&self, conn: &mut PgConnection) -> Result<(Wake, Duration), Error> {
        let row: Option<(DateTime<Utc>, DateTime<Utc>)> = sqlx::query_as(
            "select last_tick, now() from queue.schedules where name = $1 and expression = $2",
        )
        .bind(&self.name)
        .bind(&self.expression)
        .fetch_optional(&mut *conn)
        .await?;
        let Some((last, now)) = row else {
            return Ok((Wake::none(), self.begin(conn).await?));
        };
        let next = self.parsed.after(&last).next();
        if next.is_none_or(|next| next > now) {
            return Ok((Wake::none(), until(next, now)));
        }
        let mut tx = conn.begin().await?;
        if !self.take(&mut tx, last).await? {
            tx.rollback().await?;
            return Ok((Wake::none(), BUSY));
        }
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
        Ok((wake, until(self.parsed.after(&now).next(), now)))
    }

    /// Writes that the schedule counts from now on, for it is new or has changed; returns the time until its first tick.
    async fn begin(&self, conn: &mut PgConnection) -> Result<Duration, Error> {
        let now: (DateTime<Utc>,) = sqlx::query_as(
            "insert into queue.schedules (name, expression, last_tick) values ($1, $2, now())
             on conflict (name) do update set expression = $2, last_tick = now(), updated_at = now()
             returning now()",
        )
        .bind(&self.name)
        .bind(&self.expression)
        .fetch_one(conn)
        .await?;
        Ok(until(self.parsed.after(&now.0).next(), now.0))
    }

    /// Moves the last tick to now. False when another process does, or has.
    async fn take(&self, conn: &mut PgConnection, last: DateTime<Utc>) -> Result<bool, Error> {
        let taken = sqlx::query(
            "update queue.schedules set last_tick = now(), updated_at = now() where name = (
                select name from queue.schedules where name = $1 and expression = $2 and last_tick = $3
                for update skip locked)",
        )
        .bind(&self.name)
        .bind(&self.expression)
        .bind(last)
        .execute(conn)
        .await?;
        Ok(taken.rows_affected() > 0)
    }
}

/// When another process holds the row it is moving the tick itself.
const BUSY: Duration = Duration::from_secs(1);
/// The schedule's row is looked at now and then, for another process may have moved it.
const LOOK_MAX: Duration = Duration::from_secs(60);

fn until(next: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Duration {
    next.and_then(|next| (next - now).to_std().ok()).unwrap_or(LOOK_MAX).min(LOOK_MAX)
}
