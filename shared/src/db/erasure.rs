//! Erasing contacts: from every table that knows something of them, and from the events that told of it.
//!
//! The rows about a person are few and are emptied at once. The events are found by going through the account's events of
//! the contact's life, page by page: no index by resource is kept, since every event would pay for it when it is relayed.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use utoipa::ToSchema;
use uuid::Uuid;

use super::outbox::shard_of;
use crate::{clock::iso_ms, ids::new_id};

/// A contact that is about to be erased, and what it is known by outside.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Known {
    /// Its id.
    pub id: Uuid,
    /// Its address.
    pub email: Option<String>,
    /// Its Instagram handle.
    pub instagram_handle: Option<String>,
    /// Its Twitter handle.
    pub twitter_handle: Option<String>,
    /// Its Twitter id.
    pub twitter_user_id: Option<String>,
    /// What it was known by before, each with its kind before it.
    pub former: Vec<String>,
}

impl Known {
    /// All that it is and was known by, with the kind of each.
    fn names(&self) -> impl Iterator<Item = (&str, &str)> {
        let own = [
            ("email", &self.email),
            ("instagram", &self.instagram_handle),
            ("twitter", &self.twitter_handle),
            ("twitter", &self.twitter_user_id),
        ];
        let own = own.into_iter().filter_map(|(kind, name)| Some((kind, name.as_deref()?)));
        own.chain(self.former.iter().filter_map(|name| name.split_once(':')))
    }

    /// The addresses that it has and had.
    pub fn emails(&self) -> impl Iterator<Item = &str> {
        self.names().filter(|(kind, _)| *kind == "email").map(|(_, email)| email)
    }
}

/// When a contact was erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow, Serialize, ToSchema)]
pub struct Erased {
    /// The contact.
    pub id: Uuid,
    /// When.
    #[serde(with = "iso_ms")]
    pub erased_at: DateTime<Utc>,
}

/// Locks those of some contacts that are not erased yet, deleted ones too, in the order of their ids.
pub async fn lock_known(
    conn: &mut PgConnection,
    account_id: Uuid,
    contact_ids: &[Uuid],
) -> Result<Vec<Known>, sqlx::Error> {
    sqlx::query_as(
        // What another contact has by now is that one's.
        "select id, email, instagram_handle, twitter_handle, twitter_user_id,
            array(select name from unnest(former) name where not case split_part(name, ':', 1)
                when 'email' then exists (select from contacts o
                    where o.account_id = contacts.account_id and o.email = substr(name, 7) and o.id <> contacts.id)
                when 'instagram' then exists (select from contacts o
                    where o.account_id = contacts.account_id and o.instagram_handle = substr(name, 11) and o.id <> contacts.id)
                else exists (select from contacts o
                    where o.account_id = contacts.account_id and o.twitter_handle = substr(name, 9) and o.id <> contacts.id)
                    or exists (select from contacts o
                    where o.account_id = contacts.account_id and o.twitter_user_id = substr(name, 9) and o.id <> contacts.id)
                end) as former
         from contacts
         where account_id = $1 and id = any ($2) and erased_at is null
         order by id for no key update",
    )
    .bind(account_id)
    .bind(contact_ids)
    .fetch_all(conn)
    .await
}

/// When those of some contacts that are erased were, by their ids.
pub async fn list_erased(
    conn: &mut PgConnection,
    account_id: Uuid,
    contact_ids: &[Uuid],
) -> Result<Vec<Erased>, sqlx::Error> {
    sqlx::query_as(
        "select id, erased_at from contacts
         where account_id = $1 and id = any ($2) and erased_at is not null order by id limit cardinality($2)",
    )
    .bind(account_id)
    .bind(contact_ids)
    .fetch_all(conn)
    .await
}

