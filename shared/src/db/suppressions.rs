//! Addresses, domains and handles never to be written to. Of a contact that was erased only hashes are kept.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::{domain::text_enum, ids::new_id};

text_enum! {
    /// What is suppressed.
    SuppressionKind {
        /// One address.
        Email = "email",
        /// Every address of a domain.
        Domain = "domain",
        /// One Instagram handle.
        Instagram = "instagram",
        /// One Twitter id or handle.
        Twitter = "twitter",
    }
}

text_enum! {
    /// Why.
    SuppressionReason {
        /// It refused a message for good.
        Bounced = "bounced",
        /// Its owner asked to stop.
        OptedOut = "opted_out",
        /// Its owner called a message spam.
        Complained = "complained",
        /// The account says so.
        Manual = "manual",
        /// Its contact was erased.
        Erased = "erased",
    }
}

/// Suppresses a value, lower case; one that is suppressed already stays as it is. Returns whether it is new.
pub async fn insert(
    conn: &mut PgConnection,
    account_id: Uuid,
    kind: SuppressionKind,
    value: &str,
    reason: SuppressionReason,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "insert into suppressions (account_id, id, kind, value, reason) values ($1, $2, $3, $4, $5)
         on conflict (account_id, kind, value) do nothing",
    )
    .bind(account_id)
    .bind(new_id())
    .bind(kind)
    .bind(value)
    .bind(reason)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() > 0)
}
