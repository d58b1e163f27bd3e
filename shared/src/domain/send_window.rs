//! When messages may leave: some hours on some days of the week, in the recipients' time zone.

use std::{str::FromStr, time::Duration};

use chrono::{DateTime, Datelike, MappedLocalTime, NaiveDate, NaiveTime, TimeDelta, TimeZone, Utc, Weekday};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::field::Checks;

/// A send window as it is given and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SendWindow {
    /// A name of the tz database, such as `America/New_York`.
    pub timezone: String,
    /// Days of the week: mon, tue, wed, thu, fri, sat, sun.
    pub days: Vec<String>,
    /// The first minute, such as `09:00`.
    pub from: String,
    /// The minute at which it closes, after `from`; `24:00` is midnight.
    pub to: String,
}

/// A send window that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    timezone: Tz,
    days: Vec<Weekday>,
    from_minute: u32,
    to_minute: u32,
}

/// No wait is longer: a week covers every day of the week, one day more a change of the clocks.
const DAYS_AHEAD: u64 = 8;
const MINUTES_PER_DAY: u32 = 24 * 60;

impl SendWindow {
    /// The window, or None when a field is wrong; [`check`](Self::check) says which.
    pub fn parse(&self) -> Option<Window> {
        let window = Window {
            timezone: Tz::from_str(&self.timezone).ok()?,
            days: self.days.iter().map(|day| parse_day(day)).collect::<Option<_>>()?,
            from_minute: parse_minute(&self.from)?,
            to_minute: parse_minute(&self.to)?,
        };
        (!window.days.is_empty() && window.from_minute < window.to_minute).then_some(window)
    }

    /// Names every wrong field.
    pub fn check(&self, checks: &mut Checks) {
        let timezone = Tz::from_str(&self.timezone).is_ok();
        checks.require(timezone, "send_window.timezone", "must be a time zone such as America/New_York");
        let days = (1..=7).contains(&self.days.len()) && self.days.iter().all(|day| parse_day(day).is_some());
        checks.require(days, "send_window.days", "must be some of mon, tue, wed, thu, fri, sat, sun");
        let (from, to) = (parse_minute(&self.from), parse_minute(&self.to));
        checks.require(from.is_some(), "send_window.from", "must be a time such as 09:00");
        checks.require(to.is_some(), "send_window.to", "must be a time such as 17:00");
        if let (Some(from), Some(to)) = (from, to) {
            checks.require(from < to, "send_window.to", "must be after from");
        }
    }
}

impl Window {
    /// Whether a message may leave now.
    pub fn is_open(&self, now: DateTime<Utc>) -> bool {
        let local = now.with_timezone(&self.timezone);
        let minute = minute_of(local.time());
        self.days.contains(&local.weekday()) && (self.from_minute..self.to_minute).contains(&minute)
    }

    /// The first moment from now on at which a message may leave.
    pub fn next_open(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        if self.is_open(now) {
            return now;
        }
        let today = now.with_timezone(&self.timezone).date_naive();
        (0..=DAYS_AHEAD)
            .filter_map(|days| today.checked_add_days(chrono::Days::new(days)))
            .filter(|date| self.days.contains(&date.weekday()))
            .flat_map(|date| self.openings(date))
            .find(|opening| *opening > now)
            // Only a window that falls into a skipped hour every time comes here.
            .unwrap_or_else(|| now + TimeDelta::days(1))
    }

    /// How long until a message may leave; zero when it may.
    pub fn wait(&self, now: DateTime<Utc>) -> Duration {
        (self.next_open(now) - now).to_std().unwrap_or_default()
    }

    /// The moments of a date at which the window opens: one; two when the clocks are set back over it; the end of the
    /// skipped hour when they are set forward over it; none when that is past its close.
    fn openings(&self, date: NaiveDate) -> Vec<DateTime<Utc>> {
        for minute in self.from_minute..self.to_minute {
            let Some(time) = NaiveTime::from_hms_opt(minute / 60, minute % 60, 0) else { break };
            match self.timezone.from_local_datetime(&date.and_time(time)) {
                MappedLocalTime::Single(at) => return vec![at.to_utc()],
                MappedLocalTime::Ambiguous(first, second) => return vec![first.to_utc(), second.to_utc()],
                MappedLocalTime::None => {}
            }
        }
        Vec::new()
    }
}

fn minute_of(time: NaiveTime) -> u32 {
    use chrono::Timelike;
    time.hour() * 60 + time.minute()
}

fn parse_day(text: &str) -> Option<Weekday> {
    Some(match text {
        "mon" => Weekday::Mon,
        "tue" => Weekday::Tue,
        "wed" => Weekday::Wed,
        "thu" => Weekday::Thu,
        "fri" => Weekday::Fri,
        "sat" => Weekday::Sat,
        "sun" => Weekday::Sun,
        _ => return None,
    })
}

