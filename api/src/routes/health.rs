//! Whether the API lives and can serve.

use std::time::Duration;

use axum::extract::State;
use serde::Serialize;
use shared::db;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::{
    app::App,
    envelope::Data,
    error::{ApiError, Code},
};

/// How long the database may take to answer.
const DATABASE_DEADLINE: Duration = Duration::from_secs(2);

/// How the API is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok`.
    #[schema(example = "ok")]
    status: &'static str,
}

/// Is the process alive
///
/// Answers as long as the process runs.
#[utoipa::path(get, path = "/health/live", responses((status = 200, body = Data<Health>)))]
pub async fn live() -> Data<Health> {
    Data::ok(Health { status: "ok" })
}

/// Can requests be served
///
/// Fails with 503 without a database, before its migrations are applied, and while the server shuts down.
#[utoipa::path(get, path = "/health/ready", responses((status = 200, body = Data<Health>)))]
pub async fn ready(State(app): State<App>) -> Result<Data<Health>, ApiError> {
    let unready = |why| ApiError::new(Code::Unavailable).saying(why);
    if app.shutdown.is_cancelled() {
        return Err(unready("the server is shutting down"));
    }
    match timeout(DATABASE_DEADLINE, db::applied_migration(app.database.pool())).await {
        Ok(Ok(version)) if version >= db::newest_migration() => Ok(Data::ok(Health { status: "ok" })),
        Ok(Ok(_)) => Err(unready("migrations are not applied")),
        Ok(Err(_)) | Err(_) => Err(unready("the database does not answer")),
    }
}
