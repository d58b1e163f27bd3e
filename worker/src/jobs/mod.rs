//! One file per job. A handler reads its rows afresh, does its outside work with no transaction open, and ends in one
//! transaction that writes its effects together with its own completion. Running it twice does its work once.

use std::{future::Future, sync::Arc, time::Duration};

use apalis_core::{error::BoxDynError, task::data::Data};
use queue::{CompleteError, Job, Outcome};
use shared::Tx;

use crate::context::Context;

pub mod complete_campaigns;
pub mod discover;
pub mod draft;
pub mod erase_history;
pub mod maintain_partitions;
pub mod replay;
pub mod send;
pub mod settle_stranded;

/// What a handler is given beside its payload and its job.
pub type Shared = Data<Arc<Context>>;
/// How a handler ends: an outcome, or an error, which is tried again with the queue's backoff.
pub type Handled = Result<Outcome, BoxDynError>;

/// How long a few statements may take together. The server gives up each of them earlier; this is for the connection
/// that dies without a word.
const DATABASE_DEADLINE: Duration = Duration::from_secs(30);
/// How long a whole job may take, its provider's answer included; but for sending, whose steps have deadlines.
pub const JOB_DEADLINE: Duration = Duration::from_secs(180);

/// Runs work under a deadline. Past it the work is dropped, with the transaction it had begun.
pub fn within<T, E: From<queue::Error>>(
    deadline: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> impl Future<Output = Result<T, E>> {
    // Boxed, for work on the database has a state of many kilobytes, and each layer around it would copy that.
    let work = tokio::time::timeout(deadline, Box::pin(work));
    async move { work.await.unwrap_or_else(|_| Err(queue::Error::Deadline(deadline).into())) }
}

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

#[cfg(test)]
mod tests {
    use std::future::pending;

    use shared::engine::EngineError;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_without_an_end_ends_as_a_failure_of_the_database() {
        let never = within(DATABASE_DEADLINE, pending::<Result<(), EngineError>>()).await;
        assert!(never.unwrap_err().is_database());
        let job: Handled = within(JOB_DEADLINE, pending()).await;
        assert!(job.is_err());
        let done: Handled = within(JOB_DEADLINE, async { Ok(Outcome::Done) }).await;
        assert_eq!(done.unwrap(), Outcome::Done);
    }
}
