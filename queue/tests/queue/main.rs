//! The queue on a real PostgreSQL.

mod moves;
mod operate;
mod runs;
mod support;
mod turns;
