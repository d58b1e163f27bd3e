//! Whom campaigns look for.

use sqlx::PgConnection;
use uuid::Uuid;

use super::page::{Page, Rows};
use crate::domain::target_profile::{NewTargetProfile, TargetProfile};

/// How many a campaign has at most.
pub const PROFILES_MAX: i64 = 20;

/// The columns of a [`TargetProfile`].
macro_rules! columns {
    () => {
        "id, name, keywords, venue_types, titles, location, radius_miles, notes, created_at"
    };
}

/// The profiles of a campaign, the newest first.
pub async fn list(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Uuid,
    page: Page,
) -> Result<Rows<TargetProfile>, sqlx::Error> {
    let rows = sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from target_profiles where account_id = $1 and campaign_id = $2 and ($3::uuid is null or id < $3)
         order by id desc limit $4 offset $5"
    ))
    .bind(account_id)
    .bind(campaign_id)
    .bind(page.after)
    .bind(page.fetch())
    .bind(page.offset)
    .fetch_all(conn)
    .await?;
    Ok(Rows::cut(rows, &page, |profile: &TargetProfile| profile.id))
}

/// How many profiles a campaign has.
pub async fn count(conn: &mut PgConnection, account_id: Uuid, campaign_id: Uuid) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from target_profiles where account_id = $1 and campaign_id = $2")
        .bind(account_id)
        .bind(campaign_id)
        .fetch_one(conn)
        .await
}

/// Writes a new profile of a campaign whose row is locked.
pub async fn insert(
    conn: &mut PgConnection,
    account_id: Uuid,
    id: Uuid,
    campaign_id: Uuid,
    new: &NewTargetProfile,
) -> Result<TargetProfile, sqlx::Error> {
    sqlx::query_as(concat!(
        "insert into target_profiles (account_id, id, campaign_id, name, keywords, venue_types, titles, location,
            radius_miles, notes)
         values ($1, $2, $3, $4, coalesce($5, '{}'), coalesce($6, '{}'), coalesce($7, '{}'), $8, $9, $10) returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(id)
    .bind(campaign_id)
    .bind(&new.name)
    .bind(&new.keywords)
    .bind(&new.venue_types)
    .bind(&new.titles)
    .bind(&new.location)
    .bind(new.radius_miles())
    .bind(&new.notes)
    .fetch_one(conn)
    .await
}

/// Removes a profile. `None`: the campaign has no such profile.
pub async fn delete(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Uuid,
    id: Uuid,
) -> Result<Option<TargetProfile>, sqlx::Error> {
    sqlx::query_as(concat!(
        "delete from target_profiles where account_id = $1 and campaign_id = $2 and id = $3 returning ",
        columns!()
    ))
    .bind(account_id)
    .bind(campaign_id)
    .bind(id)
    .fetch_optional(conn)
    .await
}
