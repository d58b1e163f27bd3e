//! Campaigns. A deleted one is found by nothing here but [`progress`] and [`followup_days`], for the messages that were on
//! the way when it was deleted.

use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::page::{Page, Rows};
use crate::domain::campaign::{Campaign, CampaignStatus, NewCampaign, Progress};

/// The columns of a [`Campaign`], named one by one so that a column of a later release does not change the result.
macro_rules! columns {
    () => {
        "account_id, id, name, objective_type, description, location, latitude, longitude, radius_miles, venue_types,
         keywords, max_results, outreach_channels, followup_days, approval, sender, brief, tone, agent_id, send_window,
         daily_cap, tracking, status, created_at, updated_at, activated_at, completed_at"
    };
}

/// Writes a new campaign as a draft.
pub async fn insert(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    new: &NewCampaign,
) -> Result<Campaign, sqlx::Error> {
    sqlx::query_as(concat!(
        "insert into campaigns (account_id, id, name, objective_type, description, location, latitude, longitude,
            radius_miles, venue_types, keywords, max_results, outreach_channels, followup_days, approval, sender, brief,
            tone, agent_id, send_window, daily_cap, tracking)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)
         returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(id)
    .bind(&new.name)
    .bind(&new.objective_type)
    .bind(&new.description)
    .bind(&new.location)
    .bind(new.latitude)
    .bind(new.longitude)
    .bind(new.radius_miles)
    .bind(&new.venue_types)
    .bind(&new.keywords)
    .bind(new.max_results)
    .bind(&new.outreach_channels)
    .bind(&new.followup_days)
    .bind(new.approval)
    .bind(Json(&new.sender))
    .bind(&new.brief)
    .bind(&new.tone)
    .bind(&new.agent_id)
    .bind(new.send_window.as_ref().map(Json))
    .bind(new.daily_cap)
    .bind(Json(new.tracking))
    .fetch_one(conn)
    .await
}

/// Writes the fields and the status of a campaign whose row is locked; times of activation, completion and deletion
/// follow the status.
pub async fn save(conn: &mut PgConnection, campaign: &Campaign) -> Result<Campaign, sqlx::Error> {
    sqlx::query_as(concat!(
        "update campaigns set name = $3, objective_type = $4, description = $5, location = $6, latitude = $7,
            longitude = $8, radius_miles = $9, venue_types = $10, keywords = $11, max_results = $12,
            outreach_channels = $13, followup_days = $14, approval = $15, sender = $16, brief = $17, tone = $18,
            agent_id = $19, send_window = $20, daily_cap = $21, tracking = $22, status = $23, updated_at = now(),
            activated_at = case when $23 = 'active' then coalesce(activated_at, now()) else activated_at end,
            completed_at = case when $23 = 'completed' then coalesce(completed_at, now()) else completed_at end,
            deleted_at = case when $23 = 'deleted' then coalesce(deleted_at, now()) end
         where account_id = $1 and id = $2
         returning ",
        columns!()
    ))
    .bind(campaign.account_id)
    .bind(campaign.id)
    .bind(&campaign.name)
    .bind(&campaign.objective_type)
    .bind(&campaign.description)
    .bind(&campaign.location)
    .bind(campaign.latitude)
    .bind(campaign.longitude)
    .bind(campaign.radius_miles)
    .bind(&campaign.venue_types)
    .bind(&campaign.keywords)
    .bind(campaign.max_results)
    .bind(&campaign.outreach_channels)
    .bind(&campaign.followup_days)
    .bind(campaign.approval)
    .bind(&campaign.sender)
    .bind(&campaign.brief)
    .bind(&campaign.tone)
    .bind(&campaign.agent_id)
    .bind(&campaign.send_window)
    .bind(campaign.daily_cap)
    .bind(campaign.tracking)
    .bind(campaign.status)
    .fetch_one(conn)
    .await
}

/// A campaign that is not deleted.
pub async fn find(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<Campaign>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from campaigns where account_id = $1 and id = $2 and status <> 'deleted'"
    ))
    .bind(account_id)
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// Locks a campaign that is not deleted, for a change.
pub async fn lock(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<Campaign>, sqlx::Error> {
    // Rows that refer to the campaign are still inserted meanwhile: only its key would stop them.
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from campaigns where account_id = $1 and id = $2 and status <> 'deleted' for no key update"
    ))
    .bind(account_id)
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// Locks a campaign that is not deleted against changes of its status, together with others who do the same.
pub async fn lock_shared(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<Campaign>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from campaigns where account_id = $1 and id = $2 and status <> 'deleted' for share"
    ))
    .bind(account_id)
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// The campaigns of an account, newest first.
pub async fn list(
    conn: &mut PgConnection,
    account_id: Uuid,
    status: Option<CampaignStatus>,
    page: Page,
) -> Result<Rows<Campaign>, sqlx::Error> {
    let rows = sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from campaigns
         where account_id = $1 and status <> 'deleted' and ($2::text is null or status = $2)
            and ($3::uuid is null or id < $3)
         order by id desc limit $4 offset $5"
    ))
    .bind(account_id)
    .bind(status)
    .bind(page.after)
    .bind(page.fetch())
    .bind(page.offset)
    .fetch_all(conn)
    .await?;
    Ok(Rows::cut(rows, &page, |campaign: &Campaign| campaign.id))
}

