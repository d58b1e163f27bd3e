//! How long what is not delivered yet has waited, and for what.

use std::time::Duration;

use queue::{JobKind, Oldest, oldest_waiting};
use sqlx::PgConnection;

use super::endpoint_health::{CIRCUIT_REASON, RETRY_REASON};
use crate::jobs::Deliver;

/// What deliveries wait for: a slot for their first attempt; the time of a retry, or a slot after it; a place under the endpoint's
/// cap or rate, or their turn; the end of an open circuit; a person who paused them.
pub const STATES: [&str; 5] = [READY, RETRYING, THROTTLED, CIRCUIT, PAUSED];

const READY: &str = "ready";
const RETRYING: &str = "retrying";
const THROTTLED: &str = "throttled";
const CIRCUIT: &str = "circuit";
const PAUSED: &str = "paused";

/// The deliveries that wait for one thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Undelivered {
    /// One of [`STATES`].
    pub state: &'static str,
    /// How many endpoints have deliveries that do, apart from retries whose time has not come.
    pub endpoints: i64,
    /// The age of the oldest delivery among the first of each endpoint.
    pub oldest: Duration,
}

/// What waits to be delivered, by state; all of [`STATES`], in their order.
pub async fn measure(conn: &mut PgConnection) -> Result<Vec<Undelivered>, sqlx::Error> {
    let waiting = oldest_waiting(conn, Deliver::QUEUE).await?;
    Ok(STATES.iter().map(|state| sum(state, &waiting)).collect())
}

/// The state in which a delivery is whose job waits so.
fn state_of(waiting: &Oldest) -> &'static str {
    match (waiting.state.as_str(), waiting.reason.as_deref()) {
        ("again", _) | ("closed", Some(RETRY_REASON)) => RETRYING,
        ("closed", Some(CIRCUIT_REASON)) => CIRCUIT,
        ("throttled" | "closed", _) => THROTTLED,
        ("paused", _) => PAUSED,
        _ => READY,
    }
}

fn sum(state: &'static str, waiting: &[Oldest]) -> Undelivered {
    let of_state = || waiting.iter().filter(|waiting| state_of(waiting) == state);
    let oldest = of_state().filter_map(|waiting| waiting.seconds).fold(0.0, f64::max);
    Undelivered {
        state,
        endpoints: of_state().map(|waiting| waiting.lanes).sum(),
        oldest: Duration::try_from_secs_f64(oldest).unwrap_or_default(),
    }
}
