//! One file per job. A handler reads its rows afresh, does its outside work with no transaction open, and ends in one
//! transaction that writes its effects together with its own completion. Running it twice does its work once.

use std::sync::Arc;

use apalis_core::{error::BoxDynError, task::data::Data};
use queue::{CompleteError, Job, Outcome};
use shared::Tx;

use crate::context::Context;

pub mod complete_campaigns;
pub mod discover;
pub mod draft;
pub mod maintain_partitions;
pub mod send;

/// What a handler is given beside its payload and its job.
pub type Shared = Data<Arc<Context>>;
/// How a handler ends: an outcome, or an error, which is tried again with the queue's backoff.
pub type Handled = Result<Outcome, BoxDynError>;

/// Ends a job's transaction: its outcome is recorded in it and it commits. If another run has taken the job over,
/// nothing is written: that run does the work.
async fn finish(mut tx: Tx, job: &Job, outcome: Outcome) -> Handled {
    match job.complete(&mut tx, &outcome).await {
        Ok(()) => {
            tx.commit().await?;
            Ok(outcome)
        }
        Err(CompleteError::Stale) => {
            tx.rollback().await?;
            Ok(Outcome::Cancelled)
        }
        Err(CompleteError::Database(error)) => Err(error.into()),
    }
}
