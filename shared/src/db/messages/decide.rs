//! What people and pauses decide about messages that were not sent.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::message::{BlockedReason, Message};

/// Approves locked drafts, scheduled when their step is not due yet, with another subject and text where given.
pub async fn record_approved(
    conn: &mut PgConnection,
    account_id: Uuid,
    ids: &[Uuid],
    subject: Option<&str>,
    content: Option<&str>,
) -> Result<Vec<Message>, sqlx::Error> {
    sqlx::query_as(concat!(
        "update messages set status = case when due_at > now() then 'scheduled' else 'approved' end,
            subject = coalesce($3, subject), content = coalesce($4, content), approved_at = now(), updated_at = now(),
            next_attempt_at = null, blocked_reason = null
         where account_id = $1 and id = any ($2) and status = 'pending' returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(ids)
    .bind(subject)
    .bind(content)
    .fetch_all(conn)
    .await
}

/// Rejects locked drafts.
pub async fn record_rejected(
    conn: &mut PgConnection,
    account_id: Uuid,
    ids: &[Uuid],
    reason: Option<&str>,
) -> Result<Vec<Message>, sqlx::Error> {
    sqlx::query_as(concat!(
        "update messages set status = 'rejected', error = $3, blocked_reason = null, next_attempt_at = null,
            updated_at = now()
         where account_id = $1 and id = any ($2) and status = 'pending' returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(ids)
    .bind(reason)
    .fetch_all(conn)
    .await
}

/// Cancels what locked enrolments have not sent yet.
pub async fn cancel_of_enrolments(
    conn: &mut PgConnection,
    account_id: Uuid,
    enrolment_ids: &[Uuid],
    reason: Option<BlockedReason>,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "with open as (
            select id from messages
            where account_id = $1 and enrolment_id = any ($2)
                and status in ('drafting', 'pending', 'approved', 'scheduled')
            order by id for no key update
         )
         update messages m set status = 'cancelled', blocked_reason = $3, next_attempt_at = null, updated_at = now()
         from open where m.account_id = $1 and m.id = open.id",
    )
    .bind(account_id)
    .bind(enrolment_ids)
    .bind(reason)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Cancels what a campaign has not sent yet, direct sends too.
pub async fn cancel_of_campaign(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Uuid,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "with open as (
            select id from messages
            where account_id = $1 and campaign_id = $2 and status in ('drafting', 'pending', 'approved', 'scheduled')
            order by id for no key update
         )
         update messages m set status = 'cancelled', blocked_reason = null, next_attempt_at = null, updated_at = now()
         from open where m.account_id = $1 and m.id = open.id",
    )
    .bind(account_id)
    .bind(campaign_id)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Lets what waits under a campaign's daily cap look again now, for the cap is no longer what it was: the messages forget
/// it, and their timers become due. A direct send's job belongs to no group, so that only its payload names it.
pub async fn release_capped(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Uuid,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "with capped as materialized (
            select id from messages
            where account_id = $1 and campaign_id = $2 and status in ('approved', 'scheduled')
                and blocked_reason = 'daily_cap'
            order by id for no key update
         ), due as (
            update queue.deferred set run_at = now()
            where queue = 'send' and tenant = $1::text and run_at < 'infinity'
                and (grp is null or (grp >= $2::text || '/' and grp < $2::text || '0'))
                and payload::jsonb ->> 'message_id' in (select id::text from capped)
         )
         update messages m set blocked_reason = null, next_attempt_at = null, updated_at = now()
         from capped where m.account_id = $1 and m.id = capped.id",
    )
    .bind(account_id)
    .bind(campaign_id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Waits for the sending marks of a campaign's approved steps, and keeps others away until the transaction ends.
pub async fn lock_approved(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Uuid,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "select from messages
         where account_id = $1 and campaign_id = $2 and status in ('approved', 'scheduled') and enrolment_id is not null
         order by id for share",
    )
    .bind(account_id)
    .bind(campaign_id)
    .execute(conn)
    .await?;
    Ok(())
}
