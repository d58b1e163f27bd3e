//! When an endpoint that only fails is left alone, for how long, and when it is given up.

use std::{fmt, str::FromStr, time::Duration};

use crate::config::parse_duration;

/// The circuit of an endpoint opens when so many attempts in a row have failed and the first of them began so long ago:
/// a burst of failures within a moment says little. While it is open, deliveries wait and no attempt of theirs is
/// counted; after a pause the oldest of them is tried. If that one fails the next pause is twice as long; the first
/// success closes the circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitPolicy {
    /// How many failures in a row open it.
    pub failures: u16,
    /// Over how long they must have come at least.
    pub over: Duration,
    /// How long the first try is waited for.
    pub pause: Duration,
    /// After how long without any success, and as many failures, an endpoint is disabled.
    pub disable_after: DisableAfter,
}

/// After how long without any success an endpoint is disabled; `None`, written `off`, is never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DisableAfter(pub Option<Duration>);

/// How never is written.
const NEVER: &str = "off";

impl Default for DisableAfter {
    fn default() -> Self {
        Self(Some(Duration::from_secs(5 * 24 * 3600)))
    }
}

impl FromStr for DisableAfter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == NEVER { Ok(Self(None)) } else { Ok(Self(Some(parse_duration(text)?))) }
    }
}

impl fmt::Display for DisableAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(after) => write!(f, "{}", humantime::format_duration(after)),
            None => f.write_str(NEVER),
        }
    }
}

/// The longest pause between two tries.
pub const PAUSE_MAX: Duration = Duration::from_secs(600);
/// A pause is spread by this share in both directions.
const JITTER: f64 = 0.2;

impl Default for CircuitPolicy {
    fn default() -> Self {
        Self {
            failures: 10,
            over: Duration::from_secs(10),
            pause: Duration::from_secs(30),
            disable_after: DisableAfter::default(),
        }
    }
}

/// What is known of an endpoint's attempts, apart from the clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// How many attempts in a row have failed.
    pub failures: u32,
    /// How long ago the first of them began.
    pub failing_for: Option<Duration>,
    /// While the circuit is open: how many tries have failed since.
    pub open: Option<u32>,
    /// Whether a try has just failed.
    pub try_failed: bool,
}

/// What follows for the endpoint's circuit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// It is closed.
    Closed,
    /// It is open, and the next try is waited for as before.
    Open,
    /// It opens, or stays open after a try that failed: the next try comes after this pause.
    Pause(Duration),
    /// The endpoint is disabled.
    Disable,
}

impl CircuitPolicy {
    /// What follows from where an endpoint stands after a batch of attempts. `spread`, from -1 to 1, places the pause
    /// within its jitter.
    pub fn judge(&self, standing: Standing, spread: f64) -> Verdict {
        let Some(failing_for) = standing.failing_for.filter(|_| standing.failures > 0) else {
            return Verdict::Closed;
        };
        let many = standing.failures >= u32::from(self.failures);
        if many && self.disable_after.0.is_some_and(|after| failing_for >= after) {
            return Verdict::Disable;
        }
        match standing.open {
            Some(tries) if standing.try_failed => Verdict::Pause(self.pause_after(tries + 1, spread)),
            Some(_) => Verdict::Open,
            None if many && failing_for >= self.over => Verdict::Pause(self.pause_after(0, spread)),
            None => Verdict::Closed,
        }
    }

    fn pause_after(&self, failed_tries: u32, spread: f64) -> Duration {
        let pause = self.pause.saturating_mul(2_u32.saturating_pow(failed_tries.min(16)));
        pause.min(PAUSE_MAX.max(self.pause)).mul_f64(1.0 + JITTER * spread.clamp(-1.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(failures: u32, seconds: u64) -> Standing {
        Standing { failures, failing_for: Some(Duration::from_secs(seconds)), ..Standing::default() }
    }

    #[test]
    fn it_opens_after_ten_failures_over_ten_seconds() {
        let policy = CircuitPolicy::default();
        let pause = Verdict::Pause(Duration::from_secs(30));
        for (failures, seconds, expected) in [
            (0, 0, Verdict::Closed),
            (9, 3600, Verdict::Closed),
            (1000, 9, Verdict::Closed),
            (10, 10, pause),
            (10, 5 * 24 * 3600 - 1, pause),
            (10, 5 * 24 * 3600, Verdict::Disable),
            (9, 5 * 24 * 3600, Verdict::Closed),
        ] {
            assert_eq!(policy.judge(failing(failures, seconds), 0.0), expected, "{failures} {seconds}");
        }
        let never = CircuitPolicy { disable_after: DisableAfter(None), ..policy };
        assert_eq!(never.judge(failing(10, u64::MAX / 2), 0.0), pause);
    }

    #[test]
    fn a_try_that_fails_doubles_the_pause_and_others_do_not() {
        let policy = CircuitPolicy::default();
        let open = |tries, try_failed| Standing { open: Some(tries), try_failed, ..failing(20, 60) };
        for (tries, seconds) in [(0, 60), (1, 120), (3, 480), (4, 600), (1000, 600)] {
            let expected = Verdict::Pause(Duration::from_secs(seconds));
            assert_eq!(policy.judge(open(tries, true), 0.0), expected, "{tries}");
        }
        assert_eq!(policy.judge(open(0, false), 0.0), Verdict::Open, "one that was under way when it opened");
        let Verdict::Pause(longest) = policy.judge(open(0, true), 1.0) else { panic!("a pause") };
        assert_eq!(longest, Duration::from_secs(72));
    }

    #[test]
    fn the_end_of_patience_is_a_time_or_off() {
        assert_eq!("off".parse(), Ok(DisableAfter(None)));
        assert_eq!(DisableAfter::default().to_string().parse(), Ok(DisableAfter::default()));
        assert!("".parse::<DisableAfter>().is_err() && "5".parse::<DisableAfter>().is_err());
    }

    #[test]
    fn a_success_closes_it() {
        let policy = CircuitPolicy::default();
        let standing = Standing { open: Some(3), ..Standing::default() };
        assert_eq!(policy.judge(standing, 0.0), Verdict::Closed);
        assert_eq!(policy.judge(failing(1, 1), 0.0), Verdict::Closed, "a failure after it");
    }
}
