//! Webhook receivers and their ledgers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiError;
use crate::clock::epoch_ms;
use crate::hooks::ledger::{KeptJson, Summary};
use crate::hooks::{Answer, Checked, Refusal, Registration};
use crate::world::{World, lock};

/// How long a receiver that hangs keeps its connection open; a deadline of 30 s must end first.
const HANG: Duration = Duration::from_mins(2);
/// The longest list of attempts.
const LIMIT_MAX: usize = 10_000;

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Name => Self::new(StatusCode::NOT_FOUND, "the name is too long, or one hook too many"),
            Refusal::Secret => Self::new(StatusCode::BAD_REQUEST, "a secret is whsec_ and base64"),
            Refusal::Behaviour => {
                Self::new(StatusCode::BAD_REQUEST, "a status is 200 to 599, a location is ASCII")
            }
            Refusal::Full => Self::new(StatusCode::SERVICE_UNAVAILABLE, "the ledger of this hook is full"),
        }
    }
}

pub(super) async fn receive(
    State(world): State<Arc<World>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let secret = lock(&world.hooks).secret(&name)?;
    let checked = Checked::new(secret.as_ref(), headers, body, epoch_ms());
    let (answer, line) = lock(&world.hooks).record(&name, checked)?;
    world.journals.hooks.append(&line).await;
    Ok(match answer {
        Answer::Status(status, retry_after) => {
            let mut response = (status, Json(json!({ "ok": status.is_success() }))).into_response();
            if let Some(secs) = retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, secs.into());
            }
            response
        }
        Answer::Redirect(to) => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response(),
        Answer::Hang => {
            // The client's deadline ends this sooner; a world that stops does not wait for it.
            world.stop.run_until_cancelled(tokio::time::sleep(HANG)).await;
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    })
}

pub(super) async fn register(
    State(world): State<Arc<World>>,
    Path(name): Path<String>,
    Json(registration): Json<Registration>,
) -> Result<Json<Value>, ApiError> {
    lock(&world.hooks).register(&name, registration)?;
    Ok(Json(json!({ "ok": true })))
}

pub(super) async fn ledger(
    State(world): State<Arc<World>>,
    Path(name): Path<String>,
) -> Result<Json<Summary>, ApiError> {
    let hooks = lock(&world.hooks);
    Ok(Json(hooks.find_ledger(&name).ok_or_else(unknown)?.summary()))
}

/// A page of kept attempts.
#[derive(Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    after: u64,
    #[serde(default = "default_limit")]
    limit: usize,
}

fn default_limit() -> usize {
    1_000
}

pub(super) async fn events(
    State(world): State<Arc<World>>,
    Path(name): Path<String>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<KeptJson>>, ApiError> {
    // Bodies are parsed after the lock is gone, so that receivers do not wait for a reader.
    let kept = {
        let hooks = lock(&world.hooks);
        hooks.find_ledger(&name).ok_or_else(unknown)?.after(page.after, page.limit.min(LIMIT_MAX))
    };
    Ok(Json(kept.into_iter().map(KeptJson::from).collect()))
}

fn unknown() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "no such hook")
}
