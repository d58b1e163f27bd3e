//! Every mail that arrived, once per mailbox and Message-ID.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use super::page::{Page, Rows};
use crate::{clock::iso_ms, domain::text_enum};

text_enum! {
    /// What an inbound mail was taken for.
    InboundKind {
        /// A person's answer.
        Reply = "reply",
        /// A machine's note.
        AutoReply = "auto_reply",
        /// A delivery status notification that matched a message.
        Bounce = "bounce",
        /// Nothing that we wrote.
        Unmatched = "unmatched",
    }
}

/// A mail to be stored.
#[derive(Debug, Clone, Copy)]
pub struct NewInboundEmail<'a> {
    /// Whose mailbox.
    pub account_id: Uuid,
    /// The mailbox.
    pub channel_account_id: Uuid,
    /// The new row's id.
    pub id: Uuid,
    /// Its Message-ID, with angle brackets.
    pub rfc_message_id: &'a str,
    /// Who wrote.
    pub from_address: Option<&'a str>,
    /// Its subject.
    pub subject: Option<&'a str>,
    /// What it was taken for.
    pub kind: InboundKind,
    /// The message that it became, or the one that it is about.
    pub message_id: Option<Uuid>,
    /// The whole mail.
    pub raw: &'a [u8],
}

/// A mail that matched nothing, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, Serialize, ToSchema)]
pub struct UnmatchedEmail {
    /// Its id.
    pub id: Uuid,
    /// The mailbox it came to.
    pub channel_account_id: Uuid,
    /// Its Message-ID.
    pub rfc_message_id: String,
    /// Who wrote.
    pub from_address: Option<String>,
    /// Its subject.
    pub subject: Option<String>,
    /// When it arrived.
    #[serde(with = "iso_ms")]
    pub received_at: DateTime<Utc>,
}

/// Stores a mail; false when its mailbox has one with the same Message-ID. Waits for a transaction that is storing the
/// same one.
pub async fn insert(conn: &mut PgConnection, email: &NewInboundEmail<'_>) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "insert into inbound_emails (account_id, id, channel_account_id, rfc_message_id, from_address, subject, kind,
            message_id, raw)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         on conflict (account_id, channel_account_id, rfc_message_id) do nothing",
    )
    .bind(email.account_id)
    .bind(email.id)
    .bind(email.channel_account_id)
    .bind(email.rfc_message_id)
    .bind(email.from_address)
    .bind(email.subject)
    .bind(email.kind)
    .bind(email.message_id)
    .bind(email.raw)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// The mails that matched nothing, newest first.
pub async fn list_unmatched(
    conn: &mut PgConnection,
    account_id: Uuid,
    page: Page,
) -> Result<Rows<UnmatchedEmail>, sqlx::Error> {
    let rows = sqlx::query_as(
        "select id, channel_account_id, rfc_message_id, from_address, subject, received_at from inbound_emails
         where account_id = $1 and kind = 'unmatched' and ($2::uuid is null or id < $2)
         order by id desc limit $3 offset $4",
    )
    .bind(account_id)
    .bind(page.after)
    .bind(page.fetch())
    .bind(page.offset)
    .fetch_all(conn)
    .await?;
    Ok(Rows::cut(rows, &page, |email: &UnmatchedEmail| email.id))
}

/// How many mails [`list_unmatched`] goes through.
pub async fn count_unmatched(conn: &mut PgConnection, account_id: Uuid) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from inbound_emails where account_id = $1 and kind = 'unmatched'")
        .bind(account_id)
        .fetch_one(conn)
        .await
}
