//! What decides whether a message may leave, and what became of it.

use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use crate::domain::{
    Channel,
    campaign::{CampaignStatus, Sender},
    enrolment::EnrolmentStatus,
    message::{BlockedReason, Message, MessageStatus},
    send_window::SendWindow,
};

/// How many earlier messages of a conversation a message refers to.
const REFERENCES_MAX: i64 = 20;

/// Everything that decides whether a message may leave, in one row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct SendRow {
    /// The message.
    pub message_id: Uuid,
    /// The campaign.
    pub campaign_id: Uuid,
    /// The contact.
    pub contact_id: Uuid,
    /// The passage; None for a direct send.
    pub enrolment_id: Option<Uuid>,
    /// The step; None for a direct send.
    pub step: Option<i32>,
    /// Where the message stands.
    pub status: MessageStatus,
    /// How it travels.
    pub channel: Channel,
    /// The mailbox or profile.
    pub channel_account_id: Option<Uuid>,
    /// The subject.
    pub subject: Option<String>,
    /// The text.
    pub content: String,
    /// Its Message-ID.
    pub rfc_message_id: Option<String>,
    /// Where the campaign stands.
    pub campaign_status: CampaignStatus,
    /// Who signs.
    pub sender: Json<Sender>,
    /// When messages may leave.
    pub send_window: Option<Json<SendWindow>>,
    /// How many may leave in a day.
    pub daily_cap: Option<i32>,
    /// Where the passage stands; None for a direct send.
    pub enrolment_status: Option<EnrolmentStatus>,
    /// The contact's address on the channel.
    pub recipient: Option<String>,
    /// First and last name of the contact.
    pub recipient_name: String,
    /// The contact was deleted, asked to stop, or is never to be written to.
    pub suppressed: bool,
    /// The Message-IDs of the conversation before it, oldest first. A follow-up refers to what we sent, a direct send
    /// to what the contact wrote too, but for the notes of machines.
    pub thread: Vec<String>,
}

/// What decides whether a message may leave.
pub async fn find_to_send(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<SendRow>, sqlx::Error> {
    sqlx::query_as(
        "select m.id as message_id, m.campaign_id, m.contact_id, m.enrolment_id, m.step, m.status, m.channel, m.channel_account_id,
            m.subject, m.content, m.rfc_message_id, a.status as campaign_status, a.sender, a.send_window, a.daily_cap,
            e.status as enrolment_status,
            case m.channel when 'email' then c.email when 'instagram' then c.instagram_handle
                else coalesce(c.twitter_user_id, c.twitter_handle) end as recipient,
            concat_ws(' ', c.first_name, c.last_name) as recipient_name,
            c.deleted_at is not null or c.status = 'unsubscribed' or is_suppressed(m.account_id, c.email,
                c.instagram_handle, c.twitter_user_id, c.twitter_handle) as suppressed,
            array(select t.rfc_message_id from (
                select o.rfc_message_id, o.id from messages o
                where o.account_id = m.account_id and o.conversation_id = m.conversation_id and o.channel = m.channel
                    and o.id <> m.id and o.rfc_message_id is not null
                    and (o.sending_at is not null or (m.step is null and o.direction = 'inbound'
                        and o.intent is distinct from 'out_of_office'))
                order by coalesce(o.sending_at, o.created_at) desc, o.id desc limit $3) t
                order by t.id) as thread
         from messages m
         join campaigns a on a.account_id = m.account_id and a.id = m.campaign_id
         join contacts c on c.account_id = m.account_id and c.id = m.contact_id
         left join enrolments e on e.account_id = m.account_id and e.id = m.enrolment_id
         where m.account_id = $1 and m.id = $2 and m.direction = 'outbound'",
    )
    .bind(account_id)
    .bind(id)
    .bind(REFERENCES_MAX)
    .fetch_optional(conn)
    .await
}

/// What a sending mark must lock.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub struct MarkRow {
    /// The passage; None for a direct send.
    pub enrolment_id: Option<Uuid>,
    /// The campaign.
    pub campaign_id: Uuid,
    /// How many messages of the campaign may leave in a day.
    pub daily_cap: Option<i32>,
}

