//! The one place that reads the clock: ledgers and signatures use plain epoch numbers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn since_epoch() -> Duration {
    // A clock set before 1970 would only make the records wrong, never the simulation.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Milliseconds since the epoch, for ledger records.
pub fn epoch_ms() -> u64 {
    u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX)
}

/// Seconds since the epoch, for signatures.
pub fn epoch_secs() -> u64 {
    since_epoch().as_secs()
}
