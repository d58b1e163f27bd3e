//! One database per test, made in milliseconds from a template and dropped with its value.

use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, ensure};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool};
use uuid::Uuid;

use crate::{check_payload, server_url};

/// The connections of one test.
const POOL_CONNECTIONS_MAX: u32 = 10;
/// How long the end of a test may wait for its database to be dropped.
const DROP_DEADLINE: Duration = Duration::from_secs(5);
/// How long it may wait for the events in it to be judged.
const JUDGE_DEADLINE: Duration = Duration::from_secs(60);
/// How many events that are wrong one test shows.
const WRONG_MAX: usize = 5;

/// A database of its own for one test, dropped with this value.
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
    url: String,
    pool: PgPool,
    server: PgConnectOptions,
    judges_events: bool,
}

impl TestDatabase {
    /// Makes an empty database.
    ///
    /// # Panics
    ///
    /// Panics with the reason when it cannot be made.
    pub async fn create() -> Self {
        Self::make(None).await
    }

    /// Makes a database as `migrate` leaves it.
    ///
    /// The first caller on the server runs `migrate` on a template named by `template_key`; all the others get a
    /// copy. On a server that outlives the run (`IRIS_TEST_DATABASE_URL` set by hand) so does the template: a key
    /// must change with what its `migrate` makes.
    ///
    /// # Panics
    ///
    /// Panics with the reason when the key is not made of at most 50 of `a-z`, `0-9` and `_`, when `migrate` fails,
    /// or when a database cannot be made.
    pub async fn create_from<F>(template_key: &str, migrate: F) -> Self
    where
        F: AsyncFnOnce(&PgPool) -> anyhow::Result<()>,
    {
        let url = server_url().await;
        match ensure_template(&url, template_key, migrate).await {
            Ok(template) => Self::make(Some(&template)).await,
            Err(error) => panic!("the template {template_key:?} was not made: {error:#}"),
        }
    }

    async fn make(template: Option<&str>) -> Self {
        let url = server_url().await;
        match Self::try_make(&url, template).await {
            Ok(database) => database,
            Err(error) => panic!("a test database was not made: {error:#}"),
        }
    }

    async fn try_make(server_url: &str, template: Option<&str>) -> anyhow::Result<Self> {
        let name = format!("t_{}", Uuid::new_v4().simple());
        let server = options(server_url)?;
        let mut admin = server.connect().await.context("connect to the test server")?;
        let template = template.map(|template| format!(" TEMPLATE {template}")).unwrap_or_default();
        execute(&mut admin, format!("CREATE DATABASE {name}{template}")).await?;
        admin.close().await?;
        let pool = pool(server.clone().database(&name));
        Ok(Self { url: with_database(server_url, &name), name, pool, server, judges_events: false })
    }

    /// The same, with the tables of iris in the end: when it is dropped, the test fails unless every event in its outbox
    /// and its history is what docs/events.json says.
    #[must_use]
    pub fn judging_events(mut self) -> Self {
        self.judges_events = true;
        self
    }

    /// The pool of this test; it connects when it is used.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The address of this database, for another process or another pool.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // A test that has failed says why without this.
        let judged = (self.judges_events && !std::thread::panicking())
            .then(|| apart(JUDGE_DEADLINE, move || judge_events(&server.database(&name))));
        let (server, name) = (self.server.clone(), self.name.clone());
        match apart(DROP_DEADLINE, move || drop_database(&server, &name)) {
            Some(Ok(())) => {}
            // The server ends with the run, so a database left behind fails no test.
            Some(Err(error)) => eprintln!("the test database {} was not dropped: {error:#}", self.name),
            None => eprintln!("the test database {} was not dropped within {DROP_DEADLINE:?}", self.name),
        }
        match judged {
            None | Some(Some(Ok(()))) => {}
            Some(Some(Err(error))) => panic!("{error:#}"),
            Some(None) => panic!("the events were not judged within {JUDGE_DEADLINE:?}"),
        }
    }
}

/// Runs what needs a runtime of its own, and waits for it: dropping cannot wait for a future, and the test's runtime may be
/// the one that drops. None when it takes too long.
fn apart<T: Send + 'static>(deadline: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, outcome) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    outcome.recv_timeout(deadline).ok()
}

