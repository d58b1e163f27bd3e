//! The HTTP side: webhook receivers, the ledgers, and the switches that tests turn.

mod hooks;
mod listener;
mod people;
mod smtp;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post, put};
use serde_json::json;
use tokio::net::TcpListener;

use crate::world::World;

/// The largest request body.
const BODY_BYTES_MAX: usize = 8 << 20;

/// An error answer: a status and `{"error": ...}`.
pub struct ApiError(StatusCode, String);

impl ApiError {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self(status, error.into())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

/// The routes.
pub fn router(world: Arc<World>) -> Router {
    Router::new()
        .route("/health", get(|| async { Json(json!({ "ok": true })) }))
        .route("/hooks/{name}", post(hooks::receive).put(hooks::register))
        .route("/hooks/{name}/ledger", get(hooks::ledger))
        .route("/hooks/{name}/events", get(hooks::events))
        .route("/smtp/ledger", get(smtp::ledger))
        .route("/smtp/messages", get(smtp::messages))
        .route("/smtp/message_ids", get(smtp::message_ids))
        .route("/smtp/behaviour", put(smtp::set_behaviour))
        .route("/inbound", put(people::set_inbound))
        .route("/personas", get(people::persona))
        .route("/contacts", get(people::contacts))
        .route("/reply", post(people::reply))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(world)
}

/// Serves until the world stops; requests under way are answered first.
pub async fn serve(listener: TcpListener, world: Arc<World>) -> std::io::Result<()> {
    let stop = world.stop.clone();
    axum::serve(listener::Listener::new(listener), router(world))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}
