//! A customer's URL, secret and event types (the API path says /webhooks).

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{clock, ids::random_bytes};

/// What every endpoint's secret begins with, so that Standard Webhooks libraries take it as it is.
pub const SECRET_PREFIX: &str = "whsec_";
/// The most endpoints of one account that are not deleted: one event becomes at most that many deliveries.
pub const ENDPOINTS_MAX: i64 = 1000;
/// How many requests to one endpoint may be under way at once, over all dispatchers.
pub const IN_FLIGHT_MAX: i32 = 10;

/// An endpoint as the API shows it: without its secret.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema, sqlx::FromRow)]
pub struct Endpoint {
    /// The endpoint's id.
    pub id: Uuid,
    /// Where its deliveries go.
    pub url: String,
    /// The event types it hears of.
    pub events: Vec<String>,
    /// Whether deliveries are made to it.
    pub enabled: bool,
    /// What its owner says about it.
    pub description: Option<String>,
    /// How many deliveries a second it wants at most; null is no limit.
    pub rate_limit: Option<f64>,
    /// Whether its deliveries are made one after the other, in the order of their events.
    pub ordered: bool,
    /// Headers that its requests carry besides iris's own. Their values are not shown: each is `***`.
    #[schema(value_type = std::collections::HashMap<String, String>)]
    pub headers: serde_json::Value,
    /// When it was registered.
    #[serde(serialize_with = "clock::iso_ms::serialize")]
    pub created_at: DateTime<Utc>,
    /// When it last answered with 2xx, to the second.
    #[serde(serialize_with = "clock::iso_ms_option::serialize")]
    pub last_success_at: Option<DateTime<Utc>>,
    /// Since when every attempt has failed; null when the last one succeeded.
    #[serde(serialize_with = "clock::iso_ms_option::serialize")]
    pub failing_since: Option<DateTime<Utc>>,
    /// Why iris disabled it: `gone` (every attempt of a delivery was answered with 410) or
    /// `failing` (nothing was answered with 2xx for too long).
    pub disabled_reason: Option<String>,
}

/// A new endpoint's secret: [`SECRET_PREFIX`] and 32 random bytes in base64. Receivers use the whole text as the key
/// of X-Iris-Signature, and the bytes as the key of Standard Webhooks' signature.
pub fn new_secret() -> String {
    format!("{SECRET_PREFIX}{}", STANDARD.encode(random_bytes::<32>()))
}

/// The place an endpoint's secret is sealed for, so that it opens nowhere else.
pub fn secret_place(endpoint_id: Uuid) -> String {
    format!("endpoint/{endpoint_id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_new_and_hold_32_bytes() {
        let secret = new_secret();
        let bytes = STANDARD.decode(secret.strip_prefix(SECRET_PREFIX).unwrap()).unwrap();
        assert_eq!(bytes.len(), 32);
        assert_ne!(secret, new_secret());
    }
}
