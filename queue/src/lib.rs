//! A durable job queue on PostgreSQL.
//!
//! A job is a command with one runner. It is enqueued in the caller's transaction, claimed in batches under a lease,
//! and completed either in the transaction that wrote its effects ([`Job::complete`]) or in a batch of outcomes. The
//! tables and their one-statement moves are in `migrations/`; the crate knows nothing of what the jobs mean.
//!
//! Start reading at [`enqueue`](enqueue()) (how a job gets in), then [`Runtime`] (how it is claimed, run and ended).

mod backend;
mod beat;
mod chores;
mod claim;
mod complete;
mod enqueue;
mod error;
mod gate;
mod gauges;
pub mod groups;
mod job;
pub mod lanes;
mod meters;
mod migrations;
mod neighbours;
pub mod operate;
mod rota;
mod runtime;
mod schedule;
#[cfg(test)]
mod testing;
mod tick;
mod trace;
mod vacuum;
mod wake;

pub use backend::{Backend, JobLayer, JobService};
pub use claim::{Claimed, Source};
pub use complete::{CompleteError, Recorded, Unconfirmed, complete_many};
pub use enqueue::{Enqueued, NewJob, RunAt, enqueue};
pub use error::{EnqueueError, Error};
pub use gauges::{Depth, Oldest, depths, oldest_waiting};
pub use job::{Job, JobKind, Outcome, backoff};
pub use migrations::migrations;
pub use rota::{Claims, Room, Rota};
pub use runtime::{Runtime, RuntimeConfig};
pub use schedule::Schedule;
pub use trace::{BadTraceParent, TraceContext};
pub use wake::{Notifier, Wake};

/// The longest payload in bytes; jobs hold ids, never documents.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// The longest queue, tenant or lane name and key in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// The longest group path in bytes: a few names and the slashes between them.
pub const GROUP_BYTES_MAX: usize = 200;
/// How many names a group's path may have; the SQL function `queue.prefixes` knows the same number.
pub const GROUP_NAMES_MAX: usize = 4;
/// A job whose process died this many times while running it is dead with the reason `crashed`, if no process died without
/// it in the last ten minutes and no other job of the process is as suspect; after two more, if it was in more than half
/// of the process deaths.
pub const CRASHES: i32 = 3;
/// The same when processes die without it as well.
pub const CRASHES_MAX: i32 = 10;

/// The examples of the README, which are compiled by the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
