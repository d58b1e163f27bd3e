//! Internet messages: what the ledger needs of a received one, and the ones that personas send back.

use std::time::Duration;

use anyhow::Context as _;
use lettre::Message;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use mail_parser::{Address, HeaderValue as Parsed, MessageParser};
use uuid::Uuid;

use crate::persona::Reaction;

/// Subjects are cut to this many characters in the ledger.
const SUBJECT_CHARS_MAX: usize = 200;
/// References beyond this many are left out of an answer; the oldest go first.
const REFERENCES_MAX: usize = 20;
/// The original's headers are quoted in a delivery status notification up to this size.
const QUOTED_HEADER_BYTES_MAX: usize = 16 * 1024;

/// What the ledger keeps of a received message. Message ids are without angle brackets.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// The Message-ID, empty if there is none.
    pub message_id: String,
    /// The first In-Reply-To.
    pub in_reply_to: Option<String>,
    /// All References, oldest first.
    pub references: Vec<String>,
    /// The decoded subject, cut to 200 characters.
    pub subject: String,
    /// The address that answers go to: Reply-To, else From.
    pub from: String,
    /// The addresses in To.
    pub to: Vec<String>,
}

impl Received {
    /// Reads the headers of a message; None if it has none at all.
    pub fn parse(raw: &[u8]) -> Option<Self> {
        let message = MessageParser::default().parse_headers(raw)?;
        let answer_to = message.reply_to().or_else(|| message.from());
        Some(Self {
            message_id: message.message_id().unwrap_or_default().to_owned(),
            in_reply_to: ids(message.in_reply_to()).into_iter().next(),
            references: ids(message.references()),
            subject: message.subject().unwrap_or_default().chars().take(SUBJECT_CHARS_MAX).collect(),
            from: answer_to.map(addresses).unwrap_or_default().into_iter().next().unwrap_or_default(),
            to: message.to().map(addresses).unwrap_or_default(),
        })
    }
}

fn ids(header: &Parsed<'_>) -> Vec<String> {
    match header {
        Parsed::Text(id) => vec![id.to_string()],
        Parsed::TextList(ids) => ids.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    }
}

fn addresses(header: &Address<'_>) -> Vec<String> {
    header.iter().filter_map(|address| address.address.as_deref()).map(str::to_owned).collect()
}

/// The header block of a raw message, for quoting in a delivery status notification.
pub fn header_block(raw: &[u8]) -> String {
    let end = raw.windows(4).position(|bytes| bytes == b"\r\n\r\n").map_or(raw.len(), |end| end + 2);
    String::from_utf8_lossy(&raw[..end.min(QUOTED_HEADER_BYTES_MAX)]).into_owned()
}

/// An answer before it is built.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Why it is sent.
    pub reaction: Reaction,
    /// The persona's address; for a delivery status notification the recipient that failed.
    pub from: String,
    /// The message answered, if any.
    pub in_reply_to: Option<String>,
    /// The References of the message answered.
    pub references: Vec<String>,
    /// The subject of the message answered, or of a manual message.
    pub subject: String,
    /// The text of a manual message; for a delivery status notification the original's headers.
    pub text: String,
}

impl Answer {
    /// The raw message to `mailbox` under `message_id` (no angle brackets).
    pub fn build(&self, mailbox: &str, message_id: &str) -> anyhow::Result<Vec<u8>> {
        let mut message = Message::builder()
            .from(mailbox_of(&self.sender())?)
            .to(mailbox_of(mailbox)?)
            .date_now()
            .subject(self.subject_line())
            .message_id(Some(format!("<{message_id}>")));
        if let Some(answered) = &self.in_reply_to {
            let thread: Vec<String> = self.thread(answered).map(|id| format!("<{id}>")).collect();
            message = message.in_reply_to(format!("<{answered}>")).references(thread.join(" "));
        }
        if matches!(self.reaction, Reaction::AutoReply | Reaction::Dsn) {
            // RFC 3834, section 5: both are answers that no person wrote.
            let name = HeaderName::new_from_ascii_str("Auto-Submitted");
            message = message.raw_header(HeaderValue::new(name, "auto-replied".to_owned()));
        }
        let message = match self.reaction {
            Reaction::Dsn => message.multipart(self.report()?)?,
            _ => message.singlepart(SinglePart::plain(self.text_body()))?,
        };
        Ok(message.formatted())
    }

    /// A new Message-ID under the sender's domain.
    pub fn new_message_id(&self) -> String {
        format!("{}@{}", Uuid::new_v4(), domain_of(&self.from))
    }

    /// How long after the message answered this one leaves.
    pub fn delay(&self, day: Duration) -> Duration {
        self.reaction.delay(&self.from, day)
    }

    /// The address in From: a delivery status notification comes from the recipient's mail system.
    pub fn sender(&self) -> String {
        match self.reaction {
            Reaction::Dsn => format!("mailer-daemon@{}", domain_of(&self.from)),
            _ => self.from.clone(),
        }
    }

    fn thread<'a>(&'a self, answered: &'a str) -> impl Iterator<Item = &'a str> {
        let skipped = self.references.len().saturating_sub(REFERENCES_MAX);
        self.references
            .iter()
            .skip(skipped)
            .map(String::as_str)
            .filter(move |id| *id != answered)
            .chain([answered])
    }

    fn subject_line(&self) -> String {
        match self.reaction {
            Reaction::Manual => self.subject.clone(),
            Reaction::Reply | Reaction::Stop => format!("Re: {}", self.subject),
            Reaction::AutoReply => format!("Out of office: {}", self.subject),
            Reaction::Dsn => "Undelivered Mail Returned to Sender".to_owned(),
        }
    }

