//! Connected mailboxes and profiles.

use sqlx::PgConnection;
use uuid::Uuid;

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
