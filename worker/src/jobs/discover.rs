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
    let mut searches = Vec::with_capacity(search.criteria.len());
    for criteria in search.criteria.iter() {
        let found = discovery::search(&mut conn, criteria).await?;
        let named = found.into_iter().flat_map(|found| {
            let source = found.source;
            found.contacts.into_iter().map(move |contact| Found { source: source.to_owned(), contact })
        });
        searches.push(named.collect());
    }
    Ok(in_turn(searches))
}

/// The best of each search first, then the second of each: only so many are kept, and none shall have them all.
fn in_turn(searches: Vec<Vec<Found>>) -> Vec<Found> {
    let mut searches: Vec<_> = searches.into_iter().map(Vec::into_iter).collect();
    let mut found = Vec::new();
    while !searches.is_empty() {
        searches.retain_mut(|search| search.next().map(|next| found.push(next)).is_some());
    }
    found
}

#[cfg(test)]
mod tests {
    use shared::domain::contact::NewContact;

    use super::*;

    #[test]
    fn searches_have_their_turns() {
        let named = |name: &str| Found {
            source: "places".into(),
            contact: NewContact { company: Some(name.into()), ..NewContact::default() },
        };
        let searches = [&["a1", "a2", "a3"][..], &[], &["c1"]];
        let found =
            in_turn(searches.iter().map(|names| names.iter().map(|name| named(name)).collect()).collect());
        let order: Vec<_> = found.iter().filter_map(|found| found.contact.company.as_deref()).collect();
        assert_eq!(order, ["a1", "c1", "a2", "a3"]);
    }
}
