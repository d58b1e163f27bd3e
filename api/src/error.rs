//! The one place where a failure becomes a status code.
//!
//! A handler returns [`ApiError`]; its [`Code`] says which status and which stable code the caller sees. What went
//! wrong inside is logged here, once, with its whole chain, and never shown.

use std::{borrow::Cow, error::Error, fmt};

use axum::{
    Json,
    http::{
        HeaderValue, StatusCode,
        header::{RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;
use shared::{domain::FieldError, engine::EngineError, secrets::Unsealable};
use utoipa::ToSchema;

use crate::{limits::Refused, request};

/// Declares the codes once: name, code on the wire, status, meaning.
macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal $status:literal $message:literal,)+) => {
        /// A stable error code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The code on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The HTTP status that goes with it.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)+ }
            }

            /// What the caller reads when nothing more precise is known.
            pub const fn message(self) -> &'static str {
                match self { $(Self::$variant => $message,)+ }
            }

            /// When it occurs.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

codes! {
    /// The request has no credential, or one of a kind that this operation does not take.
    Unauthorized = "AUTH_001" 401 "unauthorized - invalid or missing API key",

    /// The bearer token is malformed or belongs to no account.
    KeyInvalid = "APIKEY_001" 401 "invalid or missing API key",
    /// The key's `expires_at` has passed.
    KeyExpired = "APIKEY_002" 401 "API key expired",
    /// The key was revoked.
    KeyRevoked = "APIKEY_003" 401 "API key revoked",
    /// The key lacks the scope that the operation needs; the message names it.
    ScopeMissing = "APIKEY_004" 403 "scope not granted for this operation",
    /// The account has 25 live keys.
    KeyLimitReached = "APIKEY_005" 429 "API key creation limit reached",
    /// The account has no such key.
    KeyNotFound = "APIKEY_006" 404 "API key not found",

    /// The account has no such campaign, or it is deleted.
    CampaignNotFound = "CAMP_001" 404 "campaign not found",
    /// The campaign is active and was asked to become active.
    CampaignAlreadyActive = "CAMP_005" 409 "campaign already active",
    /// Activation of a campaign that has neither contacts nor criteria to discover some.
    CampaignHasNoContacts = "CAMP_007" 400 "campaign has no contacts",
    /// A change of status that the campaign's life does not know.
    CampaignTransitionInvalid = "CAMP_008" 400 "invalid campaign status transition",

    /// The account has no such contact, or it is deleted.
    ContactNotFound = "CONTACT_001" 404 "contact not found",
    /// An address that no mail can reach.
    EmailInvalid = "CONTACT_003" 400 "invalid email address",

    /// The account has no such conversation.
    ConversationNotFound = "CONVERSATION_001" 404 "conversation not found",

    /// The message was approved already.
    MessageAlreadyApproved = "MESSAGE_004" 409 "message already approved",
    /// The account has no such message.
    MessageNotFound = "MESSAGE_005" 404 "message not found",

    /// The key has called the AI 20 times in a minute.
    AiRateLimited = "AI_004" 429 "AI rate limit exceeded",

    /// The search failed at every source.
    DiscoveryFailed = "DISCOVERY_001" 500 "discovery job failed",
    /// The account has no such discovery job.
    DiscoveryJobNotFound = "DISCOVERY_002" 404 "discovery job not found",
    /// The key has searched 5 times in an hour.
    DiscoveryRateLimited = "DISCOVERY_006" 429 "discovery rate limited",

    /// An inbound mail whose signature is missing, wrong, or older than five minutes.
    SignatureInvalid = "HOOK_001" 400 "invalid webhook signature",
    /// An inbound mail that cannot be read.
    PayloadInvalid = "HOOK_003" 400 "invalid webhook payload",
    /// The account has no such webhook endpoint.
    WebhookNotFound = "WEBHOOK_001" 404 "webhook not found",
    /// The webhook endpoint has no such delivery, or it is older than what is kept.
    DeliveryNotFound = "WEBHOOK_002" 404 "webhook delivery not found",
    /// The webhook endpoint has no such replay.
    ReplayNotFound = "WEBHOOK_003" 404 "webhook replay not found",

    /// The key has made 20 requests in a second, 30 changes of campaigns in a minute, or 60 of contacts. Try again after
    /// `Retry-After` seconds.
    TooManyRequests = "RATE_001" 429 "too many requests",
    /// The key has made 120 requests in a minute. Try again after `Retry-After` seconds.
    RateLimited = "RATE_002" 429 "API rate limit exceeded",

    /// A bug in iris; the log has the rest, under the request's id.
    Internal = "SERVER_001" 500 "internal server error",
    /// Malformed JSON, a missing or mistyped field, or a bad query parameter; `details` names each.
    RequestInvalid = "SERVER_002" 400 "request validation failed",
    /// No operation has this path, or the account has no such notification or suppression, which have no code of their own.
    RouteNotFound = "SERVER_003" 404 "resource not found",
    /// The path exists, but not with this method; `Allow` names those it has.
    MethodNotAllowed = "SERVER_004" 405 "method not allowed",
    /// Well typed, but impossible: out of range, too long, or contradictory; `details` names each field.
    InputInvalid = "SERVER_005" 422 "invalid input (validation failed)",
    /// The database refused a statement.
    Database = "SERVER_006" 500 "database error",
    /// The operation did not end within its deadline.
    Timeout = "SERVER_008" 504 "request timeout",
    /// The server is shutting down, overloaded, or without its database. Try again after `Retry-After` seconds.
    Unavailable = "SERVER_009" 503 "service temporarily unavailable",
    /// The body is larger than the operation takes: 1 MiB, imports 8 MiB, inbound mail 30 MiB; or it has more than 100,000
    /// JSON values.
    TooLarge = "SERVER_010" 413 "request body too large",
    /// The state of the resource forbids it, and no code says so more precisely.
    Conflict = "SERVER_016" 409 "conflict with the current state of the resource",
}

