//! A replay: an endpoint's events of a time, delivered once more.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{delivery::DeliveryStatus, text_enum};
use crate::clock::{iso_ms, iso_ms_option};

text_enum! {
    /// Where a replay stands: `queued -> running ->` one of the others.
    ReplayStatus {
        /// It waits for a worker.
        Queued = "queued",
        /// A worker goes through the events.
        Running = "running",
        /// It went through all of them.
        Succeeded = "succeeded",
        /// It was given up; what it made until then stays.
        Failed = "failed",
        /// Its endpoint was disabled first.
        EndpointDisabled = "endpoint_disabled",
        /// Its endpoint was deleted first.
        EndpointDeleted = "endpoint_deleted",
    }
}

/// A replay as the API shows it.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Serialize, ToSchema)]
pub struct Replay {
    /// Its id.
    pub id: Uuid,
    /// Where it stands.
    pub status: ReplayStatus,
    /// The events that happened from this time on,
    #[serde(serialize_with = "iso_ms::serialize")]
    pub since: DateTime<Utc>,
    /// and up to this one.
    #[serde(serialize_with = "iso_ms::serialize")]
    pub until: DateTime<Utc>,
    /// Their types.
    pub events: Vec<String>,
    /// Whether only events are delivered again whose last delivery to the endpoint is exhausted or cancelled.
    pub failed_only: bool,
    /// How many events of the account it has looked at, of whatever type.
    pub scanned: i64,
    /// How many deliveries it has made, or made pending again.
    pub created: i64,
    /// When it was asked for.
    #[serde(serialize_with = "iso_ms::serialize")]
    pub created_at: DateTime<Utc>,
    /// When it ended.
    #[serde(serialize_with = "iso_ms_option::serialize")]
    pub finished_at: Option<DateTime<Utc>>,
}

/// What a replay does with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Nothing.
    Leave,
    /// Makes this delivery pending again.
    Restart(Uuid),
    /// Makes a new delivery.
    Create,
}

/// What a replay does with an event whose newest delivery to the endpoint is this one, if it has any. One that waits is
/// delivered anyhow.
pub fn choose(newest: Option<(Uuid, DeliveryStatus)>, failed_only: bool) -> Choice {
    match newest {
        Some((id, DeliveryStatus::Exhausted | DeliveryStatus::Cancelled)) => Choice::Restart(id),
        Some((_, DeliveryStatus::Pending)) => Choice::Leave,
        Some((_, DeliveryStatus::Succeeded)) | None => {
            if failed_only {
                Choice::Leave
            } else {
                Choice::Create
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_keeps_its_id_and_what_waits_is_left_alone() {
        let id = Uuid::from_u128(7);
        for (newest, all, failed_only) in [
            (None, Choice::Create, Choice::Leave),
            (Some(DeliveryStatus::Succeeded), Choice::Create, Choice::Leave),
            (Some(DeliveryStatus::Pending), Choice::Leave, Choice::Leave),
            (Some(DeliveryStatus::Exhausted), Choice::Restart(id), Choice::Restart(id)),
            (Some(DeliveryStatus::Cancelled), Choice::Restart(id), Choice::Restart(id)),
        ] {
            let newest = newest.map(|status| (id, status));
            assert_eq!((choose(newest, false), choose(newest, true)), (all, failed_only), "{newest:?}");
        }
    }

    #[test]
    fn words_parse_back() {
        for status in ReplayStatus::ALL {
            assert_eq!(ReplayStatus::parse(status.as_str()), Some(*status));
        }
    }
}
