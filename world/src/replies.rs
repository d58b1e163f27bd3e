//! What personas send back: signed HTTP posts of raw messages, retried like a mail server would until they are taken.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use url::Url;

use crate::clock::{epoch_ms, epoch_secs};
use crate::mail::Answer;
use crate::persona::Reaction;
use crate::sign::iris_signature;
use crate::world::{World, lock};

/// Posts in flight at a time.
const POSTS_MAX: usize = 64;
/// One post, from connecting to the end of its answer.
const POST_TIMEOUT: Duration = Duration::from_secs(10);
/// The first pause between two posts of one message; it doubles up to the last one.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// The longest pause between two posts of one message.
const BACKOFF_LAST: Duration = Duration::from_secs(2);
/// After this long a message is given up.
const GIVE_UP_AFTER: Duration = Duration::from_mins(10);

/// Where answers are posted, and how they are signed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inbound {
    /// The URL of the inbound endpoint; without one messages wait.
    pub url: Option<Url>,
    /// The signing secret.
    #[serde(default)]
    pub secret: String,
    /// The mailbox that answers go to; without one, the sender of the message answered.
    pub mailbox: Option<String>,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The inbound endpoint took it with a 2xx.
    Accepted,
    /// The inbound endpoint refused it for good.
    Refused,
    /// It could not be built, or was given up after ten minutes.
    ReplyLost,
}

/// One answer that ended; a line of `replies.jsonl`.
#[derive(Clone, Debug, Serialize)]
pub struct Ended {
    /// When it ended.
    pub time_ms: u64,
    /// Why it was sent.
    pub kind: Reaction,
    /// The persona, or the recipient that a notification is about.
    pub from: String,
    /// The mailbox it went to.
    pub to: String,
    /// Its own Message-ID.
    pub message_id: String,
    /// The message it answers.
    pub in_reply_to: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// The status of the last answer; none if no post was ever answered.
    pub status: Option<u16>,
    /// Posts tried.
    pub attempts: u32,
}

/// Counts for `GET /smtp/ledger`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Answers whose time came and that were handed to the poster.
    pub replies_sent: u64,
    /// Answers taken with a 2xx.
    pub replies_accepted: u64,
    /// Answers whose time has not come or that are not answered for good.
    pub replies_pending: u64,
    /// Answers refused for good.
    pub replies_refused: u64,
    /// Answers given up.
    pub reply_lost: u64,
}

/// The poster.
pub struct Replies {
    client: reqwest::Client,
    inbound: Mutex<Inbound>,
    slots: Semaphore,
    counts: Mutex<Counts>,
}

impl Replies {
    /// A poster to an inbound endpoint.
    pub fn new(inbound: Inbound) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(POST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        Ok(Self {
            client,
            inbound: Mutex::new(inbound),
            slots: Semaphore::new(POSTS_MAX),
            counts: Mutex::default(),
        })
    }

    /// Changes the inbound endpoint; posts already waiting go to the new one.
    pub fn set_inbound(&self, inbound: Inbound) {
        *lock(&self.inbound) = inbound;
    }

    /// The inbound endpoint.
    pub fn inbound(&self) -> Inbound {
        lock(&self.inbound).clone()
    }

    /// The counts.
    pub fn counts(&self) -> Counts {
        *lock(&self.counts)
    }

    /// One signed post; None if there was nowhere to post to or no answer.
    async fn post(&self, mailbox: &str, raw: &Bytes) -> Option<StatusCode> {
        let inbound = self.inbound();
        let url = inbound.url?;
        let _slot = self.slots.acquire().await.ok()?;
        let timestamp = epoch_secs().to_string();
        let response = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "message/rfc822")
            .header("X-Iris-Mailbox", mailbox)
            .header("X-Iris-Signature", iris_signature(&inbound.secret, &timestamp, raw))
            .header("X-Iris-Timestamp", timestamp)
            .body(raw.clone())
            .send()
            .await;
        response.map_or_else(
            |error| {
                tracing::debug!(%error, "an inbound post got no answer");
                None
            },
            |response| Some(response.status()),
        )
    }

    /// Posts until the answer is final; the last status and the number of posts go with the outcome.
    async fn deliver(&self, mailbox: &str, raw: &Bytes) -> (Outcome, Option<u16>, u32) {
        let started = Instant::now();
        let mut backoff = BACKOFF_FIRST;
        let mut last = None;
        for attempts in 1.. {
            if let Some(status) = self.post(mailbox, raw).await {
                last = Some(status.as_u16());
                if status.is_success() {
                    return (Outcome::Accepted, last, attempts);
                }
                let passing = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
                if status.is_client_error() && !passing {
                    return (Outcome::Refused, last, attempts);
                }
            }
            if started.elapsed() + backoff > GIVE_UP_AFTER {
                return (Outcome::ReplyLost, last, attempts);
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_LAST);
        }
        (Outcome::ReplyLost, last, u32::MAX)
    }
}

/// Sends an answer after its delay, without being waited for. Their number is bounded by the ledger's records.
pub fn schedule(world: &Arc<World>, answer: Answer, answered_from: &str) {
    lock(&world.replies.counts).replies_pending += 1;
    let (world, answered_from) = (Arc::clone(world), answered_from.to_owned());
    tokio::spawn(async move {
        let sending = async {
            tokio::time::sleep(answer.delay(world.day)).await;
            send_pending(&world, answer, &answered_from).await
        };
        // A world that stops takes its unsent answers with it.
        world.stop.run_until_cancelled(sending).await;
    });
}

/// Sends an answer at once and waits until it ended.
pub async fn send(world: &Arc<World>, answer: Answer, answered_from: &str) -> Ended {
    lock(&world.replies.counts).replies_pending += 1;
    send_pending(world, answer, answered_from).await
}

async fn send_pending(world: &Arc<World>, answer: Answer, answered_from: &str) -> Ended {
    let replies = &world.replies;
    lock(&replies.counts).replies_sent += 1;
    let to = replies.inbound().mailbox.unwrap_or_else(|| answered_from.to_owned());
    let message_id = answer.new_message_id();
    let (outcome, status, attempts) = match answer.build(&to, &message_id) {
        Ok(raw) => replies.deliver(&to, &raw.into()).await,
        Err(error) => {
            tracing::error!(%error, from = answer.from, "an answer could not be built");
            (Outcome::ReplyLost, None, 0)
        }
    };
    {
        let mut counts = lock(&replies.counts);
        counts.replies_pending -= 1;
        *match outcome {
            Outcome::Accepted => &mut counts.replies_accepted,
            Outcome::Refused => &mut counts.replies_refused,
            Outcome::ReplyLost => &mut counts.reply_lost,
        } += 1;
    }
    let ended = Ended {
        time_ms: epoch_ms(),
        kind: answer.reaction,
        from: answer.sender(),
        to,
        message_id,
        in_reply_to: answer.in_reply_to,
        outcome,
        status,
        attempts,
    };
    world.journals.replies.append(&ended).await;
    ended
}
