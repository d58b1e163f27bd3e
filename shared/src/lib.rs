//! What the roles of iris share.
//!
//! `domain/` says what words mean and which changes are allowed; it is pure. `db/` holds every SQL statement but the
//! queue's, one file per table. `engine/` joins them: each of its functions is one step of a campaign, done in the
//! caller's transaction together with its events and jobs. Start reading at [`db::Tx`] and [`engine`].

pub mod clock;
pub mod config;
pub mod db;
pub mod domain;
pub mod engine;
pub mod events;
pub mod ids;
pub mod jobs;
pub mod mailbox;
pub mod secrets;
pub mod telemetry;

pub use clock::Clock;
pub use db::{Database, Tx};
