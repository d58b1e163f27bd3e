//! The directory of venues that discovery searches; the same for every account.

use sqlx::{PgConnection, types::Json};

use crate::domain::discovery::{Criteria, Place};

/// The columns of a [`Place`].
macro_rules! columns {
    () => {
        "id, name, venue_type, email, phone, website, instagram_handle, twitter_handle, street, location, latitude,
         longitude, keywords, description"
    };
}

/// Writes venues, replacing those known by the same id. An address of two venues in one call is fine, an id is not.
pub async fn upsert_many(conn: &mut PgConnection, places: &[Place]) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(concat!(
        "insert into places (",
        columns!(),
        ") select ",
        columns!(),
        " from jsonb_to_recordset($1) as t(id text, name text, venue_type text, email text, phone text, website text,
            instagram_handle text, twitter_handle text, street text, location text, latitude float8,
            longitude float8, keywords text[], description text)
         order by id
         on conflict (id) do update set name = excluded.name, venue_type = excluded.venue_type,
            email = excluded.email, phone = excluded.phone, website = excluded.website,
            instagram_handle = excluded.instagram_handle, twitter_handle = excluded.twitter_handle,
            street = excluded.street, location = excluded.location, latitude = excluded.latitude,
            longitude = excluded.longitude, keywords = excluded.keywords, description = excluded.description"
    ))
    .bind(Json(places))
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// How many venues there are.
pub async fn count(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from places").fetch_one(conn).await
}

/// The venues that the criteria ask for, best first: those of the given kinds, or else those that one of the keywords
/// names; within the radius of the given point, or of the middle of the venues of the given town. Ranked by how many
/// keywords they have, then by distance. At most `limit`, and never more than the criteria want.
pub async fn search(
    conn: &mut PgConnection,
    criteria: &Criteria,
    limit: i64,
) -> Result<Vec<Place>, sqlx::Error> {
    let lower = |words: &[String]| words.iter().map(|word| word.trim().to_lowercase()).collect::<Vec<_>>();
    sqlx::query_as(concat!(
        // The haversine formula with the earth's mean radius of 3958.8 miles; the box in front of it uses the index.
        "with centre as materialized (
            select coalesce($3::float8, avg(latitude)) as latitude, coalesce($4::float8, avg(longitude)) as longitude
            from places where $3 is null and split_part(lower(location), ',', 1) = split_part(lower($5::text), ',', 1)
        ), near as (
            select p.*, 2 * 3958.8 * asin(least(1, sqrt(
                    power(sin(radians(p.latitude - c.latitude) / 2), 2) + cos(radians(c.latitude))
                    * cos(radians(p.latitude)) * power(sin(radians(p.longitude - c.longitude) / 2), 2)))) as miles
            from centre c join places p
                on p.latitude between c.latitude - $6::float8 / 69.0 and c.latitude + $6 / 69.0
                and abs(p.longitude - c.longitude) <= $6 / (69.0 * greatest(cos(radians(c.latitude)), 0.01))
        ), ranked as (
            select n.*, (
                select count(*) from unnest($2::text[]) as wanted(word)
                where word = lower(n.venue_type) or word = any (n.keywords)
                    or position(word in lower(n.name || ' ' || n.description)) > 0) as matches
            from near n where n.miles <= $6
        )
        select ",
        columns!(),
        " from ranked
         where case when cardinality($1::text[]) > 0 then lower(venue_type) = any ($1) else matches > 0 end
         order by matches desc, miles, id limit least($7::int8, $8::int8)"
    ))
    .bind(lower(&criteria.venue_types))
    .bind(lower(&criteria.keywords))
    .bind(criteria.latitude.filter(|_| criteria.longitude.is_some()))
    .bind(criteria.longitude.filter(|_| criteria.latitude.is_some()))
    .bind(criteria.location.as_deref().map(str::trim))
    .bind(criteria.radius_miles)
    .bind(limit)
    .bind(i64::from(criteria.max_results))
    .fetch_all(conn)
    .await
}
