//! Contacts. A soft-deleted one keeps its row and its address, so that a later create brings it back to life.

use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::page::{Page, Rows, containing};
use crate::domain::{
    contact::{Contact, ContactStatus},
    erasure::ERASED_SOURCE,
};

/// The columns of a [`Contact`], of the table or alias that is given with its dot.
macro_rules! columns {
    () => {
        columns!("")
    };
    ($of:literal) => {
        concat!(
            $of,
            "account_id, ",
            $of,
            "id, ",
            $of,
            "email, ",
            $of,
            "first_name, ",
            $of,
            "last_name, ",
            $of,
            "company, ",
            $of,
            "title, ",
            $of,
            "contact_type, ",
            $of,
            "instagram_handle, ",
            $of,
            "twitter_handle, ",
            $of,
            "twitter_user_id, ",
            $of,
            "phone, ",
            $of,
            "website, ",
            $of,
            "location, ",
            $of,
            "latitude, ",
            $of,
            "longitude, ",
            $of,
            "tags, ",
            $of,
            "custom, ",
            $of,
            "source, ",
            $of,
            "provenance, ",
            $of,
            "status, ",
            $of,
            "created_at, ",
            $of,
            "updated_at, ",
            $of,
            "deleted_at"
        )
    };
}

/// The columns that a caller can change, as read from JSON rows.
macro_rules! json_rows {
    () => {
        "jsonb_to_recordset($2) as t(id uuid, email text, first_name text, last_name text, company text, title text,
            contact_type text, instagram_handle text, twitter_handle text, twitter_user_id text, phone text,
            website text, location text, latitude float8, longitude float8, tags text[], custom jsonb, source text,
            provenance jsonb)"
    };
}

/// Which contacts to list; `None` is no condition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContactFilter {
    /// In this campaign.
    pub campaign_id: Option<Uuid>,
    /// With this status.
    pub status: Option<ContactStatus>,
    /// Of this kind.
    pub contact_type: Option<String>,
    /// With this tag.
    pub tag: Option<String>,
    /// From this source.
    pub source: Option<String>,
    /// With this text in the name, company or address.
    pub search: Option<String>,
}

/// A contact that is not deleted.
pub async fn find(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<Contact>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from contacts where account_id = $1 and id = $2 and deleted_at is null"
    ))
    .bind(account_id)
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// Those of the contacts that are not deleted, in the order of `ids`.
pub async fn get_many(
    conn: &mut PgConnection,
    account_id: Uuid,
    ids: &[Uuid],
) -> Result<Vec<Contact>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from contacts where account_id = $1 and id = any ($2) and deleted_at is null
         order by array_position($2, id) limit cardinality($2)"
    ))
    .bind(account_id)
    .bind(ids)
    .fetch_all(conn)
    .await
}

/// The contacts of an account, newest first.
pub async fn list(
    conn: &mut PgConnection,
    account_id: Uuid,
    filter: &ContactFilter,
    page: Page,
) -> Result<Rows<Contact>, sqlx::Error> {
    let rows = sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from contacts c
         where account_id = $1 and deleted_at is null
            and ($2::uuid is null or exists (select 1 from enrolments e
                where e.account_id = c.account_id and e.campaign_id = $2 and e.contact_id = c.id))
            and ($3::text is null or status = $3)
            and ($4::text is null or contact_type = $4)
            and ($5::text is null or tags @> array[$5])
            and ($6::text is null or source = $6)
            and ($7::text is null or concat_ws(' ', first_name, last_name, company, email) ilike $7)
            and ($8::uuid is null or id < $8)
         order by id desc limit $9 offset $10"
    ))
    .bind(account_id)
    .bind(filter.campaign_id)
    .bind(filter.status)
    .bind(&filter.contact_type)
    .bind(&filter.tag)
    .bind(&filter.source)
    .bind(filter.search.as_deref().map(containing))
    .bind(page.after)
    .bind(page.fetch())
    .bind(page.offset)
    .fetch_all(conn)
    .await?;
    Ok(Rows::cut(rows, &page, |contact: &Contact| contact.id))
}

