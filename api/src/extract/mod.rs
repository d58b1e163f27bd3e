//! What a handler takes from a request, each with the failure that the contract gives it.

mod body;
mod path;
mod query;

pub use body::{Body, Raw};
pub use path::{CampaignId, ContactId, ConversationId, DiscoveryJobId, KeyId, MessageId, WebhookId};
pub use query::{NoFilter, PagingParams, Query};

/// How many wrong fields one answer names; a caller who made more has enough to start with.
const DETAILS_MAX: usize = 100;
/// A longer reason is cut.
const REASON_BYTES_MAX: usize = 200;

/// An unknown field as details name fields, such as `contacts[3].shoe`.
pub fn field_name(path: &serde_ignored::Path<'_>) -> String {
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

/// A reason quotes the value it is about, which may be a megabyte long.
pub fn cut(mut reason: String) -> String {
    if reason.len() > REASON_BYTES_MAX {
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        reason.push_str("...");
    }
    reason
}
