//! Server-sent events: a snapshot, then another whenever it differs.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::response::sse::Event;
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    error::{ApiError, Code},
    wait::LOOK_DEADLINE,
};

/// How often the database is asked while things change, and while they do not.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a stream stays open; the client then comes back.
const LIFETIME: Duration = Duration::from_secs(3600);
/// How many streams an account may have open in one process, so that none takes all the places.
const ACCOUNT_STREAMS_MAX: usize = 16;

/// The places of open streams: so many in all, so many of each account.
#[derive(Debug, Clone)]
pub struct Places {
    all: Arc<Semaphore>,
    by_account: Arc<Mutex<HashMap<Uuid, usize>>>,
}

/// The place of one open stream, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    account_id: Uuid,
    by_account: Arc<Mutex<HashMap<Uuid, usize>>>,
    _one_of_all: OwnedSemaphorePermit,
}

impl Places {
    /// So many in all.
    pub fn new(amount: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(amount)), by_account: Arc::default() }
    }

    /// A place for a stream of an account.
    pub fn take(&self, account_id: Uuid) -> Result<Place, ApiError> {
        let mut by_account = self.by_account.lock().unwrap_or_else(PoisonError::into_inner);
        let open = by_account.get(&account_id).copied().unwrap_or_default();
        if open >= ACCOUNT_STREAMS_MAX {
            return Err(ApiError::new(Code::Conflict).saying("the account has 16 event streams open already"));
        }
        let Ok(one_of_all) = self.all.clone().try_acquire_owned() else {
            return Err(ApiError::new(Code::Unavailable).saying("too many event streams are open"));
        };
        by_account.insert(account_id, open + 1);
        Ok(Place { account_id, by_account: self.by_account.clone(), _one_of_all: one_of_all })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_account = self.by_account.lock().unwrap_or_else(PoisonError::into_inner);
        let open = by_account.remove(&self.account_id).unwrap_or_default();
        if open > 1 {
            by_account.insert(self.account_id, open - 1);
        }
    }
}

/// What a client sees at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Names the data: the same data has the same id, in every process.
    pub id: String,
    /// The data as JSON.
    pub data: String,
    /// Nothing will change after it.
    pub is_last: bool,
}

impl Snapshot {
    /// A snapshot of some data.
    pub fn new(data: &impl Serialize, is_last: bool) -> Result<Self, ApiError> {
        let data =
            serde_json::to_string(data).map_err(|error| ApiError::new(Code::Internal).caused_by(error))?;
        let id = hex::encode(&Sha256::digest(data.as_bytes())[..8]);
        Ok(Self { id, data, is_last })
    }
}

/// How a stream finds out how things are.
pub trait Look: Send + Sync + 'static {
    /// The name of its events.
    const EVENT: &'static str;

    /// How things are; fails with a 4xx when its client may no longer see them.
    fn look(&self) -> impl Future<Output = Result<Snapshot, ApiError>> + Send;
}

/// What is left to do for an open stream.
struct Watch<L> {
    look: L,
    sent: Option<String>,
    next: Option<Snapshot>,
    pause: Duration,
    end: Instant,
    _place: Place,
}

/// The events of a stream: `first` unless the client has it, then what `look` finds whenever it is another. `place` is
/// held while it is open. It ends after the last snapshot, at the end of its lifetime, when the server stops, and when
/// there is nothing to look at any more: the client comes back and is told why.
pub fn changes<L: Look>(
    stop: CancellationToken,
    place: Place,
    last_id: Option<String>,
    first: Snapshot,
    look: L,
) -> impl Stream<Item = Result<Event, Infallible>> + Send + 'static {
    let watch = Watch::new(place, last_id, first, look);
    let events = stream::unfold(watch, |watch| async move {
        let (snapshot, watch) = watch.next_change().await?;
        let event = Event::default().event(L::EVENT).id(&snapshot.id).data(&snapshot.data);
        Some((Ok(event), watch))
    });
    events.take_until(stop.cancelled_owned())
}

impl<L: Look> Watch<L> {
    fn new(place: Place, last_id: Option<String>, first: Snapshot, look: L) -> Self {
        let end = Instant::now() + LIFETIME;
        Self { look, sent: last_id, next: Some(first), pause: PAUSE_MIN, end, _place: place }
    }

    async fn next_change(mut self) -> Option<(Snapshot, Self)> {
        loop {
            if let Some(snapshot) = self.next.take()
                && self.sent.as_ref() != Some(&snapshot.id)
            {
                self.sent = Some(snapshot.id.clone());
                self.pause = PAUSE_MIN;
                if snapshot.is_last {
                    self.end = Instant::now();
                }
                return Some((snapshot, self));
            }
            if Instant::now() >= self.end {
                return None;
            }
            sleep(self.pause).await;
            self.pause = (self.pause * 3 / 2).min(PAUSE_MAX);
            match timeout(LOOK_DEADLINE, self.look.look()).await {
                Ok(Ok(snapshot)) => self.next = Some(snapshot),
                Ok(Err(error)) if error.code().status() < 500 => return None,
                // The database is away for a while; what waits here need not come back for that.
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    /// Looks: the first hangs, the second fails, then nothing changes until `changes_at`.
    struct Scripted {
        looks: Arc<AtomicUsize>,
        changes_at: usize,
    }

    impl Look for Scripted {
        const EVENT: &'static str = "test";

        async fn look(&self) -> Result<Snapshot, ApiError> {
            match self.looks.fetch_add(1, Ordering::Relaxed) {
                0 => pending().await,
                1 => Err(ApiError::new(Code::Unavailable)),
                look => Snapshot::new(&(look >= self.changes_at), false),
            }
        }
    }

    fn watch(changes_at: usize) -> (Watch<Scripted>, Arc<AtomicUsize>) {
        let looks = Arc::new(AtomicUsize::new(0));
        let place = Places::new(1).take(Uuid::nil()).unwrap();
        let first = Snapshot::new(&false, false).unwrap();
        (Watch::new(place, None, first, Scripted { looks: looks.clone(), changes_at }), looks)
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_or_fails_is_made_again() {
        let (watch, _) = watch(2);
        let (first, watch) = watch.next_change().await.unwrap();
        let (second, watch) = watch.next_change().await.unwrap();
        assert_eq!((first.data.as_str(), second.data.as_str()), ("false", "true"));
        assert_eq!(watch.pause, PAUSE_MIN, "what changes is looked at often");
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_change_is_looked_at_less_often() {
        let (watch, looks) = watch(usize::MAX);
        let (_, watch) = watch.next_change().await.unwrap();
        assert!(timeout(Duration::from_secs(300), watch.next_change()).await.is_err());
        let looks = looks.load(Ordering::Relaxed);
        assert!((50..70).contains(&looks), "{looks} looks in five minutes");
    }

    #[test]
    fn an_account_has_its_share_of_places() {
        let places = Places::new(ACCOUNT_STREAMS_MAX + 1);
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut open: Vec<_> = (0..ACCOUNT_STREAMS_MAX).map(|_| places.take(one).unwrap()).collect();
        assert_eq!(places.take(one).unwrap_err().code(), Code::Conflict);
        open.push(places.take(other).unwrap());
        assert_eq!(places.take(other).unwrap_err().code(), Code::Unavailable);
        drop(open);
        assert!(places.take(one).is_ok());
        assert!(places.by_account.lock().unwrap().is_empty());
    }
}
