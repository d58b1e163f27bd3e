//! What a job left behind that will not come back: it died for good, or was thrown away. Ages are judged by the database's
//! clock; a row and its job change in one transaction, so that neither is ever seen without the other.

use sqlx::PgConnection;
use uuid::Uuid;

/// A row that no job will end: its account and its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Stranded {
    /// Whose it is.
    pub account_id: Uuid,
    /// Its id.
    pub id: Uuid,
}

/// Whether no job of a queue has the id of a row of `old` in this field of its payload.
macro_rules! no_job {
    ($queue:literal, $field:literal) => {
        concat!(
            "not exists (
            select 1 from (
                select payload from queue.running where queue = '",
            $queue,
            "'
                union all select payload from queue.ready where queue = '",
            $queue,
            "'
                union all select payload from queue.deferred where queue = '",
            $queue,
            "') job
            where job.payload::jsonb ->> '",
            $field,
            "' = old.id::text)"
        )
    };
}

/// The messages that have been on the way for longer than `age_ms` and have no job, oldest first. A marked message's job
/// belongs to no group, so that only its payload names it; there are as good as never any candidates.
pub async fn messages(
    conn: &mut PgConnection,
    age_ms: i64,
    limit: i64,
) -> Result<Vec<Stranded>, sqlx::Error> {
    sqlx::query_as(concat!(
        "with old as materialized (
            select account_id, id, sending_at from messages
            where status = 'sending' and sending_at < now() - $1 * interval '1 millisecond'
         )
         select account_id, id from old
         where ",
        no_job!("send", "message_id"),
        "
         order by sending_at, id limit $2"
    ))
    .bind(age_ms)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// The approved messages whose job died longer than `age_ms` ago and that have no other one, by id. There are as good as
/// never any; what the dead say is looked at, for the messages that wait may be many.
pub async fn unsent(conn: &mut PgConnection, age_ms: i64, limit: i64) -> Result<Vec<Stranded>, sqlx::Error> {
    sqlx::query_as(concat!(
        "with dead as materialized (
            select case when reason <> 'undecodable' then payload::jsonb end as payload from queue.dead
            where queue = 'send' and died_at < now() - $1 * interval '1 millisecond'
         ),
         old as materialized (
            select distinct m.account_id, m.id
            from dead join messages m
                on m.account_id = (dead.payload ->> 'account_id')::uuid and m.id = (dead.payload ->> 'message_id')::uuid
            where m.status in ('approved', 'scheduled')
         )
         select account_id, id from old
         where ",
        no_job!("send", "message_id"),
        "
         order by id limit $2"
    ))
    .bind(age_ms)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// The active enrolments whose draft job died longer than `age_ms` ago, and that have neither another one nor a message
/// that is still to be decided or sent, by id. The group of such a job ends in its enrolment.
pub async fn undrafted(
    conn: &mut PgConnection,
    age_ms: i64,
    limit: i64,
) -> Result<Vec<Stranded>, sqlx::Error> {
    sqlx::query_as(
        "with dead as materialized (
            select distinct tenant, grp from queue.dead
            where queue = 'draft' and died_at < now() - $1 * interval '1 millisecond'
         )
         select e.account_id, e.id
         from dead join enrolments e
            on e.account_id = dead.tenant::uuid and e.id = split_part(dead.grp, '/', 2)::uuid
         where e.status = 'active'
            and not exists (
                select from messages m
                where m.account_id = e.account_id and m.enrolment_id = e.id and m.step is not null
                    and m.status in ('drafting', 'pending', 'approved', 'scheduled', 'sending'))
            and not exists (select from queue.running j where j.grp = dead.grp and j.queue = 'draft')
            and not exists (select from queue.ready j where j.grp = dead.grp and j.queue = 'draft')
            and not exists (select from queue.deferred j where j.grp = dead.grp and j.queue = 'draft')
         order by e.id limit $2",
    )
    .bind(age_ms)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// The searches that were asked for longer than `age_ms` ago, have not ended and have no job, oldest first.
pub async fn searches(
    conn: &mut PgConnection,
    age_ms: i64,
    limit: i64,
) -> Result<Vec<Stranded>, sqlx::Error> {
    sqlx::query_as(concat!(
        "with old as materialized (
            select account_id, id, created_at from discovery_jobs
            where status in ('queued', 'running') and created_at < now() - $1 * interval '1 millisecond'
         )
         select account_id, id from old
         where ",
        no_job!("discover", "discovery_job_id"),
        "
         order by created_at, id limit $2"
    ))
    .bind(age_ms)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// The replays that were asked for longer than `age_ms` ago, have not ended and have no job, oldest first.
pub async fn replays(conn: &mut PgConnection, age_ms: i64, limit: i64) -> Result<Vec<Stranded>, sqlx::Error> {
    sqlx::query_as(concat!(
        "with old as materialized (
            select account_id, id, created_at from replays
            where status in ('queued', 'running') and created_at < now() - $1 * interval '1 millisecond'
         )
         select account_id, id from old
         where ",
        no_job!("replay", "replay_id"),
        "
         order by created_at, id limit $2"
    ))
    .bind(age_ms)
    .bind(limit)
    .fetch_all(conn)
    .await
}