/// How many contacts [`list`] has in all.
pub async fn count(
    conn: &mut PgConnection,
    account_id: Uuid,
    filter: &ContactFilter,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select count(*) from contacts c
         where account_id = $1 and deleted_at is null
            and ($2::uuid is null or exists (select 1 from enrolments e
                where e.account_id = c.account_id and e.campaign_id = $2 and e.contact_id = c.id))
            and ($3::text is null or status = $3)
            and ($4::text is null or contact_type = $4)
            and ($5::text is null or tags @> array[$5])
            and ($6::text is null or source = $6)
            and ($7::text is null or concat_ws(' ', first_name, last_name, company, email) ilike $7)",
    )
    .bind(account_id)
    .bind(filter.campaign_id)
    .bind(filter.status)
    .bind(&filter.contact_type)
    .bind(&filter.tag)
    .bind(&filter.source)
    .bind(filter.search.as_deref().map(containing))
    .fetch_one(conn)
    .await
}

/// What may name a contact that is known: addresses, handles of rows that come without one, and directory entries of rows
/// that have neither.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Addresses.
    pub emails: Vec<String>,
    /// Instagram handles.
    pub instagram_handles: Vec<String>,
    /// Twitter ids.
    pub twitter_user_ids: Vec<String>,
    /// Twitter handles.
    pub twitter_handles: Vec<String>,
    /// The sources of directory entries.
    pub entry_sources: Vec<String>,
    /// The ids of the same entries.
    pub entry_ids: Vec<String>,
}

/// Locks the contacts that are known by one of the names, deleted ones too, in the order of their ids.
pub async fn lock_known(
    conn: &mut PgConnection,
    account_id: Uuid,
    names: &Names,
) -> Result<Vec<Contact>, sqlx::Error> {
    // One arm per index; the lock is taken in the outer query, in one order for everybody.
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from contacts
         where account_id = $1 and id in (
            select id from contacts where account_id = $1 and email = any ($2)
            union all
            select id from contacts where account_id = $1 and instagram_handle = any ($3)
            union all
            select id from contacts where account_id = $1 and twitter_user_id = any ($4)
            union all
            select id from contacts where account_id = $1 and twitter_handle = any ($5)
            union all
            select c.id from unnest($6::text[], $7::text[]) as e(source, id)
            join contacts c on c.account_id = $1 and c.provenance ->> 'source' = e.source
                and c.provenance ->> 'place_id' = e.id)
         order by id for no key update"
    ))
    .bind(account_id)
    .bind(&names.emails)
    .bind(&names.instagram_handles)
    .bind(&names.twitter_user_ids)
    .bind(&names.twitter_handles)
    .bind(&names.entry_sources)
    .bind(&names.entry_ids)
    .fetch_all(conn)
    .await
}

