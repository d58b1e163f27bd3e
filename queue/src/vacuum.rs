//! Removes dead rows. Every move of a job leaves one behind, and at some thousand jobs a second the server's own vacuum, which
//! looks once a minute, lets a claim walk over more dead rows than there are jobs.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use crate::{Error, runtime::Shared, tick::within};

/// How often one looks whether enough jobs ended.
const LOOK: Duration = Duration::from_secs(1);
/// How many runs of this process have to end before it asks for the number of dead rows.
const ENDED: u32 = 2000;
/// A vacuum that runs for longer is given up: the server's own goes on with it.
const DEADLINE: Duration = Duration::from_secs(60);
/// The longest pause after a vacuum that removed little, because somebody holds an old snapshot.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The tables that jobs move through, and how each is vacuumed: beside everybody else's work, without giving room back to the
/// system, which would lock the table, and not at all while another process does it.
const TABLES: [(&str, &str); 4] = [
    ("ready", "vacuum (truncate false, skip_locked true) queue.ready"),
    ("running", "vacuum (truncate false, skip_locked true) queue.running"),
    ("deferred", "vacuum (truncate false, skip_locked true) queue.deferred"),
    ("keys", "vacuum (truncate false, skip_locked true) queue.keys"),
];

/// When to vacuum next.
pub(crate) struct Vacuum {
    not_before: Instant,
    pause: Duration,
}

impl Default for Vacuum {
    fn default() -> Self {
        Self { not_before: Instant::now(), pause: LOOK }
    }
}

impl Vacuum {
    /// Vacuums what needs it; returns when to look again.
    pub(crate) async fn tick(&mut self, shared: &Shared) -> Result<Duration, Error> {
        if Instant::now() < self.not_before || shared.ended.load(Ordering::Relaxed) < ENDED {
            return Ok(LOOK);
        }
        shared.ended.store(0, Ordering::Relaxed);
        let before = dead_rows(shared).await?;
        for (table, vacuum) in TABLES {
            if before.iter().any(|(name, _)| name == table) {
                run(shared, vacuum).await?;
            }
        }
        if !before.is_empty() {
            let sum = |rows: &[(String, i64)]| rows.iter().map(|(_, dead)| dead).sum::<i64>();
            let futile = sum(&dead_rows(shared).await?) > sum(&before) / 2;
            self.pause = if futile { (self.pause * 2).min(PAUSE_MAX) } else { LOOK };
            self.not_before = Instant::now() + self.pause;
        }
        Ok(LOOK)
    }
}

/// Runs a vacuum, without a word when another process has the table in hand.
async fn run(shared: &Shared, vacuum: &'static str) -> Result<(), Error> {
    let mut conn = shared.pool.acquire().await?;
    let statements = async {
        sqlx::query("set client_min_messages = error").execute(&mut *conn).await?;
        sqlx::raw_sql(vacuum).execute(&mut *conn).await?;
        sqlx::query("reset client_min_messages").execute(&mut *conn).await
    };
    let failed = match tokio::time::timeout(DEADLINE, statements).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => error.into(),
        Err(_) => Error::Deadline(DEADLINE),
    };
    // Its session may still be the silent one.
    drop(conn.detach());
    Err(failed)
}

/// The tables with more dead rows than are worth their walk: some thousands, and a twentieth of the living.
async fn dead_rows(shared: &Shared) -> Result<Vec<(String, i64)>, Error> {
    let dead = sqlx::query_as(
        "select relname::text, n_dead_tup from pg_stat_user_tables
         where schemaname = 'queue' and relname = any ($1) and n_dead_tup > greatest(4000, n_live_tup / 20)",
    )
    .bind(TABLES.map(|(table, _)| table).to_vec());
    within(dead.fetch_all(&shared.pool)).await
}
