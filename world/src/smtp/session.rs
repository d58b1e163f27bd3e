//! One SMTP conversation. Commands are answered in a buffer that is flushed before the next read, which is all that
//! PIPELINING asks for.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use smtp_proto::request::receiver::RequestReceiver;
use smtp_proto::{
    EXT_8BIT_MIME, EXT_ENHANCED_STATUS_CODES, EXT_PIPELINING, EXT_SIZE, EhloResponse, Error, MAIL_BODY_7BIT,
    MAIL_BODY_8BITMIME, MailFrom, RcptTo, Request,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::body::{Body, MESSAGE_BYTES_MAX, Refusal};
use super::ledger::{Outcome, RcptAnswer, Record};
use crate::clock::epoch_ms;
use crate::mail::{Answer, Received, header_block};
use crate::persona::Reaction;
use crate::replies;
use crate::world::{World, lock};

/// A client that is silent, or does not read, for this long is cut off.
const IDLE_MAX: Duration = Duration::from_mins(1);
/// Recipients of one message.
const RECIPIENTS_MAX: usize = 100;
/// Bytes read at a time.
const READ_BYTES: usize = 16 << 10;
/// The server's name.
const HOSTNAME: &str = "mx.world.example.com";

/// What the conversation does after a command or a body.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Command,
    Data,
    Close,
}

struct Session<'a> {
    world: &'a Arc<World>,
    out: Vec<u8>,
    greeted: bool,
    /// The recipients so far; None outside a mail transaction.
    recipients: Option<Vec<String>>,
}

/// Holds the conversation until the client leaves, errs, or the server goes down.
pub async fn run(mut stream: TcpStream, world: &Arc<World>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut session = Session { world, out: Vec::new(), greeted: false, recipients: None };
    session.reply(&format!("220 {HOSTNAME} ESMTP"));
    let mut commands = RequestReceiver::default();
    let mut body: Option<Body> = None;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        session.flush(&mut stream).await?;
        let read = session.read(&mut stream, &mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let mut bytes = buffer[..read].iter();
        while !bytes.as_slice().is_empty() {
            let next = if let Some(receiving) = &mut body {
                if !receiving.ingest(&mut bytes) {
                    break;
                }
                match body.take() {
                    Some(complete) => session.finish_body(&mut stream, complete).await?,
                    None => Next::Command,
                }
            } else {
                match commands.ingest(&mut bytes) {
                    Ok(request) => session.command(request),
                    Err(Error::NeedsMoreData { .. }) => break,
                    Err(error) => session.refuse(&error),
                }
            };
            match next {
                Next::Command => {}
                Next::Data => body = Some(Body::new(Arc::clone(&world.body_budget))),
                Next::Close => return session.flush(&mut stream).await,
            }
        }
    }
}

