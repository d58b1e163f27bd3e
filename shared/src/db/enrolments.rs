//! Enrolments: the passages of contacts through campaigns. Many are always locked in the order of their ids.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::page::{Page, Rows};
use crate::domain::{
    Channel,
    enrolment::{Enrolment, EnrolmentStatus, StopReason},
    preflight::Reach,
};

/// The columns of an [`Enrolment`].
macro_rules! columns {
    () => {
        "account_id, id, campaign_id, contact_id, conversation_id, channel, channel_account_id, status, stop_reason,
         order_number, replied_order, started_at, last_sent_at, last_sent_step, created_at, updated_at, ended_at"
    };
}

/// Lists contacts in a campaign: those that exist and may be written to. One that is in it already stays as it is.
/// `ids` are the new rows' ids. Returns the contacts that were added.
pub async fn insert_listed(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Uuid,
    ids: &[Uuid],
    contact_ids: &[Uuid],
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        "insert into enrolments (account_id, id, campaign_id, contact_id)
         select $1, t.id, $2, t.contact_id
         from unnest($3::uuid[], $4::uuid[]) as t(id, contact_id)
         join contacts c on c.account_id = $1 and c.id = t.contact_id
         where c.deleted_at is null and c.status <> 'unsubscribed'
            and not is_suppressed($1, c.email, c.instagram_handle, c.twitter_user_id, c.twitter_handle)
         order by t.contact_id
         on conflict (account_id, campaign_id, contact_id) do nothing
         returning contact_id",
    )
    .bind(account_id)
    .bind(campaign_id)
    .bind(ids)
    .bind(contact_ids)
    .fetch_all(conn)
    .await
}

/// How many contacts a campaign has, in whatever state.
pub async fn count(conn: &mut PgConnection, account_id: Uuid, campaign_id: Uuid) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from enrolments where account_id = $1 and campaign_id = $2")
        .bind(account_id)
        .bind(campaign_id)
        .fetch_one(conn)
        .await
}

/// A listed enrolment and what decides how it starts.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Listed {
    /// The enrolment.
    pub id: Uuid,
    /// Its contact.
    pub contact_id: Uuid,
    /// Why it cannot start: the contact was deleted, or is never to be written to.
    pub refused: Option<StopReason>,
    /// On which channels the contact has an address.
    pub channels: Vec<Channel>,
}

/// Locks up to `limit` listed enrolments of a campaign.
pub async fn lock_listed(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Uuid,
    limit: i64,
) -> Result<Vec<Listed>, sqlx::Error> {
    sqlx::query_as(
        "with listed as materialized (
            select id, contact_id from enrolments
            where account_id = $1 and campaign_id = $2 and status = 'listed'
            order by id limit $3 for no key update
         )
         select l.id, l.contact_id,
            case when c.deleted_at is not null then 'contact_deleted'
                when c.status = 'unsubscribed' or is_suppressed($1, c.email, c.instagram_handle, c.twitter_user_id,
                    c.twitter_handle) then 'suppressed' end as refused,
            array_remove(array[case when c.email is not null then 'email' end,
                case when c.instagram_handle is not null then 'instagram' end,
                case when coalesce(c.twitter_user_id, c.twitter_handle) is not null then 'twitter' end], null)
                as channels
         from listed l join contacts c on c.account_id = $1 and c.id = l.contact_id
         order by l.id",
    )
    .bind(account_id)
    .bind(campaign_id)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// The enrolments of a campaign whose contacts are not deleted, those of the newest contacts first: the list goes on behind a
/// contact.
pub async fn list_by_campaign(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Uuid,
    status: Option<EnrolmentStatus>,
    page: Page,
) -> Result<Rows<Enrolment>, sqlx::Error> {
    let rows = sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from enrolments e
         where account_id = $1 and campaign_id = $2 and ($3::text is null or status = $3)
            and ($4::uuid is null or contact_id < $4)
            and exists (select from contacts c
                where c.account_id = e.account_id and c.id = e.contact_id and c.deleted_at is null)
         order by contact_id desc limit $5 offset $6"
    ))
    .bind(account_id)
    .bind(campaign_id)
    .bind(status)
    .bind(page.after)
    .bind(page.fetch())
    .bind(page.offset)
    .fetch_all(conn)
    .await?;
    Ok(Rows::cut(rows, &page, |enrolment: &Enrolment| enrolment.contact_id))
}

/// How many enrolments [`list_by_campaign`] goes through.
pub async fn count_by_campaign(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Uuid,
    status: Option<EnrolmentStatus>,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select count(*) from enrolments e
         where account_id = $1 and campaign_id = $2 and ($3::text is null or status = $3)
            and exists (select from contacts c
                where c.account_id = e.account_id and c.id = e.contact_id and c.deleted_at is null)",
    )
    .bind(account_id)
    .bind(campaign_id)
    .bind(status)
    .fetch_one(conn)
    .await
}

