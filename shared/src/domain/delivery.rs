//! What becomes of a delivery: its states, its attempts and when the next one is made.

use std::{fmt, str::FromStr, time::Duration};

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::text_enum;
use crate::{clock, config::parse_duration};

text_enum! {
    /// Where a delivery stands.
    ///
    /// ```text
    /// pending --> succeeded   an attempt was answered with 2xx
    ///    |  ^
    ///    |  +-- an attempt failed and retries are left
    ///    +------> exhausted   the last attempt failed
    ///    +------> cancelled   its endpoint was disabled or deleted, or it waited for too long
    /// ```
    ///
    /// Somebody may ask for one that is exhausted or cancelled again: it is pending once more. What succeeded stays so;
    /// its event becomes a new delivery then.
    DeliveryStatus {
        /// It waits for its first or next attempt, or one is being made.
        Pending = "pending",
        /// The endpoint answered with 2xx.
        Succeeded = "succeeded",
        /// Every attempt failed.
        Exhausted = "exhausted",
        /// Its endpoint was disabled or deleted first, or its history was about to go.
        Cancelled = "cancelled",
    }
}

text_enum! {
    /// Why an attempt failed.
    ErrorClass {
        /// The host has no address.
        Dns = "dns",
        /// No connection, or it broke before the answer.
        Connect = "connect",
        /// The TLS handshake failed.
        Tls = "tls",
        /// The whole attempt took longer than its deadline.
        Timeout = "timeout",
        /// The answer's status was not 2xx.
        Status = "status",
        /// The answer broke off in its body, or was no HTTP.
        Body = "body",
        /// The host's address is one that iris does not connect to.
        Blocked = "blocked",
    }
}

/// One HTTP request for a delivery.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema, sqlx::FromRow)]
pub struct Attempt {
    /// 1 is the first.
    pub number: i32,
    /// When it began.
    #[serde(serialize_with = "clock::iso_ms::serialize")]
    pub started_at: DateTime<Utc>,
    /// How long it took, in milliseconds.
    pub duration_ms: i32,
    /// The answer's status, if there was an answer.
    pub status_code: Option<i32>,
    /// Why it failed; null on success.
    pub error_class: Option<ErrorClass>,
    /// The beginning of the answer's body.
    pub response_excerpt: Option<String>,
}

/// One event for one endpoint, with its attempts: the public form.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Delivery {
    /// The delivery, as X-Iris-Delivery names it.
    pub id: Uuid,
    /// The event, as its body names it.
    pub event_id: String,
    /// The event's type.
    pub event: String,
    /// Where it stands.
    pub status: DeliveryStatus,
    /// The attempts so far, oldest first; the last 50 if there are more.
    pub attempts: Vec<Attempt>,
    /// When it was made.
    #[serde(serialize_with = "clock::iso_ms::serialize")]
    pub created_at: DateTime<Utc>,
    /// When the next attempt is due, after a failed one.
    #[serde(serialize_with = "clock::iso_ms_option::serialize")]
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When it succeeded, was exhausted or cancelled.
    #[serde(serialize_with = "clock::iso_ms_option::serialize")]
    pub finished_at: Option<DateTime<Utc>>,
}

/// How long after each failed attempt the next one is made. The wire contract's is 5 s, 5 min, 1 h: up to 3 retries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySchedule {
    delays: Vec<Duration>,
}

/// A server may ask for a later retry, but not for one later than this.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(6 * 3600);
/// The same for a delivery of an ordered endpoint: the others wait behind it.
pub const ORDERED_RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// A delay is spread by this share in both directions, so that a receiver that comes back is not hit by all at once.
const JITTER: f64 = 0.2;
/// No schedule is longer.
const RETRIES_MAX: usize = 20;
/// How a schedule without retries is written; an empty text is more likely a variable that was not set.
const NO_RETRIES: &str = "none";

impl RetrySchedule {
    /// The delay after `attempts` attempts, all failed, or `None` when that was the last one. `spread`, from -1 to 1,
    /// places the delay within its jitter; `retry_after` is what the receiver asked for.
    pub fn next(&self, attempts: usize, retry_after: Option<Duration>, spread: f64) -> Option<Duration> {
        let delay = self.delays.get(attempts.checked_sub(1)?)?;
        let delay = delay.mul_f64(1.0 + JITTER * spread.clamp(-1.0, 1.0));
        Some(delay.max(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX)))
    }

    /// How long a delivery may be retried at most, with every receiver asking for as late a retry as it may.
    pub fn longest(&self) -> Duration {
        self.delays.iter().map(|delay| delay.mul_f64(1.0 + JITTER).max(RETRY_AFTER_MAX)).sum()
    }

    /// How many attempts a delivery has at most.
    pub fn attempts_max(&self) -> usize {
        self.delays.len() + 1
    }
}

