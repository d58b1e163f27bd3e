//! The dispatcher against a real PostgreSQL and real HTTP servers.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it by panicking")]

mod again;
mod circuit;
mod deliver;
mod endpoints;
mod erasure;
mod hostile;
mod ordered;
mod proxy;
mod recovery;
mod relay;
mod support;
