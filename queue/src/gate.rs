//! The gate that every poll of a handler passes: the lease holds, and nobody has cancelled the job.

use std::{future::Future, pin::pin, sync::Arc, task::Poll, time::Duration};

use crate::{Job, beat::Lease};

/// How a gated run ended.
#[derive(Debug)]
pub(crate) enum Passed<T> {
    /// The handler returned.
    Ran(T),
    /// The lease lapsed; the job belongs to somebody else and nothing may be recorded.
    Lapsed,
    /// The job was cancelled and its handler dropped.
    Cancelled,
}

/// The shortest pause between two looks at a lease that is about to lapse.
const LOOK_MIN: Duration = Duration::from_millis(10);

/// Runs a handler's future until it returns, its lease lapses or its job is cancelled. A protected job passes always.
pub(crate) async fn pass<F: Future>(job: &Job, lease: &Arc<Lease>, handler: F) -> Passed<F::Output> {
    let mut handler = pin!(handler);
    let mut cancelled = pin!(job.cancelled().cancelled());
    let mut look_again = pin!(tokio::time::sleep(lease.remaining().max(LOOK_MIN)));
    std::future::poll_fn(move |cx| {
        if !job.is_protected() {
            if lease.has_lapsed() {
                return Poll::Ready(Passed::Lapsed);
            }
            if cancelled.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Passed::Cancelled);
            }
            // A handler that waits is not polled by itself: the timer looks at the lease when it should end.
            while look_again.as_mut().poll(cx).is_ready() {
                look_again.as_mut().reset(tokio::time::Instant::now() + lease.remaining().max(LOOK_MIN));
            }
        }
        handler.as_mut().poll(cx).map(Passed::Ran)
    })
    .await
}
