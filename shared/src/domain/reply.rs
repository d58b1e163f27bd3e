//! What an inbound text wants and how it sounds, read by a lexicon: offline, at once, the same every time.

use super::text_enum;

text_enum! {
    /// What an inbound text wants.
    Intent {
        /// Not to be written to again.
        OptOut = "opt_out",
        /// Nothing of what was offered.
        NotInterested = "not_interested",
        /// More of it.
        Interested = "interested",
        /// An answer.
        Question = "question",
        /// Nothing: a machine says that nobody is there.
        OutOfOffice = "out_of_office",
        /// Something else.
        Other = "other",
    }
}

text_enum! {
    /// How an inbound text sounds.
    Sentiment {
        /// Friendly.
        Positive = "positive",
        /// Neither.
        Neutral = "neutral",
        /// Unfriendly.
        Negative = "negative",
    }
}

/// What was read in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// What it wants.
    pub intent: Intent,
    /// How it sounds.
    pub sentiment: Sentiment,
}

/// Only so much of a text is read.
const READ_CHARS_MAX: usize = 4000;

/// Asking to stop, anywhere in the text. A request must not be missed, so these are broad.
const OPT_OUT: [&str; 24] = [
    "unsubscribe",
    "opt out",
    "opt-out",
    "remove me",
    "remove us",
    "remove my email",
    "remove my address",
    "take me off",
    "take us off",
    "off your list",
    "off this list",
    "off the list",
    "stop emailing",
    "stop e-mailing",
    "stop contacting",
    "stop messaging",
    "stop writing",
    "stop sending",
    "do not contact",
    "don't contact",
    "do not email",
    "don't email",
    "delete my data",
    "never contact",
];

/// Asking to stop, when it is the whole first line.
const OPT_OUT_LINES: [&str; 6] = ["stop", "please stop", "stop please", "stop it", "end", "cancel"];

/// What after `please stop` makes it an invitation.
const VISITS: [&str; 7] = ["by", "in", "at", "over", "off", "round", "around"];

const OUT_OF_OFFICE: [&str; 8] = [
    "out of office",
    "out of the office",
    "away from the office",
    "on vacation",
    "on annual leave",
    "on parental leave",
    "automatic reply",
    "auto-reply",
];

const NOT_INTERESTED: [&str; 15] = [
    "not interested",
    "no longer interested",
    "isn't interested",
    "aren't interested",
    "no interest",
    "no thanks",
    "no thank you",
    "we'll pass",
    "we will pass",
    "i'll pass",
    "not a fit",
    "not a good fit",
    "not for us",
    "not looking",
    "already have someone",
];

const INTERESTED: [&str; 16] = [
    "interested",
    "interesting",
    "sounds good",
    "sounds great",
    "tell me more",
    "love to",
    "would like to",
    "let's talk",
    "let's chat",
    "let's do",
    "set up a call",
    "schedule a call",
    "send me more",
    "happy to",
    "count us in",
    "yes please",
];

const POSITIVE: [&str; 10] =
    ["thanks", "thank you", "great", "good", "love", "happy", "perfect", "awesome", "interesting", "nice"];

const NEGATIVE: [&str; 10] =
    ["spam", "annoying", "stop", "never", "angry", "terrible", "rude", "reported", "harass", "waste"];

/// Subjects of their own, no answer's, that ask to stop whatever the text says.
const OPT_OUT_SUBJECTS: [&str; 5] = ["unsubscribe", "stop", "remove", "remove me", "opt out"];

/// Reads a mail: its text, and a subject that is a request by itself.
pub fn read_mail(subject: &str, text: &str) -> Reading {
    let subject = subject.trim().to_lowercase();
    let bare = subject.trim_matches(|c: char| !c.is_alphanumeric());
    if OPT_OUT_SUBJECTS.contains(&bare) {
        return Reading { intent: Intent::OptOut, sentiment: Sentiment::Negative };
    }
    read(text)
}

/// Reads the person's own words in a text; quoted ones are left out by [`own_words`].
pub fn read(text: &str) -> Reading {
    let own = own_words(text);
    let words: String =
        own.chars().take(READ_CHARS_MAX).collect::<String>().to_lowercase().replace('\u{2019}', "'");
    let intent = intent_of(&words);
    let sentiment = match intent {
        Intent::OptOut => Sentiment::Negative,
        Intent::OutOfOffice => Sentiment::Neutral,
        Intent::NotInterested => match tone(&words) {
            Sentiment::Positive => Sentiment::Neutral,
            other => other,
        },
        Intent::Interested => match tone(&words) {
            Sentiment::Negative => Sentiment::Neutral,
            _ => Sentiment::Positive,
        },
        Intent::Question | Intent::Other => tone(&words),
    };
    Reading { intent, sentiment }
}

fn intent_of(words: &str) -> Intent {
    let first_line = words.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let bare = first_line.trim_matches(|c: char| !c.is_alphanumeric());
    let pleads = first_line.strip_prefix("please stop").is_some_and(|rest| {
        let next = rest.split(|c: char| !c.is_alphanumeric()).find(|word| !word.is_empty());
        !next.is_some_and(|word| VISITS.contains(&word))
    });
    if has_any(words, &OPT_OUT) || OPT_OUT_LINES.contains(&bare) || pleads {
        Intent::OptOut
    } else if has_any(words, &OUT_OF_OFFICE) {
        Intent::OutOfOffice
    } else if has_any(words, &NOT_INTERESTED) {
        Intent::NotInterested
    } else if has_any(words, &INTERESTED) {
        Intent::Interested
    } else if words.contains('?') {
        Intent::Question
    } else {
        Intent::Other
    }
}