/// A failed request.
#[derive(Debug)]
pub struct ApiError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    code: Code,
    message: Cow<'static, str>,
    details: Vec<FieldError>,
    source: Option<Box<dyn Error + Send + Sync>>,
    refused: Option<Refused>,
}

impl ApiError {
    /// A failure with the code's own message.
    pub fn new(code: Code) -> Self {
        Self(Box::new(Inner {
            code,
            message: code.message().into(),
            details: Vec::new(),
            source: None,
            refused: None,
        }))
    }

    /// Says it more precisely. The caller reads this: no internals.
    #[must_use]
    pub fn saying(mut self, message: impl Into<Cow<'static, str>>) -> Self {
        self.0.message = message.into();
        self
    }

    /// Names what is wrong.
    #[must_use]
    pub fn with_details(mut self, details: Vec<FieldError>) -> Self {
        self.0.details = details;
        self
    }

    /// Remembers what caused it, for the log.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn rate_limited(mut self, refused: Refused) -> Self {
        self.0.refused = Some(refused);
        self
    }

    /// Malformed, missing or mistyped.
    pub fn request(details: Vec<FieldError>) -> Self {
        Self::new(Code::RequestInvalid).with_details(details)
    }

    /// Well typed, but impossible.
    pub fn input(details: Vec<FieldError>) -> Self {
        Self::new(Code::InputInvalid).with_details(details)
    }

    /// A body of more bytes than the operation takes.
    pub fn too_large(bytes_max: usize) -> Self {
        let message = format!("request body too large: this operation takes at most {bytes_max} bytes");
        Self::new(Code::TooLarge).saying(message)
    }

    /// Fails with [`input`](Self::input) if there is anything wrong.
    pub fn unless_empty(wrong: Vec<FieldError>) -> Result<(), Self> {
        if wrong.is_empty() { Ok(()) } else { Err(Self::input(wrong)) }
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What the caller reads.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What is wrong.
    pub fn details(&self) -> &[FieldError] {
        &self.0.details
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code.as_str(), self.0.message)
    }
}

impl Error for ApiError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        Self::new(database_code(&error)).caused_by(error)
    }
}

impl From<queue::Error> for ApiError {
    fn from(error: queue::Error) -> Self {
        match error {
            queue::Error::Database(error) => error.into(),
            queue::Error::Deadline(_) => Self::new(Code::Unavailable).caused_by(error),
            _ => Self::new(Code::Internal).caused_by(error),
        }
    }
}

impl From<queue::EnqueueError> for ApiError {
    fn from(error: queue::EnqueueError) -> Self {
        match error {
            queue::EnqueueError::Database(error) => error.into(),
            _ => Self::new(Code::Internal).caused_by(error),
        }
    }
}

impl From<Unsealable> for ApiError {
    fn from(error: Unsealable) -> Self {
        Self::new(Code::Internal).caused_by(error)
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::CampaignNotFound => Self::new(Code::CampaignNotFound),
            EngineError::ContactNotFound => Self::new(Code::ContactNotFound),
            EngineError::ConversationNotFound => Self::new(Code::ConversationNotFound),
            EngineError::MessageNotFound => Self::new(Code::MessageNotFound),
            EngineError::DiscoveryJobNotFound => Self::new(Code::DiscoveryJobNotFound),
            EngineError::CampaignAlreadyActive => Self::new(Code::CampaignAlreadyActive),
            EngineError::CampaignHasNoContacts => Self::new(Code::CampaignHasNoContacts),
            EngineError::MessageAlreadyApproved => Self::new(Code::MessageAlreadyApproved),
            EngineError::InvalidTransition { .. } => {
                Self::new(Code::CampaignTransitionInvalid).saying(error.to_string())
            }
            EngineError::Conflict(message) => Self::new(Code::Conflict).saying(message),
            EngineError::Invalid(fields) => Self::input(fields),
            EngineError::InvalidEmail { field } => Self::new(Code::EmailInvalid)
                .with_details(vec![FieldError::new(field, "must be an email address")]),
            EngineError::Unresolved { names } => Self::input(
                names
                    .into_iter()
                    .map(|name| FieldError::new(format!("variables.{name}"), "has no value"))
                    .collect(),
            ),
            EngineError::Enqueue(error) => error.into(),
            EngineError::Database(error) => error.into(),
            EngineError::Queue(error) => error.into(),
        }
    }
}