/// How many campaigns [`list`] has in all.
pub async fn count(
    conn: &mut PgConnection,
    account_id: Uuid,
    status: Option<CampaignStatus>,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select count(*) from campaigns
         where account_id = $1 and status <> 'deleted' and ($2::text is null or status = $2)",
    )
    .bind(account_id)
    .bind(status)
    .fetch_one(conn)
    .await
}

/// How far a campaign is; zeros for one that does not exist. What was sent, delivered, opened or answered is counted by
/// its time and so never goes down; the others are where messages stand now. Blocked is what shows a reason where it is
/// looked at, so also what could leave but for its mailbox's closed lane.
pub async fn progress(conn: &mut PgConnection, account_id: Uuid, id: Uuid) -> Result<Progress, sqlx::Error> {
    sqlx::query_as(
        "with closed as materialized (
            select lane from queue.lanes where queue = 'send' and (paused or closed_until > now())
         )
         select e.*, m.* from (
            select count(*) as discovered,
                count(*) filter (where conversation_id is not null) as enrolled,
                count(*) filter (where replied_order is not null) as replied,
                count(*) filter (where status = 'active') as active,
                count(*) filter (where status = 'stopped') as stopped,
                count(*) filter (where status = 'finished') as finished
            from enrolments where account_id = $1 and campaign_id = $2
         ) e, (
            select count(*) filter (where step is not null and status <> 'drafting') as drafted,
                count(*) filter (where status = 'pending') as pending,
                count(*) filter (where status in ('approved', 'scheduled')) as approved,
                count(*) filter (where sent_at is not null) as sent,
                count(*) filter (where coalesce(delivered_at, opened_at) is not null) as delivered,
                count(*) filter (where opened_at is not null) as opened,
                count(*) filter (where status = 'bounced') as bounced,
                count(*) filter (where status = 'failed') as failed,
                count(*) filter (where status in ('pending', 'approved', 'scheduled') and (blocked_reason is not null
                    or is_paused_step(account_id, campaign_id, enrolment_id, status)
                    or (status <> 'pending' and coalesce(due_at, now()) <= now()
                        and channel_account_id::text in (select lane from closed)))) as blocked,
                count(*) filter (where status = 'unknown') as unknown,
                count(*) filter (where sent_at is not null and step > 0) as followups,
                count(*) filter (where status = 'rejected') as rejected,
                count(*) filter (where status = 'cancelled') as cancelled
            from messages where account_id = $1 and campaign_id = $2 and direction = 'outbound'
         ) m",
    )
    .bind(account_id)
    .bind(id)
    .fetch_one(conn)
    .await
}

/// Locks active campaigns in which nothing seems to be left, the longest active first, leaving out those that another
/// transaction holds. Whether nothing is left is judged again by [`complete_idle`], in a statement that sees what the
/// former holders committed.
pub async fn lock_idle(conn: &mut PgConnection, limit: i64) -> Result<Vec<(Uuid, Uuid)>, sqlx::Error> {
    sqlx::query_as(
        "select account_id, id from campaigns c
         where status = 'active'
            and not exists (select 1 from enrolments e
                where e.account_id = c.account_id and e.campaign_id = c.id and e.status in ('listed', 'active'))
            and not exists (select 1 from discovery_jobs d
                where d.account_id = c.account_id and d.campaign_id = c.id and d.status in ('queued', 'running'))
            and not exists (select 1 from messages m
                where m.account_id = c.account_id and m.campaign_id = c.id
                    and m.status in ('approved', 'scheduled', 'sending'))
         order by activated_at, id limit $1 for no key update skip locked",
    )
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// Completes those of the locked campaigns in which nothing can still happen, and returns them.
pub async fn complete_idle(
    conn: &mut PgConnection,
    locked: &[(Uuid, Uuid)],
) -> Result<Vec<Campaign>, sqlx::Error> {
    let (account_ids, ids): (Vec<Uuid>, Vec<Uuid>) = locked.iter().copied().unzip();
    sqlx::query_as(concat!(
        "update campaigns c set status = 'completed', completed_at = now(), updated_at = now()
         where (c.account_id, c.id) in (select * from unnest($1::uuid[], $2::uuid[])) and c.status = 'active'
            and not exists (select 1 from enrolments e
                where e.account_id = c.account_id and e.campaign_id = c.id and e.status in ('listed', 'active'))
            and not exists (select 1 from discovery_jobs d
                where d.account_id = c.account_id and d.campaign_id = c.id and d.status in ('queued', 'running'))
            and not exists (select 1 from messages m
                where m.account_id = c.account_id and m.campaign_id = c.id
                    and m.status in ('approved', 'scheduled', 'sending'))
         returning ",
        columns!()
    ))
    .bind(account_ids)
    .bind(ids)
    .fetch_all(conn)
    .await
}

/// The follow-up days of campaigns, deleted ones too.
pub async fn followup_days(
    conn: &mut PgConnection,
    account_id: Uuid,
    ids: &[Uuid],
) -> Result<Vec<(Uuid, Vec<i32>)>, sqlx::Error> {
    sqlx::query_as(
        "select id, followup_days from campaigns where account_id = $1 and id = any ($2)
         order by id limit cardinality($2)",
    )
    .bind(account_id)
    .bind(ids)
    .fetch_all(conn)
    .await
}