/// The minute of the day of `HH:MM`, 24:00 included.
fn parse_minute(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let digits = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(hours) || !digits(minutes) {
        return None;
    }
    let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= MINUTES_PER_DAY).then_some(minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(timezone: &str, days: &[&str], from: &str, to: &str) -> SendWindow {
        SendWindow {
            timezone: timezone.into(),
            days: days.iter().map(|day| (*day).into()).collect(),
            from: from.into(),
            to: to.into(),
        }
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    const WORKDAYS: [&str; 5] = ["mon", "tue", "wed", "thu", "fri"];

    #[test]
    fn it_opens_and_closes_by_local_time() {
        let office = window("America/New_York", &WORKDAYS, "09:00", "17:00").parse().unwrap();
        for (now, open, next) in [
            // Wednesday in winter: 09:00 is 14:00 UTC.
            ("2026-01-14T13:59:59Z", false, "2026-01-14T14:00:00Z"),
            ("2026-01-14T14:00:00Z", true, "2026-01-14T14:00:00Z"),
            ("2026-01-14T21:59:59Z", true, "2026-01-14T21:59:59Z"),
            ("2026-01-14T22:00:00Z", false, "2026-01-15T14:00:00Z"),
            // Friday evening waits for Monday.
            ("2026-01-16T22:00:00Z", false, "2026-01-19T14:00:00Z"),
            // Friday before the clocks go forward: Monday 09:00 is 13:00 UTC.
            ("2026-03-06T22:00:00Z", false, "2026-03-09T13:00:00Z"),
            // Friday before they go back: Monday 09:00 is 14:00 UTC.
            ("2026-10-30T21:00:00Z", false, "2026-11-02T14:00:00Z"),
            // Still Friday in New York.
            ("2026-01-17T01:00:00Z", false, "2026-01-19T14:00:00Z"),
        ] {
            assert_eq!(office.is_open(at(now)), open, "{now}");
            assert_eq!(office.next_open(at(now)), at(next), "{now}");
        }
        assert_eq!(office.wait(at("2026-01-14T13:59:00Z")), Duration::from_secs(60));
        assert_eq!(office.wait(at("2026-01-14T15:00:00Z")), Duration::ZERO);
    }

    #[test]
    fn skipped_and_repeated_hours() {
        // On 2026-03-08 New York skips 02:00 to 03:00, on 2026-11-01 it repeats 01:00 to 02:00.
        let night = window("America/New_York", &["sun"], "02:15", "04:00").parse().unwrap();
        assert_eq!(night.next_open(at("2026-03-08T05:00:00Z")), at("2026-03-08T07:00:00Z"));
        let skipped = window("America/New_York", &["sun"], "02:15", "02:45").parse().unwrap();
        assert_eq!(skipped.next_open(at("2026-03-08T05:00:00Z")), at("2026-03-15T06:15:00Z"));
        let twice = window("America/New_York", &["sun"], "01:00", "01:30").parse().unwrap();
        assert_eq!(twice.next_open(at("2026-11-01T04:00:00Z")), at("2026-11-01T05:00:00Z"));
        assert!(!twice.is_open(at("2026-11-01T05:45:00Z")));
        assert_eq!(twice.next_open(at("2026-11-01T05:45:00Z")), at("2026-11-01T06:00:00Z"));
        assert!(twice.is_open(at("2026-11-01T06:10:00Z")));
    }

    #[test]
    fn the_next_opening_is_open_and_within_eight_days() {
        let windows = [
            window("Asia/Kathmandu", &["tue"], "00:00", "24:00"),
            window("Pacific/Apia", &["fri", "sat"], "00:00", "00:01"),
            window("Australia/Lord_Howe", &["sun"], "01:45", "02:20"),
            window("UTC", &["mon", "sun"], "23:59", "24:00"),
        ];
        for window in windows {
            let window = window.parse().unwrap();
            for hours in 0..24 * 400 {
                let now = at("2026-01-01T00:00:00Z") + TimeDelta::hours(hours);
                let next = window.next_open(now);
                assert!(window.is_open(next), "{window:?} {now}");
                assert!(next - now <= TimeDelta::days(8), "{window:?} {now} {next}");
            }
        }
    }

    #[test]
    fn every_wrong_field_is_named() {
        let mut checks = Checks::new();
        window("Mars/Olympus", &["monday"], "9:00", "24:01").check(&mut checks);
        window("UTC", &[], "10:00", "10:00").check(&mut checks);
        let fields: Vec<_> = checks.finish().into_iter().map(|error| error.field).collect();
        assert_eq!(
            fields,
            [
                "send_window.timezone",
                "send_window.days",
                "send_window.from",
                "send_window.to",
                "send_window.days",
                "send_window.to"
            ]
        );
        assert_eq!(window("UTC", &["mon"], "10:00", "10:00").parse(), None);
        assert_eq!(window("UTC", &[], "10:00", "11:00").parse(), None);
    }
}
