//! The engine on a real PostgreSQL: one file per module, and what two connections do to each other.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod campaigns;
mod contacts;
mod discovery;
mod erasure;
mod fixture;
mod inbound;
mod mailbox;
mod messages;
mod migrations;
mod partitions;
mod races;
mod sending;
mod sequence;
mod undelivered;
