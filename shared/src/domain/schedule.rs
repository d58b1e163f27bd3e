//! When the steps of a sequence are due.
//!
//! Days count from the moment step 0 was sent, or rejected. A step is never due before the previous one was sent plus
//! the difference of their days, so that a long pause does not bunch them. A rejected step is skipped: the next one
//! counts from the one that was really sent. With follow-ups on days 3, 7 and 14:
//!
//! ```text
//!     sent on day       step 1 due   step 2 due                  step 3 due
//!     0: 0              3            max(7, 3+4)  = 7            max(14, 7+7)   = 14
//!     0: 0, 1: 20       3            max(7, 20+4) = 24           max(14, 24+7)  = 31
//!     0: 0, 1 rejected  3            max(7, 0+7)  = 7            max(14, 7+7)   = 14
//!     0 rejected on 0   3            7                           14
//! ```

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// What the schedule of a passage depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passage {
    /// When its days began.
    pub started_at: Option<DateTime<Utc>>,
    /// When the last message was sent.
    pub last_sent_at: Option<DateTime<Utc>>,
    /// Which step that was.
    pub last_sent_step: Option<i32>,
}

/// The step after `step`, if there is one: steps are numbered 0 to the number of follow-ups.
pub fn next_step(step: i32, followup_days: &[i32]) -> Option<i32> {
    let last = i32::try_from(followup_days.len()).unwrap_or(i32::MAX);
    (step < last).then_some(step + 1)
}

/// When a step is due, a day being `day` long. None: at once, since it is step 0 or the days have not begun.
pub fn due_at(passage: &Passage, step: i32, followup_days: &[i32], day: Duration) -> Option<DateTime<Utc>> {
    let started_at = passage.started_at.filter(|_| step > 0)?;
    let days = day_of(step, followup_days);
    let from_start = later(started_at, day, days);
    let from_last = passage.last_sent_at.zip(passage.last_sent_step).map(|(sent_at, sent_step)| {
        later(sent_at, day, days.saturating_sub(day_of(sent_step, followup_days)))
    });
    Some(from_last.map_or(from_start, |from_last| from_last.max(from_start)))
}

/// When a follow-up is drafted: one day before it is due.
pub fn draft_at(due_at: DateTime<Utc>, day: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(day).ok().and_then(|day| due_at.checked_sub_signed(day)).unwrap_or(due_at)
}

/// The day of a step. One beyond the list, which a change of the campaign can leave behind, has the last day.
fn day_of(step: i32, followup_days: &[i32]) -> u32 {
    let Ok(index) = usize::try_from(step - 1) else { return 0 };
    let day = followup_days.get(index).or(followup_days.last()).copied().unwrap_or_default();
    u32::try_from(day).unwrap_or_default()
}

fn later(from: DateTime<Utc>, day: Duration, days: u32) -> DateTime<Utc> {
    TimeDelta::from_std(day.saturating_mul(days))
        .ok()
        .and_then(|delta| from.checked_add_signed(delta))
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const DAYS: [i32; 3] = [3, 7, 14];

    fn on(day: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_780_000_000 + day * 86_400, 0).unwrap()
    }

    fn passage(started: i64, last: Option<(i64, i32)>) -> Passage {
        Passage {
            started_at: Some(on(started)),
            last_sent_at: last.map(|(day, _)| on(day)),
            last_sent_step: last.map(|(_, step)| step),
        }
    }

    #[test]
    fn steps_are_due_as_the_table_says() {
        for (passage, step, due) in [
            (passage(0, Some((0, 0))), 1, 3),
            (passage(0, Some((3, 1))), 2, 7),
            (passage(0, Some((7, 2))), 3, 14),
            (passage(0, Some((20, 1))), 2, 24),
            (passage(0, Some((24, 2))), 3, 31),
            // Step 1 was rejected.
            (passage(0, Some((0, 0))), 2, 7),
            // Steps 1 and 2 were.
            (passage(0, Some((0, 0))), 3, 14),
            // Step 0 was, on day 0.
            (passage(0, None), 1, 3),
            (passage(0, None), 2, 7),
            // Step 0 was, and step 1 was sent late.
            (passage(0, Some((10, 1))), 2, 14),
        ] {
            assert_eq!(due_at(&passage, step, &DAYS, DAY), Some(on(due)), "{passage:?} {step}");
        }
    }

    #[test]
    fn the_first_step_is_due_at_once() {
        assert_eq!(due_at(&Passage::default(), 0, &DAYS, DAY), None);
        assert_eq!(due_at(&passage(0, None), 0, &DAYS, DAY), None);
        assert_eq!(due_at(&Passage::default(), 2, &DAYS, DAY), None);
    }

    #[test]
    fn a_day_can_be_a_second() {
        let due = due_at(&passage(0, Some((0, 0))), 1, &DAYS, Duration::from_secs(1)).unwrap();
        assert_eq!(due, on(0) + TimeDelta::seconds(3));
        assert_eq!(draft_at(due, Duration::from_secs(1)), on(0) + TimeDelta::seconds(2));
    }

    #[test]
    fn the_sequence_ends_after_its_last_follow_up() {
        assert_eq!(next_step(0, &DAYS), Some(1));
        assert_eq!(next_step(2, &DAYS), Some(3));
        assert_eq!(next_step(3, &DAYS), None);
        assert_eq!(next_step(0, &[]), None);
        assert_eq!(next_step(5, &DAYS), None);
    }

    #[test]
    fn a_shortened_list_and_a_huge_day_do_no_harm() {
        assert_eq!(due_at(&passage(0, Some((9, 3))), 2, &[3, 7], DAY), Some(on(9)));
        assert_eq!(due_at(&passage(0, None), 1, &[60], Duration::MAX), Some(DateTime::<Utc>::MAX_UTC));
    }
}
