//! Discovery: searches for contacts.

use std::{collections::BTreeMap, time::Duration};

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::{
    db::{contacts, discovery_jobs as db},
    domain::{
        contact::Contact,
        discovery::{Criteria, DiscoveryJob, DiscoveryStatus, SOURCES, Source},
        field::Checks,
    },
    engine::{discovery as engine, target_profiles},
};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    app::App,
    auth::Caller,
    envelope::{Data, List},
    error::{ApiError, Code},
    extract::{Body, DiscoveryJobId, PagingParams, Query},
    operation::Deadline,
    wait,
};

/// How long a search may keep its caller waiting, within the operation's deadline.
const SEARCH_DEADLINE: Duration = Duration::from_secs(110);
/// A person waits for it: before everything else. The lowest number comes first.
const TOP_PRIORITY: i16 = -100;
/// How far around to look, in miles, unless said otherwise.
const RADIUS_MILES_DEFAULT: f64 = 25.0;
/// How many contacts to find, unless said otherwise.
const MAX_RESULTS_DEFAULT: i32 = 50;

/// What to search for: what (`keywords` or `venue_types`) and where (`location`, or `latitude` and `longitude`).
#[derive(Debug, Deserialize, ToSchema)]
pub struct Search {
    /// What the contacts should be known for; also kinds of venues, in words.
    #[schema(max_items = 50, example = json!(["bar", "lounge"]))]
    keywords: Option<Vec<String>>,
    /// Kinds of venues.
    #[schema(max_items = 50)]
    venue_types: Option<Vec<String>>,
    /// Where, in words.
    #[schema(max_length = 200, example = "Brooklyn, NY")]
    location: Option<String>,
    /// Where, in degrees.
    #[schema(minimum = -90, maximum = 90)]
    latitude: Option<f64>,
    /// Where, in degrees.
    #[schema(minimum = -180, maximum = 180)]
    longitude: Option<f64>,
    /// How far around, in miles.
    #[schema(minimum = 1, maximum = 100, default = 25)]
    radius_miles: Option<f64>,
    /// How many contacts at most.
    #[schema(minimum = 1, maximum = 1000, default = 50)]
    max_results: Option<i32>,
    /// The campaign that they join.
    campaign_id: Option<Uuid>,
    /// Whether to look for addresses that a source does not give. Every source of this server gives those it has.
    enrich_emails: Option<bool>,
}

/// Which discovery jobs to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct JobFilter {
    /// Only those of this campaign.
    campaign_id: Option<Uuid>,
}

/// What a search found.
#[derive(Debug, Serialize, ToSchema)]
pub struct SearchResult {
    /// The contacts.
    contacts: Vec<Contact>,
    /// How many they are.
    total_results: usize,
    /// How many each source returned.
    source_counts: BTreeMap<String, i32>,
    /// The search goes on: `job_id` says how it ends.
    partial: bool,
    /// The discovery job behind it.
    job_id: Uuid,
}

/// Search for contacts
///
/// Waits for the result. What is found is stored, and joins the campaign if one is named. A search that takes too long
/// answers `partial: true` and goes on; `GET /discovery/jobs/{id}` says how it ends.
#[utoipa::path(
    post, path = "/discovery/search", request_body = Search, responses((status = 200, body = Data<SearchResult>))
)]
pub async fn search(
    State(app): State<App>,
    caller: Caller,
    deadline: Deadline,
    Body(search): Body<Search>,
) -> Result<Data<SearchResult>, ApiError> {
    let (campaign_id, enrich_emails) = (search.campaign_id, search.enrich_emails);
    let criteria = search.into_criteria();
    ApiError::unless_empty(criteria.validate())?;
    let mut tx = app.database.begin().await?;
    let job = engine::start_job(&mut tx, caller.account_id, campaign_id, &criteria, TOP_PRIORITY).await?;
    let metadata = json!({"campaign_id": campaign_id, "criteria": criteria, "enrich_emails": enrich_emails});
    caller.audit(&mut tx, "discover_contacts", "discovery_job", Some(job.id), metadata).await?;
    tx.commit().await?;
    let end = deadline.wait_end(SEARCH_DEADLINE);
    let look = || find_ended(&app, caller.account_id, job.id);
    match wait::until(&app.shutdown, end, look).await {
        None => Ok(Data::ok(SearchResult::partial(job.id))),
        Some((job, _)) if job.status == DiscoveryStatus::Failed => Err(ApiError::new(Code::DiscoveryFailed)),
        Some((job, contacts)) => Ok(Data::ok(SearchResult::of(job, contacts))),
    }
}

