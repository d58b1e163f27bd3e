//! One delivery after the other, each through the same phases:
//!
//! ```text
//! Claimed --> Prepared --> Sent --> Recorded
//! ```
//!
//! A claimed job names a delivery; prepared, it knows the URL, the bytes and the key; sent, it knows the answer; the
//! recorder (`record.rs`) writes what became of it and ends the job in one transaction. No transaction is open while a
//! request is. Jobs are claimed, prepared and recorded in batches, and sent one by one, as many at once as there are
//! slots; a slot is free again once the outcome is recorded.
//!
//! What is for an ordered endpoint comes in units: its deliveries are made one after the other, and after one that fails the
//! others go back to their places in the lane, which is closed until the first may be tried again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use queue::{Claimed, Outcome, Source};
use rand::Rng;
use shared::{
    Database,
    db::deliveries::{self, DueDelivery},
    domain::{delivery::ErrorClass, endpoint::secret_place, endpoint_headers},
    jobs::Deliver,
    secrets::{SecretKey, Unsealable},
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    http_client::{Answer, HttpClient},
    sign::{BadSecret, SigningKey},
};

/// How many deliveries are prepared by one query at most.
const PREPARE_MAX: usize = 250;
/// How old what was prepared may be when an attempt begins that is not the first of its unit: the endpoint may have changed.
const FRESH: Duration = Duration::from_secs(2);
/// After how long without an answer the endpoint is slow. An endpoint that hangs is sent to until then, so that the sooner it
/// is noticed, the fewer slots are lost to many that begin to hang together.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// How long preparing a batch may take.
const PREPARE_DEADLINE: Duration = Duration::from_secs(10);
/// How many endpoints' keys are kept ready.
const KEYS_MAX: usize = 10_000;

/// A delivery with everything that its attempt needs.
#[derive(Debug)]
pub struct Prepared {
    claimed: Claimed<Deliver>,
    due: DueDelivery,
    /// When `due` was read.
    read: Instant,
    body: Bytes,
    key: Arc<SigningKey>,
}

/// A delivery whose run has an end that is to be recorded.
#[derive(Debug)]
pub struct Sent {
    /// The job, and the slot that it holds.
    pub claimed: Claimed<Deliver>,
    /// The delivery, as it was before.
    pub due: DueDelivery,
    /// How the run ended.
    pub end: End,
}

/// How a run ended.
#[derive(Debug)]
pub enum End {
    /// A request was made.
    Attempted {
        /// When it began.
        started_at: DateTime<Utc>,
        /// What came back.
        answer: Answer,
    },
    /// None was: the endpoint is disabled or deleted, or the event's history was dropped.
    Cancelled,
}

/// Makes the request of an attempt.
pub trait Requester: Send + Sync + 'static {
    /// Signs the delivery and sends it; `started_at` is the time that the receiver is told.
    fn request(
        &self,
        due: &DueDelivery,
        key: &SigningKey,
        started_at: DateTime<Utc>,
        body: Bytes,
    ) -> impl Future<Output = Answer> + Send;
}

impl Requester for HttpClient {
    async fn request(
        &self,
        due: &DueDelivery,
        key: &SigningKey,
        started_at: DateTime<Utc>,
        body: Bytes,
    ) -> Answer {
        let headers = key.headers(due.id, started_at.timestamp(), &body);
        self.post(&due.url, headers, body).await
    }
}

/// Makes deliveries.
#[derive(Debug)]
pub struct Deliverer<R> {
    database: Database,
    requester: R,
    keys: Keys,
    outcomes: mpsc::Sender<Sent>,
    slow: mpsc::Sender<(Uuid, Uuid)>,
}

impl<R: Requester> Deliverer<R> {
    /// What is sent goes to `outcomes`, and which endpoints, as (account, endpoint), take long to answer to `slow`.
    pub fn new(
        database: Database,
        requester: R,
        secret_key: SecretKey,
        outcomes: mpsc::Sender<Sent>,
        slow: mpsc::Sender<(Uuid, Uuid)>,
    ) -> Self {
        Self { database, requester, keys: Keys::new(secret_key), outcomes, slow }
    }

    /// Delivers what the source claims until it ends, and then until every request has.
    pub async fn run(self, mut source: Source<Deliver>) {
        let this = Arc::new(self);
        let requests = TaskTracker::new();
        while let Some(first) = source.next().await {
            let mut batch = unit(first);
            while batch.len() < PREPARE_MAX
                && let Some(more) = source.try_next()
            {
                batch.extend(unit(more));
            }
            let mut prepared = this.prepare(batch).await.into_iter().peekable();
            while let Some(first) = prepared.next() {
                let mut unit = vec![first];
                while let Some(next) = prepared.next_if(|next| follows(&unit[0].claimed, &next.claimed)) {
                    unit.push(next);
                }
                let this = this.clone();
                requests.spawn(async move { this.attempt_all(unit).await });
            }
        }
        requests.close();
        requests.wait().await;
    }

