//! The queue on a real PostgreSQL.

mod bad_input;
mod cancels;
mod contention;
mod forward;
mod freeze;
mod kills;
mod metrics;
mod model;
mod moves;
mod operate;
mod ordered;
mod runs;
mod slow_looks;
mod support;
mod traces;
mod turns;
