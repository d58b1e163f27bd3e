//! Reading an inbound mail: who wrote, what it answers, and whether a person, a machine or a mail system did. Pure.

use mail_parser::{HeaderValue, Message, MessageParser, MessagePart, MimeHeaders, PartType};
use sha2::{Digest, Sha256};

use crate::domain::{address, message::SUBJECT_CHARS_MAX};

/// How much of a text is kept, in bytes.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;
/// The longest Message-ID that is kept as it is, in bytes: a line of RFC 5322, section 2.1.1.
const MESSAGE_ID_BYTES_MAX: usize = 998;
/// How many References are looked at, the newest.
const REFERENCES_MAX: usize = 50;
/// The longest diagnostic of a report that is kept, in characters.
const DIAGNOSTIC_CHARS_MAX: usize = 500;

/// A mail that is no internet message: it has no headers, or nobody in From.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an internet message: it has no From header")]
pub struct Unreadable;

/// What is known of an inbound mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundEmail {
    /// Its Message-ID with angle brackets; for a mail without one, one made of its content.
    pub rfc_message_id: String,
    /// Who wrote, in the stored form; None if From has no usable address.
    pub from: Option<String>,
    /// The Message-ID that it answers, with angle brackets.
    pub in_reply_to: Option<String>,
    /// The Message-IDs of its thread, oldest first, with angle brackets.
    pub references: Vec<String>,
    /// Its subject.
    pub subject: Option<String>,
    /// Its text, of HTML too, at most [`TEXT_BYTES_MAX`].
    pub text: String,
    /// Who wrote it.
    pub author: Author,
}

/// Who wrote a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Author {
    /// A person.
    Person,
    /// A program: an out-of-office note, a list, a ticket system (RFC 3834).
    Machine,
    /// A mail system, about a message of ours (RFC 3464).
    MailSystem(Report),
}

/// A delivery status notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What it says.
    pub fate: Fate,
    /// The status code, such as `5.1.1` (RFC 3463).
    pub status: Option<String>,
    /// What the remote system said, or the status.
    pub diagnostic: String,
    /// The recipient it is about, in the stored form.
    pub recipient: Option<String>,
    /// The Message-ID of the message it is about, with angle brackets.
    pub original_message_id: Option<String>,
}

/// What became of a message, by a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was refused for good, or given up.
    Failed,
    /// It arrived.
    Delivered,
    /// It is still tried, or was passed on to where reports end.
    Other,
}

impl Report {
    /// Whether the failure says that the address is no good. It does not when the mail was given up after a while
    /// (status 4), when the mailbox is full (5.2.2, 5.2.3), the mail system has trouble (5.3), or the content or a policy
    /// is the reason (5.6, 5.7; RFC 3463, section 3).
    pub fn is_about_address(&self) -> bool {
        let Some(status) = self.status.as_deref() else { return true };
        let passing = ["4.", "5.2.2", "5.2.3", "5.3.", "5.6.", "5.7."];
        !passing.into_iter().any(|start| status.starts_with(start))
    }
}

/// Reads a raw mail.
pub fn read_email(raw: &[u8]) -> Result<InboundEmail, Unreadable> {
    let message = MessageParser::default().parse(raw).ok_or(Unreadable)?;
    let from = message.from().and_then(|from| from.first()).ok_or(Unreadable)?;
    let from = from.address().and_then(address::normalise);
    let text = clean(&message.body_text(0).unwrap_or_default(), TEXT_BYTES_MAX);
    let mut references = ids(message.references());
    references.drain(..references.len().saturating_sub(REFERENCES_MAX));
    let author = match report(&message) {
        Some(report) => Author::MailSystem(report),
        None if is_automatic(&message, from.as_deref()) => Author::Machine,
        None => Author::Person,
    };
    Ok(InboundEmail {
        rfc_message_id: message.message_id().and_then(bracketed).unwrap_or_else(|| id_of_content(raw)),
        from,
        in_reply_to: ids(message.in_reply_to()).into_iter().next(),
        references,
        subject: message.subject().map(|subject| one_line(subject, SUBJECT_CHARS_MAX)),
        text,
        author,
    })
}

