//! The real binaries from the outside: one process per role, a real PostgreSQL, SMTP and HTTP, SIGKILL.

mod campaign;
mod compose;
mod configuration;
mod crash;
mod demo;
mod observability;
mod orphans;
mod queue;
mod quick_example;
mod race;
mod readme;
mod receivers;
mod refusals;
mod replay;
mod webhook;