/// Empties the messages of contacts, cancels what was not sent yet, and deletes the mails that they came from or that are
/// about them. A message's fate stays.
pub async fn erase_texts(
    conn: &mut PgConnection,
    account_id: Uuid,
    contact_ids: &[Uuid],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "with written as materialized (
            select m.id, m.status in ('drafting', 'pending', 'approved', 'scheduled') as unsent
            from conversations c
            join messages m on m.account_id = c.account_id and m.conversation_id = c.id
            where c.account_id = $1 and c.contact_id = any ($2)
            order by m.id for no key update of m
        ), mails as (
            delete from inbound_emails where account_id = $1 and message_id in (select id from written)
        )
        update messages m set subject = null, content = '', variables = '{}', rfc_message_id = null,
            recipient = null, in_reply_to = null, error = null, updated_at = now(),
            status = case when w.unsent then 'cancelled' else m.status end,
            blocked_reason = case when w.unsent then null else m.blocked_reason end,
            next_attempt_at = case when w.unsent then null else m.next_attempt_at end
        from written w
        where m.account_id = $1 and m.id = w.id and (w.unsent or m.content <> '' or m.subject is not null
            or m.variables <> '{}' or m.rfc_message_id is not null or m.in_reply_to is not null or m.recipient is not null or m.error is not null)",
    )
    .bind(account_id)
    .bind(contact_ids)
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes the mails from these addresses that matched nothing.
pub async fn erase_unmatched(
    conn: &mut PgConnection,
    account_id: Uuid,
    emails: &[&str],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "delete from inbound_emails where account_id = $1 and kind = 'unmatched' and from_address = any ($2)",
    )
    .bind(account_id)
    .bind(emails)
    .execute(conn)
    .await?;
    Ok(())
}

/// Suppresses what contacts are and were known by, as hashes: what was suppressed in clear is no longer, for its reason, and what
/// was not is from now on.
pub async fn suppress_hashed(
    conn: &mut PgConnection,
    account_id: Uuid,
    known: &[Known],
) -> Result<(), sqlx::Error> {
    let (kinds, values): (Vec<&str>, Vec<&str>) = known.iter().flat_map(Known::names).unzip();
    let ids: Vec<Uuid> = values.iter().map(|_| new_id()).collect();
    sqlx::query(
        "with named as materialized (
            select distinct on (kind, value) id, kind, value
            from unnest($2::uuid[], $3::text[], $4::text[]) as t(id, kind, value) order by kind, value, id
        ), clear as (
            delete from suppressions s using named n
            where s.account_id = $1 and s.kind = n.kind and s.value = n.value
            returning s.kind, s.value, s.reason
        )
        insert into suppressions (account_id, id, kind, value, reason)
        select $1, n.id, n.kind, suppression_hash($1, n.value), coalesce(c.reason, 'erased')
        from named n left join clear c on c.kind = n.kind and c.value = n.value
        order by n.kind, n.value
        on conflict (account_id, kind, value) do nothing",
    )
    .bind(account_id)
    .bind(&ids)
    .bind(&kinds)
    .bind(&values)
    .execute(conn)
    .await?;
    Ok(())
}

/// The ids that events about contacts may have: their own, and those of their conversations and messages.
pub async fn list_resources(
    conn: &mut PgConnection,
    account_id: Uuid,
    contact_ids: &[Uuid],
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        "with spoken as materialized (
            select id from conversations where account_id = $1 and contact_id = any ($2)
        )
        select unnest($2::uuid[])
        union all select id from spoken
        union all select m.id from spoken s
            join messages m on m.account_id = $1 and m.conversation_id = s.id",
    )
    .bind(account_id)
    .bind(contact_ids)
    .fetch_all(conn)
    .await
}

/// An event as it is stored, in the outbox or in the history.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Told {
    /// Its number in the outbox, or 0.
    pub number: i64,
    /// Its id.
    pub id: Uuid,
    /// Its type.
    #[sqlx(rename = "type")]
    pub kind: String,
    /// Its bytes.
    pub body: String,
}