/// Fails if an event is not what the documentation says.
fn judge_events(database: &PgConnectOptions) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let bodies: Vec<String> = runtime
        .block_on(async {
            let mut conn = database.connect().await?;
            // Iris writes none that is empty; tests fill a long history with such.
            sqlx::query_scalar(
                "SELECT body FROM (SELECT body FROM outbox UNION ALL SELECT body FROM events) e WHERE body <> '{}'",
            )
            .fetch_all(&mut conn)
            .await
        })
        .context("the events of the test cannot be read")?;
    let wrong: Vec<String> =
        bodies.iter().filter_map(|body| check_payload(body).err()).take(WRONG_MAX).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn drop_database(server: &PgConnectOptions, name: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut admin = server.connect().await?;
        execute(&mut admin, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
        Ok(admin.close().await?)
    })
}

/// Makes the template of a key unless it is there, and returns its name.
async fn ensure_template<F>(url: &str, key: &str, migrate: F) -> anyhow::Result<String>
where
    F: AsyncFnOnce(&PgPool) -> anyhow::Result<()>,
{
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    ensure!(!key.is_empty() && key.len() <= 50 && key.chars().all(valid), "the key is not a name");
    let name = format!("template_{key}");
    let server = options(url)?;
    let mut admin = server.connect().await.context("connect to the test server")?;
    // Held by the session, since CREATE DATABASE takes no part in a transaction; it ends with the connection.
    sqlx::query("SELECT pg_advisory_lock(hashtext($1))").bind(&name).execute(&mut admin).await?;
    // A template that was begun and not finished lacks the mark.
    let finished: Option<bool> =
        sqlx::query_scalar("SELECT datistemplate FROM pg_database WHERE datname = $1")
            .bind(&name)
            .fetch_optional(&mut admin)
            .await?;
    if finished != Some(true) {
        execute(&mut admin, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
        execute(&mut admin, format!("CREATE DATABASE {name}")).await?;
        let pool = pool(server.database(&name));
        let migrated = migrate(&pool).await;
        pool.close().await;
        migrated?;
        // With nobody connected to it a database can be copied at any time.
        execute(&mut admin, format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await?;
        execute(&mut admin, format!("ALTER DATABASE {name} IS_TEMPLATE true")).await?;
    }
    admin.close().await?;
    Ok(name)
}

fn options(url: &str) -> anyhow::Result<PgConnectOptions> {
    url.parse().context("IRIS_TEST_DATABASE_URL is not the address of a PostgreSQL")
}

fn pool(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new().max_connections(POOL_CONNECTIONS_MAX).connect_lazy_with(options)
}

/// Runs one statement that names a database, which no parameter can.
async fn execute(admin: &mut PgConnection, sql: String) -> anyhow::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql.as_str())).execute(admin).await.with_context(|| sql.clone())?;
    Ok(())
}

/// The address of another database on the same server.
fn with_database(url: &str, name: &str) -> String {
    let (address, parameters) = url.split_once('?').map_or((url, None), |(a, p)| (a, Some(p)));
    let authority = address.find("://").map_or(0, |at| at + 3);
    let server = address[authority..].find('/').map_or(address, |at| &address[..authority + at]);
    let parameters = parameters.map(|parameters| format!("?{parameters}")).unwrap_or_default();
    format!("{server}/{name}{parameters}")
}

#[cfg(test)]
mod tests {
    use super::with_database;

    #[test]
    fn another_database_keeps_the_server() {
        for (url, expected) in [
            (
                "postgres://u:p@h:1/postgres?host=/a/b&sslmode=disable",
                "postgres://u:p@h:1/t?host=/a/b&sslmode=disable",
            ),
            ("postgres://u:p@h:1/postgres", "postgres://u:p@h:1/t"),
            ("postgres://u:p@h:1", "postgres://u:p@h:1/t"),
            ("postgres://u@h?host=/a/b", "postgres://u@h/t?host=/a/b"),
        ] {
            assert_eq!(with_database(url, "t"), expected);
        }
    }
}
