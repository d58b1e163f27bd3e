//! The queue on a real PostgreSQL.

mod metrics;
mod model;
mod moves;
mod operate;
mod runs;
mod support;
mod traces;
mod turns;
