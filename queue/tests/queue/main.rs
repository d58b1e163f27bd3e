//! The queue on a real PostgreSQL.

mod metrics;
mod moves;
mod operate;
mod runs;
mod support;
mod traces;
mod turns;
