//! Messages. Many are always locked in the order of their ids; those of an enrolment only under its lock, but for the
//! marks of a pause.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::page::{Page, Rows};
use crate::domain::{
    Channel,
    message::{BlockedReason, Direction, Message, MessageStatus},
    reply::{Intent, Sentiment},
};

/// The columns of a [`Message`]. An approved step of a paused campaign shows that; what it waited for before is kept and
/// shown again when the campaign is resumed.
macro_rules! columns {
    () => {
        columns!(
            "case when is_paused_step(account_id, campaign_id, enrolment_id, status) then 'campaign_paused'
                else blocked_reason end as blocked_reason,
             case when not is_paused_step(account_id, campaign_id, enrolment_id, status) then next_attempt_at
                end as next_attempt_at"
        )
    };
    ($waiting:literal) => {
        concat!(
            "account_id, id, conversation_id, campaign_id, contact_id, enrolment_id, step, direction, channel,
             channel_account_id, status, subject, content, variables, rfc_message_id, in_reply_to, order_number, crossed, ",
            $waiting,
            ", due_at, error, model, intent, sentiment, created_at, updated_at, approved_at, sending_at, sent_at"
        )
    };
}

/// The columns of a [`Message`] and its table, where people look at it: one that could leave but for its mailbox's
/// closed lane shows what the lane waits for.
macro_rules! shown {
    () => {
        concat!(
            columns!(
                "case when is_paused_step(account_id, campaign_id, enrolment_id, status) then 'campaign_paused'
                    else coalesce(blocked_reason, lane.waits_for) end as blocked_reason,
                 case when not is_paused_step(account_id, campaign_id, enrolment_id, status)
                    then greatest(next_attempt_at, lane.open_at) end as next_attempt_at"
            ),
            " from messages left join lateral (
                select coalesce(l.reason, 'mailbox_paused') as waits_for, l.closed_until as open_at
                from queue.lanes l
                where l.queue = 'send' and l.lane = messages.channel_account_id::text
                    and (l.paused or l.closed_until > now())
                    and messages.status in ('approved', 'scheduled') and coalesce(messages.due_at, now()) <= now()
             ) lane on true"
        )
    };
}

mod decide;
mod sending;

pub use decide::{
    cancel_of_campaign, cancel_of_enrolments, lock_approved, record_approved, record_rejected, release_capped,
};
pub use sending::{
    MarkRow, SendRow, cap_wait_ms, find_recipient, find_to_mark, find_to_send, record_arrived,
    record_arrived_early, record_cancelled, record_mailbox, record_put_back, record_refused, record_sending,
    record_sent, record_unapproved, record_unknown, record_waiting,
};

/// A message to be written.
#[derive(Debug, Clone)]
pub struct NewMessage<'a> {
    /// Whose it is.
    pub account_id: Uuid,
    /// Its id.
    pub id: Uuid,
    /// The conversation.
    pub conversation_id: Uuid,
    /// The campaign.
    pub campaign_id: Uuid,
    /// The contact.
    pub contact_id: Uuid,
    /// The passage it is a step of.
    pub enrolment_id: Option<Uuid>,
    /// Which step.
    pub step: Option<i32>,
    /// Which way it goes.
    pub direction: Direction,
    /// How it travels.
    pub channel: Channel,
    /// The mailbox or profile.
    pub channel_account_id: Option<Uuid>,
    /// Where it stands; one that is approved gets the time.
    pub status: MessageStatus,
    /// The subject.
    pub subject: Option<&'a str>,
    /// The text.
    pub content: &'a str,
    /// What filled its template.
    pub variables: &'a Value,
    /// Its Message-ID, with angle brackets.
    pub rfc_message_id: Option<&'a str>,
    /// The Message-ID that it answers.
    pub in_reply_to: Option<&'a str>,
    /// Its place among the sending marks and replies of its enrolment.
    pub order_number: Option<i64>,
    /// What it waits for, but for its campaign to be resumed: the campaign says that.
    pub blocked_reason: Option<BlockedReason>,
    /// When its step is due.
    pub due_at: Option<DateTime<Utc>>,
    /// What wrote it.
    pub model: Option<&'a str>,
    /// What an inbound one wants.
    pub intent: Option<Intent>,
    /// How an inbound one sounds.
    pub sentiment: Option<Sentiment>,
}

/// Writes a message; None when its step or its Message-ID has one already.
pub async fn insert(conn: &mut PgConnection, new: &NewMessage<'_>) -> Result<Option<Message>, sqlx::Error> {
    sqlx::query_as(concat!(
        "insert into messages (account_id, id, conversation_id, campaign_id, contact_id, enrolment_id, step, direction,
            channel, channel_account_id, status, subject, content, variables, rfc_message_id, in_reply_to, order_number,
            blocked_reason, due_at, model, intent, sentiment, approved_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
            case when $11 in ('approved', 'scheduled') then now() end)
         on conflict do nothing returning ",
        columns!()
    ))
    .bind(new.account_id)
    .bind(new.id)
    .bind(new.conversation_id)
    .bind(new.campaign_id)
    .bind(new.contact_id)
    .bind(new.enrolment_id)
    .bind(new.step)
    .bind(new.direction)
    .bind(new.channel)
    .bind(new.channel_account_id)
    .bind(new.status)
    .bind(new.subject)
    .bind(new.content)
    .bind(new.variables)
    .bind(new.rfc_message_id)
    .bind(new.in_reply_to)
    .bind(new.order_number)
    .bind(new.blocked_reason)
    .bind(new.due_at)
    .bind(new.model)
    .bind(new.intent)
    .bind(new.sentiment)
    .fetch_optional(conn)
    .await
}

