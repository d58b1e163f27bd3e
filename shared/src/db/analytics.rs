//! Numbers on what was sent and what came of it.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::analytics::{
    ContactTypeCount, ConversationCounts, Counts, Interval, Period, Point, ResponseTimes, StepCounts, Totals,
};

/// What became of messages: the columns of [`Counts`].
macro_rules! counts {
    () => {
        "count(m.id) as sent, count(m.id) filter (where coalesce(m.delivered_at, m.opened_at) is not null) as delivered,
         count(m.id) filter (where m.opened_at is not null) as opened,
         count(m.id) filter (where m.status = 'replied') as replied,
         count(m.id) filter (where m.status = 'bounced') as bounced"
    };
}

/// The messages `m` that were sent from `$2` to `$3`, of one campaign if `$4` names it.
macro_rules! sent {
    () => {
        "m.account_id = $1 and m.sent_at >= $2 and m.sent_at < $3 and ($4::uuid is null or m.campaign_id = $4)"
    };
}

/// What became of the messages that were sent in a time.
pub async fn count_messages(
    conn: &mut PgConnection,
    account_id: Uuid,
    period: Period,
    campaign_id: Option<Uuid>,
) -> Result<Counts, sqlx::Error> {
    sqlx::query_as(concat!("select ", counts!(), " from messages m where ", sent!()))
        .bind(account_id)
        .bind(period.from)
        .bind(period.to)
        .bind(campaign_id)
        .fetch_one(conn)
        .await
}

/// The same for each step, the first before the others and direct messages last.
pub async fn count_steps(
    conn: &mut PgConnection,
    account_id: Uuid,
    period: Period,
    campaign_id: Uuid,
) -> Result<Vec<StepCounts>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select m.step, ",
        counts!(),
        " from messages m where ",
        sent!(),
        " group by m.step order by m.step nulls last limit 100"
    ))
    .bind(account_id)
    .bind(period.from)
    .bind(period.to)
    .bind(campaign_id)
    .fetch_all(conn)
    .await
}

/// How many campaigns and contacts there are, and were in a time.
pub async fn totals(
    conn: &mut PgConnection,
    account_id: Uuid,
    period: Period,
) -> Result<Totals, sqlx::Error> {
    sqlx::query_as(
        "select c.*, p.*, r.* from (
            select count(*) as campaigns, count(*) filter (where status = 'active') as active_campaigns
            from campaigns where account_id = $1 and status <> 'deleted'
         ) c, (
            select count(*) as new_contacts from contacts
            where account_id = $1 and deleted_at is null and id >= uuid_v7_floor($2) and id < uuid_v7_floor($3)
         ) p, (
            select count(distinct contact_id) as contacts_reached from messages
            where account_id = $1 and sent_at >= $2 and sent_at < $3
         ) r",
    )
    .bind(account_id)
    .bind(period.from)
    .bind(period.to)
    .fetch_one(conn)
    .await
}

/// A time series, with points in which nothing was sent.
pub async fn series(
    conn: &mut PgConnection,
    account_id: Uuid,
    period: Period,
    campaign_id: Option<Uuid>,
    interval: Interval,
) -> Result<Vec<Point>, sqlx::Error> {
    sqlx::query_as(concat!(
        "with points as (
            select p at time zone 'utc' as at
            from generate_series(date_trunc($5, $2 at time zone 'utc'), ($3 at time zone 'utc') - interval '1 microsecond',
                ('1 ' || $5)::interval) p
         ), sent as materialized (
            select date_trunc($5, m.sent_at at time zone 'utc') at time zone 'utc' as at, ",
        counts!(),
        " from messages m where ",
        sent!(),
        " group by 1
         )
         select p.at, coalesce(s.sent, 0) as sent, coalesce(s.delivered, 0) as delivered, coalesce(s.opened, 0) as opened,
            coalesce(s.replied, 0) as replied, coalesce(s.bounced, 0) as bounced
         from points p left join sent s on s.at = p.at order by p.at limit 1000"
    ))
    .bind(account_id)
    .bind(period.from)
    .bind(period.to)
    .bind(campaign_id)
    .bind(interval)
    .fetch_all(conn)
    .await
}

/// How long it took contacts to answer: of each conversation the first answer of a person, if it came in the time, after the
/// last message before it.
pub async fn response_times(
    conn: &mut PgConnection,
    account_id: Uuid,
    period: Period,
    campaign_id: Option<Uuid>,
) -> Result<ResponseTimes, sqlx::Error> {
    sqlx::query_as(
        "with first as (
            select i.conversation_id, min(i.created_at) as at from messages i
            where i.account_id = $1 and i.direction = 'inbound' and i.created_at >= $2 and i.created_at < $3
                and ($4::uuid is null or i.campaign_id = $4) and i.intent is distinct from 'out_of_office'
                and not exists (select from messages e
                    where e.account_id = $1 and e.conversation_id = i.conversation_id and e.direction = 'inbound'
                        and e.created_at < $2 and e.intent is distinct from 'out_of_office')
            group by i.conversation_id
         ), took as (
            select extract(epoch from f.at - o.sent_at)::float8 as seconds
            from first f cross join lateral (
                select max(m.sent_at) as sent_at from messages m
                where m.account_id = $1 and m.conversation_id = f.conversation_id and m.sent_at <= f.at) o
            where o.sent_at is not null
         )
         select count(*) as replies, avg(seconds) as average_seconds,
            percentile_cont(0.5) within group (order by seconds) as p50_seconds,
            percentile_cont(0.9) within group (order by seconds) as p90_seconds,
            percentile_cont(0.99) within group (order by seconds) as p99_seconds
         from took",
    )
    .bind(account_id)
    .bind(period.from)
    .bind(period.to)
    .bind(campaign_id)
    .fetch_one(conn)
    .await
}

/// The most frequent kinds of contacts, at most `limit`.
pub async fn contact_types(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Option<Uuid>,
    limit: i64,
) -> Result<Vec<ContactTypeCount>, sqlx::Error> {
    sqlx::query_as(
        "with replied as materialized (
            select distinct contact_id from conversations
            where account_id = $1 and status = 'replied' and ($2::uuid is null or campaign_id = $2)
         )
         select c.contact_type, count(*) as contacts, count(r.contact_id) as replied
         from contacts c left join replied r on r.contact_id = c.id
         where c.account_id = $1 and c.deleted_at is null
            and ($2::uuid is null or exists (select from enrolments e
                where e.account_id = $1 and e.campaign_id = $2 and e.contact_id = c.id))
         group by c.contact_type order by contacts desc, c.contact_type nulls last limit $3",
    )
    .bind(account_id)
    .bind(campaign_id)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// Conversations in numbers, of one campaign or of all.
pub async fn count_conversations(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Option<Uuid>,
) -> Result<ConversationCounts, sqlx::Error> {
    sqlx::query_as(
        "select count(*) as conversations, count(*) filter (where status = 'replied') as replied,
            count(*) filter (where unread_count > 0) as unread,
            count(*) filter (where last_direction = 'inbound') as waiting,
            count(*) filter (where last_message_at > now() - interval '7 days') as active
         from conversations where account_id = $1 and ($2::uuid is null or campaign_id = $2)",
    )
    .bind(account_id)
    .bind(campaign_id)
    .fetch_one(conn)
    .await
}
