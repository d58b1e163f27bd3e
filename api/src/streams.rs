//! Server-sent events: a snapshot, then another whenever it differs.

use std::{convert::Infallible, time::Duration};

use axum::response::sse::Event;
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep},
};

use crate::{
    app::App,
    error::{ApiError, Code},
};

/// How often the database is asked.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long a stream stays open; the client then comes back, and its key is checked anew.
const LIFETIME: Duration = Duration::from_secs(3600);

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

    /// How things are.
    fn look(&self, app: &App) -> impl Future<Output = Result<Snapshot, ApiError>> + Send;
}

/// What is left to do for an open stream.
struct Watch<L> {
    app: App,
    look: L,
    sent: Option<String>,
    next: Option<Snapshot>,
    end: Instant,
    _place: OwnedSemaphorePermit,
}

/// The events of a stream: `first` unless the client has it, then what `look` finds whenever it is another. `place` is
/// held while it is open. It ends after the last snapshot, at the end of its lifetime, when the server stops, and when
/// there is nothing to look at any more: the client comes back and is told why.
pub fn changes<L: Look>(
    app: App,
    place: OwnedSemaphorePermit,
    last_id: Option<String>,
    first: Snapshot,
    look: L,
) -> impl Stream<Item = Result<Event, Infallible>> + Send + 'static {
    let stop = app.shutdown.clone();
    let end = Instant::now() + LIFETIME;
    let watch = Watch { app, look, sent: last_id, next: Some(first), end, _place: place };
    let events = stream::unfold(watch, |watch| async move {
        let (snapshot, watch) = watch.next_change().await?;
        let event = Event::default().event(L::EVENT).id(&snapshot.id).data(&snapshot.data);
        Some((Ok(event), watch))
    });
    events.take_until(stop.cancelled_owned())
}

impl<L: Look> Watch<L> {
    async fn next_change(mut self) -> Option<(Snapshot, Self)> {
        loop {
            if let Some(snapshot) = self.next.take()
                && self.sent.as_ref() != Some(&snapshot.id)
            {
                self.sent = Some(snapshot.id.clone());
                if snapshot.is_last {
                    self.end = Instant::now();
                }
                return Some((snapshot, self));
            }
            if Instant::now() >= self.end {
                return None;
            }
            sleep(INTERVAL).await;
            match self.look.look(&self.app).await {
                Ok(snapshot) => self.next = Some(snapshot),
                // The database is away for a while; what waits here need not come back for that.
                Err(error) if error.code().status() >= 500 => {}
                Err(_) => return None,
            }
        }
    }
}
