//! The ids in a path. One that is not a UUID names nothing, and so is as absent as one that was never given out.

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};
use uuid::Uuid;

use crate::error::{ApiError, Code};

/// Declares the id of a resource: its type, its name in the path, the code of its absence.
macro_rules! path_id {
    ($($(#[doc = $doc:literal])+ $name:ident = $param:literal $code:ident,)+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Debug, Clone, Copy)]
            pub struct $name(pub Uuid);

            impl<S: Send + Sync> FromRequestParts<S> for $name {
                type Rejection = ApiError;

                async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
                    find_id(parts, state, $param).await.map(Self).ok_or_else(|| ApiError::new(Code::$code))
                }
            }
        )+
    };
}

path_id! {
    /// The campaign that the path names.
    CampaignId = "id" CampaignNotFound,
    /// The contact that the path names.
    ContactId = "id" ContactNotFound,
    /// The conversation that the path names.
    ConversationId = "id" ConversationNotFound,
    /// The delivery that the path names, of an endpoint.
    DeliveryId = "delivery_id" DeliveryNotFound,
    /// The discovery job that the path names.
    DiscoveryJobId = "id" DiscoveryJobNotFound,
    /// The key that the path names.
    KeyId = "id" KeyNotFound,
    /// The message that the path names.
    MessageId = "id" MessageNotFound,
    /// The notification that the path names.
    NotificationId = "id" RouteNotFound,
    /// The replay that the path names, of an endpoint.
    ReplayId = "replay_id" ReplayNotFound,
    /// The suppression that the path names.
    SuppressionId = "id" RouteNotFound,
    /// The target profile that the path names, of a campaign.
    TargetProfileId = "profile_id" RouteNotFound,
    /// The webhook endpoint that the path names.
    WebhookId = "id" WebhookNotFound,
}

async fn find_id<S: Send + Sync>(parts: &mut Parts, state: &S, param: &str) -> Option<Uuid> {
    let params = RawPathParams::from_request_parts(parts, state).await.ok()?;
    params.iter().find(|(name, _)| *name == param).and_then(|(_, value)| Uuid::try_parse(value).ok())
}
