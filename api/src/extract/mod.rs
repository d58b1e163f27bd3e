//! What a handler takes from a request, each with the failure that the contract gives it.

mod body;
mod bytes;
mod json;
mod path;
mod query;

pub use body::{Body, RowsBody};
pub use bytes::read_charged;
pub use path::{
    CampaignId, ContactId, ConversationId, DeliveryId, DiscoveryJobId, KeyId, MessageId, NotificationId,
    ReplayId, SuppressionId, TargetProfileId, WebhookId,
};
pub use query::{NoFilter, PagingParams, Query};

/// How many wrong fields one answer names; a caller who made more has enough to start with.
pub const DETAILS_MAX: usize = 100;
/// A longer reason is cut.
const REASON_BYTES_MAX: usize = 200;
/// So is a longer name of a field.
const NAME_BYTES_MAX: usize = 200;

/// An unknown field as details name fields, cut.
pub fn unknown_name(path: &serde_ignored::Path<'_>) -> String {
    cut(field_name(path), NAME_BYTES_MAX)
}

/// A reason of serde's, cut: it quotes the value it is about, which may be a megabyte long.
pub fn reason_of(error: impl std::fmt::Display) -> String {
    cut(error.to_string(), REASON_BYTES_MAX)
}

/// A field as details name fields, such as `contacts[3].shoe`.
fn field_name(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Map { parent, key } => match field_name(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Seq { parent, index } => format!("{}[{index}]", field_name(parent)),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            field_name(parent)
        }
    }
}

fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push_str("...");
    }
    text
}
