//! A letter as the bytes of an RFC 5322 message.

use lettre::{
    Address, Message,
    message::{
        Mailbox, SinglePart,
        header::{HeaderName, HeaderValue},
    },
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::channels::Letter;

/// A letter that is no mail: the address or a header cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// An address is not one.
    #[error("{what} is not a mail address")]
    Address {
        /// Which one.
        what: &'static str,
    },
    /// The builder refused.
    #[error(transparent)]
    Build(#[from] lettre::error::Error),
}

/// A composed mail: the envelope and the bytes.
#[derive(Debug, Clone)]
pub struct Mail {
    /// MAIL FROM.
    pub from: Address,
    /// RCPT TO.
    pub to: Address,
    /// Headers and text, lines ended by CRLF.
    pub bytes: Vec<u8>,
}

/// Composes a letter: our Message-ID, the thread it belongs to, and a way to unsubscribe by mail (RFC 2369).
pub fn compose(letter: &Letter) -> Result<Mail, ComposeError> {
    let from = address(&letter.from, "the mailbox")?;
    let to = address(&letter.to, "the recipient")?;
    let name = |name: Option<&str>| name.map(one_line).filter(|name| !name.is_empty());
    let mut builder = Message::builder()
        .date(letter.at.into())
        .from(Mailbox::new(name(letter.from_name.as_deref()), from.clone()))
        .to(Mailbox::new(name(letter.to_name.as_deref()), to.clone()))
        .subject(one_line(&letter.subject))
        .message_id(Some(one_line(&letter.message_id)))
        .raw_header(unsubscribe(&from));
    if let Some(reply_to) = letter.reply_to.as_deref().filter(|reply_to| *reply_to != letter.from) {
        builder = builder.reply_to(Mailbox::new(None, address(reply_to, "sender.reply_to")?));
    }
    if let Some(id) = &letter.in_reply_to {
        builder = builder.in_reply_to(one_line(id));
    }
    if !letter.references.is_empty() {
        builder = builder.references(one_line(&letter.references.join(" ")));
    }
    let message = builder.singlepart(SinglePart::plain(body(letter)))?;
    Ok(Mail { from, to, bytes: message.formatted() })
}

fn address(text: &str, what: &'static str) -> Result<Address, ComposeError> {
    text.parse().map_err(|_| ComposeError::Address { what })
}

/// The text, the signature and the postal address, an empty line between them. Lone carriage returns would be line ends
/// to some readers and not to others, so that all line ends become `\n` here and CRLF in the builder.
fn body(letter: &Letter) -> String {
    let parts = [Some(&letter.text), letter.signature.as_ref(), letter.postal_address.as_ref()];
    let mut text = parts
        .into_iter()
        .flatten()
        .map(|part| part.replace("\r\n", "\n").replace('\r', "\n"))
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("\n\n");
    text.retain(|c| c == '\n' || c == '\t' || !c.is_control());
    text.push('\n');
    text
}

/// A header's value without line ends or other control characters.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

/// What a mailto address may hold unescaped (RFC 6068).
const MAILTO: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'@').remove(b'+');

fn unsubscribe(mailbox: &Address) -> HeaderValue {
    let mailbox: &str = mailbox.as_ref();
    let value = format!("<mailto:{}?subject=unsubscribe>", utf8_percent_encode(mailbox, MAILTO));
    HeaderValue::new(HeaderName::new_from_ascii_str("List-Unsubscribe"), value)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;

    fn letter() -> Letter {
        Letter {
            channel_account_id: Uuid::nil(),
            from: "hello@sender.example".into(),
            from_name: Some("Ana Müller".into()),
            reply_to: Some("booking@sender.example".into()),
            to: "alex@venue.example".into(),
            to_name: Some("Alex \"Lex\" Doe".into()),
            subject: "Quick question about the café".into(),
            text: "Hi Alex,\n\n.a line that begins with a dot\nÜber den Klub".into(),
            signature: Some("Ana\nDJ".into()),
            postal_address: Some("1 Main St, Brooklyn".into()),
            message_id: "<0190@sender.example>".into(),
            in_reply_to: Some("<a@sender.example>".into()),
            references: vec!["<a@sender.example>".into(), "<b@sender.example>".into()],
            at: DateTime::from_timestamp(1_777_464_000, 0).unwrap(),
        }
    }

    #[test]
    fn a_letter_becomes_a_mail() {
        let mail = compose(&letter()).unwrap();
        let text = String::from_utf8(mail.bytes).unwrap();
        for expected in [
            "Message-ID: <0190@sender.example>\r\n",
            "In-Reply-To: <a@sender.example>\r\n",
            "References: <a@sender.example> <b@sender.example>\r\n",
            "Reply-To: booking@sender.example\r\n",
            "To: \"Alex \\\"Lex\\\" Doe\" <alex@venue.example>\r\n",
            "List-Unsubscribe: <mailto:hello@sender.example?subject=unsubscribe>\r\n",
            "Date: Wed, 29 Apr 2026 12:00:00 +0000\r\n",
            "MIME-Version: 1.0\r\n",
            "Content-Type: text/plain; charset=utf-8\r\n",
            "Content-Transfer-Encoding: quoted-printable\r\n",
            "=C3=9Cber den Klub\r\n\r\nAna\r\nDJ\r\n\r\n1 Main St, Brooklyn\r\n",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
        assert!(text.contains("From: =?utf-8?b?") && text.contains("<hello@sender.example>"), "{text}");
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "every line end is CRLF");
    }

    #[test]
    fn nothing_can_break_out_of_its_header() {
        let mut letter = letter();
        letter.subject = "Hi\r\nBcc: everyone@example.com\r\n\r\nbody".into();
        letter.from_name = Some("x\r\nBcc: a@b.example".into());
        letter.message_id = "<a@b>\r\nBcc: c@d.example".into();
        letter.text = "a\r.\r\n.\r\nb\0".into();
        let text = String::from_utf8(compose(&letter).unwrap().bytes).unwrap();
        assert!(!text.contains("\r\nBcc:"), "{text}");
        assert!(!text.contains('\0') && !text.replace("\r\n", "").contains('\r'), "{text}");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in ["", "alex", "a@b@c", "a b@c.example", "a@b.example\r\nRCPT TO:<x@y.example>"] {
            let letter = Letter { to: bad.into(), ..letter() };
            assert!(compose(&letter).is_err(), "{bad:?}");
        }
    }
}
