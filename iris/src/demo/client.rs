//! What the demo asks of the API and of the outside, over HTTP. Every call is made again until it is answered: the role
//! that should answer may just have been killed.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// How long one call may take.
const CALL: Duration = Duration::from_secs(30);
/// How long a call is made again.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause between.
const PAUSE: Duration = Duration::from_millis(100);

/// A client of the API and of the outside.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    api: String,
    world: String,
    key: String,
}

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Value,
}

impl Answer {
    /// The error's code, or "".
    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    /// The data of a success.
    pub fn data(self) -> anyhow::Result<Value> {
        if !self.status.is_success() {
            bail!("the API answered {} with {}", self.status, self.body);
        }
        Ok(self.body["data"].clone())
    }
}

impl Client {
    /// A client with an admin key.
    pub fn new(api: &str, world: &str, key: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(CALL).no_proxy().build()?;
        Ok(Self { http, api: api.into(), world: world.into(), key: key.into() })
    }

    /// The URL of a webhook receiver of the outside.
    pub fn hook_url(&self, name: &str) -> String {
        format!("{}/hooks/{name}", self.world)
    }

    /// Calls the API until it answers, with anything but 502, 503 and 504.
    pub async fn api(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let url = format!("{}{path}", self.api);
        let started = Instant::now();
        loop {
            let answer = self.once(&method, &url, body).await;
            match answer {
                Ok(answer) if !matches!(answer.status.as_u16(), 502..=504) => return Ok(answer),
                Ok(answer) if started.elapsed() > PATIENCE => {
                    bail!("{method} {path} is answered {}", answer.status)
                }
                Err(error) if started.elapsed() > PATIENCE => {
                    return Err(error).with_context(|| format!("{method} {path} is not answered"));
                }
                Ok(_) | Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn once(&self, method: &Method, url: &str, body: Option<&Value>) -> reqwest::Result<Answer> {
        let mut request = self.http.request(method.clone(), url).bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        Ok(Answer { status: response.status(), body: response.json().await.unwrap_or(Value::Null) })
    }

    /// One look at the API, for the bars: no answer is no news.
    pub async fn glance(&self, path: &str) -> Option<Value> {
        let answer = self.once(&Method::GET, &format!("{}{path}", self.api), None).await.ok()?;
        answer.data().ok()
    }

    /// Asks the outside.
    pub async fn world(&self, path: &str) -> anyhow::Result<Value> {
        let response = self.http.get(format!("{}{path}", self.world)).send().await?;
        Ok(response.error_for_status()?.json().await?)
    }

    /// Tells a webhook receiver of the outside the secret to verify with.
    pub async fn register_hook(&self, name: &str, secret: &str) -> anyhow::Result<()> {
        let response = self.http.put(self.hook_url(name)).json(&json!({"secret": secret})).send().await?;
        response.error_for_status()?;
        Ok(())
    }
}
