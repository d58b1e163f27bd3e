//! Personas, contacts, and the answers that tests ask for.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Json;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ApiError;
use crate::generate::contacts::{Contact, contact};
use crate::mail::Answer;
use crate::persona::{Persona, Reaction};
use crate::replies::{self, Ended, Inbound};
use crate::world::{World, lock};

/// The longest list of contacts.
const CONTACTS_MAX: u64 = 10_000;

#[derive(Deserialize)]
pub(super) struct Whose {
    address: String,
}

#[derive(Serialize)]
pub(super) struct PersonaOf {
    address: String,
    persona: Persona,
    explicit: bool,
}

pub(super) async fn persona(Query(whose): Query<Whose>) -> Json<PersonaOf> {
    let persona = Persona::of(&whose.address);
    let explicit = Persona::explicit(&whose.address).is_some();
    Json(PersonaOf { address: whose.address, persona, explicit })
}

#[derive(Deserialize)]
pub(super) struct Range {
    count: u64,
    #[serde(default)]
    offset: u64,
}

pub(super) async fn contacts(Query(range): Query<Range>) -> Json<Vec<Contact>> {
    let end = range.offset.saturating_add(range.count.min(CONTACTS_MAX));
    Json((range.offset..end).map(contact).collect())
}

pub(super) async fn set_inbound(
    State(world): State<Arc<World>>,
    Json(inbound): Json<Inbound>,
) -> Json<Value> {
    world.replies.set_inbound(inbound);
    Json(json!({ "ok": true }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplyRequest {
    from: String,
    to_message_id: Option<String>,
    subject: String,
    text: String,
}

/// Sends a message at once, with the same retries as every other, and answers when it ended.
pub(super) async fn reply(
    State(world): State<Arc<World>>,
    Json(request): Json<ReplyRequest>,
) -> Result<Json<Ended>, ApiError> {
    let inbound = world.replies.inbound();
    if inbound.url.is_none() {
        return Err(ApiError::new(StatusCode::CONFLICT, "no inbound url is set"));
    }
    let answered_id = request.to_message_id.map(|id| id.trim_matches(['<', '>']).to_owned());
    let (answered_from, references) = match &answered_id {
        None => (None, Vec::new()),
        Some(id) => {
            let ledger = lock(&world.smtp);
            let found = ledger.find_message(id);
            let references = found.and_then(|record| record.in_reply_to.as_deref()).map(str::to_owned);
            (found.map(|record| record.from.to_string()), references.into_iter().collect())
        }
    };
    let Some(answered_from) = inbound.mailbox.or(answered_from) else {
        return Err(ApiError::new(StatusCode::CONFLICT, "no mailbox is set and the message is not known"));
    };
    let answer = Answer {
        reaction: Reaction::Manual,
        from: request.from,
        in_reply_to: answered_id,
        references,
        subject: request.subject,
        text: request.text,
    };
    // A client that gives up waiting must not take the message back.
    let sending = tokio::spawn(async move { replies::send(&world, answer, &answered_from).await });
    sending
        .await
        .map(Json)
        .map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}
