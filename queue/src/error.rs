//! What can go wrong, in the caller's words.

/// A job that was refused before it reached the database.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    /// The payload is longer than [`PAYLOAD_BYTES_MAX`](crate::PAYLOAD_BYTES_MAX).
    #[error("the payload of a {queue} job has {bytes} bytes, more than {}", crate::PAYLOAD_BYTES_MAX)]
    PayloadTooLarge {
        /// The queue it was meant for.
        queue: String,
        /// Its length.
        bytes: usize,
    },
    /// A queue, tenant, lane, group or key is empty or too long.
    #[error("the {what} {value:?} of a job must have 1 to {max} bytes")]
    BadName {
        /// Which name.
        what: &'static str,
        /// The name, cut to its first bytes.
        value: String,
        /// The limit in bytes.
        max: usize,
    },
    /// A group is not a path of one to [`GROUP_NAMES_MAX`](crate::GROUP_NAMES_MAX) names.
    #[error(
        "the group {value:?} of a job must be one to {} names with '/' between them",
        crate::GROUP_NAMES_MAX
    )]
    BadGroup {
        /// The group, cut to its first bytes.
        value: String,
    },
    /// The payload could not be written as JSON.
    #[error("the payload of a {queue} job cannot be encoded: {source}")]
    Encode {
        /// The queue it was meant for.
        queue: String,
        /// What serde said.
        source: serde_json::Error,
    },
    /// The database refused or was not there; the caller's transaction is lost.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// A failure of the queue's own work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process no longer holds its lease; what it claimed may run elsewhere.
    #[error("the lease has lapsed")]
    LeaseLapsed,
    /// A statement took longer than its deadline.
    #[error("the database did not answer within {0:?}")]
    Deadline(std::time::Duration),
    /// The queue's own code panicked, which is a defect; what it was at is done again.
    #[error("panicked: {0}")]
    Panicked(String),
    /// A cron expression that does not parse.
    #[error("the schedule {name} has a bad expression {expression:?}: {reason}")]
    BadSchedule {
        /// The schedule's name.
        name: String,
        /// What was given.
        expression: String,
        /// What the parser said.
        reason: String,
    },
    /// The database refused or was not there.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}
