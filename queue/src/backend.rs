//! The queue as an apalis backend: it only receives claimed jobs, and never returns an error.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use apalis_core::{
    backend::{Backend as ApalisBackend, BackendConfig, finalize::Ephemeral},
    error::BoxDynError,
    task::{
        Task,
        builder::TaskBuilder,
        data::MissingDataError,
        from_request::FromRequest,
        task_id::{RandomId, TaskId},
    },
    worker::context::WorkerContext,
};
use tower::{Layer, Service};
use tracing::Instrument;

use crate::{
    Job, JobKind, Outcome, Source,
    claim::Running,
    complete::Recorded,
    gate::{Passed, pass},
};

/// One queue of a [`Runtime`](crate::Runtime), to be given to apalis's `WorkerBuilder`.
#[derive(Debug)]
pub struct Backend<J> {
    source: Source<J>,
}

impl<J> Backend<J> {
    pub(crate) fn new(source: Source<J>) -> Self {
        Self { source }
    }
}

/// What a running job holds, on its way through apalis's cloned task context to the [`JobLayer`].
#[derive(Debug, Clone)]
struct Held(Arc<Mutex<Option<Running>>>);

impl<J: JobKind> ApalisBackend for Backend<J> {
    type Task = Task<J>;
    type Error = Infallible;

    fn poll_ready(&mut self, _cx: &mut Context<'_>, _worker: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Option<Result<Task<J>, Infallible>>> {
        self.source.poll_next(cx).map(|claimed| {
            if claimed.is_none() {
                // The runtime is stopping. A worker whose backend merely ends would wait for a stop for ever.
                let _ = worker.stop();
            }
            claimed.map(|claimed| {
                let (job, payload, running) = claimed.into_parts();
                // The task's id is the attempt's: a job that runs twice must not look like one task to apalis.
                let id = TaskId::from_string(format!("{}:{}", job.id(), job.run()));
                Ok(TaskBuilder::new(payload)
                    .task_id(id)
                    .data(Held(Arc::new(Mutex::new(Some(running)))))
                    .data(job)
                    .build())
            })
        })
    }

    fn poll_close(&mut self, _cx: &mut Context<'_>, _worker: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
}

impl<J: JobKind> BackendConfig for Backend<J> {
    type Args = J;
    type Id = RandomId;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = JobLayer;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _worker: &mut WorkerContext) -> JobLayer {
        JobLayer
    }
}

impl<Args: Sync> FromRequest<Task<Args>> for Job {
    type Error = MissingDataError;

    async fn from_request(task: &Task<Args>) -> Result<Self, Self::Error> {
        task.data().get_checked().cloned()
    }
}

/// Runs each handler in a task of its own behind the gate, and records its outcome. Always the outermost layer.
#[derive(Debug, Clone, Copy)]
pub struct JobLayer;

impl<S> Layer<S> for JobLayer {
    type Service = JobService<S>;

    fn layer(&self, inner: S) -> JobService<S> {
        JobService { inner }
    }
}

/// The service of [`JobLayer`].
#[derive(Debug, Clone)]
pub struct JobService<S> {
    inner: S,
}

impl<S, J> Service<Task<J>> for JobService<S>
where
    S: Service<Task<J>, Response = Outcome>,
    S::Error: Into<BoxDynError>,
    S::Future: Send + 'static,
{
    type Response = ();
    type Error = BoxDynError;
    type Future = Pin<Box<dyn Future<Output = Result<(), BoxDynError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, task: Task<J>) -> Self::Future {
        let job = task.data().get::<Job>().cloned();
        let held = task.data().get::<Held>().cloned();
        let running =
            held.and_then(|held| held.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
        let handler = self.inner.call(task);
        let (Some(job), Some(running)) = (job, running) else {
            return Box::pin(async { Err("the task does not come from this queue".into()) });
        };
        let (trace, span) = (job.trace(), job.span());
        let run = run(job, running, async move { handler.await.map_err(Into::into) });
        // The handler has a task of its own, so that a slow poll of one delays no other; dropping the worker aborts it.
        let spawned =
            tokio_util::task::AbortOnDropHandle::new(tokio::spawn(trace.scope(run).instrument(span)));
        Box::pin(async move { spawned.await.map_err(Into::into) })
    }
}

async fn run<F>(job: Job, running: Running, handler: F)
where
    F: Future<Output = Result<Outcome, BoxDynError>> + Send,
{
    let Running { lease, tracked, slot } = running;
    let handler = futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(handler));
    let recorded = match pass(&job, &lease, handler).await {
        Passed::Ran(Ok(Ok(_))) if job.recorded().is_some() => None,
        Passed::Ran(Ok(Ok(outcome))) => Some(Recorded::new(&job, outcome)),
        Passed::Ran(Ok(Err(error))) => {
            tracing::warn!(
                error = format_chain(error.as_ref()),
                attempt = job.attempt() + 1,
                "the job failed"
            );
            Some(Recorded::new(&job, Outcome::retry(error)))
        }
        Passed::Ran(Err(panic)) => {
            let what = panic_text(panic.as_ref());
            tracing::error!(what, "the handler panicked");
            Some(Recorded::new(&job, Outcome::retry(format_args!("panicked: {what}"))))
        }
        Passed::Cancelled if tracked.is_stopping() => Some(Recorded::handed_back(&job)),
        Passed::Cancelled => Some(Recorded::new(&job, Outcome::Cancelled)),
        // The database may have been away: then the lease is renewed and the job is still this process's. If it was
        // rescued, its token is stale and this is not accepted.
        Passed::Lapsed => {
            tracing::warn!("the lease lapsed while the job ran; it runs again");
            Some(Recorded::handed_back(&job))
        }
    };
    let outcome = recorded.as_ref().map_or_else(|| job.recorded(), |recorded| Some(recorded.label()));
    tracing::debug!(outcome, "the run ended");
    drop(slot);
    match recorded {
        Some(recorded) => tracked.record(recorded).await,
        None => tracked.forget(),
    }
}

fn format_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(error.source(), |error| error.source());
    chain.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("something that is not text")
}
