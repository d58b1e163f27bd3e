//! The worker's settings.

use std::{fmt, num::NonZeroU16, str::FromStr, time::Duration};

use clap::Args;
use shared::config::parse_duration;
use url::Url;

/// How many jobs run at once in one worker, how long a mail server may think, and who drafts.
#[derive(Debug, Clone, Args)]
pub struct WorkerConfig {
    /// How many messages a worker sends at once.
    #[arg(long, env = "IRIS_WORKER_SLOTS", default_value = "32")]
    pub send_slots: NonZeroU16,

    /// How many messages a worker drafts at once.
    #[arg(long, env = "IRIS_WORKER_DRAFT_SLOTS", default_value = "16")]
    pub draft_slots: NonZeroU16,

    /// How many discovery searches a worker runs at once.
    #[arg(long, env = "IRIS_WORKER_DISCOVER_SLOTS", default_value = "2")]
    pub discover_slots: NonZeroU16,

    /// How many messages one mailbox sends at once, over all workers; mail servers refuse more connections than they like.
    #[arg(long, env = "IRIS_SMTP_CONNECTIONS", default_value = "16")]
    pub smtp_connections: NonZeroU16,

    /// How long a mail server may take to answer once it has a whole message. RFC 5321 asks for 10m; a message without
    /// an answer by then is `unknown`.
    #[arg(long, env = "IRIS_SMTP_ANSWER_TIMEOUT", default_value = "60s", value_parser = parse_duration)]
    pub smtp_answer_timeout: Duration,

    /// Who drafts and where; without a provider the built-in templates do.
    #[command(flatten)]
    pub drafting: DraftingConfig,
}

/// Which provider drafts messages. Anthropic when its key is set, else an OpenAI-compatible one when its key or address
/// is set, else the built-in templates, which need no network.
#[derive(Debug, Clone, Args)]
pub struct DraftingConfig {
    /// An Anthropic API key; with it, Anthropic drafts.
    #[arg(long, env = "IRIS_ANTHROPIC_API_KEY", hide_env_values = true)]
    pub anthropic_api_key: Option<Secret>,

    /// The Anthropic model that drafts.
    #[arg(long, env = "IRIS_ANTHROPIC_MODEL", default_value = "claude-sonnet-4-5")]
    pub anthropic_model: String,

    /// Where the Anthropic API is.
    #[arg(long, env = "IRIS_ANTHROPIC_BASE_URL", default_value = "https://api.anthropic.com", value_parser = parse_base_url)]
    pub anthropic_base_url: Url,

    /// Where an OpenAI-compatible API is, up to and with its version, such as <http://localhost:11434/v1>; with it or the
    /// key set, that API drafts.
    #[arg(long, env = "IRIS_OPENAI_BASE_URL", value_parser = parse_base_url)]
    pub openai_base_url: Option<Url>,

    /// The key of the OpenAI-compatible API; a server of your own may need none.
    #[arg(long, env = "IRIS_OPENAI_API_KEY", hide_env_values = true)]
    pub openai_api_key: Option<Secret>,

    /// The model of the OpenAI-compatible API that drafts.
    #[arg(long, env = "IRIS_OPENAI_MODEL", default_value = "gpt-4o-mini")]
    pub openai_model: String,
}

/// A setting that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for the one request header it is for.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.is_empty() || text.len() > SECRET_BYTES_MAX || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(format!("must be 1 to {SECRET_BYTES_MAX} visible ASCII characters"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// It travels in a request header, and servers take 8 KiB of those.
const SECRET_BYTES_MAX: usize = 4096;

/// An http or https address to which paths are added.
fn parse_base_url(text: &str) -> Result<Url, String> {
    let mut url: Url = text.parse().map_err(|error| format!("is not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("must begin with http:// or https://".into());
    }
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err("must have no credentials, query or fragment".into());
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        config: WorkerConfig,
    }

    #[test]
    fn secrets_are_never_shown() {
        use clap::Parser;
        let arguments =
            ["worker", "--anthropic-api-key", "sk-ant-very-secret", "--openai-api-key", "sk-also"];
        let config = Program::try_parse_from(arguments).map_err(|e| e.to_string()).unwrap().config;
        let shown = format!("{config:?}");
        assert!(!shown.contains("very-secret") && !shown.contains("sk-also"), "{shown}");
        assert_eq!(config.drafting.anthropic_api_key.unwrap().expose(), "sk-ant-very-secret");
    }

    #[test]
    fn base_urls_end_in_a_slash_and_carry_nothing_else() {
        assert_eq!(parse_base_url("http://localhost:1/v1").unwrap().as_str(), "http://localhost:1/v1/");
        assert_eq!(parse_base_url("https://api.example.com").unwrap().as_str(), "https://api.example.com/");
        for bad in ["", "localhost", "ftp://a/", "http://user:pass@a/", "http://a/?x=1", "http://a/#x"] {
            assert!(parse_base_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn slots_are_never_zero() {
        use clap::Parser;
        assert!(Program::try_parse_from(["worker", "--send-slots", "0"]).is_err());
        assert!(Program::try_parse_from(["worker", "--smtp-answer-timeout", "0s"]).is_err());
    }
}
