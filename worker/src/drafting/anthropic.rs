//! Drafts by the Anthropic Messages API. The answer is asked for as the input of one tool, so that it is JSON of our
//! shape and nothing else.

use chrono::{DateTime, Utc};
use reqwest::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::{DraftError, Drafted, TOKENS_MAX, http, prompt::Prompt};
use crate::config::Secret;

/// The version of the API that this code speaks.
const API_VERSION: &str = "2023-06-01";
/// The tool whose input is the draft.
const TOOL: &str = "write_message";

/// The Messages API with a key and a model.
#[derive(Debug, Clone)]
pub struct Anthropic {
    client: Client,
    endpoint: Url,
    key: Secret,
    model: String,
}

#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    content: Vec<Block>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    stop_reason: Option<String>,
    #[serde(default)]
    usage: Usage,
}

#[derive(Debug, Deserialize)]
struct Block {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    input: Value,
}

#[derive(Debug, Default, Deserialize)]
struct Usage {
    #[serde(default)]
    input_tokens: u64,
    #[serde(default)]
    output_tokens: u64,
}

impl Anthropic {
    /// The API below `base`, with a key.
    pub fn new(base: &Url, key: Secret, model: String) -> anyhow::Result<Self> {
        Ok(Self { client: http::client()?, endpoint: base.join("v1/messages")?, key, model })
    }

    /// One request for one draft.
    pub async fn draft(&self, prompt: &Prompt, now: DateTime<Utc>) -> Result<Drafted, DraftError> {
        let request = self
            .client
            .post(self.endpoint.clone())
            .header("x-api-key", self.key.expose())
            .header("anthropic-version", API_VERSION)
            .json(&self.body(prompt));
        let answer: Answer = http::ask(request, now).await?;
        super::count_tokens("anthropic", answer.usage.input_tokens, answer.usage.output_tokens);
        let Some(block) =
            answer.content.into_iter().find(|b| b.kind == "tool_use" && b.name.as_deref() == Some(TOOL))
        else {
            let reason = answer.stop_reason.unwrap_or_default();
            return Err(DraftError::BadAnswer(format!(
                "the answer holds no draft, it stopped for {reason:?}"
            )));
        };
        Drafted::from_json(block.input, answer.model.unwrap_or_else(|| self.model.clone()))
    }

    fn body(&self, prompt: &Prompt) -> Value {
        json!({
            "model": self.model,
            "max_tokens": TOKENS_MAX,
            "system": prompt.system,
            "messages": [{"role": "user", "content": prompt.user}],
            "tools": [{
                "name": TOOL,
                "description": "Hands over the finished message.",
                "input_schema": {
                    "type": "object",
                    "properties": {
                        "subject": {"type": "string", "description": "The subject line, at most 120 characters."},
                        "content": {"type": "string", "description": "The plain text of the message."}
                    },
                    "required": ["subject", "content"]
                }
            }],
            "tool_choice": {"type": "tool", "name": TOOL}
        })
    }
}
