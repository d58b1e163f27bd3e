//! Time as an argument, and the length of a day.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

/// Where a process takes its time from. Due times and leases are the database's (`now()` in SQL); this clock is for
/// what is judged outside it, such as a send window or the age of a signature.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    fixed: Option<DateTime<Utc>>,
    day: Duration,
}

impl Clock {
    /// The system's clock, with days of the given length.
    pub const fn system(day: Duration) -> Self {
        Self { fixed: None, day }
    }

    /// A clock that stands still, for tests.
    pub const fn fixed(at: DateTime<Utc>, day: Duration) -> Self {
        Self { fixed: Some(at), day }
    }

    /// The present time.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    pub fn now(&self) -> DateTime<Utc> {
        self.fixed.unwrap_or_else(Utc::now)
    }

    /// How long a day of a sequence and of a daily cap is: 24 h, or IRIS_DAY. Send windows are not scaled.
    pub const fn day(&self) -> Duration {
        self.day
    }
}

/// ISO 8601 in UTC with milliseconds and Z, as every time in the API and in webhooks is written.
pub fn iso(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Serde for times: [`iso`].
pub mod iso_ms {
    use chrono::{DateTime, Utc};
    use serde::Serializer;

    /// Writes a time.
    pub fn serialize<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::iso(*at))
    }
}

/// Serde for optional times: [`iso`] or null.
pub mod iso_ms_option {
    use chrono::{DateTime, Utc};
    use serde::Serializer;

    /// Writes a time or null.
    pub fn serialize<S: Serializer>(at: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => serializer.serialize_str(&super::iso(*at)),
            None => serializer.serialize_none(),
        }
    }
}
