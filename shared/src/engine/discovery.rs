//! Searches for contacts, from being asked for to their end.

use std::collections::{BTreeMap, HashSet};

use queue::NewJob;
use uuid::Uuid;

use super::{EngineError, contacts, enrolments};
use crate::{
    Tx,
    db::{self, discovery_jobs::Tally, outbox},
    domain::{
        campaign::CampaignStatus,
        contact::{Merge, NewContact},
        discovery::{Criteria, DiscoveryJob},
    },
    events::{EventType, NewEvent},
    ids::new_id,
    jobs,
};

/// The longest error that a job keeps, in characters.
const ERROR_CHARS_MAX: usize = 1000;

/// A contact that a source returned.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The source's name.
    pub source: String,
    /// The contact, as the source has it.
    pub contact: NewContact,
}

/// Asks for a search. What it finds goes into the campaign, if one is given; a completed one takes no contacts. Lower
/// `priority` runs first.
pub async fn start_job(
    tx: &mut Tx,
    account_id: Uuid,
    campaign_id: Option<Uuid>,
    criteria: &Criteria,
    priority: i16,
) -> Result<DiscoveryJob, EngineError> {
    start_searches(tx, account_id, campaign_id, std::slice::from_ref(criteria), priority).await
}

/// The same for many searches in one job, each for itself; together they find as many contacts as the largest asks for.
pub(super) async fn start_searches(
    tx: &mut Tx,
    account_id: Uuid,
    campaign_id: Option<Uuid>,
    criteria: &[Criteria],
    priority: i16,
) -> Result<DiscoveryJob, EngineError> {
    for criteria in criteria {
        EngineError::check(criteria.validate())?;
    }
    if let Some(id) = campaign_id {
        // Shared, so that the campaign does not complete before it can see the search.
        let campaign =
            db::campaigns::lock_shared(tx, account_id, id).await?.ok_or(EngineError::CampaignNotFound)?;
        if campaign.status == CampaignStatus::Completed {
            return Err(EngineError::Conflict("a campaign that is completed takes no contacts".into()));
        }
    }
    let job = db::discovery_jobs::insert(tx, account_id, new_id(), campaign_id, criteria).await?;
    let payload = jobs::Discover { account_id, discovery_job_id: job.id };
    tx.enqueue(&[NewJob::new(&payload, account_id.to_string())?.priority(priority)]).await?;
    Ok(job)
}

/// Notes that a worker searches; None when the job has ended or does not exist, and there is nothing to do.
pub async fn begin_job(
    tx: &mut Tx,
    account_id: Uuid,
    job_id: Uuid,
) -> Result<Option<DiscoveryJob>, EngineError> {
    Ok(db::discovery_jobs::record_running(tx, account_id, job_id).await?)
}

/// Stores what was found and ends the job. A contact found twice counts once, for the first source that returned it; one
/// that is never to be written to is counted and left out; one that is known keeps what it has and only gains what it
/// lacked; one that was deleted stays so and counts as known. Contacts go into the job's campaign and start at once if that is active. Raises discovery.completed. A job
/// that has ended stays as it is.
pub async fn finish_job(
    tx: &mut Tx,
    account_id: Uuid,
    job_id: Uuid,
    found: Vec<Found>,
) -> Result<DiscoveryJob, EngineError> {
    let Some(job) = db::discovery_jobs::lock_unfinished(tx, account_id, job_id).await? else {
        return db::discovery_jobs::find(tx, account_id, job_id)
            .await?
            .ok_or(EngineError::DiscoveryJobNotFound);
    };
    let campaign = match job.campaign_id {
        Some(campaign_id) => db::campaigns::lock_shared(tx, account_id, campaign_id).await?,
        None => None,
    };
    let wanted = job.criteria.iter().map(|criteria| criteria.max_results).max().unwrap_or_default();
    let wanted = usize::try_from(wanted).unwrap_or_default().min(contacts::ROWS_MAX);
    let mut tally = Tally::default();
    let mut rows = distinct(found, wanted, &mut tally);
    let emails: Vec<String> = rows.iter().filter_map(|row| row.email.clone()).collect();
    let suppressed: HashSet<String> =
        db::contacts::suppressed_emails(tx, account_id, &emails).await?.into_iter().collect();
    rows.retain(|row| !row.email.as_ref().is_some_and(|email| suppressed.contains(email)));
    tally.suppressed = small(suppressed.len());

    let upserted = contacts::merge_many(tx, account_id, &rows, Merge::FillGaps).await?;
    tally.new = small(upserted.iter().filter(|row| row.created).count());
    tally.duplicates = small(upserted.len()) - tally.new;
    let alive = upserted.iter().filter(|row| row.contact.deleted_at.is_none());
    tally.contact_ids = alive.map(|row| row.contact.id).collect();
    if let Some(campaign) = campaign
        && campaign.status != CampaignStatus::Completed
    {
        enrolments::add_to_campaign(tx, &campaign, &tally.contact_ids).await?;
    }
    let job = db::discovery_jobs::record_completed(tx, account_id, job_id, &tally).await?;
    let event = NewEvent::new(account_id, EventType::DiscoveryCompleted, job.id, job.public());
    outbox::append(tx, &[event]).await?;
    db::notifications::tell_discovered(tx, &job).await?;
    Ok(job)
}

/// Gives a job up. Raises discovery.failed, unless the job has ended.
pub async fn fail_job(
    tx: &mut Tx,
    account_id: Uuid,
    job_id: Uuid,
    error: &str,
) -> Result<DiscoveryJob, EngineError> {
    let error: String = error.chars().filter(|c| *c != '\0').take(ERROR_CHARS_MAX).collect();
    let Some(job) = db::discovery_jobs::record_failed(tx, account_id, job_id, &error).await? else {
        return db::discovery_jobs::find(tx, account_id, job_id)
            .await?
            .ok_or(EngineError::DiscoveryJobNotFound);
    };
    let event = NewEvent::new(account_id, EventType::DiscoveryFailed, job.id, job.public());
    outbox::append(tx, &[event]).await?;
    db::notifications::tell_discovered(tx, &job).await?;
    Ok(job)
}

/// The first `wanted` distinct contacts in their stored form; what a source got wrong is left out.
fn distinct(found: Vec<Found>, wanted: usize, tally: &mut Tally) -> Vec<NewContact> {
    let mut rows: Vec<NewContact> = Vec::new();
    let mut by_source: BTreeMap<String, i32> = BTreeMap::new();
    let mut seen = HashSet::new();
    for Found { source, mut contact } in found {
        if rows.len() == wanted {
            break;
        }
        let wrong = contact.normalise();
        if let Some(error) = wrong.first() {
            tracing::debug!(
                source,
                field = error.field,
                reason = error.reason,
                "a found contact was left out"
            );
            continue;
        }
        let name = contact.identity().map(|identity| format!("{identity:?}"));
        if name.is_some_and(|name| !seen.insert(name)) {
            continue;
        }
        contact.source.get_or_insert_with(|| source.clone());
        *by_source.entry(source).or_default() += 1;
        rows.push(contact);
    }
    tally.found = small(rows.len());
    tally.by_source = by_source;
    rows
}

/// A count of at most [`contacts::ROWS_MAX`].
fn small(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
