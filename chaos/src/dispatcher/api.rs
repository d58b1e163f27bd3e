//! What is asked of the API, over HTTP.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

/// How long one call may take.
const CALL: Duration = Duration::from_secs(10);
/// How long a call is made again, and the pause before that.
const PATIENCE: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(200);

/// A client of the API.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

impl Client {
    /// A client of the API at an address.
    pub fn new(address: &str) -> anyhow::Result<Self> {
        // The process's own; another may have been there first, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(CALL).no_proxy().build()?;
        Ok(Self { http, base: format!("http://{address}") })
    }

    /// One call.
    pub async fn call(
        &self,
        key: &str,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> reqwest::Result<Answer> {
        let request = self.http.request(method.clone(), format!("{}{path}", self.base)).bearer_auth(key);
        let request = if let Some(body) = body { request.json(body) } else { request };
        let response = request.send().await?;
        let status = response.status();
        // An answer that breaks off is none.
        Ok(Answer { status, body: response.json().await? })
    }

    /// Calls until the answer is a success: the API may just have been killed, or ask for patience. What it refuses is an
    /// error.
    pub async fn insist(
        &self,
        key: &str,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.call(key, method, path, body).await;
            let pause = match &answer {
                Ok(answer) if answer.status.is_success() => return Ok(answer.body.clone()),
                Ok(answer) if answer.status == StatusCode::TOO_MANY_REQUESTS => {
                    Duration::from_secs(answer.body["retryAfter"].as_u64().unwrap_or(1))
                }
                Ok(answer) if answer.status.is_client_error() => {
                    bail!("{method} {path} is answered {} with {}", answer.status, answer.body)
                }
                Ok(_) | Err(_) => PAUSE,
            };
            if Instant::now() + pause > deadline {
                let answer = answer.with_context(|| format!("{method} {path} is not answered"))?;
                bail!("{method} {path} is answered {}", answer.status);
            }
            tokio::time::sleep(pause).await;
        }
    }
}
