//! Connected mailboxes and profiles.

use sqlx::PgConnection;
use uuid::Uuid;

use super::page::{Page, Rows};
use crate::{
    domain::{
        Channel,
        channel::{ChannelAccount, Load},
    },
    ids::new_id,
};

/// How many accounts a list has at most.
const ACCOUNTS_MAX: i64 = 1000;

/// The columns of a [`ChannelAccount`].
macro_rules! columns {
    () => {
        "account_id, id, channel, address, display_name, status, settings, secrets, created_at, updated_at"
    };
}

/// A channel account.
pub async fn find(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<ChannelAccount>, sqlx::Error> {
    sqlx::query_as(concat!("select ", columns!(), " from channel_accounts where account_id = $1 and id = $2"))
        .bind(account_id)
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// The channel accounts of an account, by channel and age.
pub async fn list(conn: &mut PgConnection, account_id: Uuid) -> Result<Vec<ChannelAccount>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from channel_accounts where account_id = $1 order by channel, id limit $2"
    ))
    .bind(account_id)
    .bind(ACCOUNTS_MAX)
    .fetch_all(conn)
    .await
}

/// Some of the channel accounts of an account, the newest first.
pub async fn list_page(
    conn: &mut PgConnection,
    account_id: Uuid,
    page: Page,
) -> Result<Rows<ChannelAccount>, sqlx::Error> {
    let rows = sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from channel_accounts where account_id = $1 and ($2::uuid is null or id < $2)
         order by id desc limit $3 offset $4"
    ))
    .bind(account_id)
    .bind(page.after)
    .bind(page.fetch())
    .bind(page.offset)
    .fetch_all(conn)
    .await?;
    Ok(Rows::cut(rows, &page, |account: &ChannelAccount| account.id))
}

/// How many channel accounts an account has.
pub async fn count(conn: &mut PgConnection, account_id: Uuid) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from channel_accounts where account_id = $1")
        .bind(account_id)
        .fetch_one(conn)
        .await
}

/// The channel accounts that can be chosen for new enrolments, with how many active ones each has. A paused one can be
/// chosen only when its channel has no connected one: what it is to send waits.
pub async fn list_loads(conn: &mut PgConnection, account_id: Uuid) -> Result<Vec<Load>, sqlx::Error> {
    sqlx::query_as(
        // Counting is left out where there is nothing to choose between.
        "with usable as (
            select a.id, a.channel, count(*) over (partition by a.channel) as of_channel
            from channel_accounts a
            where a.account_id = $1 and (a.status = 'connected' or (a.status = 'paused' and not exists (
                select 1 from channel_accounts o
                where o.account_id = $1 and o.channel = a.channel and o.status = 'connected')))
         )
         select u.id, u.channel, case when u.of_channel > 1 then (select count(*) from enrolments e
            where e.account_id = $1 and e.channel_account_id = u.id and e.status = 'active') else 0 end as active
         from usable u
         order by u.id limit $2",
    )
    .bind(account_id)
    .bind(ACCOUNTS_MAX)
    .fetch_all(conn)
    .await
}

/// The mailboxes that an inbound mail may be for, over all accounts: by address or by id. Which one it is for, its
/// signature says.
pub async fn list_for_inbound(
    conn: &mut PgConnection,
    mailbox: &str,
) -> Result<Vec<ChannelAccount>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from channel_accounts where channel = 'email' and (address = lower($1) or id = $2) order by id limit 16"
    ))
    .bind(mailbox)
    .bind(Uuid::try_parse(mailbox).ok())
    .fetch_all(conn)
    .await
}

/// The channel account of a channel that the settings named last.
pub async fn find_from_settings(
    conn: &mut PgConnection,
    account_id: Uuid,
    channel: Channel,
) -> Result<Option<ChannelAccount>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from channel_accounts
         where account_id = $1 and channel = $2 and from_settings
         order by status = 'disconnected', updated_at desc, id desc limit 1"
    ))
    .bind(account_id)
    .bind(channel)
    .fetch_optional(conn)
    .await
}

/// The channel account of an address, made if there is none. A new one has no secrets: they are sealed for its id and
/// come with [`record_secrets`].
pub async fn ensure(
    conn: &mut PgConnection,
    account_id: Uuid,
    channel: Channel,
    address: &str,
    display_name: Option<&str>,
) -> Result<ChannelAccount, sqlx::Error> {
    sqlx::query_as(concat!(
        "insert into channel_accounts (account_id, id, channel, address, display_name, secrets)
         values ($1, $2, $3, lower($4), $5, '')
         on conflict (account_id, channel, address) do update
            set display_name = coalesce(excluded.display_name, channel_accounts.display_name), updated_at = now()
         returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(new_id())
    .bind(channel)
    .bind(address)
    .bind(display_name)
    .fetch_one(conn)
    .await
}

/// Stores the sealed secrets of a channel account; the place they are sealed for is
/// [`ChannelAccount::secrets_place`].
pub async fn record_secrets(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    sealed: &[u8],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update channel_accounts set secrets = $3, updated_at = now() where account_id = $1 and id = $2",
    )
    .bind(account_id)
    .bind(id)
    .bind(sealed)
    .execute(conn)
    .await?;
    Ok(())
}

/// Makes a mailbox the one of the settings: it is connected unless somebody paused it, and those that were it before are
/// disconnected. What they have not sent yet leaves from it: messages, their jobs, and what their enrolments will write.
/// The passages' rows are locked before their messages, as everywhere.
pub async fn record_from_settings(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update channel_accounts set from_settings = true, updated_at = now(),
            status = case when status = 'disconnected' then 'connected' else status end
         where account_id = $1 and id = $2",
    )
    .bind(account_id)
    .bind(id)
    .execute(&mut *conn)
    .await?;
    let replaced: Vec<Uuid> = sqlx::query_scalar(
        "update channel_accounts a set status = 'disconnected', updated_at = now()
         from channel_accounts now_used
         where now_used.account_id = $1 and now_used.id = $2 and a.account_id = $1 and a.id <> $2 and a.from_settings
            and a.channel = now_used.channel
         returning a.id",
    )
    .bind(account_id)
    .bind(id)
    .fetch_all(&mut *conn)
    .await?;
    for statement in [MOVE_ENROLMENTS, MOVE_MESSAGES] {
        sqlx::query(statement).bind(account_id).bind(id).bind(&replaced).execute(&mut *conn).await?;
    }
    Ok(())
}

/// Moves the active enrolments of some mailboxes to another.
const MOVE_ENROLMENTS: &str = "
with moved as (
    select id from enrolments
    where account_id = $1 and channel_account_id = any ($3) and status = 'active'
    order by id for no key update
)
update enrolments e set channel_account_id = $2, updated_at = now()
from moved where e.account_id = $1 and e.id = moved.id";

/// Moves what some mailboxes have not sent to another, with the jobs that wait in their lanes. One that runs at this
/// moment sends from where its message says.
const MOVE_MESSAGES: &str = "
with moved as (
    select id from messages
    where account_id = $1 and channel_account_id = any ($3)
        and status in ('drafting', 'pending', 'approved', 'scheduled')
    order by id for no key update
), lanes as (
    select unnest($3::uuid[])::text as lane
), ready as (
    update queue.ready set lane = $2::text where queue = 'send' and tenant = $1::text and lane in (select lane from lanes)
), deferred as (
    update queue.deferred set lane = $2::text where queue = 'send' and tenant = $1::text and lane in (select lane from lanes)
)
update messages m set channel_account_id = $2, updated_at = now()
from moved where m.account_id = $1 and m.id = moved.id";
