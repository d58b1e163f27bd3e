//! Whom a campaign looks for, and the search for all of them.

use uuid::Uuid;

use super::{EngineError, discovery};
use crate::{
    Tx,
    db::{self, page::Page, target_profiles::PROFILES_MAX},
    domain::{
        discovery::{Criteria, DiscoveryJob},
        target_profile::{NewTargetProfile, TargetProfile},
    },
    ids::new_id,
};

/// Adds a profile to a campaign, which has at most [`PROFILES_MAX`].
pub async fn create(
    tx: &mut Tx,
    account_id: Uuid,
    campaign_id: Uuid,
    new: &NewTargetProfile,
) -> Result<TargetProfile, EngineError> {
    EngineError::check(new.validate())?;
    db::campaigns::lock(tx, account_id, campaign_id).await?.ok_or(EngineError::CampaignNotFound)?;
    if db::target_profiles::count(tx, account_id, campaign_id).await? >= PROFILES_MAX {
        return Err(EngineError::Conflict(format!("a campaign has at most {PROFILES_MAX} target profiles")));
    }
    Ok(db::target_profiles::insert(tx, account_id, new_id(), campaign_id, new).await?)
}

/// Searches for what a campaign's profiles describe, or, if it has none, for what it says itself: at most `max_results`
/// contacts in all, or as many as the campaign asks for.
pub async fn search(
    tx: &mut Tx,
    account_id: Uuid,
    campaign_id: Uuid,
    max_results: Option<i32>,
    priority: i16,
) -> Result<DiscoveryJob, EngineError> {
    let campaign =
        db::campaigns::find(tx, account_id, campaign_id).await?.ok_or(EngineError::CampaignNotFound)?;
    let max_results = max_results.unwrap_or(campaign.max_results);
    let profiles =
        db::target_profiles::list(tx, account_id, campaign_id, Page::first(PROFILES_MAX)).await?.rows;
    let wanted: Vec<Criteria> = if profiles.is_empty() {
        vec![Criteria::of(&campaign, max_results)]
    } else {
        profiles.iter().map(|profile| profile.criteria(&campaign, max_results)).collect()
    };
    // One that says no place, in a campaign that says none, keeps the others from nothing.
    let criteria: Vec<Criteria> =
        wanted.into_iter().filter(|criteria| criteria.validate().is_empty()).collect();
    if criteria.is_empty() {
        let message = "neither the campaign nor its target profiles say what to look for, and where";
        return Err(EngineError::Conflict(message.into()));
    }
    discovery::start_searches(tx, account_id, Some(campaign_id), &criteria, priority).await
}
