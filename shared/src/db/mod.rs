//! Every SQL statement of iris but the queue's: free functions, one file per table, the caller owns the transaction.

use std::{
    ops::{Deref, DerefMut},
    str::FromStr,
    time::Duration,
};

use queue::{EnqueueError, Enqueued, NewJob, Notifier, Wake};
use sqlx::{
    ConnectOptions, PgConnection, PgPool, Postgres, Transaction,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};

pub mod accounts;
pub mod analytics;
pub mod api_keys;
pub mod attempts;
pub mod audit;
pub mod campaigns;
pub mod channel_accounts;
pub mod contacts;
pub mod conversations;
pub mod deliveries;
pub mod discovery_jobs;
pub mod endpoint_health;
pub mod endpoints;
pub mod enrolments;
pub mod erasure;
pub mod inbound_emails;
pub mod messages;
pub mod notifications;
pub mod outbox;
pub mod page;
pub mod partitions;
pub mod places;
pub mod rate_windows;
pub mod redeliveries;
pub mod replays;
pub mod stranded;
pub mod suppressions;
pub mod target_profiles;
pub mod undelivered;

/// How long one statement may take. Imports and activations of thousands of rows stay far below.
const STATEMENT_TIMEOUT: &str = "30s";
/// How long a statement waits for a lock before it gives up.
const LOCK_TIMEOUT: &str = "10s";
/// The same for a migration, which may wait for another process that migrates.
const MIGRATION_LOCK_TIMEOUT: &str = "15min";
/// How long a caller waits for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a caller waits for the answer to a BEGIN, COMMIT or ROLLBACK. The server's own deadlines are shorter: this one
/// is for a server that has gone without a word.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

/// The database of a process: its pool, and the one notifier that wakes claimers after commits.
#[derive(Debug, Clone)]
pub struct Database {
    pool: PgPool,
    notifier: Notifier,
}

impl Database {
    /// Makes the pool; connections are opened when they are first needed. `url` is DATABASE_URL.
    pub fn connect(url: &str, name: &str, connections_max: u32) -> Result<Self, sqlx::Error> {
        let pool = PgPoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(connect_options(url, name)?);
        Ok(Self { notifier: Notifier::start(&pool), pool })
    }

    /// Begins a transaction.
    pub async fn begin(&self) -> Result<Tx, sqlx::Error> {
        Ok(Tx {
            inner: answered(self.pool.begin()).await?,
            wake: Wake::none(),
            notifier: self.notifier.clone(),
        })
    }

    /// The pool, for reads that need no transaction.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The notifier, for the queue's runtime.
    pub fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// Closes all connections once they are given back.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// The options of every connection of iris: its name and its deadlines.
pub fn connect_options(url: &str, name: &str) -> Result<PgConnectOptions, sqlx::Error> {
    // The parser takes any scheme, and would look for a PostgreSQL where there is another database.
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(sqlx::Error::Configuration("must begin with postgres://".into()));
    }
    Ok(PgConnectOptions::from_str(url)?.application_name(name).options([
        ("statement_timeout", STATEMENT_TIMEOUT),
        ("lock_timeout", LOCK_TIMEOUT),
        ("idle_in_transaction_session_timeout", "60s"),
        ("timezone", "UTC"),
        ("jit", "off"),
    ]))
}

/// A transaction that knows which claimers to wake when it commits. It is a `PgConnection` to every `db` function.
#[derive(Debug)]
pub struct Tx {
    inner: Transaction<'static, Postgres>,
    wake: Wake,
    notifier: Notifier,
}

impl Tx {
    /// Enqueues jobs, to be woken after the commit.
    pub async fn enqueue(&mut self, jobs: &[NewJob]) -> Result<Vec<Enqueued>, EnqueueError> {
        let (outcomes, wake) = queue::enqueue(&mut self.inner, jobs).await?;
        self.wake.merge(wake);
        Ok(outcomes)
    }

    /// Adds a wake that a queue function returned.
    pub fn wake(&mut self, wake: Wake) {
        self.wake.merge(wake);
    }

    /// Commits, then wakes.
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        answered(self.inner.commit()).await?;
        self.notifier.send(self.wake);
        Ok(())
    }

    /// Undoes everything. Dropping does the same.
    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        answered(self.inner.rollback()).await
    }
}

fn answered<T>(
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> impl Future<Output = Result<T, sqlx::Error>> {
    let silent = |_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()));
    // Boxed, for its state is large and would be copied into that of every caller.
    let work = tokio::time::timeout(ANSWER_TIMEOUT, Box::pin(work));
    async move { work.await.unwrap_or_else(silent) }
}

impl Deref for Tx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.inner
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.inner
    }
}

macro_rules! migration {
    ($version:literal, $description:literal, $file:literal) => {
        Migration::new(
            $version,
            $description.into(),
            MigrationType::Simple,
            sqlx::SqlStr::from_static(include_str!(concat!("../../../migrations/", $file))),
            false,
        )
    };
}

/// All migrations, the queue's and ours, in the order of their versions.
fn migrator() -> Migrator {
    let mut migrations = queue::migrations();
    migrations.extend([
        migration!(20_261_101_000_100, "accounts create", "20261101000100_accounts_create.sql"),
        migration!(20_261_101_000_200, "campaigns create", "20261101000200_campaigns_create.sql"),
        migration!(20_261_101_000_300, "endpoints create", "20261101000300_endpoints_create.sql"),
        migration!(20_261_101_000_400, "campaigns index", "20261101000400_campaigns_index.sql"),
        migration!(20_261_101_000_500, "outbox trace", "20261101000500_outbox_trace.sql"),
        migration!(20_261_101_000_600, "endpoints circuit", "20261101000600_endpoints_circuit.sql"),
        migration!(20_261_101_000_700, "deliveries again", "20261101000700_deliveries_again.sql"),
        migration!(20_261_101_000_800, "history retention", "20261101000800_history_retention.sql"),
        migration!(20_261_101_000_900, "rate windows create", "20261101000900_rate_windows_create.sql"),
        migration!(20_261_101_001_000, "notifications index", "20261101001000_notifications_index.sql"),
        migration!(20_261_101_001_100, "target profiles create", "20261101001100_target_profiles_create.sql"),
        migration!(20_261_101_001_200, "contacts former", "20261101001200_contacts_former.sql"),
        migration!(20_261_101_001_300, "analytics index", "20261101001300_analytics_index.sql"),
    ]);
    migrations.sort_by_key(|migration| migration.version);
    Migrator::with_migrations(migrations)
}

/// Brings the schema up to date. Safe to run from many processes at once: one does it, the others wait. It has its
/// connection to itself, without the deadlines of those that serve people: an index on a big table takes its time.
pub async fn migrate(pool: &PgPool) -> Result<(), MigrateError> {
    let patient = (*pool.connect_options())
        .clone()
        .options([("statement_timeout", "0"), ("lock_timeout", MIGRATION_LOCK_TIMEOUT)])
        // A slow statement would be logged with its text, which is the whole file.
        .disable_statement_logging();
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(patient);
    let migrated = migrator().run(&pool).await;
    pool.close().await;
    migrated
}

/// The newest version this program knows.
pub fn newest_migration() -> i64 {
    migrator().iter().map(|migration| migration.version).max().unwrap_or_default()
}

/// The newest version that the database has.
pub async fn applied_migration(pool: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select coalesce(max(version), 0) from _sqlx_migrations where success")
        .fetch_one(pool)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_has_gone_is_given_up() {
        let error = answered(std::future::pending::<Result<(), _>>()).await.unwrap_err();
        assert!(matches!(error, sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut));
    }
}
