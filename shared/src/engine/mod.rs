//! The steps of a campaign. Each function is one step, done in the caller's transaction together with its events and
//! jobs: all of it commits, or none.
//!
//! Locks are taken in one order, so that steps wait for each other and not in a circle: the campaign's row, then
//! enrolments, then messages (each kind by id), then conversations and contacts; and after the messages the queue's rows,
//! where jobs are held, released, cancelled or moved. One step has to differ: an import writes its contacts before it
//! starts their enrolments. When one of them is deleted at the same moment, PostgreSQL finds the circle and refuses one
//! of the two. Events are appended after the row lock of their resource. Start reading at [`campaigns::update`], which
//! activates a campaign, then [`enrolments`], [`messages`], [`sending`] and [`inbound`].

mod bounces;
pub mod campaigns;
pub mod contacts;
pub mod discovery;
pub mod enrolments;
pub mod erasure;
mod error;
pub mod inbound;
pub mod mail;
pub mod messages;
pub mod sending;
mod sequence;
pub mod target_profiles;

pub use error::EngineError;
