//! The API as its clients see it: the real router on a real socket over a real PostgreSQL, one of each per test.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod analytics;
mod answers;
mod app;
mod campaigns;
mod contacts;
mod contract;
mod discovery;
mod inbound;
mod keys;
mod limits;
mod messages;
mod notifications;
mod protocol;
mod suppressions;
mod target_profiles;
mod webhook_deliveries;
mod webhook_events;
mod webhooks;