/// Locks a contact, deleted or not.
pub async fn lock(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
) -> Result<Option<Contact>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from contacts where account_id = $1 and id = $2 for no key update"
    ))
    .bind(account_id)
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// Writes new contacts and returns those that were written: one whose address another transaction has just committed
/// is left out. Addresses are inserted in order, so that two imports wait for each other in one direction only.
pub async fn insert_many(
    conn: &mut PgConnection,
    account_id: Uuid,
    contacts: &[&Contact],
) -> Result<Vec<Contact>, sqlx::Error> {
    sqlx::query_as(concat!(
        "insert into contacts (account_id, id, email, first_name, last_name, company, title, contact_type,
            instagram_handle, twitter_handle, twitter_user_id, phone, website, location, latitude, longitude, tags,
            custom, source, provenance)
         select $1, id, email, first_name, last_name, company, title, contact_type, instagram_handle, twitter_handle,
            twitter_user_id, phone, website, location, latitude, longitude, tags, custom, source, provenance
         from ",
        json_rows!(),
        " order by email, id
         on conflict (account_id, email) where email is not null do nothing
         returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(Json(contacts))
    .fetch_all(conn)
    .await
}

/// Writes changed contacts whose rows are locked; deleted ones come back to life. What they were known by before is kept, for
/// their erasure.
pub async fn update_many(
    conn: &mut PgConnection,
    account_id: Uuid,
    contacts: &[&Contact],
) -> Result<Vec<Contact>, sqlx::Error> {
    sqlx::query_as(concat!(
        "update contacts c set email = t.email, first_name = t.first_name, last_name = t.last_name,
            company = t.company, title = t.title, contact_type = t.contact_type,
            instagram_handle = t.instagram_handle, twitter_handle = t.twitter_handle,
            twitter_user_id = t.twitter_user_id, phone = t.phone, website = t.website, location = t.location,
            latitude = t.latitude, longitude = t.longitude, tags = t.tags, custom = t.custom, source = t.source,
            provenance = t.provenance, updated_at = now(), deleted_at = null,
            former = array(
                select distinct name from unnest(c.former || array[
                    case when c.email is distinct from t.email then 'email:' || c.email end,
                    case when c.instagram_handle is distinct from t.instagram_handle then 'instagram:' || c.instagram_handle end,
                    case when c.twitter_handle is distinct from t.twitter_handle then 'twitter:' || c.twitter_handle end,
                    case when c.twitter_user_id is distinct from t.twitter_user_id then 'twitter:' || c.twitter_user_id end
                ])
                    as name
                where name is not null and name not in (coalesce('email:' || t.email, ''),
                    coalesce('instagram:' || t.instagram_handle, ''), coalesce('twitter:' || t.twitter_handle, ''),
                    coalesce('twitter:' || t.twitter_user_id, ''))
                order by name)
         from ",
        json_rows!(),
        " where c.account_id = $1 and c.id = t.id returning ",
        columns!("c.")
    ))
    .bind(account_id)
    .bind(Json(contacts))
    .fetch_all(conn)
    .await
}

/// Writes the status of a contact whose row is locked.
pub async fn record_status(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    status: ContactStatus,
) -> Result<Contact, sqlx::Error> {
    sqlx::query_as(concat!(
        "update contacts set status = $3, updated_at = now() where account_id = $1 and id = $2 returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(id)
    .bind(status)
    .fetch_one(conn)
    .await
}

/// Soft-deletes contacts and returns those that were not deleted before.
pub async fn delete_many(
    conn: &mut PgConnection,
    account_id: Uuid,
    ids: &[Uuid],
) -> Result<Vec<Contact>, sqlx::Error> {
    sqlx::query_as(concat!(
        "with locked as (
            select id as locked_id from contacts
            where account_id = $1 and id = any ($2) and deleted_at is null order by id for no key update
         )
         update contacts set deleted_at = now(), updated_at = now()
         where account_id = $1 and id in (select locked_id from locked)
         returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(ids)
    .fetch_all(conn)
    .await
}

/// Empties contacts for good, deleted ones too, and returns those that were not erased before. They stay deleted, and nothing
/// names them any more.
pub async fn erase_many(
    conn: &mut PgConnection,
    account_id: Uuid,
    ids: &[Uuid],
) -> Result<Vec<Contact>, sqlx::Error> {
    sqlx::query_as(concat!(
        "update contacts set email = null, first_name = null, last_name = null, company = null, title = null,
            contact_type = null, instagram_handle = null, twitter_handle = null, twitter_user_id = null, phone = null,
            website = null, location = null, latitude = null, longitude = null, tags = '{}', custom = '{}', source = $3,
            provenance = '{}', former = '{}', updated_at = now(), deleted_at = coalesce(deleted_at, now()), erased_at = now()
         where account_id = $1 and id = any ($2) and erased_at is null
         returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(ids)
    .bind(ERASED_SOURCE)
    .fetch_all(conn)
    .await
}

/// Which of these addresses are never to be written to, by themselves or by their domain.
pub async fn suppressed_emails(
    conn: &mut PgConnection,
    account_id: Uuid,
    emails: &[String],
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "select email from unnest($2::text[]) as t(email)
         where is_suppressed($1, email, null, null, null) order by email limit cardinality($2)",
    )
    .bind(account_id)
    .bind(emails)
    .fetch_all(conn)
    .await
}
