//! What can be said to the book: one line each, words with a space between them.

use std::str::FromStr;

use anyhow::{Context, bail};

/// What an event is marked with by whoever makes it happen.
pub type Mark = u64;
/// An event's id, as the number that its hexadecimal digits are.
pub type EventId = u128;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A campaign.
    Campaign,
    /// A contact.
    Contact,
}

/// What a fault can strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strikes {
    /// One dispatcher, whose connections end.
    Dispatcher,
    /// What every dispatcher has to record.
    Recording,
    /// Nothing that is under way.
    Nothing,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// `secret <endpoint> <secret>`: what its requests are signed with.
    Secret(usize, String),
    /// `acknowledged <subject> <mark>`: the API answered with 2xx to what makes the event true.
    Acknowledged(Subject, Mark),
    /// `unsure <mark>`: it answered otherwise or not at all.
    Unsure(Mark),
    /// `fault <number> begin <scenario> <dispatcher|recording|nothing>`.
    FaultBegin {
        /// Its number.
        fault: u32,
        /// The scenario that it belongs to.
        scenario: String,
        /// What it can strike.
        strikes: Strikes,
    },
    /// `fault <number> end`.
    FaultEnd(u32),
    /// `listed <endpoint> <event> <status> <reasons>`: in the end the API shows this delivery; the reasons of its attempts
    /// stand with a comma between them, `ok` for one that succeeded, and `none` for no attempt.
    Listed {
        /// The endpoint's place.
        endpoint: usize,
        /// The event.
        event: EventId,
        /// The delivery's status.
        status: String,
        /// Why each attempt failed, or `ok`.
        reasons: Vec<String>,
    },
    /// `status`: asks for a line of counts: acknowledged, requests, and deliveries that have not arrived.
    Status,
    /// `report`: asks for the verdict, one line of JSON.
    Report,
}

impl FromStr for Line {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut words = Words(text.split(' '));
        let line = match words.word()? {
            "secret" => Self::Secret(words.endpoint()?, words.word()?.to_owned()),
            "acknowledged" => Self::Acknowledged(words.subject()?, words.word()?.parse()?),
            "unsure" => Self::Unsure(words.word()?.parse()?),
            "fault" => words.fault()?,
            "listed" => Self::Listed {
                endpoint: words.endpoint()?,
                event: parse_event_id(words.word()?)?,
                status: words.word()?.to_owned(),
                reasons: match words.word()? {
                    "none" => Vec::new(),
                    reasons => reasons.split(',').map(ToOwned::to_owned).collect(),
                },
            },
            "status" => Self::Status,
            "report" => Self::Report,
            other => bail!("nobody knows {other:?}"),
        };
        anyhow::ensure!(words.0.next().is_none(), "it is too long");
        Ok(line)
    }
}

/// An event's id as its body and the API write it.
pub fn parse_event_id(text: &str) -> anyhow::Result<EventId> {
    let digits = text.strip_prefix("evt_").filter(|digits| digits.len() == 32);
    Ok(u128::from_str_radix(digits.context("an event's id has 32 digits")?, 16)?)
}

struct Words<'a>(std::str::Split<'a, char>);

impl<'a> Words<'a> {
    fn word(&mut self) -> anyhow::Result<&'a str> {
        self.0.next().filter(|word| !word.is_empty()).context("a word is missing")
    }

    fn endpoint(&mut self) -> anyhow::Result<usize> {
        let name = self.word()?;
        crate::endpoint::find(name).with_context(|| format!("no endpoint is called {name:?}"))
    }

    fn subject(&mut self) -> anyhow::Result<Subject> {
        Ok(match self.word()? {
            "campaign" => Subject::Campaign,
            "contact" => Subject::Contact,
            other => bail!("no event is about a {other:?}"),
        })
    }

    fn fault(&mut self) -> anyhow::Result<Line> {
        let fault = self.word()?.parse()?;
        Ok(match self.word()? {
            "begin" => Line::FaultBegin {
                fault,
                scenario: self.word()?.to_owned(),
                strikes: match self.word()? {
                    "dispatcher" => Strikes::Dispatcher,
                    "recording" => Strikes::Recording,
                    "nothing" => Strikes::Nothing,
                    other => bail!("a fault does not strike {other:?}"),
                },
            },
            "end" => Line::FaultEnd(fault),
            other => bail!("a fault does not {other:?}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_understood() {
        let endpoint = crate::endpoint::find("hang").unwrap();
        let id = "evt_0193a5b0000070008000000000000001";
        let event = 0x0193_a5b0_0000_7000_8000_0000_0000_0001;
        let listed = |reasons: &[&str]| Line::Listed {
            endpoint,
            event,
            status: "pending".into(),
            reasons: reasons.iter().map(ToString::to_string).collect(),
        };
        for (text, line) in [
            ("secret hang whsec_x", Line::Secret(endpoint, "whsec_x".into())),
            ("acknowledged contact 7", Line::Acknowledged(Subject::Contact, 7)),
            ("unsure 8", Line::Unsure(8)),
            (
                "fault 1 begin kills dispatcher",
                Line::FaultBegin { fault: 1, scenario: "kills".into(), strikes: Strikes::Dispatcher },
            ),
            ("fault 1 end", Line::FaultEnd(1)),
            (&format!("listed hang {id} pending none"), listed(&[])),
            (&format!("listed hang {id} pending timeout,ok"), listed(&["timeout", "ok"])),
        ] {
            assert_eq!(text.parse::<Line>().unwrap(), line);
        }
        for bad in [
            "",
            "secret nobody whsec_x",
            "acknowledged contact",
            "unsure x",
            "fault 1 begin kills all",
            "listed hang evt_1 pending none",
            "status now",
        ] {
            assert!(bad.parse::<Line>().is_err(), "{bad}");
        }
    }
}
