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

/// The messages that have been on the way for longer than `age_ms` and have no job, oldest first. A marked message's job
/// belongs to no group, so that only its payload names it; there are as good as never any candidates.
pub async fn messages(
    conn: &mut PgConnection,
    age_ms: i64,
    limit: i64,
) -> Result<Vec<Stranded>, sqlx::Error> {
    sqlx::query_as(
        "with old as materialized (
            select account_id, id, sending_at from messages
            where status = 'sending' and sending_at < now() - $1 * interval '1 millisecond'
           
         )
         select account_id, id from old
         where not exists (
            select 1 from (
                select payload from queue.running where queue = 'send'
                union all select payload from queue.ready where queue = 'send'
                union all select payload from queue.deferred where queue = 'send') job
            where job.payload::jsonb ->> 'message_id' = old.id::text)
         order by sending_at, id limit $2",
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
    sqlx::query_as(
        "with old as materialized (
            select account_id, id, created_at from discovery_jobs
            where status in ('queued', 'running') and created_at < now() - $1 * interval '1 millisecond'
           
         )
         select account_id, id from old
         where not exists (
            select 1 from (
                select payload from queue.running where queue = 'discover'
                union all select payload from queue.ready where queue = 'discover'
                union all select payload from queue.deferred where queue = 'discover') job
            where job.payload::jsonb ->> 'discovery_job_id' = old.id::text)
         order by created_at, id limit $2",
    )
    .bind(age_ms)
    .bind(limit)
    .fetch_all(conn)
    .await
}
