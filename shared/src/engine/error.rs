//! What the engine refuses, in words that the API turns into codes.

use crate::domain::{FieldError, campaign::CampaignStatus};

/// Why a step was not done. Roll the transaction back.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// CAMP_001.
    #[error("campaign not found")]
    CampaignNotFound,
    /// CONTACT_001.
    #[error("contact not found")]
    ContactNotFound,
    /// CONVERSATION_001.
    #[error("conversation not found")]
    ConversationNotFound,
    /// MESSAGE_005.
    #[error("message not found")]
    MessageNotFound,
    /// DISCOVERY_002.
    #[error("discovery job not found")]
    DiscoveryJobNotFound,
    /// CAMP_005.
    #[error("campaign already active")]
    CampaignAlreadyActive,
    /// CAMP_007: neither contacts nor criteria.
    #[error("campaign has no contacts")]
    CampaignHasNoContacts,
    /// CAMP_008.
    #[error("a campaign that is {from} cannot become {to}")]
    InvalidTransition {
        /// The present status.
        from: CampaignStatus,
        /// The status asked for.
        to: CampaignStatus,
    },
    /// MESSAGE_004.
    #[error("message already approved")]
    MessageAlreadyApproved,
    /// SERVER_016: a state without a code of its own forbids it.
    #[error("{0}")]
    Conflict(String),
    /// SERVER_005: fields that are well typed but impossible.
    #[error("{} {}", .0.first().map_or("a field", |e| e.field.as_str()), .0.first().map_or("is wrong", |e| e.reason.as_str()))]
    Invalid(Vec<FieldError>),
    /// CONTACT_003.
    #[error("{field} must be an email address")]
    InvalidEmail {
        /// Which field.
        field: String,
    },
    /// SERVER_005: variables without a value.
    #[error("no value for {}", names.join(", "))]
    Unresolved {
        /// The names of the variables.
        names: Vec<String>,
    },
    /// A job was refused by the queue.
    #[error(transparent)]
    Enqueue(#[from] queue::EnqueueError),
    /// The database refused or was not there.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The queue failed.
    #[error(transparent)]
    Queue(#[from] queue::Error),
}

impl EngineError {
    /// Whether the database was not there or failed, in the queue's statements too: the same work may succeed later.
    pub const fn is_database(&self) -> bool {
        matches!(
            self,
            Self::Database(_)
                | Self::Enqueue(queue::EnqueueError::Database(_))
                | Self::Queue(queue::Error::Database(_) | queue::Error::Deadline(_))
        )
    }

    /// One wrong field.
    pub fn invalid(field: &str, reason: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError::new(field, reason)])
    }

    /// Err if any field is wrong; an email of a contact has a code of its own.
    pub fn check(errors: Vec<FieldError>) -> Result<(), Self> {
        if let Some(error) = errors.iter().find(|error| error.field == "email") {
            return Err(Self::InvalidEmail { field: error.field.clone() });
        }
        if errors.is_empty() { Ok(()) } else { Err(Self::Invalid(errors)) }
    }
}