/// What the mark of a message must lock.
pub async fn find_to_mark(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<MarkRow>, sqlx::Error> {
    sqlx::query_as(
        "select m.enrolment_id, m.campaign_id, a.daily_cap
         from messages m join campaigns a on a.account_id = m.account_id and a.id = m.campaign_id
         where m.account_id = $1 and m.id = $2",
    )
    .bind(account_id)
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// How many milliseconds from now a message of a campaign that has sent its cap within the last `day_ms` looks again for a
/// place; None when the campaign may send now.
pub async fn cap_wait_ms(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Uuid,
    id: Uuid,
    cap: i32,
    day_ms: i64,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar("select cap_wait_ms($1, $2, $3, $4, $5)")
        .bind(account_id)
        .bind(campaign_id)
        .bind(id)
        .bind(cap)
        .bind(day_ms)
        .fetch_one(conn)
        .await
}

/// Marks an approved message as sending to an address, unless meanwhile its campaign no longer sends or its contact has
/// another address or is not to be written to any more. Returns whether it did.
pub async fn record_sending(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    order_number: Option<i64>,
    to: &str,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "update messages m set status = 'sending', sending_at = now(), order_number = $3, recipient = $4, blocked_reason = null,
            next_attempt_at = null, error = null, updated_at = now()
         where account_id = $1 and id = $2 and status in ('approved', 'scheduled') and channel_account_id is not null
            and exists (select 1 from campaigns a
                where a.account_id = m.account_id and a.id = m.campaign_id
                    and case when m.enrolment_id is null then a.status <> 'deleted' else a.status = 'active' end)
            and exists (select 1 from contacts c
                where c.account_id = m.account_id and c.id = m.contact_id and c.deleted_at is null
                    and $4 in (c.email, c.instagram_handle, c.twitter_user_id, c.twitter_handle)
                    and c.status <> 'unsubscribed' and not is_suppressed(m.account_id, c.email, c.instagram_handle,
                        c.twitter_user_id, c.twitter_handle))",
    )
    .bind(account_id)
    .bind(id)
    .bind(order_number)
    .bind(to)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Where a message was sent to; None if it was not.
pub async fn find_recipient(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<String>, sqlx::Error> {
    let found = sqlx::query_scalar("select recipient from messages where account_id = $1 and id = $2")
        .bind(account_id)
        .bind(id)
        .fetch_optional(conn)
        .await?;
    Ok(found.flatten())
}

/// Gives a locked message that has not left its mailbox, and a Message-ID if it has none; its enrolment is locked. None when
/// it is not to leave any more.
pub async fn record_mailbox(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    channel_account_id: Uuid,
    rfc_message_id: Option<&str>,
) -> Result<Option<Message>, sqlx::Error> {
    sqlx::query_as(concat!(
        "update messages set channel_account_id = $3, rfc_message_id = coalesce(rfc_message_id, $4), blocked_reason = null,
            next_attempt_at = null, updated_at = now()
         where account_id = $1 and id = $2 and status in ('approved', 'scheduled') returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(id)
    .bind(channel_account_id)
    .bind(rfc_message_id)
    .fetch_optional(conn)
    .await
}

/// Shows what an approved message waits for, and until when; an error says what was answered when it was tried.
pub async fn record_waiting(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    reason: Option<BlockedReason>,
    error: Option<&str>,
    after_ms: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update messages set blocked_reason = $3, error = $4, updated_at = now(),
            next_attempt_at = now() + $5 * interval '1 millisecond'
         where account_id = $1 and id = $2 and status in ('approved', 'scheduled')",
    )
    .bind(account_id)
    .bind(id)
    .bind(reason)
    .bind(error)
    .bind(after_ms)
    .execute(conn)
    .await?;
    Ok(())
}

/// Gives an approved message back to the people who approve: it cannot go out as it is.
pub async fn record_unapproved(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    reason: BlockedReason,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update messages set status = 'pending', approved_at = null, blocked_reason = $3, next_attempt_at = null,
            updated_at = now()
         where account_id = $1 and id = $2 and status in ('approved', 'scheduled')",
    )
    .bind(account_id)
    .bind(id)
    .bind(reason)
    .execute(conn)
    .await?;
    Ok(())
}

/// Cancels an approved message for the reason it shows.
pub async fn record_cancelled(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    reason: Option<BlockedReason>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update messages set status = 'cancelled', blocked_reason = $3, next_attempt_at = null, updated_at = now()
         where account_id = $1 and id = $2 and status in ('approved', 'scheduled')",
    )
    .bind(account_id)
    .bind(id)
    .bind(reason)
    .execute(conn)
    .await?;
    Ok(())
}

/// What is known of a message on the way, `$1` and `$2`, before the channel has said anything: whether an answer to it
/// is stored.
macro_rules! with_answer {
    () => {
        "with answer as (
            select count(i.id) > 0 as came from messages o join messages i
                on i.account_id = o.account_id and i.conversation_id = o.conversation_id and i.direction = 'inbound'
                    and i.in_reply_to = o.rfc_message_id and i.intent is distinct from 'out_of_office'
            where o.account_id = $1 and o.id = $2
         ) "
    };
}

/// Whether a message `m` has crossed: a reply to something else was stored after its mark.
macro_rules! has_crossed {
    () => {
        "not answer.came and exists (select 1 from enrolments e
            where e.account_id = m.account_id and e.id = m.enrolment_id and e.replied_order > m.order_number)"
    };
}

