//! Ends what jobs that died for good left behind: a message whose send job crashed, after its mark or before, an enrolment
//! whose draft job did, a search or a replay whose job did. Nobody else would ever say what became of them.

use std::time::Duration;

use queue::{Job, Outcome};
use shared::{
    db::{replays, stranded},
    domain::replay::ReplayStatus,
    engine, jobs,
};

use super::{Handled, Shared, finish};

/// How old something is before it is looked at; most of what is younger has its job still.
const AGE: Duration = Duration::from_secs(600);
/// How much of each kind one run settles; the next tick is a minute away.
const ROWS_MAX: i64 = 200;
/// What is said of what has not begun.
const DIED: &str = "its job died";

/// Runs the job.
pub async fn run(_payload: jobs::SettleStranded, job: Job, ctx: Shared) -> Handled {
    let age_ms = i64::try_from(AGE.as_millis()).unwrap_or(i64::MAX);
    let mut conn = ctx.database.pool().acquire().await?;
    let messages = stranded::messages(&mut conn, age_ms, ROWS_MAX).await?;
    let unsent = stranded::unsent(&mut conn, age_ms, ROWS_MAX).await?;
    let undrafted = stranded::undrafted(&mut conn, age_ms, ROWS_MAX).await?;
    let searches = stranded::searches(&mut conn, age_ms, ROWS_MAX).await?;
    let replaying = stranded::replays(&mut conn, age_ms, ROWS_MAX).await?;
    drop(conn);
    // A transaction each: every one locks an enrolment, and many would have to be locked in order.
    for message in &messages {
        let mut tx = ctx.database.begin().await?;
        let error = "its job died before the final answer";
        engine::sending::record_unknown(&mut tx, &ctx.clock, message.account_id, message.id, error).await?;
        tx.commit().await?;
    }
    for message in &unsent {
        let mut tx = ctx.database.begin().await?;
        engine::sending::record_failed(&mut tx, message.account_id, message.id, DIED).await?;
        tx.commit().await?;
    }
    for enrolment in &undrafted {
        let mut tx = ctx.database.begin().await?;
        engine::enrolments::record_failed(&mut tx, enrolment.account_id, enrolment.id, DIED).await?;
        tx.commit().await?;
    }
    for search in &searches {
        let mut tx = ctx.database.begin().await?;
        engine::discovery::fail_job(&mut tx, search.account_id, search.id, DIED).await?;
        tx.commit().await?;
    }
    for replay in &replaying {
        let mut tx = ctx.database.begin().await?;
        replays::record_end(&mut tx, replay.account_id, replay.id, ReplayStatus::Failed).await?;
        tx.commit().await?;
    }
    if [&messages, &unsent, &undrafted, &searches, &replaying].iter().any(|kind| !kind.is_empty()) {
        tracing::warn!(
            messages = messages.len(),
            unsent = unsent.len(),
            undrafted = undrafted.len(),
            searches = searches.len(),
            replays = replaying.len(),
            "settled what dead jobs left behind"
        );
    }
    finish(ctx.database.begin().await?, &job, Outcome::Done).await
}
