//! Who writes the messages: the built-in templates, Anthropic, or an OpenAI-compatible API.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;
use shared::domain::{
    Channel,
    campaign::Campaign,
    contact::Contact,
    message::{self, Direction, Message},
};

use self::{anthropic::Anthropic, openai::OpenAi, prompt::Prompt};
use crate::config::DraftingConfig;

pub mod anthropic;
mod http;
pub mod openai;
pub mod phrases;
pub mod prompt;
pub mod template;

/// How many tokens an answer may have; a message has a few hundred.
const TOKENS_MAX: u32 = 2000;
/// The longest subject of a draft in characters; more is cut off by most readers.
const SUBJECT_CHARS_MAX: usize = 200;
/// The longest text of a draft in characters.
const CONTENT_CHARS_MAX: usize = 10_000;

/// What is to be drafted.
#[derive(Debug, Clone)]
pub struct Request {
    /// What for.
    pub campaign: Campaign,
    /// To whom.
    pub contact: Contact,
    /// On which channel.
    pub channel: Channel,
    /// 0 is the first message, 1..n the follow-ups.
    pub step: i32,
    /// The conversation so far, oldest first.
    pub earlier: Vec<Message>,
}

/// A finished draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drafted {
    /// The subject, on one line; empty on channels without.
    pub subject: String,
    /// The text, without signature.
    pub content: String,
    /// What wrote it.
    pub model: String,
}

/// Why there is no draft.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    /// The provider cannot answer now.
    #[error("the provider cannot draft now: {error}")]
    Busy {
        /// What it said.
        error: String,
        /// When it asked to be asked again.
        after: Option<Duration>,
    },
    /// The provider will answer nothing until somebody changes the settings or the account there.
    #[error("the provider refuses to draft: {0}")]
    Refused(String),
    /// The provider will not answer this request, whoever asks.
    #[error("the provider rejects what is to be drafted: {0}")]
    Rejected(String),
    /// The provider answered with something that is no draft; another try may do better.
    #[error("the provider's answer is no draft: {0}")]
    BadAnswer(String),
}

/// Who drafts.
#[derive(Debug, Clone)]
pub enum Provider {
    /// The built-in templates: no network, the same words every time.
    Template,
    /// The Anthropic Messages API.
    Anthropic(Box<Anthropic>),
    /// An OpenAI-compatible chat completions API.
    OpenAi(Box<OpenAi>),
}

impl Provider {
    /// The provider that the settings ask for.
    pub fn from_config(config: &DraftingConfig) -> anyhow::Result<Self> {
        if let Some(key) = &config.anthropic_api_key {
            let provider =
                Anthropic::new(&config.anthropic_base_url, key.clone(), config.anthropic_model.clone())?;
            return Ok(Self::Anthropic(Box::new(provider)));
        }
        if config.openai_base_url.is_some() || config.openai_api_key.is_some() {
            let key = config.openai_api_key.clone();
            let provider = OpenAi::new(config.openai_base_url.as_ref(), key, config.openai_model.clone())?;
            return Ok(Self::OpenAi(Box::new(provider)));
        }
        Ok(Self::Template)
    }

    /// Its name in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Anthropic(_) => "anthropic",
            Self::OpenAi(_) => "openai",
        }
    }

    /// Drafts one message. A follow-up by mail keeps the subject of the first message, so that it stays in its thread.
    pub async fn draft(&self, request: &Request, now: DateTime<Utc>) -> Result<Drafted, DraftError> {
        let drafted = match self {
            Self::Template => template::draft(request),
            Self::Anthropic(provider) => provider.draft(&Prompt::of(request), now).await?,
            Self::OpenAi(provider) => provider.draft(&Prompt::of(request), now).await?,
        };
        Ok(match thread_subject(request) {
            Some(subject) => Drafted { subject, ..drafted },
            None => drafted,
        })
    }
}

/// `Re: ` and the subject of the first message that was sent, once there is one.
fn thread_subject(request: &Request) -> Option<String> {
    if request.step == 0 || request.channel != Channel::Email {
        return None;
    }
    let sent =
        request.earlier.iter().find(|m| m.direction == Direction::Outbound && m.sending_at.is_some())?;
    let subject = sent.subject.as_deref().map(str::trim).filter(|subject| !subject.is_empty())?;
    Some(message::follow_up_subject(subject))
}

impl Drafted {
    /// A draft from a provider's JSON: `subject` and `content`, both texts, neither empty, within limits.
    fn from_json(json: Value, model: String) -> Result<Self, DraftError> {
        #[derive(Deserialize)]
        struct Answer {
            subject: String,
            content: String,
        }
        let answer: Answer =
            serde_json::from_value(json).map_err(|error| DraftError::BadAnswer(error.to_string()))?;
        let subject: String = answer.subject.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let content: String = answer
            .content
            .replace("\r\n", "\n")
            .chars()
            .filter(|c| !c.is_control() || matches!(c, '\n' | '\t'))
            .collect();
        let drafted = Self { subject: subject.trim().to_owned(), content: content.trim().to_owned(), model };
        let limits = [
            ("subject", drafted.subject.chars().count(), SUBJECT_CHARS_MAX),
            ("content", drafted.content.chars().count(), CONTENT_CHARS_MAX),
        ];
        for (field, chars, max) in limits {
            if chars == 0 || chars > max {
                return Err(DraftError::BadAnswer(format!(
                    "the {field} has {chars} characters, not 1 to {max}"
                )));
            }
        }
        Ok(drafted)
    }
}

fn count_tokens(provider: &'static str, input: u64, output: u64) {
    metrics::counter!("iris_draft_tokens_total", "provider" => provider, "direction" => "input")
        .increment(input);
    metrics::counter!("iris_draft_tokens_total", "provider" => provider, "direction" => "output")
        .increment(output);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_draft_has_a_subject_and_a_text_within_limits() {
        let draft = |subject: &str, content: &str| {
            Drafted::from_json(json!({"subject": subject, "content": content}), "m".into())
        };
        let good = draft(" Hello\r\nBcc: x ", "Hi,\r\n\r\nwe…\0 ").unwrap();
        assert_eq!((good.subject.as_str(), good.content.as_str()), ("Hello  Bcc: x", "Hi,\n\nwe…"));
        for (subject, content) in
            [("", "x"), ("x", " \n "), (&"x".repeat(201), "x"), ("x", &"x".repeat(10_001))]
        {
            assert!(matches!(draft(subject, content), Err(DraftError::BadAnswer(_))));
        }
        for bad in
            [json!({}), json!([]), json!("x"), json!({"subject": 1, "content": "x"}), json!({"subject": "x"})]
        {
            assert!(matches!(Drafted::from_json(bad, "m".into()), Err(DraftError::BadAnswer(_))));
        }
    }
}
