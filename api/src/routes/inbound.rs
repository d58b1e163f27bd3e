//! Mail that a mail server or provider hands in.

use axum::{Extension, body::Body, extract::State, http::HeaderMap};
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::Sha256;
use shared::{
    db::channel_accounts,
    domain::channel::ChannelAccount,
    engine::{
        inbound::{InboundOutcome, record_email},
        mail::read_email,
    },
    mailbox::MailboxSecrets,
};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    app::App,
    envelope::Data,
    error::{ApiError, Code},
    extract::read_charged,
    operation::BodyLimit,
};

/// How far a signature's timestamp may be from the present, in seconds.
const TOLERANCE_SECONDS: i64 = 300;

/// What became of a mail.
#[derive(Debug, Serialize, ToSchema)]
pub struct Received {
    /// `reply`, `auto_reply`, `bounce`, `delivered`, `unmatched`, or `duplicate` when its Message-ID was stored before.
    #[schema(example = "reply")]
    outcome: &'static str,
    /// The message it became, or is about.
    message_id: Option<Uuid>,
    /// Whether it was stored before.
    duplicate: bool,
}

impl From<InboundOutcome> for Received {
    fn from(outcome: InboundOutcome) -> Self {
        let (outcome, message_id) = match outcome {
            InboundOutcome::Reply { message_id } => ("reply", Some(message_id)),
            InboundOutcome::AutoReply { message_id } => ("auto_reply", message_id),
            InboundOutcome::Bounce { message_id } => ("bounce", Some(message_id)),
            InboundOutcome::Delivered { message_id } => ("delivered", Some(message_id)),
            InboundOutcome::Unmatched => ("unmatched", None),
            InboundOutcome::Duplicate => ("duplicate", None),
        };
        Self { outcome, message_id, duplicate: outcome == "duplicate" }
    }
}

/// Hand in a mail
///
/// The raw mail (RFC 5322), as the mailbox received it. A reply stops its sequence in the transaction that stores it. The
/// same Message-ID is stored once.
#[utoipa::path(
    post, path = "/inbound/email",
    params(
        ("X-Iris-Mailbox" = String, Header, description = "The mailbox: its address, or the id of its channel account"),
        ("X-Iris-Timestamp" = i64, Header, description = "Unix epoch seconds, at most five minutes off"),
        ("X-Iris-Signature" = String, Header,
            description = "HMAC-SHA256 of `<timestamp>.<body>` with the mailbox's inbound secret, in hex")
    ),
    request_body(content = String, content_type = "message/rfc822"),
    responses((status = 200, body = Data<Received>))
)]
pub async fn email(
    State(app): State<App>,
    headers: HeaderMap,
    Extension(limit): Extension<BodyLimit>,
    body: Body,
) -> Result<Data<Received>, ApiError> {
    let signature = Signature::of(&app, &headers)?;
    let mut conn = app.connection().await?;
    let mailboxes = channel_accounts::list_for_inbound(&mut conn, signature.mailbox).await?;
    drop(conn);
    if mailboxes.is_empty() {
        return Err(ApiError::new(Code::SignatureInvalid));
    }
    // Anybody can get this far: the body may be read, but only its last byte shows whether the signature is right.
    let (raw, _memory) = read_charged(body, limit, &app.mail_memory).await?;
    let mailbox = mailboxes.into_iter().find(|mailbox| signature.is_of(&app, mailbox, &raw));
    let mailbox = mailbox.ok_or_else(|| ApiError::new(Code::SignatureInvalid))?;
    let parsed = tokio::task::spawn_blocking({
        let raw = raw.clone();
        move || read_email(&raw)
    });
    let parsed = parsed.await.map_err(|error| ApiError::new(Code::Internal).caused_by(error))?;
    let mail = parsed.map_err(|error| ApiError::new(Code::PayloadInvalid).saying(error.to_string()))?;
    let mut tx = app.database.begin().await?;
    let outcome = record_email(&mut tx, &mailbox, &mail, &raw).await?;
    tx.commit().await?;
    Ok(Data::ok(outcome.into()))
}

/// What a request says about who it is from.
struct Signature<'a> {
    mailbox: &'a str,
    timestamp: &'a str,
    digest: Vec<u8>,
}

impl<'a> Signature<'a> {
    fn of(app: &App, headers: &'a HeaderMap) -> Result<Self, ApiError> {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let missing = || ApiError::new(Code::SignatureInvalid);
        let mailbox = header("x-iris-mailbox").ok_or_else(missing)?;
        let timestamp = header("x-iris-timestamp").ok_or_else(missing)?;
        let digest =
            header("x-iris-signature").and_then(|text| hex::decode(text).ok()).ok_or_else(missing)?;
        let at: i64 = timestamp.parse().map_err(|_| missing())?;
        if app.clock.now().timestamp().abs_diff(at) > TOLERANCE_SECONDS.unsigned_abs() {
            return Err(
                missing().saying("invalid webhook signature: its timestamp is more than 5 minutes off")
            );
        }
        Ok(Self { mailbox, timestamp, digest })
    }

    /// Whether it was made with the mailbox's secret. The comparison takes the same time for every digest.
    fn is_of(&self, app: &App, mailbox: &ChannelAccount, body: &[u8]) -> bool {
        let secrets = match MailboxSecrets::open(&app.secret_key, mailbox) {
            Ok(secrets) => secrets,
            Err(error) => {
                tracing::error!(%error, "inbound mail cannot be verified");
                return false;
            }
        };
        let Some(secret) = secrets.inbound_secret else { return false };
        let Ok(mut hmac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return false };
        hmac.update(self.timestamp.as_bytes());
        hmac.update(b".");
        hmac.update(body);
        hmac.verify_slice(&self.digest).is_ok()
    }
}
