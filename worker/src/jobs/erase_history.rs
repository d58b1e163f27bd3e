//! Takes erased contacts out of the history of webhooks, a page of events at a time.

use queue::{Job, Outcome};
use shared::{engine, jobs};

use super::{Handled, Shared, finish};

/// Runs the job.
pub async fn run(payload: jobs::EraseHistory, job: Job, ctx: Shared) -> Handled {
    let mut tx = ctx.database.begin().await?;
    engine::erasure::erase_page(&mut tx, &payload).await?;
    finish(tx, &job, Outcome::Done).await
}
