//! Mail by SMTP (RFC 5321).
//!
//! [`Email::offer`] connects, or takes a connection that is open, and goes up to the 354 answer to DATA: all that can
//! be taken back. [`Offer::deliver`] sends the text. The mark `sending` is written between the two by the send job.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::{
    answer::{Stage, classify, cut},
    connection::{Connection, Fault},
    mime::{Mail, compose},
    pool::Pool,
    server::Server,
};
use super::{Delivered, Letter, Refusal};

pub mod answer;
pub mod connection;
pub mod mime;
pub mod pool;
pub mod server;

/// How often idle connections are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Mail by SMTP: the open connections, and how long a server may think about a whole message.
#[derive(Debug)]
pub struct Email {
    pool: Pool,
    answer_timeout: Duration,
}

/// A mail whose server waits for the text. Dropping it closes the connection, and so withdraws the mail.
#[derive(Debug)]
pub struct Offer<'a> {
    email: &'a Email,
    mailbox: Uuid,
    server: Server,
    connection: Connection,
    text: Vec<u8>,
}

impl Email {
    /// A channel without connections.
    pub fn new(answer_timeout: Duration) -> Self {
        Self { pool: Pool::default(), answer_timeout }
    }

    /// Goes as far as the server's invitation to send the text. `server_url` is the mailbox's, credentials included.
    pub async fn offer(&self, letter: &Letter, server_url: &str) -> Result<Offer<'_>, Refusal> {
        let server =
            Server::parse(server_url).map_err(|error| Refusal::Unavailable { error: error.to_string() })?;
        let mail = compose(letter).map_err(|error| Refusal::Failed { error: cut(&error.to_string()) })?;
        let mailbox = letter.channel_account_id;
        let connection = self.invited(mailbox, &server, &mail).await?;
        self.pool.well(mailbox);
        Ok(Offer { email: self, mailbox, server, connection, text: mail.bytes })
    }

    /// How long to leave a mailbox alone that cannot send; longer each time, at most 5 min.
    pub fn trouble(&self, mailbox: Uuid) -> Duration {
        self.pool.trouble(mailbox)
    }

    /// Closes connections that have been idle for 30 s, until the shutdown.
    pub async fn sweep(&self, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(SWEEP_INTERVAL)).await.is_some() {
            for connection in self.pool.expired() {
                tokio::spawn(connection.quit());
            }
        }
    }

    /// A connection on which the server waits for this mail's text. An idle connection that turns out to be gone is
    /// replaced without a word: nothing has left by then.
    async fn invited(&self, mailbox: Uuid, server: &Server, mail: &Mail) -> Result<Connection, Refusal> {
        while let Some(mut connection) = self.pool.take(mailbox, server) {
            if connection.reset().await.is_err() {
                continue;
            }
            match connection.offer(&mail.from, &mail.to).await {
                Ok(()) => return Ok(connection),
                Err(Fault::Broken { .. } | Fault::Answer { code: 421, .. }) => {}
                Err(fault) => return Err(self.refused(mailbox, server, connection, fault)),
            }
        }
        let mut connection = Connection::open(server, mail.from.domain()).await.map_err(refusal)?;
        match connection.offer(&mail.from, &mail.to).await {
            Ok(()) => Ok(connection),
            Err(fault) => Err(self.refused(mailbox, server, connection, fault)),
        }
    }

    /// Keeps the connection when the refusal left it in step.
    fn refused(&self, mailbox: Uuid, server: &Server, connection: Connection, fault: Fault) -> Refusal {
        if !matches!(fault, Fault::Broken { .. } | Fault::Answer { code: 421, .. }) {
            self.pool.put(mailbox, server, connection);
        }
        refusal(fault)
    }
}

impl Offer<'_> {
    /// Sends the text and waits for the final answer. See [`super::Offer::deliver`].
    pub async fn deliver(mut self) -> Delivered {
        let begun = tokio::time::Instant::now();
        let delivered = match self.connection.text(&self.text, self.email.answer_timeout).await {
            Ok(()) => Delivered::Accepted,
            Err(Fault::Broken { error, .. }) => return Delivered::Unknown { error },
            Err(fault @ (Fault::Answer { .. } | Fault::AddressNotSupported)) => {
                Delivered::Refused(refusal(fault))
            }
        };
        metrics::histogram!("iris_smtp_text_seconds").record(begun.elapsed().as_secs_f64());
        self.email.pool.put(self.mailbox, &self.server, self.connection);
        delivered
    }
}

/// What a fault on a fresh connection means. One that breaks before the recipient is named says nothing about the message;
/// one that breaks over the recipient may do so every time, so that its tries are counted.
fn refusal(fault: Fault) -> Refusal {
    match fault {
        Fault::Answer { stage, code, text } => classify(stage, code, &text),
        Fault::Broken { stage: Stage::Session, error } => Refusal::Unavailable { error },
        Fault::Broken { stage: Stage::Recipient | Stage::Data | Stage::Text, error } => {
            Refusal::Deferred { error }
        }
        Fault::AddressNotSupported => Refusal::Failed {
            error: "the mail server cannot write to an address with these characters (SMTPUTF8)".into(),
        },
    }
}
