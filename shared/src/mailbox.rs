//! The one mailbox of an installation, from its settings into `channel_accounts`.

use std::{fmt, str::FromStr, time::Duration};

use clap::Args;
use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use crate::{
    Database,
    db::{accounts, channel_accounts},
    domain::{
        address,
        channel::{Channel, ChannelAccount},
    },
    secrets::SecretKey,
};

/// How long to wait before the database is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// A shorter secret could be guessed.
const INBOUND_SECRET_CHARS_MIN: usize = 16;

/// From where mail is sent, and who may hand in the replies.
#[derive(Clone, Default, Args)]
pub struct MailboxConfig {
    /// The mail server that sends, such as smtps://user:password@mail.example.com, or smtp://127.0.0.1:2525 in clear.
    /// Without it no mail is sent: messages wait with `no_account`.
    #[arg(long, env = "IRIS_SMTP_URL", hide_env_values = true, value_parser = parse_smtp_url, requires = "smtp_from")]
    pub smtp_url: Option<Url>,

    /// Whom mail is from, such as "Iris <iris@example.com>".
    #[arg(long, env = "IRIS_SMTP_FROM", requires = "smtp_url")]
    pub smtp_from: Option<Sender>,

    /// What signs the mail that is handed in at POST /inbound/email; at least 16 characters. Without it the one that was
    /// given last stays; without any, no mail is taken.
    #[arg(long, env = "IRIS_INBOUND_SECRET", hide_env_values = true, value_parser = parse_inbound_secret)]
    pub inbound_secret: Option<String>,
}

impl fmt::Debug for MailboxConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailboxConfig").field("smtp_from", &self.smtp_from).finish_non_exhaustive()
    }
}

/// A mail address and the name shown beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The address, in lower case.
    pub address: String,
    /// The name.
    pub display_name: Option<String>,
}

impl FromStr for Sender {
    type Err = String;

    /// Reads `name@host` or `Name <name@host>`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = match text.trim().strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
            Some((name, address)) => (name.trim().trim_matches('"').trim(), address),
            None => ("", text.trim()),
        };
        if name.chars().any(char::is_control) || name.len() > 200 {
            return Err("its name has control characters or more than 200 bytes".into());
        }
        let address =
            address::normalise(address).ok_or("must be an address such as Iris <iris@example.com>")?;
        Ok(Self { address, display_name: (!name.is_empty()).then(|| name.to_owned()) })
    }
}

fn parse_smtp_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "smtp" | "smtps") || url.host_str().is_none_or(str::is_empty) {
        return Err("must be smtp://host:port or smtps://user:password@host".into());
    }
    Ok(url)
}

fn parse_inbound_secret(text: &str) -> Result<String, String> {
    if text.chars().count() < INBOUND_SECRET_CHARS_MIN {
        return Err(format!("must have at least {INBOUND_SECRET_CHARS_MIN} characters"));
    }
    Ok(text.to_owned())
}

/// What is sealed with a mailbox.
#[derive(Clone, Serialize, Deserialize)]
pub struct MailboxSecrets {
    /// The mail server that sends, with its credentials.
    pub smtp_url: String,
    /// What signs inbound mail; none is taken without it.
    pub inbound_secret: Option<String>,
}

impl fmt::Debug for MailboxSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailboxSecrets").finish_non_exhaustive()
    }
}

/// The secrets of a mailbox cannot be read: they were sealed with another key, or are not a mailbox's.
#[derive(Debug, thiserror::Error)]
#[error("the secrets of mailbox {0} do not open with this IRIS_SECRET_KEY")]
pub struct UnreadableSecrets(Uuid);

impl MailboxSecrets {
    /// Opens the secrets of a mailbox.
    pub fn open(secret_key: &SecretKey, mailbox: &ChannelAccount) -> Result<Self, UnreadableSecrets> {
        secret_key
            .open(&ChannelAccount::secrets_place(mailbox.id), &mailbox.secrets)
            .ok()
            .and_then(|json| serde_json::from_str(&json).ok())
            .ok_or(UnreadableSecrets(mailbox.id))
    }
}

/// Keeps the mailbox of the settings in `channel_accounts`, for the first account. Every role that needs it calls this
/// at its start; it returns once the database has answered. Without settings it does nothing. A mailbox that was in the
/// settings before is disconnected, and what it has not sent leaves from this one.
pub async fn ensure_mailbox(database: &Database, secret_key: &SecretKey, config: &MailboxConfig) {
    let (Some(smtp_url), Some(sender)) = (&config.smtp_url, &config.smtp_from) else { return };
    let secrets = MailboxSecrets {
        smtp_url: smtp_url.as_str().to_owned(),
        inbound_secret: config.inbound_secret.clone(),
    };
    while let Err(error) = try_ensure(database, secret_key, sender, secrets.clone()).await {
        tracing::warn!(error = %error, "the mailbox is not stored yet");
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    tracing::info!(address = sender.address, "the mailbox is connected");
}

async fn try_ensure(
    database: &Database,
    secret_key: &SecretKey,
    sender: &Sender,
    mut secrets: MailboxSecrets,
) -> anyhow::Result<()> {
    let mut tx = database.begin().await?;
    let account = accounts::ensure_first(&mut tx).await?;
    let name = sender.display_name.as_deref();
    let mailbox =
        channel_accounts::ensure(&mut tx, account.id, Channel::Email, &sender.address, name).await?;
    // A role that is not told the inbound secret must not take it from the one that was, whatever the address is now.
    if secrets.inbound_secret.is_none() {
        let before = channel_accounts::find_from_settings(&mut tx, account.id, Channel::Email).await?;
        secrets.inbound_secret = [before.as_ref(), Some(&mailbox)]
            .into_iter()
            .flatten()
            .find_map(|mailbox| MailboxSecrets::open(secret_key, mailbox).ok()?.inbound_secret);
    }
    let place = ChannelAccount::secrets_place(mailbox.id);
    let sealed = secret_key.seal(&place, &serde_json::to_string(&secrets)?)?;
    channel_accounts::record_secrets(&mut tx, account.id, mailbox.id, &sealed).await?;
    channel_accounts::record_from_settings(&mut tx, account.id, mailbox.id).await?;
    tx.commit().await?;
    Ok(())
}