    /// Reads what the attempts of a batch need. What cannot be attempted ends here.
    async fn prepare(&self, batch: Vec<Claimed<Deliver>>) -> Vec<Prepared> {
        let Some((batch, due)) = self.load(batch).await else { return Vec::new() };
        let read = Instant::now();
        let mut due: HashMap<Uuid, DueDelivery> = due.into_iter().map(|due| (due.id, due)).collect();
        let mut prepared = Vec::with_capacity(batch.len());
        for claimed in batch {
            // Not pending any more: an earlier run of this job, or a person, has ended it.
            let Some(mut due) = due.remove(&claimed.payload.delivery_id) else {
                claimed.finish(Outcome::Done).await;
                continue;
            };
            let (true, Some(body)) = (due.open, due.body.take()) else {
                self.hand_on(Sent { claimed, due, end: End::Cancelled }).await;
                continue;
            };
            match self.keys.get(&due) {
                Ok(key) => prepared.push(Prepared { claimed, due, read, body: Bytes::from(body), key }),
                Err(error) => {
                    tracing::error!(endpoint_id = %due.endpoint_id, %error, "a delivery cannot be signed");
                    claimed.finish(Outcome::retry(error)).await;
                }
            }
        }
        prepared
    }

    /// Reads the deliveries of a batch, again and again while the database is away. `None`: the process stops first, and
    /// the jobs were given back.
    async fn load(&self, batch: Vec<Claimed<Deliver>>) -> Option<(Vec<Claimed<Deliver>>, Vec<DueDelivery>)> {
        let ids: Vec<(Uuid, Uuid)> =
            batch.iter().map(|claimed| (claimed.payload.account_id, claimed.payload.delivery_id)).collect();
        loop {
            let load = async {
                let mut conn = self.database.pool().acquire().await?;
                deliveries::list_due(&mut conn, &ids).await
            };
            match tokio::time::timeout(PREPARE_DEADLINE, load).await {
                Ok(Ok(due)) => return Some((batch, due)),
                Ok(Err(error)) => tracing::warn!(%error, "deliveries were not read; trying again"),
                Err(_) => {
                    tracing::warn!(deadline = ?PREPARE_DEADLINE, "deliveries were not read in time; trying again");
                }
            }
            let pause = Duration::from_secs(1).mul_f64(rand::rng().random_range(0.5..1.5));
            let given_up = batch[0].job.cancelled().clone();
            if tokio::time::timeout(pause, given_up.cancelled()).await.is_ok() {
                for claimed in batch {
                    give_back(claimed).await;
                }
                return None;
            }
        }
    }

    /// Makes the deliveries of a unit one after the other, for as long as they succeed.
    async fn attempt_all(&self, unit: Vec<Prepared>) {
        let mut left = unit.into_iter();
        let mut goes_on = true;
        while goes_on && let Some(prepared) = left.next() {
            let span = prepared.claimed.job.span();
            goes_on = self.attempt(prepared).instrument(span).await
                && left.as_slice().first().is_some_and(|next| next.read.elapsed() < FRESH);
        }
        for prepared in left {
            give_back(prepared.claimed).await;
        }
    }

    /// Makes one request and hands on what came of it; says whether it succeeded.
    async fn attempt(&self, prepared: Prepared) -> bool {
        let Prepared { claimed, due, read, body, key } = prepared;
        if !claimed.may_start() {
            give_back(claimed).await;
            return false;
        }
        // Receivers compare it with their own clocks, so it is the database's, whose clock is watched over, and not that
        // of whichever machine this is.
        let started_at = due.read_at + read.elapsed();
        let cancelled = claimed.job.cancelled().clone();
        let request = self.requester.request(&due, &key, started_at, body);
        let answer = tokio::select! {
            answer = self.watch(&claimed, &due, request) => answer,
            // The deadline of the shutdown has come. The receiver may have the request; it gets it once more.
            () = cancelled.cancelled() => {
                give_back(claimed).await;
                return false;
            }
        };
        count(&due, &answer, started_at + answer.duration);
        let (status_code, error_class) = (answer.status_code, answer.error_class.map(ErrorClass::as_str));
        tracing::debug!(endpoint_id = %due.endpoint_id, status_code, error_class, "attempted");
        let succeeded = answer.error_class.is_none();
        self.hand_on(Sent { claimed, due, end: End::Attempted { started_at, answer } }).await;
        succeeded
    }

    /// Waits for a request, and says so when that takes long.
    async fn watch(
        &self,
        claimed: &Claimed<Deliver>,
        due: &DueDelivery,
        request: impl Future<Output = Answer>,
    ) -> Answer {
        tokio::pin!(request);
        if let Ok(answer) = tokio::time::timeout(SLOW_AFTER, &mut request).await {
            return answer;
        }
        claimed.slow_down();
        // If there are too many of them already, another request will say it.
        let _ = self.slow.try_send((due.account_id, due.endpoint_id));
        request.await
    }

    async fn hand_on(&self, sent: Sent) {
        // The recorder ends after all of its senders; if it did not, the lease's end gives the job to another run.
        let _ = self.outcomes.send(sent).await;
    }
}

