//! How often a key may call: the six classes of requests, and the answer to one too many.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};
use shared::db::rate_windows::{Charged, Full, Window};

use crate::error::{ApiError, Code};

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Requests that are counted together. Every request with a key is global and burst; some are of one more class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateClass {
    /// All requests of a key, over a minute.
    Global,
    /// All requests of a key, over a second.
    Burst,
    /// Changes of campaigns.
    Campaign,
    /// Changes of contacts.
    Contact,
    /// What an AI writes or reads.
    Ai,
    /// Searches for contacts.
    Discovery,
}

impl RateClass {
    /// Every class. The place of each is that of its window in the database: a new one goes to the end.
    const ALL: [Self; 6] =
        [Self::Global, Self::Burst, Self::Campaign, Self::Contact, Self::Ai, Self::Discovery];

    /// The name in the OpenAPI document.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Burst => "burst",
            Self::Campaign => "campaign",
            Self::Contact => "contact",
            Self::Ai => "ai",
            Self::Discovery => "discovery",
        }
    }

    /// How many requests in which time: the table of the hosted API.
    const fn limit(self) -> (i32, Duration) {
        match self {
            Self::Global => (120, Duration::from_mins(1)),
            Self::Burst => (20, Duration::from_secs(1)),
            Self::Campaign => (30, Duration::from_mins(1)),
            Self::Contact => (60, Duration::from_mins(1)),
            Self::Ai => (20, Duration::from_mins(1)),
            Self::Discovery => (5, Duration::from_hours(1)),
        }
    }

    /// The code of a request that is one too many.
    pub const fn code(self) -> Code {
        match self {
            Self::Global => Code::RateLimited,
            Self::Burst | Self::Campaign | Self::Contact => Code::TooManyRequests,
            Self::Ai => Code::AiRateLimited,
            Self::Discovery => Code::DiscoveryRateLimited,
        }
    }
}

/// The windows of a key, for a request of one class beside the two that all are of.
pub fn windows(class: Option<RateClass>) -> [Window; RateClass::ALL.len()] {
    RateClass::ALL.map(|window| {
        let (requests_max, length) = window.limit();
        let applies = matches!(window, RateClass::Global | RateClass::Burst) || Some(window) == class;
        Window { requests_max, length, applies }
    })
}

/// Fails if the request was one too many.
pub fn check(charged: &Charged, windows: &[Window]) -> Result<(), ApiError> {
    let Some(full) = charged.full(windows) else { return Ok(()) };
    let class = RateClass::ALL.get(full.window).copied().unwrap_or(RateClass::Global);
    metrics::counter!("iris_api_rate_limited_total", "class" => class.as_str()).increment(1);
    let refused = Refused::new(class, full);
    let message = format!("too many requests. please try again in {} seconds.", refused.retry_after_s);
    Err(ApiError::new(class.code()).saying(message).rate_limited(refused))
}

/// What a refused request is told.
#[derive(Debug, Clone, Copy)]
pub struct Refused {
    /// How long to wait, in seconds, at least 1.
    pub retry_after_s: i64,
    /// How many requests the full window takes.
    pub limit: i32,
    /// When it ends, as milliseconds of Unix time.
    reset_ms: i64,
}

impl Refused {
    fn new(class: RateClass, full: Full) -> Self {
        let (limit, length) = class.limit();
        // One that waited for the row's lock came before the window began: it waits for no more than the whole window.
        let wait = full.wait.to_std().unwrap_or_default().min(length);
        Self {
            retry_after_s: i64::try_from(wait.as_micros().div_ceil(1_000_000)).unwrap_or(1).max(1),
            limit,
            reset_ms: full.ends_at.timestamp_millis(),
        }
    }

    /// Adds the headers of a refusal.
    pub fn add_headers(self, headers: &mut HeaderMap) {
        for (name, value) in [
            (RETRY_AFTER, self.retry_after_s),
            (LIMIT, i64::from(self.limit)),
            (REMAINING, 0),
            (RESET, self.reset_ms),
        ] {
            headers.insert(name, HeaderValue::from(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};

    use super::*;

    #[test]
    fn nobody_is_told_to_wait_for_less_than_a_second_or_more_than_the_window() {
        for (wait_us, told) in [(400, 1), (999_999, 1), (1_000_000, 1), (1_000_001, 1), (-5, 1)] {
            let wait = TimeDelta::microseconds(wait_us);
            let full = Full { window: 1, ends_at: DateTime::UNIX_EPOCH, wait };
            assert_eq!(Refused::new(RateClass::Burst, full).retry_after_s, told, "{wait_us}");
        }
        let full = Full { window: 0, ends_at: DateTime::UNIX_EPOCH, wait: TimeDelta::milliseconds(11_001) };
        assert_eq!(Refused::new(RateClass::Global, full).retry_after_s, 12);
    }
}
