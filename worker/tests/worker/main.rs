//! The worker's jobs on a real PostgreSQL, against servers that answer as they are told.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get fails it")]

mod bench;
mod drafts;
mod history;
mod people;
mod providers;
mod replays;
mod roles;
mod sends;
mod smtp;
mod templates;
mod trouble;