impl Search {
    fn into_criteria(self) -> Criteria {
        Criteria {
            keywords: self.keywords.unwrap_or_default(),
            venue_types: self.venue_types.unwrap_or_default(),
            location: self.location,
            latitude: self.latitude,
            longitude: self.longitude,
            radius_miles: self.radius_miles.unwrap_or(RADIUS_MILES_DEFAULT),
            max_results: self.max_results.unwrap_or(MAX_RESULTS_DEFAULT),
        }
    }
}

impl SearchResult {
    fn of(job: DiscoveryJob, contacts: Vec<Contact>) -> Self {
        Self {
            total_results: contacts.len(),
            contacts,
            source_counts: job.by_source.0,
            partial: false,
            job_id: job.id,
        }
    }

    fn partial(job_id: Uuid) -> Self {
        Self { contacts: Vec::new(), total_results: 0, source_counts: BTreeMap::new(), partial: true, job_id }
    }
}

/// The job and what it found, once it has ended.
async fn find_ended(
    app: &App,
    account_id: Uuid,
    job_id: Uuid,
) -> Result<Option<(DiscoveryJob, Vec<Contact>)>, sqlx::Error> {
    let mut conn = app.connection().await?;
    let job = db::find(&mut conn, account_id, job_id).await?;
    let ended =
        |job: &DiscoveryJob| matches!(job.status, DiscoveryStatus::Completed | DiscoveryStatus::Failed);
    let Some(job) = job.filter(ended) else { return Ok(None) };
    let contacts = contacts::get_many(&mut conn, account_id, &job.contact_ids).await?;
    Ok(Some((job, contacts)))
}

/// The campaign to search for.
#[derive(Debug, Deserialize, ToSchema)]
pub struct CampaignSearch {
    /// The campaign, which gets what is found.
    campaign_id: Uuid,
    /// How many contacts at most; as many as the campaign asks for, when absent.
    #[schema(minimum = 1, maximum = 1000)]
    max_results: Option<i32>,
}

/// Search for a campaign
///
/// Looks for what the campaign's target profiles describe, or, if it has none, for what it says itself. The search goes on behind
/// the answer; `GET /discovery/jobs/{id}` says how it ends.
#[utoipa::path(
    post, path = "/discovery/search-campaign", request_body = CampaignSearch,
    responses((status = 200, body = Data<DiscoveryJob>))
)]
pub async fn search_campaign(
    State(app): State<App>,
    caller: Caller,
    Body(CampaignSearch { campaign_id, max_results }): Body<CampaignSearch>,
) -> Result<Data<DiscoveryJob>, ApiError> {
    let mut checks = Checks::new();
    let in_bounds = max_results.is_none_or(|most| (1..=1000).contains(&most));
    checks.require(in_bounds, "max_results", "must be between 1 and 1000");
    ApiError::unless_empty(checks.finish())?;
    let mut tx = app.database.begin().await?;
    let job =
        target_profiles::search(&mut tx, caller.account_id, campaign_id, max_results, TOP_PRIORITY).await?;
    let metadata = json!({"campaign_id": campaign_id, "searches": job.criteria.len()});
    caller.audit(&mut tx, "discover_campaign_contacts", "discovery_job", Some(job.id), metadata).await?;
    tx.commit().await?;
    Ok(Data::ok(job))
}

/// List discovery jobs
///
/// The newest first.
#[utoipa::path(
    get, path = "/discovery/jobs", params(JobFilter, PagingParams),
    responses((status = 200, body = List<DiscoveryJob>))
)]
pub async fn jobs(
    State(app): State<App>,
    caller: Caller,
    Query { filter, paging }: Query<JobFilter>,
) -> Result<List<DiscoveryJob>, ApiError> {
    let mut conn = app.connection().await?;
    let rows = db::list(&mut conn, caller.account_id, filter.campaign_id, paging.page).await?;
    let total =
        paging.total(async || db::count(&mut conn, caller.account_id, filter.campaign_id).await).await?;
    Ok(paging.list(rows, total))
}

/// Get a discovery job
///
/// Its status, and how much it found.
#[utoipa::path(
    get, path = "/discovery/jobs/{id}", params(("id" = Uuid, Path, description = "The discovery job")),
    responses((status = 200, body = Data<DiscoveryJob>))
)]
pub async fn get_job(
    State(app): State<App>,
    caller: Caller,
    DiscoveryJobId(id): DiscoveryJobId,
) -> Result<Data<DiscoveryJob>, ApiError> {
    let mut conn = app.connection().await?;
    let job = db::find(&mut conn, caller.account_id, id).await?;
    job.map(Data::ok).ok_or_else(|| ApiError::new(Code::DiscoveryJobNotFound))
}

/// List sources
///
/// Where contacts are looked for, in this order, each with the terms of its data.
#[utoipa::path(get, path = "/discovery/sources", responses((status = 200, body = Data<Vec<Source>>)))]
pub async fn sources() -> Data<Vec<Source>> {
    Data::ok(SOURCES.to_vec())
}
