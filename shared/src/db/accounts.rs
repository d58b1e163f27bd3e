//! The accounts: every other row belongs to one.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::ids::new_id;

/// A customer of this installation.
#[derive(Debug, Clone, FromRow)]
pub struct Account {
    /// The account's id.
    pub id: Uuid,
    /// What its operator calls it.
    pub name: String,
    /// The plan whose limits hold for it.
    pub plan: String,
    /// When it was created.
    pub created_at: DateTime<Utc>,
}

/// The name of the account that the first start creates.
const FIRST_ACCOUNT: &str = "default";

/// The lock under which the first account is made, so that replicas that start together make one.
const BOOTSTRAP_LOCK: i64 = 0x6972_6973_0001;

/// The oldest account.
pub async fn find_first(conn: &mut PgConnection) -> Result<Option<Account>, sqlx::Error> {
    sqlx::query_as("select id, name, plan, created_at from accounts order by created_at, id limit 1")
        .fetch_optional(conn)
        .await
}

/// Creates an account with the plan that has no limits.
pub async fn create(conn: &mut PgConnection, name: &str) -> Result<Account, sqlx::Error> {
    sqlx::query_as("insert into accounts (id, name) values ($1, $2) returning id, name, plan, created_at")
        .bind(new_id())
        .bind(name)
        .fetch_one(conn)
        .await
}

/// The oldest account, which is created when there is none. Until the transaction ends, other callers wait.
pub async fn ensure_first(conn: &mut PgConnection) -> Result<Account, sqlx::Error> {
    sqlx::query("select pg_advisory_xact_lock($1)").bind(BOOTSTRAP_LOCK).execute(&mut *conn).await?;
    match find_first(conn).await? {
        Some(account) => Ok(account),
        None => create(conn, FIRST_ACCOUNT).await,
    }
}
