//! What the unit tests that need a database share.

use serde::{Deserialize, Serialize};
use sqlx::{PgPool, migrate::Migrator};
use testkit::TestDatabase;

use crate::JobKind;

/// A job about which nothing is to be known.
#[derive(Serialize, Deserialize)]
pub(crate) struct Nothing {}

impl JobKind for Nothing {
    const QUEUE: &'static str = "nothing";
}

/// A database with the queue's tables.
pub(crate) async fn database() -> TestDatabase {
    let migrate = async |pool: &PgPool| Ok(Migrator::with_migrations(crate::migrations()).run(pool).await?);
    TestDatabase::create_from("queue", migrate).await
}
