//! Creating, changing, activating and ending a campaign.

use uuid::Uuid;

use super::{EngineError, discovery, enrolments};
use crate::{
    Tx,
    db::{self, outbox},
    domain::{
        campaign::{Campaign, CampaignPatch, CampaignStatus, NewCampaign, Refused, Transition, transition},
        changes,
        discovery::Criteria,
        enrolment::StopReason,
    },
    events::{EventType, NewEvent},
    ids::new_id,
    jobs::campaign_group,
};

/// Creates a campaign, and activates it when its status says so. Raises campaign.created.
pub async fn create(tx: &mut Tx, account_id: Uuid, new: &NewCampaign) -> Result<Campaign, EngineError> {
    EngineError::check(new.validate())?;
    let mut campaign = db::campaigns::insert(tx, account_id, new_id(), new).await?;
    let activate = new.status == CampaignStatus::Active;
    if activate {
        campaign = mark_active(tx, campaign).await?;
    }
    let event = NewEvent::new(account_id, EventType::CampaignCreated, campaign.id, campaign.public());
    outbox::append(tx, &[event]).await?;
    if activate {
        start(tx, &campaign).await?;
    }
    Ok(campaign)
}

/// Changes fields and status of a campaign. Raises campaign.updated with `previous`, unless nothing changed. Activation
/// starts the listed contacts and, when there are criteria, discovery; all of it in the caller's transaction.
pub async fn update(
    tx: &mut Tx,
    account_id: Uuid,
    campaign_id: Uuid,
    patch: &CampaignPatch,
) -> Result<Campaign, EngineError> {
    let before =
        db::campaigns::lock(tx, account_id, campaign_id).await?.ok_or(EngineError::CampaignNotFound)?;
    EngineError::check(patch.validate())?;
    let (from, to) = (before.status, patch.status.unwrap_or(before.status));
    let change = if patch.status.is_some() {
        transition(from, to).map_err(|refused| match refused {
            Refused::AlreadyActive => EngineError::CampaignAlreadyActive,
            Refused::NotDrawn => EngineError::InvalidTransition { from, to },
        })?
    } else {
        Transition::Unchanged
    };

    let mut after = patch.apply(&before);
    if after == before && change == Transition::Unchanged {
        return Ok(before);
    }
    after.status = to;
    let after = match change {
        Transition::Activate => mark_active(tx, after).await?,
        _ => db::campaigns::save(tx, &after).await?,
    };
    append_updated(tx, &before, &after).await?;
    match change {
        Transition::Unchanged => release_capped(tx, &before, &after).await?,
        Transition::Activate => start(tx, &after).await?,
        Transition::Pause => pause(tx, &before, &after).await?,
        Transition::Resume => resume(tx, &before, &after).await?,
        Transition::Complete => end(tx, &after).await?,
    }
    Ok(after)
}

/// Soft-deletes a campaign: its passages stop, what they have not sent is cancelled. Raises campaign.deleted.
pub async fn delete(tx: &mut Tx, account_id: Uuid, campaign_id: Uuid) -> Result<Campaign, EngineError> {
    let mut campaign =
        db::campaigns::lock(tx, account_id, campaign_id).await?.ok_or(EngineError::CampaignNotFound)?;
    campaign.status = CampaignStatus::Deleted;
    let campaign = db::campaigns::save(tx, &campaign).await?;
    let event = NewEvent::new(account_id, EventType::CampaignDeleted, campaign.id, campaign.public());
    outbox::append(tx, &[event]).await?;
    end(tx, &campaign).await?;
    Ok(campaign)
}

/// Completes up to `limit` active campaigns in which nothing can still happen, over all accounts. Raises
/// campaign.updated for each and returns how many there were.
pub async fn complete_finished(tx: &mut Tx, limit: i64) -> Result<u64, EngineError> {
    let idle = db::campaigns::lock_idle(tx, limit).await?;
    if idle.is_empty() {
        return Ok(0);
    }
    let completed = db::campaigns::complete_idle(tx, &idle).await?;
    for after in &completed {
        let before = Campaign { status: CampaignStatus::Active, completed_at: None, ..after.clone() };
        append_updated(tx, &before, after).await?;
    }
    Ok(u64::try_from(completed.len()).unwrap_or(u64::MAX))
}