impl Session<'_> {
    fn reply(&mut self, line: &str) {
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    async fn flush(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        if !self.out.is_empty() {
            timeout(IDLE_MAX, stream.write_all(&self.out)).await??;
            self.out.clear();
        }
        Ok(())
    }

    /// Reads some bytes; 0 when the client left, was silent for too long, or the server goes down.
    async fn read(&self, stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        let mut behaviour = self.world.smtp_behaviour.subscribe();
        let down = async { drop(behaviour.wait_for(|behaviour| behaviour.fail_connections).await) };
        tokio::select! {
            () = self.world.stop.cancelled() => Ok(0),
            () = down => Ok(0),
            read = timeout(IDLE_MAX, stream.read(buffer)) => {
                if let Ok(read) = read {
                    return read;
                }
                timeout(IDLE_MAX, stream.write_all(b"421 4.4.2 Idle for too long\r\n")).await??;
                Ok(0)
            }
        }
    }

    fn command(&mut self, request: Request<std::borrow::Cow<'_, str>>) -> Next {
        match request {
            Request::Ehlo { .. } => self.ehlo(),
            Request::Helo { .. } => {
                self.greeted = true;
                self.recipients = None;
                self.reply(&format!("250 {HOSTNAME}"));
            }
            Request::Mail { from } => self.mail(&from),
            Request::Rcpt { to } => self.rcpt(&to),
            Request::Data => return self.data(),
            Request::Rset => {
                self.recipients = None;
                self.reply("250 2.0.0 Ok");
            }
            Request::Noop { .. } => self.reply("250 2.0.0 Ok"),
            Request::Vrfy { .. } => self.reply("252 2.5.0 Send a message and see"),
            Request::Quit => {
                self.reply("221 2.0.0 Bye");
                return Next::Close;
            }
            _ => self.reply("502 5.5.1 Command not implemented"),
        }
        Next::Command
    }

    fn refuse(&mut self, error: &Error) -> Next {
        match error {
            Error::ResponseTooLong => {
                // The rest of the line could be taken for commands, so nothing after it is read.
                self.reply("500 5.5.2 Line too long");
                return Next::Close;
            }
            Error::UnknownCommand => self.reply("500 5.5.1 Command not recognised"),
            Error::InvalidSenderAddress => self.reply("501 5.1.7 Bad sender address"),
            Error::InvalidRecipientAddress => self.reply("501 5.1.3 Bad recipient address"),
            Error::UnsupportedParameter { .. } => self.reply("555 5.5.4 Parameter not supported"),
            _ => self.reply("501 5.5.4 Syntax error in parameters"),
        }
        Next::Command
    }

    fn ehlo(&mut self) {
        self.greeted = true;
        self.recipients = None;
        let mut response = EhloResponse::new(HOSTNAME);
        response.capabilities = EXT_8BIT_MIME | EXT_PIPELINING | EXT_SIZE | EXT_ENHANCED_STATUS_CODES;
        response.size = MESSAGE_BYTES_MAX;
        if let Err(error) = response.write(&mut self.out) {
            tracing::error!(%error, "writing to memory failed");
        }
    }

    fn mail(&mut self, from: &MailFrom<std::borrow::Cow<'_, str>>) {
        if !self.greeted {
            self.reply("503 5.5.1 EHLO first");
        } else if self.recipients.is_some() {
            self.reply("503 5.5.1 A transaction is open already");
        } else if from.flags & !(MAIL_BODY_7BIT | MAIL_BODY_8BITMIME) != 0 {
            self.reply("555 5.5.4 Parameter not announced");
        } else if from.size > MESSAGE_BYTES_MAX {
            self.reply("552 5.3.4 Message too large");
        } else {
            self.recipients = Some(Vec::new());
            self.reply("250 2.1.0 Ok");
        }
    }

    fn rcpt(&mut self, to: &RcptTo<std::borrow::Cow<'_, str>>) {
        let Some(recipients) = &mut self.recipients else { return self.reply("503 5.5.1 MAIL first") };
        if to.flags != 0 || to.orcpt.is_some() {
            return self.reply("555 5.5.4 Parameter not announced");
        }
        if !to.address.contains('@') {
            return self.reply("501 5.1.3 Bad recipient address");
        }
        if recipients.len() >= RECIPIENTS_MAX {
            return self.reply("452 4.5.3 Too many recipients");
        }
        let line = match lock(&self.world.smtp).rcpt(&to.address) {
            RcptAnswer::Accept => {
                recipients.push(to.address.to_string());
                "250 2.1.5 Ok"
            }
            RcptAnswer::NoSuchMailbox => "550 5.1.1 The mailbox does not exist",
            RcptAnswer::TryLater => "451 4.3.0 Try again later",
            RcptAnswer::Full => "452 4.3.1 The ledger is full",
        };
        self.reply(line);
    }

    fn data(&mut self) -> Next {
        match &self.recipients {
            None => self.reply("503 5.5.1 MAIL first"),
            Some(recipients) if recipients.is_empty() => self.reply("554 5.5.1 No valid recipients"),
            Some(_) => {
                self.reply("354 End with a dot on a line of its own");
                return Next::Data;
            }
        }
        Next::Command
    }

    /// Records a complete body, then answers it. From the record on the message counts as delivered, whatever happens
    /// to the answer: a client that sends it again has sent it twice.
    async fn finish_body(&mut self, stream: &mut TcpStream, body: Body) -> io::Result<Next> {
        let recipients = self.recipients.take().unwrap_or_default();
        let raw = match body.finish() {
            Ok(raw) => raw,
            Err(refusal) => {
                self.reply(match refusal {
                    Refusal::TooLarge => "552 5.3.4 Message too large",
                    Refusal::NoSpace => "452 4.3.1 No space for the message",
                    Refusal::LongLine => "554 5.6.0 A line is longer than 998 octets",
                });
                return Ok(Next::Command);
            }
        };
        let Some(received) = Received::parse(&raw) else {
            self.reply("554 5.6.0 The message has no headers");
            return Ok(Next::Command);
        };
        let records = lock(&self.world.smtp).accept(epoch_ms(), &received, &recipients, &raw).to_vec();
        for record in &records {
            self.world.journals.smtp.append(record).await;
        }
        // Replies are scheduled after the answer, as a person cannot read a message that is still being sent.
        let pause = self.world.smtp_behaviour.borrow().pause_before_final_ms;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let dropped = records.iter().any(|record| record.outcome == Outcome::Dropped);
        let answered = if dropped {
            Ok(())
        } else {
            self.reply(&format!("250 2.0.0 Ok: {}", records.first().map_or(0, |record| record.index)));
            self.flush(stream).await
        };
        for record in &records {
            self.react(record, &received, &raw);
        }
        answered.map(|()| if dropped { Next::Close } else { Next::Command })
    }

    fn react(&self, record: &Record, received: &Received, raw: &[u8]) {
        if record.duplicate {
            return;
        }
        let Some(reaction) = record.persona.reaction(record.ordinal) else { return };
        let answer = Answer {
            reaction,
            from: record.recipient.to_string(),
            in_reply_to: (!record.message_id.is_empty()).then(|| record.message_id.to_string()),
            references: received.references.clone(),
            subject: received.subject.clone(),
            text: if reaction == Reaction::Dsn { header_block(raw) } else { String::new() },
        };
        replies::schedule(self.world, answer, &received.from);
    }
}
