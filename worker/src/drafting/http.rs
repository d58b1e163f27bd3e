//! What the providers that live on the network share: one request with limits, and what its failure means.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::{Client, RequestBuilder, Response, StatusCode, header::RETRY_AFTER, redirect};
use serde::de::DeserializeOwned;

use super::DraftError;

/// How long a whole answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer in bytes; a draft has a few thousand.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// The longest Retry-After that is honoured.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// What a provider says, in lower case, when its 400 is about what was asked. Any other 400 stays until somebody acts: an
/// empty account is one at Anthropic, a wrong key at Gemini, a billing limit or a parameter that the model does not know at
/// OpenAI.
const ABOUT_THE_PROMPT: [&str; 10] = [
    "prompt",
    "context length",
    "context_length",
    "context window",
    "input token",
    "too long",
    "too large",
    "content filter",
    "content_filter",
    "content policy",
];
/// How much of a refusal is kept, in characters.
const ERROR_CHARS_MAX: usize = 300;

/// A client that follows no redirect: an API key goes only where the settings say.
pub fn client() -> anyhow::Result<Client> {
    // An error says that the process has a provider already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder()
        .timeout(ANSWER_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(redirect::Policy::none())
        .user_agent(concat!("Iris/", env!("CARGO_PKG_VERSION")))
        .build()?;
    Ok(client)
}

/// Sends a request and reads its answer as JSON. `now` judges a Retry-After that is a date.
pub async fn ask<T: DeserializeOwned>(request: RequestBuilder, now: DateTime<Utc>) -> Result<T, DraftError> {
    let response = request.send().await.map_err(|error| broken(&error))?;
    let status = response.status();
    let after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| retry_after(value, now));
    let body = read(response).await?;
    if status.is_success() {
        return serde_json::from_slice(&body)
            .map_err(|error| DraftError::BadAnswer(format!("the answer cannot be read: {error}")));
    }
    Err(refusal(status, after, &String::from_utf8_lossy(&body)))
}

/// What a status that is no success means. 408, 409, 425 and 429 pass, and so do the server's own failures (529 is
/// Anthropic's "overloaded"). 413 and 422 are about the request, and so is a 400 that says so. A wrong key, an empty
/// account, a model or an address that does not exist stay until somebody changes the settings, and so does whatever else
/// there is.
fn refusal(status: StatusCode, after: Option<Duration>, body: &str) -> DraftError {
    // An answer about the key may repeat it.
    let said = if matches!(status.as_u16(), 401 | 403) { "the key is refused".into() } else { excerpt(body) };
    let error = format!("{status}: {said}");
    match status.as_u16() {
        408 | 409 | 425 | 429 | 500.. => DraftError::Busy { error, after },
        413 | 422 => DraftError::Rejected(error),
        400 if is_about_the_prompt(body) => DraftError::Rejected(error),
        _ => DraftError::Refused(error),
    }
}

fn is_about_the_prompt(body: &str) -> bool {
    let said = body.to_lowercase();
    ABOUT_THE_PROMPT.iter().any(|words| said.contains(words))
}

fn excerpt(body: &str) -> String {
    body.chars().map(|c| if c.is_control() { ' ' } else { c }).take(ERROR_CHARS_MAX).collect()
}

async fn read(mut response: Response) -> Result<Vec<u8>, DraftError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error))? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(DraftError::BadAnswer(format!("the answer has more than {ANSWER_BYTES_MAX} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The chain of an error without its URL, whose host is a setting and whose path says nothing.
fn broken(error: &reqwest::Error) -> DraftError {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let what = if error.is_timeout() { "no answer in time" } else { "the request failed" };
    let text = causes.fold(what.to_owned(), |text, cause| format!("{text}: {cause}"));
    DraftError::Busy { error: text.chars().take(ERROR_CHARS_MAX).collect(), after: None }
}

/// A Retry-After header: seconds or a date (RFC 9110 10.2.3), at most an hour.
fn retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let wait = match value.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => (DateTime::parse_from_rfc2822(value.trim()).ok()?.with_timezone(&Utc) - now)
            .to_std()
            .unwrap_or_default(),
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_up_to_an_hour() {
        let now = DateTime::from_timestamp(1_777_464_000, 0).unwrap();
        let cases = [
            ("7", Some(7)),
            (" 120 ", Some(120)),
            ("999999", Some(3600)),
            ("Wed, 29 Apr 2026 12:00:30 GMT", Some(30)),
            ("Wed, 29 Apr 2026 11:00:00 GMT", Some(0)),
            ("soon", None),
            ("-5", None),
            ("", None),
        ];
        for (value, seconds) in cases {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value:?}");
        }
    }

    #[test]
    fn a_status_says_whether_waiting_helps() {
        for status in [408, 429, 500, 502, 503, 529] {
            assert!(
                matches!(refusal(StatusCode::from_u16(status).unwrap(), None, ""), DraftError::Busy { .. }),
                "{status}"
            );
        }
        for status in [301, 400, 401, 402, 403, 404, 410] {
            assert!(
                matches!(refusal(StatusCode::from_u16(status).unwrap(), None, ""), DraftError::Refused(_)),
                "{status}"
            );
        }
        for status in [413, 422] {
            assert!(
                matches!(refusal(StatusCode::from_u16(status).unwrap(), None, ""), DraftError::Rejected(_)),
                "{status}"
            );
        }
    }

    #[test]
    fn a_bad_request_is_about_the_prompt_only_if_it_says_so() {
        let cases = [
            (
                "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing.",
                false,
            ),
            ("API key not valid. Please pass a valid API key.", false),
            ("Billing hard limit has been reached", false),
            ("Unsupported parameter: 'max_tokens' is not supported with this model.", false),
            ("", false),
            ("prompt is too long: 204521 tokens > 200000 maximum", true),
            ("This model's maximum context length is 8192 tokens.", true),
            ("The input token count (1200000) exceeds the maximum number of tokens allowed (1048575).", true),
            ("{\"error\": {\"code\": \"content_filter\"}}", true),
        ];
        for (body, rejected) in cases {
            let error = refusal(StatusCode::BAD_REQUEST, None, body);
            assert_eq!(matches!(error, DraftError::Rejected(_)), rejected, "{body}");
            assert_eq!(matches!(error, DraftError::Refused(_)), !rejected, "{body}");
        }
    }
}