/// A claimed job and those that come after it in its unit.
fn unit(mut first: Claimed<Deliver>) -> Vec<Claimed<Deliver>> {
    let rest = first.take_rest();
    std::iter::once(first).chain(rest).collect()
}

/// Whether two claimed jobs are of one unit: of an ordered lane only one unit is claimed at a time.
fn follows(first: &Claimed<Deliver>, next: &Claimed<Deliver>) -> bool {
    first.job.is_ordered() && next.job.is_ordered() && first.job.lane() == next.job.lane()
}

/// Ends a run that has nothing to record; the job is due at once, at its place.
async fn give_back(claimed: Claimed<Deliver>) {
    claimed.finish(Outcome::Return).await;
}

fn count(due: &DueDelivery, answer: &Answer, now: DateTime<Utc>) {
    let result = answer.error_class.map_or("success", ErrorClass::as_str);
    metrics::counter!("delivery_attempts_total", "result" => result).increment(1);
    metrics::histogram!("delivery_attempt_seconds").record(answer.duration.as_secs_f64());
    if answer.error_class.is_none()
        && let Some(age) = due.event_created_at.and_then(|at| (now - at).to_std().ok())
    {
        metrics::histogram!("delivery_latency_seconds").record(age.as_secs_f64());
    }
}

/// Why a delivery cannot be signed. Only the operator can mend it.
#[derive(Debug, thiserror::Error)]
enum KeyError {
    #[error(transparent)]
    Unsealable(#[from] Unsealable),
    #[error(transparent)]
    BadSecret(#[from] BadSecret),
}

/// The endpoints' keys, opened once. A secret that was rotated is another sealed text and is opened anew.
#[derive(Debug)]
struct Keys {
    secret_key: SecretKey,
    opened: Mutex<HashMap<Uuid, OpenedKey>>,
}

/// A key, and the sealed secrets that it was opened from.
#[derive(Debug)]
struct OpenedKey {
    sealed: Vec<u8>,
    sealed_old: Option<Vec<u8>>,
    sealed_headers: Option<Vec<u8>>,
    key: Arc<SigningKey>,
}

impl Keys {
    fn new(secret_key: SecretKey) -> Self {
        Self { secret_key, opened: Mutex::default() }
    }

    fn get(&self, due: &DueDelivery) -> Result<Arc<SigningKey>, KeyError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = opened.get(&due.endpoint_id)
            && known.sealed == due.sealed_secret
            && known.sealed_old == due.sealed_old_secret
            && known.sealed_headers == due.sealed_headers
        {
            return Ok(known.key.clone());
        }
        let place = secret_place(due.endpoint_id);
        let mut key = SigningKey::new(&self.secret_key.open(&place, &due.sealed_secret)?)?;
        if let Some(sealed) = &due.sealed_old_secret {
            key = key.with_old(&self.secret_key.open(&place, sealed)?)?;
        }
        let own = endpoint_headers::open(&self.secret_key, due.endpoint_id, due.sealed_headers.as_deref())?;
        let key = Arc::new(key.with_own(endpoint_headers::for_request(&own)));
        if opened.len() >= KEYS_MAX {
            opened.clear();
        }
        let (sealed, sealed_old) = (due.sealed_secret.clone(), due.sealed_old_secret.clone());
        let sealed_headers = due.sealed_headers.clone();
        opened.insert(due.endpoint_id, OpenedKey { sealed, sealed_old, sealed_headers, key: key.clone() });
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use shared::domain::endpoint::new_secret;

    use super::*;

    fn due(endpoint_id: Uuid, sealed_secret: &[u8], sealed_old_secret: Option<&[u8]>) -> DueDelivery {
        DueDelivery {
            account_id: Uuid::nil(),
            id: Uuid::nil(),
            endpoint_id,
            attempts: 0,
            retries_from: 0,
            url: String::new(),
            sealed_secret: sealed_secret.to_vec(),
            sealed_old_secret: sealed_old_secret.map(<[u8]>::to_vec),
            sealed_headers: None,
            open: true,
            body: None,
            event_created_at: None,
            read_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_rotated_secret_is_opened_anew() {
        let secret_key: SecretKey = SecretKey::generate().parse().unwrap();
        let keys = Keys::new(secret_key.clone());
        let id = Uuid::now_v7();
        let seal = || secret_key.seal(&secret_place(id), &new_secret()).unwrap();
        let (first, second) = (seal(), seal());
        let signatures = |old: Option<&[u8]>| {
            let headers = keys.get(&due(id, &second, old)).unwrap().headers(id, 0, b"{}");
            headers["webhook-signature"].to_str().unwrap().split(' ').count()
        };
        let key = keys.get(&due(id, &first, None)).unwrap();
        assert!(Arc::ptr_eq(&key, &keys.get(&due(id, &first, None)).unwrap()));
        assert!(!Arc::ptr_eq(&key, &keys.get(&due(id, &second, None)).unwrap()));
        assert_eq!([signatures(None), signatures(Some(&first)), signatures(None)], [1, 2, 1]);
        let elsewhere = due(Uuid::now_v7(), &first, None);
        assert!(keys.get(&elsewhere).is_err(), "a secret opens only at its place");
    }
}