impl Default for RetrySchedule {
    fn default() -> Self {
        Self { delays: [5, 300, 3600].map(Duration::from_secs).to_vec() }
    }
}

impl FromStr for RetrySchedule {
    type Err = String;

    /// Reads `5s,5m,1h`, or `none` for a schedule without retries.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == NO_RETRIES {
            return Ok(Self { delays: Vec::new() });
        }
        let delays: Vec<Duration> =
            text.split(',').map(|item| parse_duration(item.trim())).collect::<Result<_, _>>()?;
        if delays.len() > RETRIES_MAX {
            return Err(format!("must have at most {RETRIES_MAX} retries"));
        }
        Ok(Self { delays })
    }
}

impl fmt::Display for RetrySchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items: Vec<String> = self
            .delays
            .iter()
            .map(|delay| humantime::format_duration(*delay).to_string().replace(' ', ""))
            .collect();
        f.write_str(if items.is_empty() { NO_RETRIES.to_owned() } else { items.join(",") }.as_str())
    }
}

/// How long a Retry-After header asks to wait: seconds or a date (RFC 9110, section 10.2.3).
pub fn parse_retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a u64 holds still ask for a very long time.
        return (!value.is_empty()).then(|| Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let at = DateTime::parse_from_rfc2822(value).ok()?;
    (at.with_timezone(&Utc) - now).to_std().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_parse_back() {
        for status in DeliveryStatus::ALL {
            assert_eq!(DeliveryStatus::parse(status.as_str()), Some(*status));
            assert_eq!(serde_json::json!(status), serde_json::json!(status.as_str()));
        }
        for class in ErrorClass::ALL {
            assert_eq!(ErrorClass::parse(class.as_str()), Some(*class));
            assert_eq!(serde_json::json!(class), serde_json::json!(class.as_str()));
        }
        assert_eq!(DeliveryStatus::parse("failed"), None);
    }

    #[test]
    fn the_default_schedule_is_the_contracts() {
        let schedule = RetrySchedule::default();
        let seconds = |attempts| schedule.next(attempts, None, 0.0).map(|delay| delay.as_secs());
        assert_eq!([0, 1, 2, 3, 4].map(seconds), [None, Some(5), Some(300), Some(3600), None]);
        assert_eq!(schedule.attempts_max(), 4);
        assert_eq!(schedule.longest(), RETRY_AFTER_MAX * 3);
        assert_eq!("5s,5m,1h".parse(), Ok(schedule.clone()));
        assert_eq!(schedule.to_string(), "5s,5m,1h");
    }

    #[test]
    fn jitter_is_a_fifth_and_retry_after_only_lengthens() {
        let schedule = RetrySchedule::default();
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        for (attempts, retry_after, spread, expected) in [
            (1, None, -1.0, 4.0),
            (1, None, 1.0, 6.0),
            (1, None, 99.0, 6.0),
            (2, None, -1.0, 240.0),
            (1, Some(Duration::from_secs(1)), 0.0, 5.0),
            (1, Some(Duration::from_secs(60)), 0.0, 60.0),
            (3, Some(hours(2)), 1.0, 7200.0),
            (1, Some(hours(7)), 0.0, 21600.0),
            (1, Some(Duration::MAX), 0.0, 21600.0),
        ] {
            let delay = schedule.next(attempts, retry_after, spread).map(|delay| delay.as_secs_f64());
            assert_eq!(delay, Some(expected), "{attempts} {retry_after:?} {spread}");
        }
        assert_eq!(schedule.next(4, Some(hours(1)), 0.0), None);
    }

    #[test]
    fn schedules_are_read_with_their_limits() {
        assert_eq!(
            "none".parse::<RetrySchedule>().map(|s| (s.attempts_max(), s.to_string())),
            Ok((1, "none".into()))
        );
        assert_eq!(" 100ms , 2s".parse::<RetrySchedule>().map(|s| s.attempts_max()), Ok(3));
        for bad in ["", "5", "5s,", "5s,x", "0s", "400d"] {
            assert!(bad.parse::<RetrySchedule>().is_err(), "{bad}");
        }
        assert!(vec!["1s"; 21].join(",").parse::<RetrySchedule>().is_err());
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = DateTime::parse_from_rfc3339("2026-04-29T12:00:00Z").unwrap().with_timezone(&Utc);
        for (value, expected) in [
            ("120", Some(Duration::from_secs(120))),
            (" 0 ", Some(Duration::ZERO)),
            ("99999999999999999999999", Some(Duration::from_secs(u64::MAX))),
            ("Wed, 29 Apr 2026 12:01:00 GMT", Some(Duration::from_secs(60))),
            ("Wed, 29 Apr 2026 11:59:00 GMT", None),
            ("", None),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
        ] {
            assert_eq!(parse_retry_after(value, now), expected, "{value:?}");
        }
    }
}
