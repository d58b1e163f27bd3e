//! The worker's jobs on a real PostgreSQL, against servers that answer as they are told.

mod bench;
mod drafts;
mod people;
mod providers;
mod roles;
mod sends;
mod smtp;
mod templates;
