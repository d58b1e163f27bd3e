//! What every job of a worker shares.

use std::time::Duration;

use shared::{
    Clock, Database,
    domain::channel::ChannelAccount,
    mailbox::{MailboxSecrets, UnreadableSecrets},
    secrets::SecretKey,
};

use crate::{channels::Channels, drafting::Provider};

/// The shared handles. One per worker.
#[derive(Debug)]
pub struct Context {
    /// The database.
    pub database: Database,
    /// Where the time comes from.
    pub clock: Clock,
    /// How long the history of webhooks is kept.
    pub history_keep: Duration,
    /// What opens the mailboxes' secrets.
    pub secret_key: SecretKey,
    /// The channels, with their open connections.
    pub channels: Channels,
    /// Who drafts.
    pub provider: Provider,
}

impl Context {
    /// The mail server of a mailbox, as a URL with its credentials.
    pub fn smtp_url(&self, mailbox: &ChannelAccount) -> Result<String, UnreadableSecrets> {
        Ok(MailboxSecrets::open(&self.secret_key, mailbox)?.smtp_url)
    }
}
