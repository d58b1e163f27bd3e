//! Webhook receivers: `verify` checks an attempt, `ledger` counts it, and this module decides the answer.

pub mod ledger;
pub mod verify;

use std::collections::HashMap;

use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::sign::standard_key;
use ledger::{Attempt, Ledger};
use verify::{Secret, header, ids, verify};

/// Receivers that one world holds.
const HOOKS_MAX: usize = 256;
/// A receiver's name has at most this many characters.
const NAME_CHARS_MAX: usize = 64;

/// How a receiver answers attempts that verify.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Behaviour {
    /// 200.
    #[default]
    Ok,
    /// A status, for the first `times` attempts of each delivery or for all.
    Status {
        /// The status.
        code: u16,
        /// Attempts per delivery that get it; without it all do.
        times: Option<u32>,
        /// The Retry-After of those answers, in seconds.
        retry_after: Option<u64>,
    },
    /// No answer: the connection stays open, whether the attempt verifies or not.
    Hang,
    /// 307 to another URL.
    Redirect {
        /// The Location.
        to: String,
    },
    /// 410.
    Gone,
}

/// What `PUT /hooks/{name}` changes; absent fields stay.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// The secret, `whsec_` and base64.
    pub secret: Option<String>,
    /// How attempts are answered.
    pub behaviour: Option<Behaviour>,
}

/// The answer to an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A status with an optional Retry-After in seconds.
    Status(StatusCode, Option<u64>),
    /// 307 with a Location.
    Redirect(String),
    /// None at all.
    Hang,
}

impl Answer {
    /// The status that the ledger notes; 0 for no answer.
    pub fn status(&self) -> u16 {
        match self {
            Self::Status(status, _) => status.as_u16(),
            Self::Redirect(_) => StatusCode::TEMPORARY_REDIRECT.as_u16(),
            Self::Hang => 0,
        }
    }
}

/// Why a registration or an attempt is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The name is empty, too long, or one too many.
    Name,
    /// The secret is not `whsec_` and base64.
    Secret,
    /// The behaviour's status or location cannot be sent.
    Behaviour,
    /// The ledger of this hook is full.
    Full,
}

#[derive(Default)]
struct Hook {
    secret: Option<Secret>,
    behaviour: Behaviour,
    ledger: Ledger,
}

/// All receivers of a world, by name.
#[derive(Default)]
pub struct Hooks {
    hooks: HashMap<String, Hook>,
}

/// One line of `hooks.jsonl`.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// When the attempt came.
    pub time_ms: u64,
    /// The receiver.
    pub hook: String,
    /// `X-Iris-Delivery`.
    pub delivery: String,
    /// The event's id.
    pub event_id: String,
    /// The event's type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// `data.id`.
    pub resource_id: String,
    /// Whether every check passed.
    pub verified: bool,
    /// The status answered; 0 for none.
    pub status: u16,
}

impl Hooks {
    /// Registers or changes a receiver.
    pub fn register(&mut self, name: &str, registration: Registration) -> Result<(), Refusal> {
        let secret = registration
            .secret
            .map(|text| match standard_key(&text) {
                Some(standard_key) => Ok(Secret { text, standard_key }),
                None => Err(Refusal::Secret),
            })
            .transpose()?;
        if registration.behaviour.as_ref().is_some_and(|behaviour| !behaviour.is_sendable()) {
            return Err(Refusal::Behaviour);
        }
        let hook = self.hook(name)?;
        if secret.is_some() {
            hook.secret = secret;
        }
        if let Some(behaviour) = registration.behaviour {
            hook.behaviour = behaviour;
        }
        Ok(())
    }

    /// The secret to check an attempt with; the check itself needs no lock.
    pub fn secret(&mut self, name: &str) -> Result<Option<Secret>, Refusal> {
        Ok(self.hook(name)?.secret.clone())
    }

    /// Records a checked attempt and decides its answer.
    pub fn record(&mut self, name: &str, checked: Checked) -> Result<(Answer, Line), Refusal> {
        let hook = self.hook(name)?;
        if hook.ledger.is_full() {
            return Err(Refusal::Full);
        }
        let Checked { time_ms, headers, body, ids, verdict } = checked;
        let delivery = header(&headers, "x-iris-delivery").to_owned();
        let attempt_number = hook.ledger.count_attempt(&delivery);
        let answer = hook.behaviour.answer(verdict.is_ok(), attempt_number);
        let line = Line {
            time_ms,
            hook: name.to_owned(),
            delivery,
            event_id: ids.event_id,
            event_type: ids.event_type,
            resource_id: ids.resource_id,
            verified: verdict.is_ok(),
            status: answer.status(),
        };
        hook.ledger.record(Attempt { line: &line, headers, body, failure: verdict.err() });
        Ok((answer, line))
    }

