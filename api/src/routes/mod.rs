//! The handlers: one file per resource, one function per operation.

pub mod analytics;
mod campaign_bodies;
pub mod campaigns;
pub mod channels;
pub mod contact_imports;
pub mod contacts;
pub mod conversations;
pub mod discovery;
pub mod health;
pub mod inbound;
pub mod keys;
pub mod messages;
pub mod notifications;
pub mod suppressions;
pub mod target_profiles;
pub mod webhook_deliveries;
pub mod webhook_events;
pub mod webhook_secrets;
pub mod webhooks;
