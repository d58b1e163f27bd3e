//! The queue on a real PostgreSQL.

mod moves;
mod runs;
mod support;
mod turns;
