//! One connection to a mail server, driven command by command so that the place where a message can no longer be taken
//! back is ours to see. lettre's one-call `send` hides it.

use std::time::Duration;

use lettre::{
    Address,
    transport::smtp::{
        Error as SmtpError,
        authentication::Mechanism,
        client::{AsyncSmtpConnection, TlsParameters},
        commands::{Data, Mail, Quit, Rcpt, Rset},
        extension::{ClientId, Extension, MailParameter},
        response::{Response, Severity},
    },
};
use tokio::time::timeout;

use super::{
    answer::{Stage, cut},
    server::{Encryption, Server},
};

/// How long one address of a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long any answer but the final one may take. RFC 5321 4.5.3.2 allows a slow server minutes; a worker's slot is
/// worth more, and everything before the final answer can be tried again.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// Connecting, greeting, EHLO and TLS together.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a farewell may take.
const QUIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a step of the conversation did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The server answered 4xx or 5xx. The connection is still in step.
    Answer {
        /// What it was about.
        stage: Stage,
        /// The code.
        code: u16,
        /// The text, with the enhanced code if there was one.
        text: String,
    },
    /// No answer, or one that makes no sense. The connection is of no use any more.
    Broken {
        /// What was waited for.
        stage: Stage,
        /// What broke.
        error: String,
    },
    /// The recipient's address needs an extension (SMTPUTF8, RFC 6531) that the server does not have.
    AddressNotSupported,
}

/// An open connection, authenticated if the server's URL says so.
pub struct Connection {
    inner: AsyncSmtpConnection,
    /// How many messages it has carried.
    carried: u32,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("carried", &self.carried).finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects, greets as `hello`, encrypts and authenticates as the server's URL says.
    pub async fn open(server: &Server, hello: &str) -> Result<Self, Fault> {
        let hello = ClientId::Domain(hello.to_owned());
        let open = async {
            let mut inner = connect(server, &hello).await?;
            encrypt(&mut inner, server, &hello).await?;
            if let Some(credentials) = &server.credentials {
                inner
                    .auth(&[Mechanism::Plain, Mechanism::Login], credentials)
                    .await
                    .map_err(|e| fault(Stage::Session, &e))?;
            }
            Ok(Self { inner, carried: 0 })
        };
        timeout(OPEN_TIMEOUT, open)
            .await
            .unwrap_or_else(|_| Err(broken(Stage::Session, "no connection within 60 s")))
    }

    /// How many messages it has carried.
    pub fn carried(&self) -> u32 {
        self.carried
    }

    /// Forgets whatever was begun: proves that the server is still there.
    pub async fn reset(&mut self) -> Result<(), Fault> {
        self.command(Stage::Session, Rset).await.map(drop)
    }

    /// MAIL FROM, RCPT TO and DATA. On success the server has said that it waits for the text (354), and nothing of
    /// the message has left: closing the connection withdraws it.
    pub async fn offer(&mut self, from: &Address, to: &Address) -> Result<(), Fault> {
        let from_ascii: &str = from.as_ref();
        let to_ascii: &str = to.as_ref();
        let mut parameters = Vec::new();
        if !from_ascii.is_ascii() || !to_ascii.is_ascii() {
            if !self.inner.server_info().supports_feature(Extension::SmtpUtfEight) {
                return Err(Fault::AddressNotSupported);
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        self.command(Stage::Session, Mail::new(Some(from.clone()), parameters)).await?;
        self.command(Stage::Recipient, Rcpt::new(to.clone(), Vec::new())).await?;
        let answer = self.command(Stage::Data, Data).await?;
        if answer.code().severity == Severity::PositiveIntermediate {
            return Ok(());
        }
        // Only 354 invites the text (RFC 5321 4.1.1.4). Any other positive answer says that we are out of step.
        Err(broken(Stage::Data, &format!("{} is no answer to DATA", answer.code())))
    }

    /// Sends the text, dot-stuffed and ended by lettre's `message`, and returns the final answer. Call it once, after
    /// [`offer`](Self::offer) succeeded and the message was marked.
    pub async fn text(&mut self, text: &[u8], deadline: Duration) -> Result<(), Fault> {
        self.carried += 1;
        match timeout(deadline, self.inner.message(text)).await {
            Ok(Ok(answer)) if answer.code().severity == Severity::PositiveCompletion => Ok(()),
            Ok(Ok(answer)) => Err(broken(Stage::Text, &format!("{} is no final answer", answer.code()))),
            Ok(Err(error)) => Err(fault(Stage::Text, &error)),
            Err(_) => {
                Err(broken(Stage::Text, &format!("no final answer within {} s", deadline.as_secs_f64())))
            }
        }
    }

    /// Says goodbye; a server that does not answer is left.
    pub async fn quit(mut self) {
        let _ = timeout(QUIT_TIMEOUT, self.inner.command(Quit)).await;
    }

    async fn command<C: std::fmt::Display>(&mut self, stage: Stage, command: C) -> Result<Response, Fault> {
        match timeout(COMMAND_TIMEOUT, self.inner.command(command)).await {
            Ok(answer) => answer.map_err(|error| fault(stage, &error)),
            Err(_) => Err(broken(stage, &format!("no answer within {} s", COMMAND_TIMEOUT.as_secs()))),
        }
    }
}

async fn connect(server: &Server, hello: &ClientId) -> Result<AsyncSmtpConnection, Fault> {
    let tls = match server.encryption {
        Encryption::Implicit => Some(tls_parameters(server)?),
        Encryption::Plain | Encryption::Opportunistic | Encryption::Required => None,
    };
    AsyncSmtpConnection::connect_tokio1(
        (server.host.as_str(), server.port),
        Some(CONNECT_TIMEOUT),
        hello,
        tls,
        None,
    )
    .await
    .map_err(|error| fault(Stage::Session, &error))
}

async fn encrypt(inner: &mut AsyncSmtpConnection, server: &Server, hello: &ClientId) -> Result<(), Fault> {
    let wanted = match server.encryption {
        Encryption::Plain | Encryption::Implicit => false,
        Encryption::Opportunistic => inner.can_starttls(),
        Encryption::Required if !inner.can_starttls() => {
            return Err(broken(Stage::Session, "the server does not offer STARTTLS"));
        }
        Encryption::Required => true,
    };
    if wanted {
        inner
            .starttls(tls_parameters(server)?, hello)
            .await
            .map_err(|error| fault(Stage::Session, &error))?;
    }
    Ok(())
}

fn tls_parameters(server: &Server) -> Result<TlsParameters, Fault> {
    TlsParameters::new(server.host.clone()).map_err(|error| broken(Stage::Session, &error.to_string()))
}

/// An answer of 4xx or 5xx is one; everything else lettre reports means that there was none.
fn fault(stage: Stage, error: &SmtpError) -> Fault {
    match error.status() {
        Some(code) => {
            let text = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            Fault::Answer { stage, code: code.into(), text }
        }
        None => broken(stage, &error.to_string()),
    }
}

fn broken(stage: Stage, error: &str) -> Fault {
    Fault::Broken { stage, error: cut(error) }
}
