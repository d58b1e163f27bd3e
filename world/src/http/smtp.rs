//! The SMTP ledger, and how the SMTP server misbehaves.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Json;
use serde::{Deserialize, Serialize};

use crate::replies::Counts;
use crate::smtp::Behaviour;
use crate::smtp::ledger::{Record, Summary};
use crate::world::{World, lock};

/// The longest list of Message-IDs.
const LIMIT_MAX: usize = 50_000;

/// Both halves of the mail world in one object.
#[derive(Serialize)]
pub(super) struct MailLedger {
    #[serde(flatten)]
    smtp: Summary,
    #[serde(flatten)]
    replies: Counts,
}

pub(super) async fn ledger(State(world): State<Arc<World>>) -> Json<MailLedger> {
    let smtp = lock(&world.smtp).summary();
    Json(MailLedger { smtp, replies: world.replies.counts() })
}

#[derive(Deserialize)]
pub(super) struct Whose {
    recipient: String,
}

/// A record with its raw body, or null once that is no longer kept.
#[derive(Serialize)]
pub(super) struct Message {
    #[serde(flatten)]
    record: Record,
    raw: Option<String>,
}

pub(super) async fn messages(
    State(world): State<Arc<World>>,
    Query(whose): Query<Whose>,
) -> Json<Vec<Message>> {
    let ledger = lock(&world.smtp);
    let message = |(record, raw): (&Record, Option<Arc<[u8]>>)| Message {
        record: record.clone(),
        raw: raw.map(|raw| String::from_utf8_lossy(&raw).into_owned()),
    };
    Json(ledger.of_recipient(&whose.recipient).into_iter().map(message).collect())
}

/// A page of records.
#[derive(Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    after: u64,
    #[serde(default = "default_limit")]
    limit: usize,
}

fn default_limit() -> usize {
    5_000
}

/// What reconciliation needs of a record.
#[derive(Serialize)]
pub(super) struct Reconcilable {
    index: u64,
    recipient: Box<str>,
    message_id: Box<str>,
    in_reply_to: Option<Box<str>>,
    ordinal: u32,
}

pub(super) async fn message_ids(
    State(world): State<Arc<World>>,
    Query(page): Query<Page>,
) -> Json<Vec<Reconcilable>> {
    let ledger = lock(&world.smtp);
    let reconcilable = |record: &Record| Reconcilable {
        index: record.index,
        recipient: record.recipient.clone(),
        message_id: record.message_id.clone(),
        in_reply_to: record.in_reply_to.clone(),
        ordinal: record.ordinal,
    };
    Json(ledger.after(page.after, page.limit.min(LIMIT_MAX)).iter().map(reconcilable).collect())
}

/// Absent fields go back to their defaults, so `{}` ends all misbehaviour.
pub(super) async fn set_behaviour(
    State(world): State<Arc<World>>,
    Json(behaviour): Json<Behaviour>,
) -> Json<Behaviour> {
    world.smtp_behaviour.send_replace(behaviour);
    Json(behaviour)
}