/// Records that the channel accepted a message that was on the way, or of which nobody knew: sent, or replied or
/// delivered when the answer to it or the note of its arrival was faster. None when its fate was known.
pub async fn record_sent(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<Message>, sqlx::Error> {
    sqlx::query_as(concat!(
        with_answer!(),
        "update messages m set error = null, updated_at = now(), sent_at = now(),
            status = case when answer.came then 'replied' when delivered_at is not null then 'delivered' else 'sent' end,
            crossed = ",
        has_crossed!(),
        " from answer where account_id = $1 and id = $2 and status in ('sending', 'unknown') returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// Records that the channel never said whether it accepted a message on the way: unknown, but replied or delivered when
/// an answer to it or a note of its arrival is stored. None when it was not on the way.
pub async fn record_unknown(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    error: &str,
) -> Result<Option<Message>, sqlx::Error> {
    sqlx::query_as(concat!(
        with_answer!(),
        "update messages m set updated_at = now(),
            status = case when answer.came then 'replied' when delivered_at is not null then 'delivered'
                else 'unknown' end,
            sent_at = case when answer.came or delivered_at is not null then sending_at end,
            error = case when answer.came or delivered_at is not null then null else $3 end,
            crossed = ",
        has_crossed!(),
        " from answer where account_id = $1 and id = $2 and status = 'sending' returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(id)
    .bind(error)
    .fetch_optional(conn)
    .await
}

/// Notes that a locked message whose body is on the way has arrived; its status follows when its sending ends.
pub async fn record_arrived_early(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update messages set delivered_at = now() where account_id = $1 and id = $2 and status = 'sending'",
    )
    .bind(account_id)
    .bind(id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Records that a locked message was refused for good, `bounced` or `failed`.
pub async fn record_refused(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    status: MessageStatus,
    error: &str,
) -> Result<Message, sqlx::Error> {
    sqlx::query_as(concat!(
        "update messages set status = $3, error = $4, blocked_reason = null, next_attempt_at = null, updated_at = now()
         where account_id = $1 and id = $2 returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(id)
    .bind(status)
    .bind(error)
    .fetch_one(conn)
    .await
}

/// Takes a sending mark back: the channel refused the message for now and has accepted nothing. `status` is where it
/// goes. None when it was not on the way.
pub async fn record_put_back(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    status: MessageStatus,
    error: &str,
) -> Result<Option<Message>, sqlx::Error> {
    sqlx::query_as(concat!(
        "update messages set status = $3, error = $4, sending_at = null, recipient = null, delivered_at = null, order_number = null,
            updated_at = now()
         where account_id = $1 and id = $2 and status = 'sending' returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(id)
    .bind(status)
    .bind(error)
    .fetch_optional(conn)
    .await
}

/// Records what a locked message became after it was sent; one of which nobody knew was accepted after all.
pub async fn record_arrived(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    status: MessageStatus,
) -> Result<Message, sqlx::Error> {
    sqlx::query_as(concat!(
        "update messages set status = $3, sent_at = coalesce(sent_at, sending_at), error = null, updated_at = now(),
            delivered_at = case when $3 = 'delivered' then now() else delivered_at end,
            opened_at = case when $3 = 'opened' then now() else opened_at end
         where account_id = $1 and id = $2 returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(id)
    .bind(status)
    .fetch_one(conn)
    .await
}
