//! What words mean and which changes are allowed. Pure: no database, no network, no clock but the one handed in.

pub mod address;
pub mod analytics;
pub mod campaign;
pub mod changes;
pub mod channel;
pub mod circuit;
pub mod contact;
pub mod conversation;
pub mod delivery;
pub mod discovery;
pub mod endpoint;
pub mod endpoint_headers;
pub mod endpoint_url;
pub mod enrolment;
pub mod erasure;
pub mod field;
pub mod message;
pub mod patch;
pub mod preflight;
pub mod replay;
pub mod reply;
pub mod schedule;
pub mod send_window;
pub mod target_profile;
pub mod template;
mod text_enum;

pub use channel::Channel;
pub use field::FieldError;
pub(crate) use text_enum::text_enum;
