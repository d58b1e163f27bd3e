//! Claimed jobs on their way from the claimer to whoever runs them.

use std::{
    collections::HashMap,
    marker::PhantomData,
    sync::{Arc, atomic::AtomicBool},
    task::{Context, Poll},
};

use sqlx::{FromRow, PgConnection};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Job, JobKind,
    beat::Lease,
    complete::Recorded,
    job::Inner,
    runtime::{Shared, Tracked},
};

/// A row of `queue.running`, as the claim returns it.
#[derive(Debug, FromRow)]
pub(crate) struct Row {
    id: Uuid,
    queue: String,
    tenant: String,
    lane: String,
    grp: Option<String>,
    epoch: i64,
    attempt: i32,
    crashes: i16,
    run: i32,
    max_attempts: i32,
    payload: String,
    trace: Option<String>,
}

impl Row {
    pub(crate) fn tenant(&self) -> &str {
        &self.tenant
    }

    pub(crate) fn lane(&self) -> &str {
        &self.lane
    }

    pub(crate) fn split(self, cancelled: CancellationToken) -> (Job, String) {
        let inner = Inner {
            id: self.id,
            run: self.run,
            queue: self.queue,
            tenant: self.tenant,
            lane: self.lane,
            group: self.grp,
            epoch: self.epoch,
            attempt: self.attempt,
            crashes: self.crashes,
            max_attempts: self.max_attempts,
            trace: self.trace,
            cancelled,
            protected: AtomicBool::new(false),
            recorded: AtomicBool::new(false),
        };
        (Job { inner: Arc::new(inner) }, self.payload)
    }
}

/// Where a claimer stopped in the tenants and in their lanes, so that the next claim goes on there.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    tenant: String,
    lanes: HashMap<String, String>,
}

/// The most tenants whose place in their lanes is remembered; beyond it all start anew.
const CURSOR_TENANTS_MAX: usize = 1000;

impl Cursor {
    /// Claims up to `limit` jobs of a queue under a lease.
    pub(crate) async fn claim(
        &mut self,
        conn: &mut PgConnection,
        lease: Uuid,
        queue: &str,
        limit: i32,
    ) -> Result<Vec<Row>, sqlx::Error> {
        let (tenants, lanes): (Vec<&str>, Vec<&str>) =
            self.lanes.iter().map(|(tenant, lane)| (tenant.as_str(), lane.as_str())).unzip();
        let rows: Vec<Row> = sqlx::query_as("select * from queue.claim($1, $2, $3, $4, $5, $6)")
            .bind(lease)
            .bind(queue)
            .bind(limit)
            .bind(&self.tenant)
            .bind(tenants)
            .bind(lanes)
            .fetch_all(conn)
            .await?;
        if self.lanes.len() > CURSOR_TENANTS_MAX {
            self.lanes.clear();
        }
        if let Some(last) = rows.last() {
            last.tenant().clone_into(&mut self.tenant);
        }
        for row in &rows {
            self.lanes.insert(row.tenant().to_owned(), row.lane().to_owned());
        }
        Ok(rows)
    }
}

/// A job that was claimed and waits for its runner.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) job: Job,
    pub(crate) payload: String,
    pub(crate) lease: Arc<Lease>,
    pub(crate) permit: OwnedSemaphorePermit,
    pub(crate) tracked: Tracked,
}

/// A claimed job with its payload. It occupies a slot until it is dropped.
#[derive(Debug)]
pub struct Claimed<J> {
    /// The job.
    pub job: Job,
    /// Its payload.
    pub payload: J,
    lease: Arc<Lease>,
    tracked: Tracked,
    permit: OwnedSemaphorePermit,
}

impl<J> Claimed<J> {
    /// Whether it may be started: its lease holds and nobody has cancelled it.
    pub fn may_start(&self) -> bool {
        !self.lease.has_lapsed() && !self.job.cancelled().is_cancelled()
    }

    /// Hands its outcome to the completer, which records it within milliseconds. For outcomes that are not recorded
    /// in a transaction of the caller's.
    pub async fn finish(self, outcome: crate::Outcome) {
        let recorded = Recorded::new(&self.job, outcome);
        self.tracked.record(recorded).await;
    }

    pub(crate) fn into_parts(self) -> (Job, J, Running) {
        (self.job, self.payload, Running { lease: self.lease, tracked: self.tracked, permit: self.permit })
    }
}

/// What a running job holds besides its payload.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) lease: Arc<Lease>,
    pub(crate) tracked: Tracked,
    pub(crate) permit: OwnedSemaphorePermit,
}

/// The claimed jobs of one queue. Jobs that are still in it when it is dropped, or when the runtime stops, are handed
/// back without an attempt counted.
#[derive(Debug)]
pub struct Source<J> {
    pub(crate) receiver: mpsc::UnboundedReceiver<Raw>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) kind: PhantomData<fn() -> J>,
}

impl<J: JobKind> Source<J> {
    /// The next claimed job; `None` once the runtime is stopping.
    pub async fn next(&mut self) -> Option<Claimed<J>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next claimed job if one is there already.
    pub fn try_next(&mut self) -> Option<Claimed<J>> {
        while let Ok(raw) = self.receiver.try_recv() {
            if let Some(claimed) = self.decode(raw) {
                return Some(claimed);
            }
        }
        None
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Claimed<J>>> {
        loop {
            match self.receiver.poll_recv(cx) {
                Poll::Ready(Some(raw)) => {
                    if let Some(claimed) = self.decode(raw) {
                        return Poll::Ready(Some(claimed));
                    }
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Reads the payload. What cannot be read is dead at once; what comes when the runtime stops is handed back.
    fn decode(&self, raw: Raw) -> Option<Claimed<J>> {
        if self.shared.is_stopping() {
            raw.hand_back();
            return None;
        }
        match serde_json::from_str(&raw.payload) {
            Ok(payload) => Some(Claimed {
                job: raw.job,
                payload,
                lease: raw.lease,
                tracked: raw.tracked,
                permit: raw.permit,
            }),
            Err(error) => {
                tracing::error!(queue = J::QUEUE, id = %raw.job.id(), %error, "a payload cannot be read");
                let recorded = Recorded::undecodable(&raw.job, &error);
                raw.tracked.record_soon(recorded);
                None
            }
        }
    }
}

impl Raw {
    pub(crate) fn hand_back(self) {
        let recorded = Recorded::handed_back(&self.job);
        self.tracked.record_soon(recorded);
    }
}

impl<J> Drop for Source<J> {
    fn drop(&mut self) {
        self.receiver.close();
        while let Ok(raw) = self.receiver.try_recv() {
            raw.hand_back();
        }
    }
}