    fn text_body(&self) -> String {
        match self.reaction {
            Reaction::Manual => self.text.clone(),
            Reaction::Reply => {
                "Hi,\r\n\r\nthanks for writing, this sounds interesting. Could you tell me more about dates and \
                 prices?\r\n\r\nBest regards\r\n"
                    .to_owned()
            }
            Reaction::Stop => "please stop, unsubscribe me\r\n".to_owned(),
            Reaction::AutoReply => {
                "I am out of the office until Monday and will read your message then.\r\n".to_owned()
            }
            Reaction::Dsn => format!(
                "This is the mail system at {}.\r\n\r\nYour message could not be delivered to {}:\r\n\
                 550 5.1.1 the mailbox does not exist.\r\n",
                domain_of(&self.from),
                self.from
            ),
        }
    }

    /// The multipart/report of RFC 3464.
    fn report(&self) -> anyhow::Result<MultiPart> {
        let status = format!(
            "Reporting-MTA: dns; mx.{}\r\n\r\nFinal-Recipient: rfc822; {}\r\nAction: failed\r\nStatus: 5.1.1\r\n\
             Diagnostic-Code: smtp; 550 5.1.1 the mailbox does not exist\r\n",
            domain_of(&self.from),
            self.from
        );
        let boundary = Uuid::new_v4().simple();
        let report = format!("multipart/report; report-type=delivery-status; boundary=\"{boundary}\"");
        Ok(MultiPart::builder()
            .header(ContentType::parse(&report)?)
            .build()
            .singlepart(SinglePart::plain(self.text_body()))
            .singlepart(
                SinglePart::builder().header(ContentType::parse("message/delivery-status")?).body(status),
            )
            .singlepart(
                SinglePart::builder()
                    .header(ContentType::parse("text/rfc822-headers")?)
                    .body(self.text.clone()),
            ))
    }
}

fn mailbox_of(address: &str) -> anyhow::Result<Mailbox> {
    address.parse().with_context(|| format!("{address:?} is no mail address"))
}

fn domain_of(address: &str) -> &str {
    address.rsplit_once('@').map_or("example.com", |(_, domain)| domain)
}

#[cfg(test)]
mod tests {
    use mail_parser::MimeHeaders as _;

    use super::*;

    fn answer(reaction: Reaction) -> Answer {
        Answer {
            reaction,
            from: "dsnbounces-1@venue.example.com".to_owned(),
            in_reply_to: Some("m2@iris.test".to_owned()),
            references: (0..4).map(|n| format!("{}-{n}@iris.test", "0".repeat(40))).collect(),
            subject: "Grüße aus Brooklyn".to_owned(),
            text: "Message-ID: <m2@iris.test>\r\nSubject: Hello\r\n".to_owned(),
        }
    }

    #[test]
    fn a_reply_threads_under_the_message_it_answers() {
        let raw = answer(Reaction::Reply).build("out@iris.test", "r1@venue.example.com").unwrap();
        let received = Received::parse(&raw).unwrap();
        assert_eq!(received.message_id, "r1@venue.example.com");
        assert_eq!(received.in_reply_to.as_deref(), Some("m2@iris.test"));
        assert_eq!(received.references.len(), 5);
        assert_eq!(received.references.last().map(String::as_str), Some("m2@iris.test"));
        assert_eq!(received.subject, "Re: Grüße aus Brooklyn");
        assert_eq!(received.from, "dsnbounces-1@venue.example.com");
        assert_eq!(received.to, ["out@iris.test"]);
    }

    #[test]
    fn an_out_of_office_note_says_that_no_person_wrote_it() {
        let raw = answer(Reaction::AutoReply).build("out@iris.test", "r1@venue.example.com").unwrap();
        let message = MessageParser::default().parse(&raw).unwrap();
        assert_eq!(message.header_raw("Auto-Submitted").map(str::trim), Some("auto-replied"));
    }

    #[test]
    fn a_delivery_status_notification_parses_as_rfc_3464() {
        let raw = answer(Reaction::Dsn).build("out@iris.test", "d1@venue.example.com").unwrap();
        let message = MessageParser::default().parse(&raw).unwrap();
        let root = message.content_type().unwrap();
        assert_eq!((root.ctype(), root.subtype()), ("multipart", Some("report")));
        assert_eq!(root.attribute("report-type"), Some("delivery-status"));
        assert_eq!(
            message.from().unwrap().first().unwrap().address(),
            Some("mailer-daemon@venue.example.com")
        );

        let parts: Vec<_> = message.parts.iter().skip(1).collect();
        let types: Vec<_> =
            parts.iter().map(|part| part.content_type().unwrap().subtype().unwrap().to_owned()).collect();
        assert_eq!(types, ["plain", "delivery-status", "rfc822-headers"]);
        let status = String::from_utf8_lossy(parts[1].contents()).into_owned();
        assert!(status.starts_with("Reporting-MTA: dns; mx.venue.example.com\r\n\r\n"), "{status}");
        assert!(status.contains("\r\nStatus: 5.1.1\r\n"), "{status}");
        assert!(status.contains("Final-Recipient: rfc822; dsnbounces-1@venue.example.com\r\n"), "{status}");
        assert!(String::from_utf8_lossy(parts[2].contents()).contains("Message-ID: <m2@iris.test>"));
    }

    #[test]
    fn the_header_block_ends_before_the_body() {
        assert_eq!(header_block(b"A: 1\r\nB: 2\r\n\r\nbody"), "A: 1\r\nB: 2\r\n");
    }
}
