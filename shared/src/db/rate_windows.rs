//! How many requests a key has made: fixed windows, each from the first request in it.
//!
//! A request is charged in the statement that looks its key up (`api_keys::find_charged`): to every window that applies to
//! it, or to none, if one of them is full.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// A window in which requests are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// How many requests it takes, at least 1.
    pub requests_max: i32,
    /// How long it lasts.
    pub length: Duration,
    /// Whether the request counts in it.
    pub applies: bool,
}

/// What a request found in the windows of its key.
#[derive(Debug, Clone)]
pub struct Charged {
    pub(super) at: DateTime<Utc>,
    pub(super) refused: bool,
    pub(super) starts: Vec<DateTime<Utc>>,
    pub(super) counts: Vec<i32>,
}

/// A full window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// Its place among the windows.
    pub window: usize,
    /// When it ends.
    pub ends_at: DateTime<Utc>,
    /// How long until then.
    pub wait: TimeDelta,
}

impl Charged {
    /// The window for whose sake the request was refused; of several the one that ends last. None: it was charged.
    pub fn full(&self, windows: &[Window]) -> Option<Full> {
        if !self.refused {
            return None;
        }
        let counted = self.starts.iter().zip(&self.counts).zip(windows).enumerate();
        counted
            .filter_map(|(place, ((start, count), window))| {
                let ends_at = *start + window.length;
                let is_full = window.applies && *count >= window.requests_max && ends_at > self.at;
                is_full.then(|| Full { window: place, ends_at, wait: ends_at - self.at })
            })
            .max_by_key(|full| full.ends_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_full_windows_the_one_that_ends_last_is_named() {
        let at = DateTime::from_timestamp(1_000, 0).unwrap();
        let window =
            |seconds, applies| Window { requests_max: 2, length: Duration::from_secs(seconds), applies };
        let windows = [window(1, true), window(60, true), window(3600, false)];
        let charged = |refused, counts: [i32; 3]| Charged {
            at,
            refused,
            starts: vec![at - TimeDelta::milliseconds(500); 3],
            counts: counts.to_vec(),
        };
        assert_eq!(charged(false, [2, 2, 2]).full(&windows), None, "the last one that had room");
        let first = charged(true, [2, 1, 2]).full(&windows).unwrap();
        assert_eq!((first.window, first.wait), (0, TimeDelta::milliseconds(500)));
        let second = charged(true, [2, 2, 2]).full(&windows).unwrap();
        assert_eq!((second.window, second.wait), (1, TimeDelta::milliseconds(59_500)));
    }
}
