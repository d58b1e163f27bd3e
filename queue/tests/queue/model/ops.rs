//! What can be done to a queue, in any order. Every operation means something in every state: one that finds nothing to
//! act on does nothing, so that a failing sequence can be cut down freely.

use proptest::{collection::vec, option, prelude::*, sample::Index};

/// The groups that jobs are in and that are cancelled, held and released; one of them is not below `a`.
const GROUPS: [&str; 6] = ["a", "a/x", "a/x/p", "a/x/p/q", "a/y", "a0"];
pub const LANES: [&str; 3] = ["l0", "l1", "l2"];
pub const TENANTS: [&str; 2] = ["t0", "t1"];
const KEYS: [&str; 3] = ["k0", "k1", "k2"];
/// How many processes claim, and how many transactions can be open beside each other.
pub const PROCESSES: usize = 3;
pub const SESSIONS: usize = 2;

#[derive(Debug, Clone)]
pub enum Op {
    /// In a transaction that stays open, or in one of its own.
    Enqueue {
        session: Option<usize>,
        jobs: Vec<New>,
    },
    Commit(usize),
    Rollback(usize),
    Claim {
        process: usize,
        limit: usize,
    },
    /// One statement.
    Complete(Vec<Completion>),
    /// The lease's time passes.
    Lapse(usize),
    /// The process beats again.
    Renew(usize),
    /// The lease's row is gone, as after a restore.
    Lose(usize),
    Rescue {
        orphans: bool,
    },
    Cancel(Vec<&'static str>),
    Hold(&'static str),
    Release(&'static str),
    /// The look for what was parked while its group was released.
    Unpark,
    /// The time of this timer comes.
    Due(Index),
    Promote(usize),
    RetryDead(Vec<Index>),
    RetryAll,
    Discard(Index),
    Pause(&'static str, bool),
    Cap(&'static str, Option<i32>),
}

/// A job to be enqueued.
#[derive(Debug, Clone)]
pub struct New {
    pub tenant: &'static str,
    pub lane: &'static str,
    pub priority: i16,
    pub group: Option<&'static str>,
    pub key: Option<&'static str>,
    pub at: At,
    /// The run that makes it, of all that ever were.
    pub cause: Option<Index>,
    pub max_attempts: i32,
}

#[derive(Debug, Clone, Copy)]
pub enum At {
    Now,
    Past,
    Far,
    InAnHour,
}

#[derive(Debug, Clone)]
pub struct Completion {
    /// Of all tokens that were ever given out, or of those that are current.
    pub token: Index,
    pub any: bool,
    pub outcome: Ending,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ending {
    Done,
    Cancelled,
    Retry { delay_ms: i64 },
    Snooze { delay_ms: i64 },
    Handback,
    Dead,
}

pub fn ops() -> impl Strategy<Value = Vec<Op>> {
    vec(op(), 1..60)
}

fn op() -> impl Strategy<Value = Op> {
    let group = || prop::sample::select(&GROUPS[..]);
    let process = || 0..PROCESSES;
    let indexes = || vec(any::<Index>(), 1..4);
    let session = || 0..SESSIONS;
    prop_oneof![
        8 => (option::weighted(0.3, session()), vec(new(), 1..4))
            .prop_map(|(session, jobs)| Op::Enqueue { session, jobs }),
        3 => session().prop_map(Op::Commit),
        1 => session().prop_map(Op::Rollback),
        8 => (process(), 1..8_usize).prop_map(|(process, limit)| Op::Claim { process, limit }),
        8 => vec(completion(), 1..4).prop_map(Op::Complete),
        3 => process().prop_map(Op::Lapse),
        1 => process().prop_map(Op::Renew),
        1 => process().prop_map(Op::Lose),
        4 => any::<bool>().prop_map(|orphans| Op::Rescue { orphans }),
        3 => vec(group(), 1..3).prop_map(Op::Cancel),
        2 => group().prop_map(Op::Hold),
        2 => group().prop_map(Op::Release),
        1 => Just(Op::Unpark),
        3 => any::<Index>().prop_map(Op::Due),
        5 => (1..6_usize).prop_map(Op::Promote),
        2 => indexes().prop_map(Op::RetryDead),
        1 => Just(Op::RetryAll),
        1 => any::<Index>().prop_map(Op::Discard),
        1 => (prop::sample::select(&LANES[..]), any::<bool>()).prop_map(|(lane, on)| Op::Pause(lane, on)),
        1 => (prop::sample::select(&LANES[..]), option::of(0..3)).prop_map(|(lane, cap)| Op::Cap(lane, cap)),
    ]
}

fn new() -> impl Strategy<Value = New> {
    (
        prop::sample::select(&TENANTS[..]),
        prop::sample::select(&LANES[..]),
        -2..3_i16,
        option::weighted(0.7, prop::sample::select(&GROUPS[..])),
        option::weighted(0.4, prop::sample::select(&KEYS[..])),
        prop_oneof![5 => Just(At::Now), 1 => Just(At::Past), 2 => Just(At::Far), 1 => Just(At::InAnHour)],
        option::weighted(0.3, any::<Index>()),
        1..4,
    )
        .prop_map(|(tenant, lane, priority, group, key, at, cause, max_attempts)| New {
            tenant,
            lane,
            priority,
            group,
            key,
            at,
            cause,
            max_attempts,
        })
}

fn completion() -> impl Strategy<Value = Completion> {
    let outcome = prop_oneof![
        2 => Just(Ending::Done),
        1 => Just(Ending::Cancelled),
        4 => prop::sample::select(&[0, 3_600_000][..]).prop_map(|delay_ms| Ending::Retry { delay_ms }),
        2 => prop::sample::select(&[0, 3_600_000][..]).prop_map(|delay_ms| Ending::Snooze { delay_ms }),
        1 => Just(Ending::Handback),
        1 => Just(Ending::Dead),
    ];
    (any::<Index>(), proptest::bool::weighted(0.2), outcome).prop_map(|(token, any, outcome)| Completion {
        token,
        any,
        outcome,
    })
}