/// How many contacts of a campaign can be written to on its channels.
pub async fn count_reach(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Uuid,
    channels: &[Channel],
) -> Result<Reach, sqlx::Error> {
    sqlx::query_as(
        // What is suppressed is found by one join, not asked for each contact.
        "with enrolled as materialized (
            select c.id, c.email, c.instagram_handle, c.twitter_user_id, c.twitter_handle, c.status,
                'email' = any ($3) and c.email is not null
                    or 'instagram' = any ($3) and c.instagram_handle is not null
                    or 'twitter' = any ($3) and coalesce(c.twitter_user_id, c.twitter_handle) is not null as reachable
            from enrolments e join contacts c on c.account_id = e.account_id and c.id = e.contact_id
            where e.account_id = $1 and e.campaign_id = $2 and c.deleted_at is null
        ), names as (
            select e.id, n.kind, n.value
            from enrolled e cross join lateral (values ('email', e.email), ('domain', split_part(e.email, '@', 2)),
                ('instagram', e.instagram_handle), ('twitter', e.twitter_user_id), ('twitter', e.twitter_handle)) n(kind, value)
            where n.value is not null and exists (select from suppressions s where s.account_id = $1)
        ), suppressed as materialized (
            select n.id from names n join suppressions s on s.account_id = $1 and s.kind = n.kind and s.value = n.value
            union
            select n.id from names n
            join suppressions s on s.account_id = $1 and s.kind = n.kind and s.value = suppression_hash($1, n.value)
        ), judged as (
            select e.reachable, e.status = 'unsubscribed' or s.id is not null as silent
            from enrolled e left join suppressed s on s.id = e.id
        )
        select count(*) as contacts, count(*) filter (where not reachable) as unreachable,
            count(*) filter (where silent) as suppressed, count(*) filter (where reachable and not silent) as writable
        from judged",
    )
    .bind(account_id)
    .bind(campaign_id)
    .bind(channels)
    .fetch_one(conn)
    .await
}

/// Starts locked enrolments: active, with conversation, channel and, when there is one, mailbox.
pub async fn record_started(
    conn: &mut PgConnection,
    account_id: Uuid,
    ids: &[Uuid],
    conversation_ids: &[Uuid],
    channels: &[Channel],
    channel_account_ids: &[Option<Uuid>],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update enrolments e set status = 'active', conversation_id = t.conversation_id, channel = t.channel,
            channel_account_id = t.channel_account_id, updated_at = now()
         from unnest($2::uuid[], $3::uuid[], $4::text[], $5::uuid[])
            as t(id, conversation_id, channel, channel_account_id)
         where e.account_id = $1 and e.id = t.id and e.status = 'listed'",
    )
    .bind(account_id)
    .bind(ids)
    .bind(conversation_ids)
    .bind(channels)
    .bind(channel_account_ids)
    .execute(conn)
    .await?;
    Ok(())
}

/// Gives a locked enrolment that has none, or a disconnected one, its mailbox.
pub async fn record_mailbox(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    channel_account_id: Uuid,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update enrolments set channel_account_id = $3, updated_at = now() where account_id = $1 and id = $2",
    )
    .bind(account_id)
    .bind(id)
    .bind(channel_account_id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Stops locked enrolments that are listed or active, each for its reason. Returns those that were stopped.
pub async fn record_stopped(
    conn: &mut PgConnection,
    account_id: Uuid,
    ids: &[Uuid],
    reasons: &[StopReason],
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        "update enrolments e set status = 'stopped', stop_reason = t.reason, ended_at = now(), updated_at = now()
         from unnest($2::uuid[], $3::text[]) as t(id, reason)
         where e.account_id = $1 and e.id = t.id and e.status in ('listed', 'active')
         returning e.id",
    )
    .bind(account_id)
    .bind(ids)
    .bind(reasons)
    .fetch_all(conn)
    .await
}

/// Notes on a locked enrolment that was stopped by a reply that a later one asked to stop.
pub async fn record_opted_out(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update enrolments set stop_reason = 'opted_out', updated_at = now()
         where account_id = $1 and id = $2 and status = 'stopped' and stop_reason = 'replied'",
    )
    .bind(account_id)
    .bind(id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Finishes locked enrolments whose last step is done.
pub async fn record_finished(
    conn: &mut PgConnection,
    account_id: Uuid,
    ids: &[Uuid],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update enrolments set status = 'finished', ended_at = now(), updated_at = now()
         where account_id = $1 and id = any ($2) and status = 'active'",
    )
    .bind(account_id)
    .bind(ids)
    .execute(conn)
    .await?;
    Ok(())
}