/// A message.
pub async fn find(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<Message>, sqlx::Error> {
    sqlx::query_as(concat!("select ", shown!(), " where account_id = $1 and id = $2"))
        .bind(account_id)
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// Locks messages.
pub async fn lock_many(
    conn: &mut PgConnection,
    account_id: Uuid,
    ids: &[Uuid],
) -> Result<Vec<Message>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from messages where account_id = $1 and id = any ($2) order by id for no key update"
    ))
    .bind(account_id)
    .bind(ids)
    .fetch_all(conn)
    .await
}

/// The messages of an enrolment, by step; there is one for each step at most.
pub async fn list_of_enrolment(
    conn: &mut PgConnection,
    account_id: Uuid,
    enrolment_id: Uuid,
) -> Result<Vec<Message>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from messages
         where account_id = $1 and enrolment_id = $2 and step is not null order by step limit 100"
    ))
    .bind(account_id)
    .bind(enrolment_id)
    .fetch_all(conn)
    .await
}

/// The drafts that wait for approval, newest first.
pub async fn list_pending(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Option<Uuid>,
    page: Page,
) -> Result<Rows<Message>, sqlx::Error> {
    let rows = sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from messages
         where account_id = $1 and status = 'pending' and ($2::uuid is null or campaign_id = $2)
            and ($3::uuid is null or id < $3)
         order by id desc limit $4 offset $5"
    ))
    .bind(account_id)
    .bind(campaign_id)
    .bind(page.after)
    .bind(page.fetch())
    .bind(page.offset)
    .fetch_all(conn)
    .await?;
    Ok(Rows::cut(rows, &page, |message: &Message| message.id))
}

/// How many drafts [`list_pending`] has in all.
pub async fn count_pending(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Option<Uuid>,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select count(*) from messages
         where account_id = $1 and status = 'pending' and ($2::uuid is null or campaign_id = $2)",
    )
    .bind(account_id)
    .bind(campaign_id)
    .fetch_one(conn)
    .await
}

/// The messages of a conversation over all channels, newest first.
pub async fn list_by_conversation(
    conn: &mut PgConnection,
    account_id: Uuid,
    conversation_id: Uuid,
    page: Page,
) -> Result<Rows<Message>, sqlx::Error> {
    let rows = sqlx::query_as(concat!(
        "select ",
        shown!(),
        " where account_id = $1 and conversation_id = $2 and ($3::uuid is null or id < $3)
         order by id desc limit $4 offset $5"
    ))
    .bind(account_id)
    .bind(conversation_id)
    .bind(page.after)
    .bind(page.fetch())
    .bind(page.offset)
    .fetch_all(conn)
    .await?;
    Ok(Rows::cut(rows, &page, |message: &Message| message.id))
}

/// How many messages a conversation has.
pub async fn count_by_conversation(
    conn: &mut PgConnection,
    account_id: Uuid,
    conversation_id: Uuid,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from messages where account_id = $1 and conversation_id = $2")
        .bind(account_id)
        .bind(conversation_id)
        .fetch_one(conn)
        .await
}

/// The newest draft of a conversation that waits for approval.
pub async fn find_draft_of_conversation(
    conn: &mut PgConnection,
    account_id: Uuid,
    conversation_id: Uuid,
) -> Result<Option<Message>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from messages
         where account_id = $1 and conversation_id = $2 and status = 'pending'
         order by id desc limit 1"
    ))
    .bind(account_id)
    .bind(conversation_id)
    .fetch_optional(conn)
    .await
}

/// The first of these Message-IDs that one of our messages has, and that message.
pub async fn find_by_rfc_ids(
    conn: &mut PgConnection,
    account_id: Uuid,
    rfc_message_ids: &[String],
) -> Result<Option<Message>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from messages
         where account_id = $1 and rfc_message_id = any ($2) and direction = 'outbound'
         order by array_position($2, rfc_message_id) limit 1"
    ))
    .bind(account_id)
    .bind(rfc_message_ids)
    .fetch_optional(conn)
    .await
}

/// The message, inbound or outbound, that has a Message-ID.
pub async fn find_by_rfc_id(
    conn: &mut PgConnection,
    account_id: Uuid,
    rfc_message_id: &str,
) -> Result<Option<Message>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from messages where account_id = $1 and rfc_message_id = $2"
    ))
    .bind(account_id)
    .bind(rfc_message_id)
    .fetch_optional(conn)
    .await
}

/// The message of a conversation whose body left last.
pub async fn find_last_sent(
    conn: &mut PgConnection,
    account_id: Uuid,
    conversation_id: Uuid,
) -> Result<Option<Message>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from messages
         where account_id = $1 and conversation_id = $2 and sending_at is not null
         order by sending_at desc, id desc limit 1"
    ))
    .bind(account_id)
    .bind(conversation_id)
    .fetch_optional(conn)
    .await
}
