//! Conversations: one contact in one campaign, over all channels.

use sqlx::PgConnection;
use uuid::Uuid;

use super::page::{Page, Rows, containing};
use crate::domain::{
    Channel,
    conversation::{Conversation, ConversationStatus},
    message::Direction,
};

/// The columns of a [`Conversation`].
macro_rules! columns {
    () => {
        "account_id, id, campaign_id, contact_id, status, last_channel, last_direction, last_message_at, unread_count,
         created_at, updated_at"
    };
}

/// Which conversations to list; `None` is no condition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConversationFilter {
    /// In this campaign.
    pub campaign_id: Option<Uuid>,
    /// With this contact.
    pub contact_id: Option<Uuid>,
    /// With this status.
    pub status: Option<ConversationStatus>,
    /// Whose last message went by this channel.
    pub channel: Option<Channel>,
    /// With this text in the contact's name, company or address.
    pub name: Option<String>,
}

/// Writes the conversations of contacts in a campaign; one that exists already is returned as it is.
pub async fn insert_many(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Uuid,
    ids: &[Uuid],
    contact_ids: &[Uuid],
) -> Result<Vec<Conversation>, sqlx::Error> {
    sqlx::query_as(concat!(
        "insert into conversations (account_id, id, campaign_id, contact_id)
         select $1, t.id, $2, t.contact_id from unnest($3::uuid[], $4::uuid[]) as t(id, contact_id)
         order by t.contact_id
         on conflict (account_id, campaign_id, contact_id) do update set updated_at = conversations.updated_at
         returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(campaign_id)
    .bind(ids)
    .bind(contact_ids)
    .fetch_all(conn)
    .await
}

/// A conversation.
pub async fn find(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<Conversation>, sqlx::Error> {
    sqlx::query_as(concat!("select ", columns!(), " from conversations where account_id = $1 and id = $2"))
        .bind(account_id)
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// The conversations of an account, newest first.
pub async fn list(
    conn: &mut PgConnection,
    account_id: Uuid,
    filter: &ConversationFilter,
    page: Page,
) -> Result<Rows<Conversation>, sqlx::Error> {
    let rows = sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from conversations v
         where account_id = $1
            and ($2::uuid is null or campaign_id = $2)
            and ($3::uuid is null or contact_id = $3)
            and ($4::text is null or status = $4)
            and ($5::text is null or last_channel = $5)
            and ($6::text is null or exists (select 1 from contacts c
                where c.account_id = v.account_id and c.id = v.contact_id
                    and concat_ws(' ', c.first_name, c.last_name, c.company, c.email) ilike $6))
            and ($7::uuid is null or id < $7)
         order by id desc limit $8 offset $9"
    ))
    .bind(account_id)
    .bind(filter.campaign_id)
    .bind(filter.contact_id)
    .bind(filter.status)
    .bind(filter.channel)
    .bind(filter.name.as_deref().map(containing))
    .bind(page.after)
    .bind(page.fetch())
    .bind(page.offset)
    .fetch_all(conn)
    .await?;
    Ok(Rows::cut(rows, &page, |conversation: &Conversation| conversation.id))
}

/// How many conversations [`list`] has in all.
pub async fn count(
    conn: &mut PgConnection,
    account_id: Uuid,
    filter: &ConversationFilter,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select count(*) from conversations v
         where account_id = $1
            and ($2::uuid is null or campaign_id = $2)
            and ($3::uuid is null or contact_id = $3)
            and ($4::text is null or status = $4)
            and ($5::text is null or last_channel = $5)
            and ($6::text is null or exists (select 1 from contacts c
                where c.account_id = v.account_id and c.id = v.contact_id
                    and concat_ws(' ', c.first_name, c.last_name, c.company, c.email) ilike $6))",
    )
    .bind(account_id)
    .bind(filter.campaign_id)
    .bind(filter.contact_id)
    .bind(filter.status)
    .bind(filter.channel)
    .bind(filter.name.as_deref().map(containing))
    .fetch_one(conn)
    .await
}

/// The latest conversation that a mailbox has with an address: with any contact of that address, deleted ones too, or one that
/// was written to there.
pub async fn find_by_sender(
    conn: &mut PgConnection,
    account_id: Uuid,
    channel_account_id: Uuid,
    email: &str,
) -> Result<Option<Conversation>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from conversations v
         where account_id = $1
            and id in (
                select c.id from conversations c
                where c.account_id = $1 and c.contact_id in (select id from contacts where account_id = $1 and email = $3)
                union
                select conversation_id from messages where account_id = $1 and recipient = $3)
            and exists (select 1 from messages m
                where m.account_id = v.account_id and m.conversation_id = v.id and m.channel_account_id = $2
                    and m.sending_at is not null)
         order by last_message_at desc nulls last, id desc limit 1"
    ))
    .bind(account_id)
    .bind(channel_account_id)
    .bind(email)
    .fetch_optional(conn)
    .await
}

/// Notes that somebody has read a conversation. `None`: the account has no such conversation.
pub async fn record_read(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<Conversation>, sqlx::Error> {
    sqlx::query_as(concat!(
        "update conversations set unread_count = 0 where account_id = $1 and id = $2 returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// Notes that a message was sent in a conversation.
pub async fn record_sent(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    channel: Channel,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update conversations
         set last_channel = $3, last_direction = $4, last_message_at = now(), updated_at = now()
         where account_id = $1 and id = $2",
    )
    .bind(account_id)
    .bind(id)
    .bind(channel)
    .bind(Direction::Outbound)
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes that a message came in; a person's answer makes the conversation `replied`.
pub async fn record_received(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    channel: Channel,
    by_person: bool,
) -> Result<Conversation, sqlx::Error> {
    sqlx::query_as(concat!(
        "update conversations
         set last_channel = $3, last_direction = $4, last_message_at = now(), updated_at = now(),
            unread_count = unread_count + 1, status = case when $5 then 'replied' else status end
         where account_id = $1 and id = $2 returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(id)
    .bind(channel)
    .bind(Direction::Inbound)
    .bind(by_person)
    .fetch_one(conn)
    .await
}
