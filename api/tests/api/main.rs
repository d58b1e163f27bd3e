//! The API as its clients see it: the real router on a real socket over a real PostgreSQL, one of each per test.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod app;
mod campaigns;
mod contacts;
mod discovery;
mod inbound;
mod keys;
mod messages;
mod protocol;
mod webhook_deliveries;
mod webhook_events;
mod webhooks;