fn tone(words: &str) -> Sentiment {
    let count = |lexicon: &[&str]| lexicon.iter().filter(|phrase| has_phrase(words, phrase)).count();
    match count(&POSITIVE).cmp(&count(&NEGATIVE)) {
        std::cmp::Ordering::Greater => Sentiment::Positive,
        std::cmp::Ordering::Equal => Sentiment::Neutral,
        std::cmp::Ordering::Less => Sentiment::Negative,
    }
}

fn has_any(words: &str, phrases: &[&str]) -> bool {
    phrases.iter().any(|phrase| has_phrase(words, phrase))
}

/// Whether the phrase begins at a word's beginning; it may end inside one, so that `unsubscribe` finds `unsubscribed`.
fn has_phrase(words: &str, phrase: &str) -> bool {
    words
        .match_indices(phrase)
        .any(|(at, _)| !words[..at].chars().next_back().is_some_and(char::is_alphanumeric))
}

/// A text without what it quotes: lines that begin with `>`, and everything from the first line that introduces a
/// quotation or a signature (RFC 3676, section 4.3). What we wrote, our own offer to unsubscribe above all, must not be
/// read as the contact's words.
pub fn own_words(text: &str) -> String {
    let mut own = String::with_capacity(text.len());
    let lines: Vec<&str> = text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let bare = line.trim();
        if introduces_quote(bare, lines.get(index + 1).map_or("", |next| next.trim())) || *line == "-- " {
            break;
        }
        if !bare.starts_with('>') {
            own.push_str(line);
            own.push('\n');
        }
    }
    own.trim().to_owned()
}

/// `On <date>, <name> wrote:`, also over two lines, and the headers that Outlook puts above a quotation.
fn introduces_quote(line: &str, next: &str) -> bool {
    let starts_on = line.starts_with("On ") || line.starts_with("Am ") || line.starts_with("Le ");
    let ends_wrote =
        |line: &str| line.ends_with("wrote:") || line.ends_with("schrieb:") || line.ends_with("écrit :");
    (starts_on && (ends_wrote(line) || ends_wrote(next)))
        || line.starts_with("-----Original Message")
        || line.starts_with("________________________________")
        || (line.starts_with("From: ") && (next.starts_with("Sent: ") || next.starts_with("Date: ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read() {
        use Intent::{Interested, NotInterested, OptOut, Other, OutOfOffice, Question};
        use Sentiment::{Negative, Neutral, Positive};
        for (text, intent, sentiment) in [
            ("please stop, unsubscribe me\r\n", OptOut, Negative),
            ("STOP", OptOut, Negative),
            ("Stop!\n\nSent from my phone", OptOut, Negative),
            ("Please don\u{2019}t email me again.", OptOut, Negative),
            ("Kindly remove me from this thing", OptOut, Negative),
            ("Take us off your list, thanks", OptOut, Negative),
            (
                "Hi,\r\n\r\nthanks for writing, this sounds interesting. Could you tell me more about dates?",
                Interested,
                Positive,
            ),
            ("Not interested, thanks", NotInterested, Neutral),
            ("Not interested. This is spam.", NotInterested, Negative),
            ("What do you charge?", Question, Neutral),
            ("I am out of the office until Monday", OutOfOffice, Neutral),
            ("Ok.", Other, Neutral),
            ("Please stop.", OptOut, Negative),
            ("Please stop, I have told you twice", OptOut, Negative),
            ("Please stop this. Thanks", OptOut, Negative),
            ("Please stop these mails", OptOut, Negative),
            ("Please stop by on Friday", Other, Negative),
            ("Please stop by on Friday, we are open late", Other, Negative),
            ("We never stop by the bus stop", Other, Negative),
            ("", Other, Neutral),
        ] {
            assert_eq!(read(text), Reading { intent, sentiment }, "{text:?}");
        }
    }

    #[test]
    fn a_subject_can_be_a_request() {
        assert_eq!(read_mail("Unsubscribe", "").intent, Intent::OptOut);
        assert_eq!(read_mail("Re: how to unsubscribe people", "tell me more").intent, Intent::Interested);
    }

    #[test]
    fn quoted_words_are_not_the_contacts() {
        for text in [
            "Tell me more!\n\nOn Mon, 2 Mar 2026 at 10:00, DJ <dj@x.example> wrote:\n> reply stop to unsubscribe",
            "Tell me more!\n\nOn Mon, 2 Mar 2026 at 10:00,\nDJ <dj@x.example> wrote:\nto unsubscribe reply stop",
            "Tell me more!\n> unsubscribe",
            "Tell me more!\n-----Original Message-----\nunsubscribe",
            "Tell me more!\n\nFrom: DJ\nSent: Monday\nTo: me\n\nunsubscribe here",
            "Tell me more!\n-- \nUnsubscribe from our newsletter",
        ] {
            assert_eq!(own_words(text).trim(), "Tell me more!", "{text:?}");
            assert_eq!(read(text).intent, Intent::Interested, "{text:?}");
        }
    }
}
