//! Drafts by an OpenAI-compatible chat completions API: OpenAI's, or a server of one's own.

use chrono::{DateTime, Utc};
use reqwest::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::{DraftError, Drafted, TOKENS_MAX, http, prompt::Prompt};
use crate::config::Secret;

/// OpenAI's own API, for a key without an address.
const OPENAI_BASE_URL: &str = "https://api.openai.com/v1/";

/// The chat completions of one server with a model.
#[derive(Debug, Clone)]
pub struct OpenAi {
    client: Client,
    endpoint: Url,
    key: Option<Secret>,
    model: String,
}

#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    message: Message,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Message {
    #[serde(default)]
    content: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

impl OpenAi {
    /// The API below `base`, OpenAI's unless given.
    pub fn new(base: Option<&Url>, key: Option<Secret>, model: String) -> anyhow::Result<Self> {
        let base = base.cloned().map_or_else(|| OPENAI_BASE_URL.parse(), Ok)?;
        Ok(Self { client: http::client()?, endpoint: base.join("chat/completions")?, key, model })
    }

    /// One request for one draft.
    pub async fn draft(&self, prompt: &Prompt, now: DateTime<Utc>) -> Result<Drafted, DraftError> {
        let mut request = self.client.post(self.endpoint.clone()).json(&self.body(prompt));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key.expose());
        }
        let answer: Answer = http::ask(request, now).await?;
        let usage = answer.usage.unwrap_or_default();
        super::count_tokens("openai", usage.prompt_tokens, usage.completion_tokens);
        let Some(choice) = answer.choices.into_iter().next() else {
            return Err(DraftError::BadAnswer("the answer has no choice".into()));
        };
        let Some(text) = choice.message.content.filter(|text| !text.trim().is_empty()) else {
            let reason = choice.finish_reason.unwrap_or_default();
            return Err(DraftError::BadAnswer(format!("the answer is empty, it stopped for {reason:?}")));
        };
        let draft = serde_json::from_str(unfenced(&text))
            .map_err(|error| DraftError::BadAnswer(format!("the draft is no JSON: {error}")))?;
        Drafted::from_json(draft, answer.model.unwrap_or_else(|| self.model.clone()))
    }

    fn body(&self, prompt: &Prompt) -> Value {
        json!({
            "model": self.model,
            "max_tokens": TOKENS_MAX,
            "response_format": {"type": "json_object"},
            "messages": [
                {"role": "system", "content": prompt.system},
                {"role": "user", "content": prompt.user}
            ]
        })
    }
}

/// Small models put a code fence around their JSON even when told not to.
fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let inner = text.strip_prefix("```json").or_else(|| text.strip_prefix("```"));
    inner.and_then(|inner| inner.strip_suffix("```")).map_or(text, str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_taken_off() {
        for text in ["{\"a\":1}", " {\"a\":1}\n", "```json\n{\"a\":1}\n```", "```\n{\"a\":1}```"] {
            assert_eq!(unfenced(text), "{\"a\":1}", "{text:?}");
        }
        assert_eq!(unfenced("```json\n{"), "```json\n{");
    }
}
