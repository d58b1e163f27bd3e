//! Addresses, domains and handles never to be written to. Of a contact that was erased only hashes are kept.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use utoipa::ToSchema;
use uuid::Uuid;

use super::page::{Page, Rows};
use crate::{
    clock::iso_ms,
    domain::{address, text_enum},
    ids::new_id,
};

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

impl SuppressionKind {
    /// The form in which a value of this kind is stored and compared. None if it is none.
    pub fn normalise(self, value: &str) -> Option<String> {
        match self {
            Self::Email => address::normalise(value),
            Self::Domain => {
                let domain = value.trim().trim_start_matches('@');
                let address = address::normalise(&format!("anybody@{domain}"))?;
                address::domain_of(&address).map(str::to_owned)
            }
            Self::Instagram | Self::Twitter => address::normalise_handle(value),
        }
    }
}

/// Something that is never written to.
#[derive(Debug, Clone, PartialEq, Eq, FromRow, Serialize, ToSchema)]
pub struct Suppression {
    /// Its id.
    pub id: Uuid,
    /// What it is.
    pub kind: SuppressionKind,
    /// The address, domain or handle; of a contact that was erased a hash, with `sha256:` before it.
    pub value: String,
    /// Why.
    pub reason: SuppressionReason,
    /// Since when.
    #[serde(with = "iso_ms")]
    pub created_at: DateTime<Utc>,
}

/// Which suppressions to list; `None` is no condition.
#[derive(Debug, Clone, Copy, Default)]
pub struct SuppressionFilter {
    /// Of this kind.
    pub kind: Option<SuppressionKind>,
    /// For this reason.
    pub reason: Option<SuppressionReason>,
}

/// The suppressions of an account, the newest first.
pub async fn list(
    conn: &mut PgConnection,
    account_id: Uuid,
    filter: SuppressionFilter,
    page: Page,
) -> Result<Rows<Suppression>, sqlx::Error> {
    let rows = sqlx::query_as(
        "select id, kind, value, reason, created_at from suppressions
         where account_id = $1 and ($2::text is null or kind = $2) and ($3::text is null or reason = $3)
            and ($4::uuid is null or id < $4)
         order by id desc limit $5 offset $6",
    )
    .bind(account_id)
    .bind(filter.kind)
    .bind(filter.reason)
    .bind(page.after)
    .bind(page.fetch())
    .bind(page.offset)
    .fetch_all(conn)
    .await?;
    Ok(Rows::cut(rows, &page, |suppression: &Suppression| suppression.id))
}

/// How many suppressions [`list`] goes through.
pub async fn count(
    conn: &mut PgConnection,
    account_id: Uuid,
    filter: SuppressionFilter,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select count(*) from suppressions
         where account_id = $1 and ($2::text is null or kind = $2) and ($3::text is null or reason = $3)",
    )
    .bind(account_id)
    .bind(filter.kind)
    .bind(filter.reason)
    .fetch_one(conn)
    .await
}

/// Suppresses values in their stored form, each once; one that is suppressed already, be it as a hash, stays as it is. Returns those that are
/// new. Values are written in order, so that two calls wait for each other in one direction only.
pub async fn insert_many(
    conn: &mut PgConnection,
    account_id: Uuid,
    kind: SuppressionKind,
    values: &[String],
    reason: SuppressionReason,
) -> Result<Vec<Suppression>, sqlx::Error> {
    sqlx::query_as(
        "insert into suppressions (account_id, id, kind, value, reason)
         select $1, t.id, $3, t.value, $5 from unnest($2::uuid[], $4::text[]) as t(id, value)
         where not exists (select from suppressions s
            where s.account_id = $1 and s.kind = $3 and s.value = suppression_hash($1, t.value))
         order by t.value
         on conflict (account_id, kind, value) do nothing
         returning id, kind, value, reason, created_at",
    )
    .bind(account_id)
    .bind(values.iter().map(|_| new_id()).collect::<Vec<_>>())
    .bind(kind)
    .bind(values)
    .bind(reason)
    .fetch_all(conn)
    .await
}

/// Allows a value to be written to again. `None`: the account has no such suppression.
pub async fn delete(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<Suppression>, sqlx::Error> {
    sqlx::query_as(
        "delete from suppressions where account_id = $1 and id = $2 returning id, kind, value, reason, created_at",
    )
    .bind(account_id)
    .bind(id)
    .fetch_optional(conn)
    .await
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

#[cfg(test)]
mod tests {
    use super::SuppressionKind::{Domain, Email, Instagram, Twitter};

    #[test]
    fn values_are_brought_to_the_form_in_which_they_are_compared() {
        for (kind, value, stored) in [
            (Email, " Alex@Example.com", Some("alex@example.com")),
            (Email, "example.com", None),
            (Domain, "Example.COM ", Some("example.com")),
            (Domain, "@example.com", Some("example.com")),
            (Domain, "alex@example.com", None),
            (Domain, "localhost", None),
            (Instagram, "@The_Bell", Some("the_bell")),
            (Twitter, "1234", Some("1234")),
            (Twitter, "a b", None),
        ] {
            assert_eq!(kind.normalise(value).as_deref(), stored, "{kind} {value}");
        }
    }
}
