//! What a mail server's answer means for a message.

use crate::channels::Refusal;

/// How far a conversation with a mail server had come when it answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Greeting, EHLO, STARTTLS, AUTH or MAIL FROM: about the mailbox that sends, not about the recipient.
    Session,
    /// RCPT TO.
    Recipient,
    /// The answer to DATA.
    Data,
    /// The final answer, after the whole text.
    Text,
}

/// The longest answer that is kept, in characters; the rest is boilerplate and links.
pub const ANSWER_CHARS_MAX: usize = 200;

/// An answer cut to what is kept, on one line and without control characters.
pub fn cut(answer: &str) -> String {
    let clean = answer.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(ANSWER_CHARS_MAX).collect::<String>().trim().to_owned()
}

/// Classifies a 4xx or 5xx answer (RFC 5321 4.2, RFC 3463).
///
/// | | 4xx | 5xx |
/// |---|---|---|
/// | before RCPT TO, and 421 before the text | the mailbox cannot send for now | the same |
/// | RCPT TO and later | deferred | bounced when the address does not exist, else failed |
pub fn classify(stage: Stage, code: u16, text: &str) -> Refusal {
    let error = cut(&format!("{code} {text}"));
    let transient = (400..500).contains(&code);
    // 421 closes the connection: it says nothing about this message.
    if stage == Stage::Session || (code == 421 && stage != Stage::Text) {
        return Refusal::Unavailable { error };
    }
    if transient {
        return Refusal::Deferred { error };
    }
    if names_no_mailbox(stage, code, text) { Refusal::Bounced { error } } else { Refusal::Failed { error } }
}

/// Whether a permanent answer says that the address does not exist. The enhanced code decides when there is one: class
/// 5.1 is the address, 5.2.1 a mailbox that was shut.
fn names_no_mailbox(stage: Stage, code: u16, text: &str) -> bool {
    match enhanced(text) {
        Some((1, detail)) => !SENDER_DETAILS.contains(&detail),
        Some((2, 1)) => true,
        Some((0, _)) | None => match stage {
            Stage::Recipient => {
                matches!(code, 550 | 551 | 553) && !reads_as_policy(text) || reads_as_unknown(text)
            }
            Stage::Session | Stage::Data | Stage::Text => reads_as_unknown(text),
        },
        Some(_) => false,
    }
}

/// X.1.7 and X.1.8 are about the sender's address, not the recipient's.
const SENDER_DETAILS: [u16; 2] = [7, 8];

/// The subject and detail of an enhanced status code at the start of a text: `5.1.1 No such user` is (1, 1).
fn enhanced(text: &str) -> Option<(u16, u16)> {
    let word = text.split_whitespace().next()?;
    let mut parts = word.split('.');
    let class = parts.next()?;
    let subject = parts.next()?.parse().ok()?;
    let detail = parts.next()?.parse().ok()?;
    (matches!(class, "4" | "5") && parts.next().is_none()).then_some((subject, detail))
}

fn reads_as_unknown(text: &str) -> bool {
    let text = text.to_lowercase();
    [
        "user unknown",
        "unknown user",
        "no such user",
        "does not exist",
        "no mailbox",
        "mailbox not found",
        "recipient not found",
        "unknown recipient",
        "no such recipient",
        "invalid recipient",
        "no such mailbox",
    ]
    .iter()
    .any(|phrase| text.contains(phrase))
}

fn reads_as_policy(text: &str) -> bool {
    let text = text.to_lowercase();
    ["spam", "policy", "blocked", "blacklist", "block list", "relay", "reputation", "denied", "rbl"]
        .iter()
        .any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_classified_by_stage_and_code() {
        use Stage::{Data, Recipient, Session, Text};
        let cases = [
            (Session, 535, "5.7.8 bad credentials", "unavailable"),
            (Session, 450, "slow down", "unavailable"),
            (Session, 550, "5.1.1 who are you", "unavailable"),
            (Recipient, 421, "4.3.2 closing", "unavailable"),
            (Data, 421, "closing", "unavailable"),
            (Text, 421, "closing", "deferred"),
            (Recipient, 450, "4.2.0 greylisted", "deferred"),
            (Recipient, 452, "too many recipients", "deferred"),
            (Data, 451, "local error", "deferred"),
            (Text, 451, "4.3.0 try again", "deferred"),
            (Recipient, 550, "5.1.1 no such user here", "bounced"),
            (Recipient, 550, "mailbox unavailable", "bounced"),
            (Recipient, 551, "user not local", "bounced"),
            (Recipient, 553, "mailbox name not allowed", "bounced"),
            (Recipient, 554, "User unknown", "bounced"),
            (Recipient, 550, "5.2.1 mailbox disabled", "bounced"),
            (Recipient, 550, "5.7.1 rejected by policy", "failed"),
            (Recipient, 550, "5.1.8 bad sender address", "failed"),
            (Recipient, 550, "Blocked, see our policy", "failed"),
            (Recipient, 552, "5.2.2 mailbox full", "failed"),
            (Recipient, 554, "no", "failed"),
            (Data, 554, "5.5.1 no valid recipients", "failed"),
            (Text, 550, "5.7.1 looks like spam", "failed"),
            (Text, 550, "5.1.1 user unknown", "bounced"),
            (Text, 550, "rejected", "failed"),
        ];
        for (stage, code, text, expected) in cases {
            let found = match classify(stage, code, text) {
                Refusal::Unavailable { .. } => "unavailable",
                Refusal::Deferred { .. } => "deferred",
                Refusal::Bounced { .. } => "bounced",
                Refusal::Failed { .. } => "failed",
            };
            assert_eq!(found, expected, "{stage:?} {code} {text}");
        }
    }

    #[test]
    fn an_answer_is_cut_and_kept_on_one_line() {
        let Refusal::Failed { error } = classify(Stage::Text, 554, &"x\r\n\0".repeat(500)) else {
            panic!("failed")
        };
        assert!(error.chars().count() <= ANSWER_CHARS_MAX && error.starts_with("554 x"));
        assert!(!error.contains(['\r', '\n', '\0']));
    }

    #[test]
    fn only_whole_enhanced_codes_count() {
        assert_eq!(enhanced("5.1.1 x"), Some((1, 1)));
        for text in ["", "5.1", "5.1.1.1 x", "2.1.1 x", "a.b.c", "5.1.x"] {
            assert_eq!(enhanced(text), None, "{text}");
        }
    }
}