/// Locks up to `limit` events of these resources that are not relayed yet, after a number of the outbox.
pub async fn lock_unrelayed(
    conn: &mut PgConnection,
    account_id: Uuid,
    resource_ids: &[Uuid],
    after: i64,
    limit: i64,
) -> Result<Vec<Told>, sqlx::Error> {
    sqlx::query_as(
        "select number, event_id as id, type, body from outbox
         where shard = $1 and account_id = $2 and resource_id = any ($3) and number > $4
         order by number limit $5 for no key update",
    )
    .bind(shard_of(account_id))
    .bind(account_id)
    .bind(resource_ids)
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// Writes the bodies of locked events that are not relayed yet.
pub async fn rewrite_unrelayed(
    conn: &mut PgConnection,
    account_id: Uuid,
    bodies: &[(i64, String)],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update outbox o set body = t.body from unnest($2::int8[], $3::text[]) as t(number, body)
         where o.shard = $1 and o.number = t.number",
    )
    .bind(shard_of(account_id))
    .bind(bodies.iter().map(|(number, _)| *number).collect::<Vec<_>>())
    .bind(bodies.iter().map(|(_, body)| body.as_str()).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// How many of an account's events are looked at by one call of [`find_page`].
const PAGE: i64 = 20_000;
/// How many events about a contact it returns at most: their bodies are in memory together.
const FOUND_MAX: i64 = 200;
/// How much the clocks of two machines may differ, in hours: an event's id has the time of the machine that made it.
const SKEW_HOURS: i32 = 1;

/// What one look at the history found.
#[derive(Debug)]
pub struct Page {
    /// The events of the resources.
    pub found: Vec<Told>,
    /// The last event that was looked at; none if there is no other after it.
    pub next: Option<Uuid>,
}

/// The event from which on an account's history may tell of contacts: none is older than the oldest of them.
pub async fn find_beginning(
    conn: &mut PgConnection,
    account_id: Uuid,
    contact_ids: &[Uuid],
) -> Result<Uuid, sqlx::Error> {
    sqlx::query_scalar(
        "select coalesce(uuid_v7_floor(min(created_at) - make_interval(hours => $3)), $4)
         from contacts where account_id = $1 and id = any ($2)",
    )
    .bind(account_id)
    .bind(contact_ids)
    .bind(SKEW_HOURS)
    .bind(Uuid::nil())
    .fetch_one(conn)
    .await
}

/// The events of these resources among an account's next twenty thousand after one.
pub async fn find_page(
    conn: &mut PgConnection,
    account_id: Uuid,
    resource_ids: &[Uuid],
    after: Uuid,
) -> Result<Page, sqlx::Error> {
    let end: Option<Uuid> = sqlx::query_scalar(
        "select id from events where account_id = $1 and id > $2 order by id offset $3 limit 1",
    )
    .bind(account_id)
    .bind(after)
    .bind(PAGE - 1)
    .fetch_optional(&mut *conn)
    .await?;
    let found: Vec<Told> = sqlx::query_as(
        "select 0::int8 as number, id, type, body from events
         where account_id = $1 and id > $2 and id <= $3 and resource_id = any ($4) order by id limit $5",
    )
    .bind(account_id)
    .bind(after)
    .bind(end.unwrap_or(Uuid::max()))
    .bind(resource_ids)
    .bind(FOUND_MAX)
    .fetch_all(conn)
    .await?;
    let is_full = i64::try_from(found.len()).unwrap_or(i64::MAX) >= FOUND_MAX;
    let next = if is_full { found.last().map(|event| event.id) } else { end };
    Ok(Page { found, next })
}

/// Writes the bodies of events.
pub async fn rewrite(
    conn: &mut PgConnection,
    account_id: Uuid,
    bodies: &[(Uuid, String)],
) -> Result<(), sqlx::Error> {
    if bodies.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update events v set body = t.body from unnest($2::uuid[], $3::text[]) as t(id, body)
         where v.account_id = $1 and v.id = t.id",
    )
    .bind(account_id)
    .bind(bodies.iter().map(|(id, _)| *id).collect::<Vec<_>>())
    .bind(bodies.iter().map(|(_, body)| body.as_str()).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes what receivers answered to the deliveries of events: it may repeat what it was sent.
pub async fn erase_excerpts(
    conn: &mut PgConnection,
    account_id: Uuid,
    event_ids: &[Uuid],
) -> Result<u64, sqlx::Error> {
    if event_ids.is_empty() {
        return Ok(0);
    }
    let (done,): (i64,) = sqlx::query_as(
        // Each lateral query's offset keeps it apart, so that it is looked up row by row.
        "with delivered as materialized (
            select d.id, d.response_excerpt from unnest($2::uuid[]) as e(id)
            cross join lateral (
                select d.id, d.response_excerpt from deliveries d where d.account_id = $1 and d.event_id = e.id offset 0) d
        ), tried as materialized (
            select a.id from delivered d
            cross join lateral (
                select a.id from attempts a
                where a.account_id = $1 and a.delivery_id = d.id and a.response_excerpt is not null offset 0) a
        ), failed as (
            update attempts a set response_excerpt = null from tried t where a.account_id = $1 and a.id = t.id returning 1
        ), acknowledged as (
            update deliveries d set response_excerpt = null from delivered t
            where t.response_excerpt is not null and d.account_id = $1 and d.id = t.id returning 1
        )
        select (select count(*) from failed) + (select count(*) from acknowledged)",
    )
    .bind(account_id)
    .bind(event_ids)
    .fetch_one(conn)
    .await?;
    Ok(done.unsigned_abs())
}
