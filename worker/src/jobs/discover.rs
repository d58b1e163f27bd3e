//! Runs one discovery job: searches the sources, stores what they found, and enrols it when it is for a campaign.

use apalis_core::error::BoxDynError;
use queue::{Job, Outcome};
use shared::{
    domain::discovery::DiscoveryJob,
    engine::{self, discovery::Found},
    jobs,
};

use super::{Handled, Shared, finish};
use crate::{context::Context, discovery};

/// Runs the job. After the last attempt the search is recorded as failed, so that whoever waits for it learns of it.
pub async fn run(payload: jobs::Discover, job: Job, ctx: Shared) -> Handled {
    let mut tx = ctx.database.begin().await?;
    let begun = engine::discovery::begin_job(&mut tx, payload.account_id, payload.discovery_job_id).await?;
    tx.commit().await?;
    let Some(search) = begun else {
        return Ok(Outcome::Done);
    };
    match search_and_store(&ctx, &job, &search).await {
        Err(error) if job.is_last_attempt() => {
            tracing::error!(error, "the search is given up");
            let mut tx = ctx.database.begin().await?;
            let text = "the sources could not be searched";
            engine::discovery::fail_job(&mut tx, search.account_id, search.id, text).await?;
            finish(tx, &job, Outcome::Done).await
        }
        handled => handled,
    }
}

async fn search_and_store(ctx: &Context, job: &Job, search: &DiscoveryJob) -> Handled {
    let found = find(ctx, search).await?;
    let mut tx = ctx.database.begin().await?;
    let done = engine::discovery::finish_job(&mut tx, search.account_id, search.id, found).await?;
    let outcome = finish(tx, job, Outcome::Done).await?;
    for (source, count) in done.by_source.iter() {
        let count = u64::try_from(*count).unwrap_or_default();
        metrics::counter!("iris_discovered_total", "source" => source.clone()).increment(count);
    }
    Ok(outcome)
}

async fn find(ctx: &Context, search: &DiscoveryJob) -> Result<Vec<Found>, BoxDynError> {
    let mut conn = ctx.database.pool().acquire().await?;
    let mut named = Vec::new();
    for criteria in search.criteria.iter() {
        for found in discovery::search(&mut conn, criteria).await? {
            let source = found.source;
            let of_source =
                found.contacts.into_iter().map(|contact| Found { source: source.to_owned(), contact });
            named.extend(of_source);
        }
    }
    Ok(named)
}
