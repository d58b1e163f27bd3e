//! Drafts the message of one step of an enrolment.

use std::time::Duration;

use queue::{Job, Outcome};
use shared::{
    domain::Channel,
    engine::{
        self,
        messages::{Draft, DraftContext, DraftWork, RecordedDraft},
    },
    jobs,
};

use super::{Handled, Shared, finish};
use crate::{
    context::Context,
    drafting::{DraftError, Drafted, Request},
};

/// After how many attempts a draft that cannot be had ends its enrolment. The job itself has many more: a database that is
/// away, or a run that takes too long, says nothing of the draft, and without its job the enrolment would stay active.
const TRIES_MAX: u32 = 8;
/// How long a draft waits for what is no failure of its own: a provider that is busy until the last try, or a wrong key.
const OUTAGE_PAUSE: Duration = Duration::from_secs(600);
/// Why a lane of drafts is closed.
const REFUSED: &str = "provider_refused";

/// Runs the job: reads the rows, asks the provider with no transaction open, and records the draft with the job's end.
pub async fn run(payload: jobs::Draft, job: Job, ctx: Shared) -> Handled {
    let mut conn = ctx.database.pool().acquire().await?;
    let work =
        engine::messages::prepare_draft(&mut conn, payload.account_id, payload.enrolment_id, payload.step)
            .await?;
    drop(conn);
    let DraftWork::Ready(known) = work else {
        return Ok(Outcome::Done);
    };
    let provider = ctx.provider.name();
    let begun = tokio::time::Instant::now();
    let drafted = ctx.provider.draft(&request(*known, payload.step), ctx.clock.now()).await;
    metrics::histogram!("iris_draft_seconds", "provider" => provider).record(begun.elapsed().as_secs_f64());
    match drafted {
        Ok(drafted) => record(&ctx, &job, &payload, drafted).await,
        Err(error) => {
            metrics::counter!("iris_drafts_total", "provider" => provider, "outcome" => "error").increment(1);
            give_way(&ctx, &job, &payload, error).await
        }
    }
}

fn request(known: DraftContext, step: i32) -> Request {
    Request {
        channel: known.enrolment.channel.unwrap_or(Channel::Email),
        campaign: known.campaign,
        contact: known.contact,
        step,
        earlier: known.previous,
    }
}

/// Records the draft. One that the engine does not take, however often, ends the enrolment.
async fn record(ctx: &Context, job: &Job, payload: &jobs::Draft, drafted: Drafted) -> Handled {
    let draft = Draft {
        subject: Some(drafted.subject).filter(|subject| !subject.is_empty()),
        content: drafted.content,
        model: Some(drafted.model),
        variables: serde_json::json!({}),
    };
    let mut tx = ctx.database.begin().await?;
    let recorded = engine::messages::record_draft(
        &mut tx,
        &ctx.clock,
        payload.account_id,
        payload.enrolment_id,
        payload.step,
        &draft,
    )
    .await;
    let recorded = match recorded {
        Ok(recorded) => recorded,
        Err(error) if error.is_database() || !is_last_try(job) => return Err(error.into()),
        Err(error) => {
            tx.rollback().await?;
            return fail(ctx, job, payload, &error.to_string()).await;
        }
    };
    let outcome = finish(tx, job, Outcome::Done).await?;
    let label = match recorded {
        RecordedDraft::Pending(_) => "pending",
        RecordedDraft::Approved(_) => "approved",
        RecordedDraft::Stopped => "stopped",
        RecordedDraft::AlreadyDrafted => "already_drafted",
    };
    metrics::counter!("iris_drafts_total", "provider" => ctx.provider.name(), "outcome" => label)
        .increment(1);
    Ok(outcome)
}

/// What a failure to draft means: a busy provider is asked again for as long as it takes, and so is one that waits for the
/// operator to mend a setting; one that rejects this draft or talks nonsense to the last try ends the enrolment.
async fn give_way(ctx: &Context, job: &Job, payload: &jobs::Draft, error: DraftError) -> Handled {
    tracing::warn!(%error, provider = ctx.provider.name(), attempt = job.attempt() + 1, "no draft");
    match error {
        DraftError::Refused(_) => close(ctx, job).await,
        DraftError::Busy { after, .. } if is_last_try(job) => {
            Ok(Outcome::snooze(after.unwrap_or_default().max(OUTAGE_PAUSE)))
        }
        DraftError::Busy { after, .. } => Ok(Outcome::Retry { error: error.to_string(), after }),
        DraftError::Rejected(_) | DraftError::BadAnswer(_) if is_last_try(job) => {
            fail(ctx, job, payload, &error.to_string()).await
        }
        DraftError::Rejected(_) | DraftError::BadAnswer(_) => Ok(Outcome::retry(error)),
    }
}

/// Whether the draft is not tried again after this run.
fn is_last_try(job: &Job) -> bool {
    job.attempt() + 1 >= TRIES_MAX
}

/// Closes the account's lane with the job's own pause: the other drafts in it would only find out the same, a request each.
async fn close(ctx: &Context, job: &Job) -> Handled {
    let mut tx = ctx.database.begin().await?;
    queue::lanes::close(&mut tx, job.queue(), job.lane(), OUTAGE_PAUSE, REFUSED).await?;
    finish(tx, job, Outcome::snooze(OUTAGE_PAUSE)).await
}

/// Ends the enrolment: its step cannot be drafted.
async fn fail(ctx: &Context, job: &Job, payload: &jobs::Draft, error: &str) -> Handled {
    let mut tx = ctx.database.begin().await?;
    engine::enrolments::record_failed(&mut tx, payload.account_id, payload.enrolment_id, error).await?;
    finish(tx, job, Outcome::Done).await
}
