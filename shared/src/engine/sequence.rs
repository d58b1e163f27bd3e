//! What follows a step, and what a stop takes along.

use std::collections::{HashMap, HashSet};

use queue::{NewJob, RunAt};
use uuid::Uuid;

use super::EngineError;
use crate::{
    Clock, Tx, db,
    domain::{
        enrolment::{Enrolment, EnrolmentStatus, StopReason},
        message::BlockedReason,
        schedule::{draft_at, due_at, next_step},
    },
    jobs::{self, enrolment_group},
};

/// Plans what follows steps whose fate is known, for locked enrolments: the draft of the next step one day before it is
/// due, or the end of the passage. Enrolments that were stopped meanwhile are left alone.
pub(super) async fn plan_next(
    tx: &mut Tx,
    clock: &Clock,
    account_id: Uuid,
    done: &[(Enrolment, i32)],
) -> Result<(), EngineError> {
    let active: Vec<_> = done.iter().filter(|(e, _)| e.status == EnrolmentStatus::Active).collect();
    if active.is_empty() {
        return Ok(());
    }
    let mut campaign_ids: Vec<Uuid> = active.iter().map(|(enrolment, _)| enrolment.campaign_id).collect();
    campaign_ids.sort_unstable();
    campaign_ids.dedup();
    let days: HashMap<_, _> =
        db::campaigns::followup_days(tx, account_id, &campaign_ids).await?.into_iter().collect();
    let mut drafts = Vec::new();
    let mut finished = Vec::new();
    for (enrolment, step) in active {
        let days = days.get(&enrolment.campaign_id).map_or(&[][..], Vec::as_slice);
        let Some(next) = next_step(*step, days) else {
            finished.push(enrolment.id);
            continue;
        };
        let run_at = due_at(&enrolment.passage(), next, days, clock.day())
            .map_or(RunAt::Now, |due_at| RunAt::At(draft_at(due_at, clock.day())));
        drafts.push(draft_job(enrolment, next)?.run_at(run_at));
    }
    tx.enqueue(&drafts).await?;
    db::enrolments::record_finished(tx, account_id, &finished).await?;
    Ok(())
}

/// The job that drafts a step.
pub(super) fn draft_job(enrolment: &Enrolment, step: i32) -> Result<NewJob, EngineError> {
    let account_id = enrolment.account_id;
    let payload = jobs::Draft { account_id, enrolment_id: enrolment.id, step };
    Ok(NewJob::new(&payload, account_id.to_string())?
        .group(enrolment_group(enrolment.campaign_id, enrolment.id)))
}

/// Stops locked enrolments for a reason: what they have not sent is cancelled, their jobs and timers too.
pub(super) async fn stop(
    tx: &mut Tx,
    account_id: Uuid,
    enrolments: &[Enrolment],
    reason: StopReason,
) -> Result<(), EngineError> {
    let ids: Vec<Uuid> = enrolments.iter().map(|enrolment| enrolment.id).collect();
    let stopped = db::enrolments::record_stopped(tx, account_id, &ids, &vec![reason; ids.len()]).await?;
    let blocked = (reason == StopReason::Suppressed).then_some(BlockedReason::Suppressed);
    db::messages::cancel_of_enrolments(tx, account_id, &stopped, blocked).await?;
    let stopped: HashSet<Uuid> = stopped.into_iter().collect();
    let groups: Vec<String> = enrolments
        .iter()
        .filter(|enrolment| stopped.contains(&enrolment.id))
        .map(|enrolment| enrolment_group(enrolment.campaign_id, enrolment.id))
        .collect();
    if !groups.is_empty() {
        let prefixes: Vec<&str> = groups.iter().map(String::as_str).collect();
        let (_, wake) = queue::groups::cancel_many(tx, &prefixes).await?;
        tx.wake(wake);
    }
    Ok(())
}
