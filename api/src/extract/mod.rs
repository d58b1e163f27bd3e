//! What a handler takes from a request, each with the failure that the contract gives it.

mod body;
mod path;
mod query;

pub use body::{Body, Raw};
pub use path::{CampaignId, ContactId, ConversationId, DiscoveryJobId, KeyId, MessageId, WebhookId};
pub use query::{NoFilter, PagingParams, Query};

/// How many wrong fields one answer names; a caller who made more has enough to start with.
const DETAILS_MAX: usize = 100;