async fn append_updated(tx: &mut Tx, before: &Campaign, after: &Campaign) -> Result<(), EngineError> {
    let public = after.public();
    if let Some(previous) = changes::previous(&before.public(), &public) {
        let data = changes::with_previous(&public, previous);
        let event = NewEvent::new(after.account_id, EventType::CampaignUpdated, after.id, data);
        outbox::append(tx, &[event]).await?;
    }
    Ok(())
}

/// Makes a draft active, if it has anybody to write to or to look for (CAMP_007).
async fn mark_active(tx: &mut Tx, mut campaign: Campaign) -> Result<Campaign, EngineError> {
    let listed = db::enrolments::count(tx, campaign.account_id, campaign.id).await?;
    if listed == 0 && !campaign.has_criteria() {
        return Err(EngineError::CampaignHasNoContacts);
    }
    campaign.status = CampaignStatus::Active;
    Ok(db::campaigns::save(tx, &campaign).await?)
}

/// Starts what a draft has listed. Discovery runs unless an earlier one, or an import, has brought as many contacts as
/// the campaign wants.
async fn start(tx: &mut Tx, campaign: &Campaign) -> Result<(), EngineError> {
    let listed = db::enrolments::count(tx, campaign.account_id, campaign.id).await?;
    enrolments::start_listed(tx, campaign).await?;
    if campaign.has_criteria() && listed < i64::from(campaign.max_results) {
        let criteria = Criteria::of(campaign, campaign.max_results);
        discovery::start_job(tx, campaign.account_id, Some(campaign.id), &criteria, 0).await?;
    }
    Ok(())
}

/// Holds what waits. What is being marked at this moment is waited for, so that nothing leaves after the pause.
async fn pause(tx: &mut Tx, before: &Campaign, campaign: &Campaign) -> Result<(), EngineError> {
    db::messages::lock_approved(tx, campaign.account_id, campaign.id).await?;
    release_capped(tx, before, campaign).await?;
    queue::groups::hold(tx, &campaign_group(campaign.id)).await?;
    Ok(())
}

/// Lets everything go on, and starts the contacts that were added meanwhile.
async fn resume(tx: &mut Tx, before: &Campaign, campaign: &Campaign) -> Result<(), EngineError> {
    enrolments::start_listed(tx, campaign).await?;
    release_capped(tx, before, campaign).await?;
    let wake = queue::groups::release(tx, &campaign_group(campaign.id)).await?;
    tx.wake(wake);
    Ok(())
}

/// Lets what waits under the daily cap look again at once when the cap was raised or removed.
async fn release_capped(tx: &mut Tx, before: &Campaign, after: &Campaign) -> Result<(), EngineError> {
    let rose = before.daily_cap.is_some_and(|cap| after.daily_cap.is_none_or(|now| now > cap));
    if rose {
        db::messages::release_capped(tx, after.account_id, after.id).await?;
    }
    Ok(())
}

/// Ends every passage: what was not sent is cancelled. A message on the way still gets its outcome.
async fn end(tx: &mut Tx, campaign: &Campaign) -> Result<(), EngineError> {
    let ids = db::enrolments::lock_unfinished(tx, campaign.account_id, campaign.id).await?;
    let reasons = vec![StopReason::CampaignDeleted; ids.len()];
    db::enrolments::record_stopped(tx, campaign.account_id, &ids, &reasons).await?;
    db::messages::cancel_of_campaign(tx, campaign.account_id, campaign.id).await?;
    let (_, wake) = queue::groups::cancel(tx, &campaign_group(campaign.id)).await?;
    tx.wake(wake);
    Ok(())
}
