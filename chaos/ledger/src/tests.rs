use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{
    book::{Book, Limits},
    line::Line,
};

/// A book, and the time at which the next line is said.
struct Telling {
    book: Book,
    now: Instant,
}

impl Telling {
    fn new() -> Self {
        let limits = Limits { attempts_max: 2, crashes_max: 3 };
        Self { book: Book::new(limits), now: Instant::now() }
    }

    /// Lines of a process, in which `#n` is a job.
    fn say(&mut self, process: u32, lines: &[&str]) -> &mut Self {
        for text in lines {
            let words = text.split(' ').map(|word| match word.strip_prefix('#') {
                Some(n) => format!("{:032x}", n.parse::<u128>().expect("a number")),
                None => word.to_owned(),
            });
            let line: Line = words.collect::<Vec<_>>().join(" ").parse().expect("a line");
            let _ = self.book.apply(&line, process, self.now);
        }
        self
    }

    fn after_ms(&mut self, ms: u64) -> &mut Self {
        self.now += Duration::from_millis(ms);
        self
    }

    fn verdict(&self) -> Value {
        self.book.verdict()
    }
}

#[test]
fn what_comes_to_no_end_is_lost() {
    for (lines, lost) in [
        (&["enqueued #1"][..], 1),
        (&["unsure #1"], 0),
        (&["unsure #1", "start #1 1 0 0"], 1),
        (&["enqueued #1", "start #1 1 0 0", "effect #1 1", "ack #1 1"], 0),
        // The commit succeeded, and its process died before it said so.
        (&["enqueued #1", "start #1 1 0 0", "effect #1 1"], 0),
        (&["enqueued #1", "start #1 1 0 0", "effect #1 1", "left #1"], 1),
        (&["enqueued #1", "start #1 1 0 0", "fail #1 1"], 1),
        (&["enqueued #1", "start #1 1 0 0", "dead #1 exhausted 2 0"], 0),
    ] {
        assert_eq!(Telling::new().say(1, lines).verdict()["lost"], lost, "{lines:?}");
    }
}

#[test]
fn a_double_is_allowed_only_where_a_fault_struck() {
    let first = ["enqueued #1", "start #1 1 0 0", "effect #1 1"];
    let second = ["start #1 2 0 1", "effect #1 2", "ack #1 2"];
    let judge = |between: &[&str]| {
        let verdict = Telling::new().say(1, &first).say(0, between).say(2, &second).verdict();
        (verdict["effects_twice"].clone(), verdict["effects_twice_allowed"].clone())
    };
    assert_eq!(judge(&[]), (1.into(), 0.into()));
    assert_eq!(judge(&["fault 1 begin kills 1", "fault 1 end"]), (1.into(), 1.into()));
    assert_eq!(judge(&["fault 1 begin kills 2", "fault 1 end"]), (1.into(), 0.into()));
    assert_eq!(judge(&["fault 1 begin stop all", "fault 1 end"]), (1.into(), 1.into()));
    // What was acknowledged before the fault has no excuse.
    let acknowledged = ["ack #1 1", "fault 1 begin stop all", "fault 1 end"];
    let verdict = Telling::new().say(1, &first).say(1, &acknowledged).say(2, &second).verdict();
    assert_eq!(
        (&verdict["effects_twice_allowed"], &verdict["stale_completions_accepted"]),
        (&0.into(), &1.into())
    );
}

#[test]
fn what_begins_during_a_fault_is_struck_by_it() {
    let mut telling = Telling::new();
    telling.say(0, &["fault 1 begin stop all"]).say(1, &["start #1 1 0 0", "effect #1 1"]);
    telling.say(0, &["fault 1 end"]).say(1, &["start #1 2 0 0", "effect #1 2"]);
    assert_eq!(telling.verdict()["effects_twice_allowed"], 1);
    telling.say(1, &["start #1 3 0 0", "effect #1 3"]);
    assert_eq!(telling.verdict()["effects_twice_allowed"], 0, "nothing explains the third");
}

#[test]
fn recovery_is_from_the_faults_clock_to_the_next_sign_of_life() {
    let mut telling = Telling::new();
    telling.say(1, &["start #1 1 0 0", "start #2 1 0 0"]).say(2, &["start #3 1 0 0"]);
    telling.say(9, &["culprit #4"]).say(1, &["start #4 1 0 0"]);
    telling.say(0, &["fault 1 begin kills 1"]).after_ms(100).say(0, &["fault 1 clock 100"]);
    telling.after_ms(6_900).say(2, &["start #1 2 0 1"]).after_ms(1_000).say(2, &["start #2 2 0 1"]);
    telling.after_ms(60_000).say(2, &["ack #3 1", "start #4 2 0 1"]);
    telling.say(1, &["start #5 1 0 0"]).say(0, &["fault 2 begin kills 1"]).say(0, &["fault 2 clock 0"]);
    telling.after_ms(12_000).say(1, &["ack #5 1"]);
    let verdict = telling.verdict();
    let scenario = &verdict["scenarios"][0];
    assert_eq!((&scenario["recovery_ms_p50"], &scenario["recovery_ms_p99"]), (&7_000.into(), &8_000.into()));
    assert_eq!(
        scenario["recovered"], 2,
        "another process's job, the culprit and what was already on its way do not count"
    );
    assert_eq!(verdict["recovery_ms_p99"], 8_000);
}

#[test]
fn too_many_tries_are_counted() {
    for (lines, over) in [
        (&["fail #1 1", "fail #1 2"][..], 0),
        (&["fail #1 1", "fail #1 2", "fail #1 3"], 1),
        (&["dead #1 crashed 0 3", "start #1 1 0 0"], 0),
        (&["dead #1 crashed 0 4", "start #1 1 0 0"], 1),
        (&["start #1 1 3 0"], 1),
        (&["culprit #1", "start #1 1 0 0", "start #1 2 0 1", "start #1 3 0 2"], 0),
        (&["culprit #1", "start #1 1 0 0", "start #1 2 0 1", "start #1 3 0 2", "start #1 4 0 3"], 1),
    ] {
        assert_eq!(Telling::new().say(1, lines).verdict()["over_max_attempts"], over, "{lines:?}");
    }
}

#[test]
fn what_was_acknowledged_must_be_gone() {
    let mut telling = Telling::new();
    telling.say(1, &["start #1 1 0 0", "effect #1 1", "ack #1 1"]);
    assert_eq!(telling.verdict()["totals"]["acknowledged_and_still_there"], 0);
    telling.say(0, &["left #1"]);
    assert_eq!(telling.verdict()["totals"]["acknowledged_and_still_there"], 1);
}