/// Whether to try again later or to look for a fault.
fn database_code(error: &sqlx::Error) -> Code {
    match error {
        sqlx::Error::Database(database) => match database.code().as_deref().unwrap_or_default() {
            // The statement ran into statement_timeout.
            "57014" => Code::Timeout,
            // A lock that did not come, a deadlock, a serialization failure, a server that starts, stops or is full.
            "55P03" | "40P01" | "40001" | "53300" => Code::Unavailable,
            code if code.starts_with("57P") || code.starts_with("08") => Code::Unavailable,
            _ => Code::Database,
        },
        sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Io(_)
        | sqlx::Error::Tls(_) => Code::Unavailable,
        _ => Code::Database,
    }
}

/// The body of every failed request.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// Always false.
    #[schema(example = false)]
    success: bool,
    /// What failed.
    error: ErrorInfo,
    /// How long to wait, in seconds, after one request too many; the response has it as `Retry-After` too.
    #[serde(rename = "retryAfter", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    retry_after: Option<i64>,
    /// How many requests the full window takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<i32>,
    /// How many it still takes: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining: Option<i32>,
}

/// What failed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorInfo {
    /// A stable code.
    code: &'static str,
    /// One sentence for a person.
    message: String,
    /// The request's id; the response has it as `X-Request-ID` too.
    request_id: String,
    /// Every wrong field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<FieldError>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Inner { code, message, details, source, refused } = *self.0;
        log(code, source.as_deref());
        let error = ErrorInfo {
            code: code.as_str(),
            message: message.into_owned(),
            request_id: request::id(),
            details,
        };
        let body = ErrorBody {
            success: false,
            error,
            retry_after: refused.map(|refused| refused.retry_after_s),
            limit: refused.map(|refused| refused.limit),
            remaining: refused.map(|_| 0),
        };
        let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(body)).into_response();
        if let Some(refused) = refused {
            refused.add_headers(response.headers_mut());
        }
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110, 11.6.1: a 401 names the scheme that would work.
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// The caller sees a code; the log gets the cause.
fn log(code: Code, source: Option<&(dyn Error + Send + Sync + 'static)>) {
    let mut chain = String::new();
    let mut next: Option<&dyn Error> = source.map(|source| source as _);
    while let Some(error) = next {
        if !chain.is_empty() {
            chain.push_str(": ");
        }
        chain.push_str(&error.to_string());
        next = error.source();
    }
    match code.status() {
        500 => tracing::error!(code = code.as_str(), error = %chain, "request failed"),
        501.. => tracing::warn!(code = code.as_str(), error = %chain, "request failed"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_database_that_is_away_is_told_from_one_that_refuses() {
        for (error, code) in [
            (sqlx::Error::PoolTimedOut, Code::Unavailable),
            (sqlx::Error::PoolClosed, Code::Unavailable),
            (sqlx::Error::Io(io::ErrorKind::ConnectionReset.into()), Code::Unavailable),
            (sqlx::Error::RowNotFound, Code::Database),
        ] {
            let text = error.to_string();
            assert_eq!(ApiError::from(error).code(), code, "{text}");
        }
    }

    #[test]
    fn a_cause_is_for_the_log_only() {
        let error = ApiError::new(Code::Internal).caused_by("the password is hunter2");
        assert!(!error.message().contains("hunter2"));
        assert!(!error.to_string().contains("hunter2"));
        assert!(error.source().is_some_and(|source| source.to_string().contains("hunter2")));
    }

    #[test]
    fn what_the_engine_refuses_has_its_code() {
        let unresolved = EngineError::Unresolved { names: vec!["venue".into()] };
        let error = ApiError::from(unresolved);
        assert_eq!(
            (error.code(), error.details()[0].field.as_str()),
            (Code::InputInvalid, "variables.venue")
        );
        let email = EngineError::InvalidEmail { field: "email".into() };
        assert_eq!(ApiError::from(email).code(), Code::EmailInvalid);
        assert_eq!(
            ApiError::from(EngineError::Database(sqlx::Error::PoolTimedOut)).code(),
            Code::Unavailable
        );
    }
}