/// A mail without a Message-ID is known by its content, so that it is stored once as well.
fn id_of_content(raw: &[u8]) -> String {
    format!("<{}@no-message-id.invalid>", hex::encode(Sha256::digest(raw)))
}

fn ids(header: &HeaderValue<'_>) -> Vec<String> {
    match header {
        HeaderValue::Text(id) => bracketed(id).into_iter().collect(),
        HeaderValue::TextList(ids) => ids.iter().filter_map(|id| bracketed(id)).collect(),
        _ => Vec::new(),
    }
}

/// A Message-ID with its angle brackets, which the parser takes off.
fn bracketed(id: &str) -> Option<String> {
    let id = id.trim().trim_start_matches('<').trim_end_matches('>');
    let sane = !id.is_empty() && id.len() <= MESSAGE_ID_BYTES_MAX && !id.contains(['\0', '<', '>']);
    sane.then(|| format!("<{id}>"))
}

/// A text with plain line ends, without NUL, which PostgreSQL cannot store, and cut.
fn clean(text: &str, bytes_max: usize) -> String {
    let mut text = text.replace("\r\n", "\n").replace('\0', "");
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

fn one_line(text: &str, chars_max: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(chars_max).collect()
}

/// Subjects that out-of-office programs begin with.
const AUTOMATIC_SUBJECTS: [&str; 10] = [
    "automatic reply",
    "auto-reply",
    "autoreply",
    "auto reply",
    "auto:",
    "out of office",
    "out of the office",
    "abwesenheitsnotiz",
    "réponse automatique",
    "respuesta automática",
];

/// Whether a program wrote it, by the marks of RFC 3834, section 5, and those in use before it.
fn is_automatic(message: &Message<'_>, from: Option<&str>) -> bool {
    let header = |name: &'static str| message.header_raw(name).map(|value| value.trim().to_ascii_lowercase());
    let submitted = header("Auto-Submitted").is_some_and(|value| !value.starts_with("no"));
    let marked = ["X-Autoreply", "X-Autorespond", "X-Auto-Response-Suppress"]
        .into_iter()
        .any(|name| header(name).is_some_and(|value| !value.is_empty() && value != "none"));
    let bulk = header("Precedence")
        .is_some_and(|value| matches!(value.as_str(), "bulk" | "auto_reply" | "junk" | "list"));
    let no_return = header("Return-Path").is_some_and(|value| value == "<>");
    let local = from.and_then(|from| from.split_once('@')).map(|(local, _)| local);
    let system = matches!(local, Some("mailer-daemon" | "postmaster"));
    let subject = message.subject().unwrap_or_default().trim().to_lowercase();
    let says_so = AUTOMATIC_SUBJECTS.iter().any(|start| subject.starts_with(start));
    submitted || marked || bulk || no_return || system || says_so
}

/// The delivery status notification in a multipart/report of RFC 3464.
fn report(message: &Message<'_>) -> Option<Report> {
    let root = message.content_type()?;
    if !is_type(root.ctype(), root.subtype(), "multipart", "report") {
        return None;
    }
    let status = message.parts.iter().find(|part| part_is(part, "message", "delivery-status"))?;
    let fields = recipient_fields(&String::from_utf8_lossy(status.contents()));
    let field = |name: &str| fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let status = field("status").and_then(|value| value.split_whitespace().next()).map(ToOwned::to_owned);
    let fate = match field("action").map(str::to_ascii_lowercase).as_deref() {
        Some("failed") => Fate::Failed,
        Some("delivered") => Fate::Delivered,
        _ => Fate::Other,
    };
    let diagnostic = field("diagnostic-code").or(status.as_deref()).unwrap_or("no reason given");
    let recipient = field("original-recipient").or(field("final-recipient"));
    let address = recipient.map(|value| value.split_once(';').map_or(value, |(_, address)| address));
    Some(Report {
        fate,
        diagnostic: one_line(diagnostic, DIAGNOSTIC_CHARS_MAX),
        recipient: address.and_then(address::normalise),
        original_message_id: original_message_id(message),
        status,
    })
}

/// The fields of the first recipient that a report is about, names in lower case. The first block is about the message,
/// the others about one recipient each.
fn recipient_fields(status: &str) -> Vec<(String, String)> {
    let unfolded = status.replace("\r\n", "\n").replace("\n ", " ").replace("\n\t", " ");
    let blocks = unfolded.split("\n\n").map(|block| {
        block
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
            .collect::<Vec<_>>()
    });
    blocks.into_iter().find(|fields| fields.iter().any(|(name, _)| name == "action")).unwrap_or_default()
}

/// The Message-ID of the message that a report returns, whole or only its headers.
fn original_message_id(message: &Message<'_>) -> Option<String> {
    message.parts.iter().find_map(|part| match &part.body {
        PartType::Message(original) => original.message_id().and_then(bracketed),
        _ if part_is(part, "text", "rfc822-headers") || part_is(part, "message", "rfc822-headers") => {
            // The end of the last header line belongs to the boundary after it.
            let headers = [part.contents(), b"\r\n\r\n"].concat();
            let original = MessageParser::default().parse_headers(&headers)?;
            original.message_id().and_then(bracketed)
        }
        _ => None,
    })
}

fn part_is(part: &MessagePart<'_>, kind: &str, subtype: &str) -> bool {
    part.content_type().is_some_and(|given| is_type(given.ctype(), given.subtype(), kind, subtype))
}

fn is_type(kind: &str, subtype: Option<&str>, wanted: &str, wanted_subtype: &str) -> bool {
    kind.eq_ignore_ascii_case(wanted)
        && subtype.is_some_and(|subtype| subtype.eq_ignore_ascii_case(wanted_subtype))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(headers: &str, body: &str) -> InboundEmail {
        let raw = format!("From: Alex <Alex@Venue.example.com>\r\n{headers}\r\n{body}");
        read_email(raw.as_bytes()).unwrap()
    }

    #[test]
    fn a_reply_is_read() {
        let email = mail(
            "Message-ID: <r1@venue.example.com>\r\nIn-Reply-To: <m2@iris.test>\r\n\
             References: <m1@iris.test>\r\n <m2@iris.test>\r\nSubject: =?utf-8?q?Re:_Gr=C3=BC=C3=9Fe?=\r\n\
             Content-Type: text/plain; charset=utf-8\r\n",
            "Hi,\r\nyes!\r\n",
        );
        assert_eq!(email.rfc_message_id, "<r1@venue.example.com>");
        assert_eq!(email.from.as_deref(), Some("alex@venue.example.com"));
        assert_eq!(email.in_reply_to.as_deref(), Some("<m2@iris.test>"));
        assert_eq!(email.references, ["<m1@iris.test>", "<m2@iris.test>"]);
        assert_eq!(email.subject.as_deref(), Some("Re: Grüße"));
        assert_eq!(email.text.trim(), "Hi,\nyes!");
        assert_eq!(email.author, Author::Person);
    }

    #[test]
    fn html_becomes_text_and_long_texts_are_cut() {
        let email = mail("Content-Type: text/html\r\n", "<p>Hello <b>there</b></p>");
        assert!(email.text.contains("Hello there"), "{}", email.text);
        let long = mail("Subject: x\r\n", &"é".repeat(TEXT_BYTES_MAX));
        assert!(long.text.len() <= TEXT_BYTES_MAX);
    }

    #[test]
    fn a_mail_without_message_id_is_known_by_its_content() {
        let (one, same, other) =
            (mail("Subject: a\r\n", "x"), mail("Subject: a\r\n", "x"), mail("Subject: b\r\n", "x"));
        assert!(one.rfc_message_id.ends_with("@no-message-id.invalid>"));
        assert_eq!(one.rfc_message_id, same.rfc_message_id);
        assert_ne!(one.rfc_message_id, other.rfc_message_id);
    }

    #[test]
    fn machines_are_told_from_people() {
        for (headers, machine) in [
            ("Subject: Re: hi\r\n", false),
            ("Auto-Submitted: no\r\n", false),
            ("Auto-Submitted: auto-replied\r\n", true),
            ("Auto-Submitted: auto-generated (list)\r\n", true),
            ("X-Auto-Response-Suppress: All\r\n", true),
            ("X-Autoreply: yes\r\n", true),
            ("Precedence: bulk\r\n", true),
            ("Precedence: first-class\r\n", false),
            ("Return-Path: <>\r\n", true),
            ("Return-Path: <alex@venue.example.com>\r\n", false),
            ("Subject: Automatic reply: hi\r\n", true),
            ("Subject: Re: out of office parties\r\n", false),
        ] {
            let author = mail(headers, "text").author;
            assert_eq!(author == Author::Machine, machine, "{headers:?}");
        }
    }

    fn dsn(fields: &str, returned: &str) -> InboundEmail {
        let raw = format!(
            "From: mailer-daemon@venue.example.com\r\nMessage-ID: <d1@venue.example.com>\r\nSubject: Undelivered\r\n\
             Content-Type: multipart/report; report-type=delivery-status; boundary=\"b\"\r\n\r\n\
             --b\r\nContent-Type: text/plain\r\n\r\nSorry.\r\n\
             --b\r\nContent-Type: message/delivery-status\r\n\r\n{fields}\r\n--b\r\n{returned}\r\n--b--\r\n"
        );
        read_email(raw.as_bytes()).unwrap()
    }

    const FAILED: &str = "Reporting-MTA: dns; mx.venue.example.com\r\n\r\nFinal-Recipient: rfc822; Alex@venue.example.com\r\n\
                          Action: failed\r\nStatus: 5.1.1\r\nDiagnostic-Code: smtp; 550 5.1.1 the mailbox\r\n does not exist\r\n";

    #[test]
    fn a_hard_bounce_names_the_message_and_the_reason() {
        for returned in [
            "Content-Type: text/rfc822-headers\r\n\r\nSubject: Hello\r\nMessage-ID: <m2@iris.test>\r\n",
            "Content-Type: text/rfc822-headers\r\n\r\nMessage-ID: <m2@iris.test>",
            "Content-Type: message/rfc822\r\n\r\nMessage-ID: <m2@iris.test>\r\nSubject: Hello\r\n\r\nbody\r\n",
        ] {
            let Author::MailSystem(report) = dsn(FAILED, returned).author else { panic!("no report") };
            assert_eq!(report.fate, Fate::Failed);
            assert_eq!(report.status.as_deref(), Some("5.1.1"));
            assert_eq!(report.recipient.as_deref(), Some("alex@venue.example.com"));
            assert_eq!(report.original_message_id.as_deref(), Some("<m2@iris.test>"), "{returned}");
            assert_eq!(report.diagnostic, "smtp; 550 5.1.1 the mailbox does not exist");
            assert!(report.is_about_address());
        }
    }

    #[test]
    fn reports_are_told_apart() {
        for (action, status, fate, about_address) in [
            ("failed", "5.1.1", Fate::Failed, true),
            ("failed", "5.2.2", Fate::Failed, false),
            ("failed", "5.7.1", Fate::Failed, false),
            ("failed", "4.4.7", Fate::Failed, false),
            ("delayed", "4.4.1", Fate::Other, false),
            ("delivered", "2.1.5", Fate::Delivered, true),
            ("relayed", "2.0.0", Fate::Other, true),
        ] {
            let fields = format!("Reporting-MTA: dns; x\r\n\r\nAction: {action}\r\nStatus: {status}\r\n");
            let Author::MailSystem(report) = dsn(&fields, "Content-Type: text/plain\r\n\r\n").author else {
                panic!("no report")
            };
            assert_eq!((report.fate, report.is_about_address()), (fate, about_address), "{action} {status}");
            assert_eq!(report.original_message_id, None);
        }
    }

    #[test]
    fn what_is_no_mail_is_refused() {
        for raw in [&b""[..], b"hello", b"\0\0\0", b"Subject: x\r\n\r\nno sender", b"\r\n\r\n", &[0xff; 1000]]
        {
            assert_eq!(read_email(raw), Err(Unreadable), "{raw:?}");
        }
    }
}
