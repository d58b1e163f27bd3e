//! Goes through a batch of the events of a replay: makes the deliveries of those that are to be delivered again, moves the
//! replay on, and enqueues the job of the next batch, all in the transaction that ends this one. A process that dies between
//! two batches, or within one, leaves nothing made twice and nothing out.

use queue::{Job, Outcome};
use shared::{
    Tx,
    config::given_up_at,
    db::{
        deliveries, endpoints,
        redeliveries::{self, Again},
        replays::{self, Scanned, Unfinished},
    },
    domain::replay::{Choice, ReplayStatus, choose},
    jobs,
};

use super::{Handled, Shared, finish};

/// How many events one run looks at.
pub const EVENTS_MAX: i64 = 1000;
/// What is replayed runs behind live deliveries of the same endpoint that come within the next hour: a point is worth a
/// minute.
const PRIORITY: i16 = 60;

/// Runs the job. After the last attempt the replay is recorded as failed, so that whoever waits for it learns of it.
pub async fn run(payload: jobs::Replay, job: Job, ctx: Shared) -> Handled {
    match go_on(&ctx, &job, &payload).await {
        Err(error) if job.is_last_attempt() => {
            tracing::error!(error, replay = %payload.replay_id, "the replay is given up");
            let tx = ctx.database.begin().await?;
            end(tx, &job, &payload, ReplayStatus::Failed).await
        }
        handled => handled,
    }
}

async fn go_on(ctx: &Shared, job: &Job, payload: &jobs::Replay) -> Handled {
    let account_id = payload.account_id;
    let mut tx = ctx.database.begin().await?;
    let Some(replay) = replays::lock_unfinished(&mut tx, account_id, payload.replay_id).await? else {
        return finish(tx, job, Outcome::Done).await;
    };
    match endpoints::find(&mut tx, account_id, replay.endpoint_id).await? {
        None => return end(tx, job, payload, ReplayStatus::EndpointDeleted).await,
        Some(endpoint) if !endpoint.enabled => {
            return end(tx, job, payload, ReplayStatus::EndpointDisabled).await;
        }
        Some(_) => {}
    }
    deliveries::look_up_by_key(&mut tx).await?;
    let looked = replays::scan(&mut tx, account_id, &replay, EVENTS_MAX).await?;
    let wanted: Vec<Again> =
        looked.iter().filter(|event| event.wanted).filter_map(|event| again(&replay, event)).collect();
    let age_max = given_up_at(ctx.history_keep);
    let made =
        redeliveries::make(&mut tx, account_id, replay.endpoint_id, &wanted, age_max, PRIORITY).await?;
    if let Some(last) = looked.last() {
        let within = looked.iter().filter(|event| event.within).count();
        let (scanned, created) = (i64::try_from(within)?, i64::try_from(made.len())?);
        replays::record_progress(&mut tx, account_id, payload.replay_id, last.event_id, scanned, created)
            .await?;
    }
    tracing::debug!(replay = %payload.replay_id, looked_at = looked.len(), made = made.len(), "replayed");
    if i64::try_from(looked.len())? < EVENTS_MAX {
        return end(tx, job, payload, ReplayStatus::Succeeded).await;
    }
    tx.enqueue(&[replays::job(account_id, replay.endpoint_id, payload.replay_id)?]).await?;
    finish(tx, job, Outcome::Done).await
}

/// What is to be made of a wanted event.
fn again(replay: &Unfinished, event: &Scanned) -> Option<Again> {
    let delivery_id = match choose(event.newest(), replay.failed_only) {
        Choice::Leave => return None,
        Choice::Restart(id) => Some(id),
        Choice::Create => None,
    };
    Some(Again { event_id: event.event_id, kind: event.kind.clone(), delivery_id })
}

/// Ends the replay with the job.
async fn end(mut tx: Tx, job: &Job, payload: &jobs::Replay, status: ReplayStatus) -> Handled {
    replays::record_end(&mut tx, payload.account_id, payload.replay_id, status).await?;
    let outcome = finish(tx, job, Outcome::Done).await?;
    if outcome == Outcome::Done {
        tracing::info!(replay = %payload.replay_id, status = status.as_str(), "the replay has ended");
    }
    Ok(outcome)
}
