//! What webhooks can tell.

use shared::events::schemas::{EventTypeDescription, describe_all};

use crate::envelope::Data;

/// List event types
///
/// All that endpoints can subscribe to, each with the JSON Schema of its bodies.
#[utoipa::path(
    get, path = "/webhooks/events", responses((status = 200, body = Data<Vec<EventTypeDescription>>))
)]
pub async fn list() -> Data<Vec<EventTypeDescription>> {
    Data::ok(describe_all())
}
