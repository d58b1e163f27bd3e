//! Completes the campaigns in which nothing can still happen.

use queue::{Job, Outcome};
use shared::{engine, jobs};

use super::{Handled, Shared, finish};

/// How many campaigns one run completes; the next tick is seconds away.
const CAMPAIGNS_MAX: i64 = 500;

/// Runs the job.
pub async fn run(_payload: jobs::CompleteCampaigns, job: Job, ctx: Shared) -> Handled {
    let mut tx = ctx.database.begin().await?;
    let completed = engine::campaigns::complete_finished(&mut tx, CAMPAIGNS_MAX).await?;
    let outcome = finish(tx, &job, Outcome::Done).await?;
    if completed > 0 {
        tracing::info!(campaigns = completed, "completed");
    }
    Ok(outcome)
}