/// An enrolment.
pub async fn find(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<Enrolment>, sqlx::Error> {
    sqlx::query_as(concat!("select ", columns!(), " from enrolments where account_id = $1 and id = $2"))
        .bind(account_id)
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// Locks an enrolment.
pub async fn lock(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<Enrolment>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from enrolments where account_id = $1 and id = $2 for no key update"
    ))
    .bind(account_id)
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// The enrolment of a contact in a campaign.
pub async fn find_of_contact(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Uuid,
    contact_id: Uuid,
) -> Result<Option<Enrolment>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from enrolments where account_id = $1 and campaign_id = $2 and contact_id = $3"
    ))
    .bind(account_id)
    .bind(campaign_id)
    .bind(contact_id)
    .fetch_optional(conn)
    .await
}

/// Locks the enrolment of a contact in a campaign.
pub async fn lock_of_contact(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Uuid,
    contact_id: Uuid,
) -> Result<Option<Enrolment>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from enrolments where account_id = $1 and campaign_id = $2 and contact_id = $3 for no key update"
    ))
    .bind(account_id)
    .bind(campaign_id)
    .bind(contact_id)
    .fetch_optional(conn)
    .await
}

/// Locks the enrolments whose steps these messages are.
pub async fn lock_of_messages(
    conn: &mut PgConnection,
    account_id: Uuid,
    message_ids: &[Uuid],
) -> Result<Vec<Enrolment>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from enrolments
         where account_id = $1 and id in (
            select enrolment_id from messages where account_id = $1 and id = any ($2))
         order by id for no key update"
    ))
    .bind(account_id)
    .bind(message_ids)
    .fetch_all(conn)
    .await
}

/// Locks the enrolments of a campaign that have not ended.
pub async fn lock_unfinished(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Uuid,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        "select id from enrolments
         where account_id = $1 and campaign_id = $2 and status in ('listed', 'active')
         order by id for no key update",
    )
    .bind(account_id)
    .bind(campaign_id)
    .fetch_all(conn)
    .await
}

/// Locks the enrolments of contacts that have not ended, in all campaigns.
pub async fn lock_unfinished_of_contacts(
    conn: &mut PgConnection,
    account_id: Uuid,
    contact_ids: &[Uuid],
) -> Result<Vec<Enrolment>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from enrolments
         where account_id = $1 and contact_id = any ($2) and status in ('listed', 'active')
         order by id for no key update"
    ))
    .bind(account_id)
    .bind(contact_ids)
    .fetch_all(conn)
    .await
}

/// Locks an enrolment and takes the next order number under its lock, for a sending mark: None when it is not active
/// or a reply was stored. Waits for a transaction that stores one.
pub async fn take_order(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "update enrolments set order_number = order_number + 1
         where account_id = $1 and id = $2 and status = 'active' and replied_order is null
         returning order_number",
    )
    .bind(account_id)
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// Takes the next order number of a locked enrolment for an inbound message. The first reply's is remembered: what was
/// marked before it has crossed, and nothing is marked after it.
pub async fn record_inbound(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    is_reply: bool,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "update enrolments set order_number = order_number + 1, updated_at = now(),
            replied_order = case when $3 then coalesce(replied_order, order_number + 1) else replied_order end
         where account_id = $1 and id = $2 returning order_number",
    )
    .bind(account_id)
    .bind(id)
    .bind(is_reply)
    .fetch_one(conn)
    .await
}

/// Notes on a locked enrolment that a step was sent, or may have been. The days begin with the first.
pub async fn record_sent(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    step: i32,
    sent_at: DateTime<Utc>,
) -> Result<Enrolment, sqlx::Error> {
    sqlx::query_as(concat!(
        "update enrolments set started_at = coalesce(started_at, $4), last_sent_at = $4, last_sent_step = $3,
            updated_at = now()
         where account_id = $1 and id = $2 returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(id)
    .bind(step)
    .bind(sent_at)
    .fetch_one(conn)
    .await
}

/// Notes on locked enrolments that a step was rejected: the days begin now if they had not begun.
pub async fn record_skipped(
    conn: &mut PgConnection,
    account_id: Uuid,
    ids: &[Uuid],
) -> Result<Vec<Enrolment>, sqlx::Error> {
    sqlx::query_as(concat!(
        "update enrolments set started_at = coalesce(started_at, now()), updated_at = now()
         where account_id = $1 and id = any ($2) returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(ids)
    .fetch_all(conn)
    .await
}
