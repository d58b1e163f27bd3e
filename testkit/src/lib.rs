//! A real `PostgreSQL` for every test: one private server per run, one database per test.
//!
//! A test that needs tables calls [`TestDatabase::create_from`], which migrates a template once and copies it for
//! each test; one that needs an empty database calls [`TestDatabase::create`]. `./run test` starts one server for
//! all test programs by the program `with-postgres`; without it each test program starts its own on first use, so
//! that `cargo test -p <crate>` works alone.
//!
//! What iris tells its customers is held against docs/events.json: [`assert_payload`] judges one body,
//! [`TestDatabase::judging_events`] all that a test leaves in its database.

mod database;
mod payloads;
mod server;

pub use database::TestDatabase;
pub use payloads::{assert_payload, check_payload};
pub use server::server_url;