    /// The ledger of a receiver that exists.
    pub fn find_ledger(&self, name: &str) -> Option<&Ledger> {
        self.hooks.get(name).map(|hook| &hook.ledger)
    }

    fn hook(&mut self, name: &str) -> Result<&mut Hook, Refusal> {
        let full = self.hooks.len() >= HOOKS_MAX;
        let bad = name.is_empty() || name.chars().count() > NAME_CHARS_MAX;
        if bad || (full && !self.hooks.contains_key(name)) {
            return Err(Refusal::Name);
        }
        Ok(self.hooks.entry(name.to_owned()).or_default())
    }
}

impl Behaviour {
    fn is_sendable(&self) -> bool {
        match self {
            // Below 200 an answer is not final, and HTTP forbids some of them in this place.
            Self::Status { code, .. } => (200..=599).contains(code),
            Self::Redirect { to } => axum::http::HeaderValue::from_str(to).is_ok(),
            Self::Ok | Self::Hang | Self::Gone => true,
        }
    }

    fn answer(&self, verified: bool, attempt_number: u32) -> Answer {
        let ok = Answer::Status(StatusCode::OK, None);
        match self {
            Self::Hang => Answer::Hang,
            _ if !verified => Answer::Status(StatusCode::UNAUTHORIZED, None),
            Self::Ok => ok,
            Self::Status { code, times, retry_after } => {
                if times.is_some_and(|times| attempt_number > times) {
                    return ok;
                }
                let status = StatusCode::from_u16(*code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Answer::Status(status, *retry_after)
            }
            Self::Redirect { to } => Answer::Redirect(to.clone()),
            Self::Gone => Answer::Status(StatusCode::GONE, None),
        }
    }
}

/// An attempt after its checks.
pub struct Checked {
    time_ms: u64,
    headers: HeaderMap,
    body: Bytes,
    ids: verify::Ids,
    verdict: Result<(), String>,
}

impl Checked {
    /// Checks an attempt that came at `time_ms`.
    pub fn new(secret: Option<&Secret>, headers: HeaderMap, body: Bytes, time_ms: u64) -> Self {
        let verdict = verify(secret, &headers, &body, time_ms / 1_000);
        Self { time_ms, ids: ids(&body), headers, body, verdict }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behaviour(json: &str) -> Behaviour {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_status_lasts_for_its_times_of_each_delivery() {
        let twice = behaviour(r#"{"kind":"status","code":503,"times":2,"retry_after":7}"#);
        let failing = Answer::Status(StatusCode::SERVICE_UNAVAILABLE, Some(7));
        assert_eq!(twice.answer(true, 1), failing);
        assert_eq!(twice.answer(true, 2), failing);
        assert_eq!(twice.answer(true, 3), Answer::Status(StatusCode::OK, None));
        assert_eq!(twice.answer(false, 1), Answer::Status(StatusCode::UNAUTHORIZED, None));
        let always = behaviour(r#"{"kind":"status","code":500}"#);
        assert_eq!(always.answer(true, 99).status(), 500);
    }

    #[test]
    fn every_kind_has_its_answer() {
        assert_eq!(behaviour(r#"{"kind":"ok"}"#).answer(true, 1).status(), 200);
        assert_eq!(behaviour(r#"{"kind":"gone"}"#).answer(true, 1).status(), 410);
        assert_eq!(behaviour(r#"{"kind":"hang"}"#).answer(false, 1), Answer::Hang);
        let redirect = behaviour(r#"{"kind":"redirect","to":"http://127.0.0.1/"}"#);
        assert_eq!(redirect.answer(true, 1), Answer::Redirect("http://127.0.0.1/".to_owned()));
    }

    #[test]
    fn a_registration_is_checked_and_changes_only_what_it_names() {
        let mut hooks = Hooks::default();
        let secret = Registration { secret: Some("whsec_aXJpcw==".to_owned()), behaviour: None };
        assert_eq!(hooks.register("a", secret), Ok(()));
        let gone = Registration { secret: None, behaviour: Some(Behaviour::Gone) };
        assert_eq!(hooks.register("a", gone), Ok(()));
        assert!(hooks.secret("a").unwrap().is_some());
        let plain = Registration { secret: Some("iris".to_owned()), behaviour: None };
        assert_eq!(hooks.register("a", plain), Err(Refusal::Secret));
        let odd = Registration { behaviour: Some(behaviour(r#"{"kind":"status","code":99}"#)), secret: None };
        assert_eq!(hooks.register("a", odd), Err(Refusal::Behaviour));
        assert_eq!(hooks.register("", Registration::default()), Err(Refusal::Name));
    }
}
