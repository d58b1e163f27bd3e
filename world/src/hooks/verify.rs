//! Checks of one webhook attempt against the wire contract, from its text alone.

use axum::http::HeaderMap;
use chrono::DateTime;
use serde_json::Value;

use crate::sign::{iris_verify, standard_verify};

/// How far a timestamp may be from now.
const TOLERANCE_SECS: u64 = 5 * 60;
/// The user agent, exactly.
const USER_AGENT: &str = "Iris-Webhooks/1.0";

/// The headers that are checked, and kept with the body.
pub const HEADERS: [&str; 8] = [
    "x-iris-signature",
    "x-iris-timestamp",
    "x-iris-delivery",
    "user-agent",
    "content-type",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
];

/// A registered secret in both of its readings.
#[derive(Clone, Debug)]
pub struct Secret {
    /// The whole text, whose UTF-8 is the key of `X-Iris-Signature`.
    pub text: String,
    /// The decoded part after `whsec_`, the key of `webhook-signature`.
    pub standard_key: Vec<u8>,
}

/// The ids in a body; empty where the body has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// The event's id.
    pub event_id: String,
    /// The event's type.
    pub event_type: String,
    /// `data.id`, the resource that the event is about.
    pub resource_id: String,
}

/// A header's text, empty if it is absent or not ASCII.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Reads the ids of a body, as far as it has them.
pub fn ids(body: &[u8]) -> Ids {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |pointer| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ids { event_id: text("/id"), event_type: text("/event"), resource_id: text("/data/id") }
}

/// Checks an attempt; the error says what is wrong first.
pub fn verify(
    secret: Option<&Secret>,
    headers: &HeaderMap,
    body: &[u8],
    now_secs: u64,
) -> Result<(), String> {
    let secret = secret.ok_or("no secret is registered for this hook")?;
    let timestamp = fresh_timestamp(headers, "x-iris-timestamp", now_secs)?;
    if !iris_verify(&secret.text, timestamp, body, header(headers, "x-iris-signature")) {
        return Err("x-iris-signature does not match".to_owned());
    }
    let delivery = header(headers, "x-iris-delivery");
    if delivery.is_empty() {
        return Err("x-iris-delivery is missing".to_owned());
    }
    let webhook_id = header(headers, "webhook-id");
    if webhook_id != delivery {
        return Err(format!("webhook-id {webhook_id:?} is not x-iris-delivery {delivery:?}"));
    }
    let timestamp = fresh_timestamp(headers, "webhook-timestamp", now_secs)?;
    let signatures = header(headers, "webhook-signature");
    if !standard_verify(&secret.standard_key, webhook_id, timestamp, body, signatures) {
        return Err("webhook-signature does not match".to_owned());
    }
    for (name, wanted) in [("user-agent", USER_AGENT), ("content-type", "application/json")] {
        let found = header(headers, name);
        if found != wanted {
            return Err(format!("{name} is {found:?}, not {wanted:?}"));
        }
    }
    verify_body(body)
}

fn fresh_timestamp<'a>(headers: &'a HeaderMap, name: &str, now_secs: u64) -> Result<&'a str, String> {
    let timestamp = header(headers, name);
    let secs: u64 = timestamp.parse().map_err(|_| format!("{name} {timestamp:?} is no epoch second"))?;
    if secs.abs_diff(now_secs) > TOLERANCE_SECS {
        return Err(format!("{name} {secs} is more than 5 minutes from {now_secs}"));
    }
    Ok(timestamp)
}

fn verify_body(body: &[u8]) -> Result<(), String> {
    let body: Value =
        serde_json::from_slice(body).map_err(|error| format!("the body is no JSON: {error}"))?;
    for field in ["id", "event"] {
        if body.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
            return Err(format!("the body has no {field}"));
        }
    }
    for field in ["timestamp", "created_at"] {
        let time =
            body.get(field).and_then(Value::as_str).ok_or_else(|| format!("the body has no {field}"))?;
        DateTime::parse_from_rfc3339(time)
            .map_err(|error| format!("{field} {time:?} is no ISO 8601 time: {error}"))?;
    }
    if !body.get("data").is_some_and(Value::is_object) {
        return Err("the body has no data object".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;
    use crate::sign::standard_key;

    const SECRET: &str = "whsec_aXJpcyB3b3JsZCB0ZXN0IHNlY3JldCBrZXkgMDE=";
    const NOW: u64 = 1_714_392_000;
    const BODY: &str = r#"{"id":"evt_1","event":"message.sent","timestamp":"2026-04-29T12:00:00.000Z","created_at":"2026-04-29T12:00:00.000Z","data":{"id":"m1"}}"#;
    /// Both made with `openssl dgst -sha256 -mac HMAC` over the texts of the contract.
    const HEX: &str = "5285e5cbf4497e68d600dd2f040ceededa8345fef6d851da9068bd47948aa875";
    const STANDARD: &str = "v1,O5Q6BGxe7hW3ZYSQaJ8XX+o1qW579OiDspw/GQd5Gj0=";

    fn secret() -> Secret {
        Secret { text: SECRET.to_owned(), standard_key: standard_key(SECRET).unwrap() }
    }

    fn headers(changes: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let right = [
            ("x-iris-signature", HEX),
            ("x-iris-timestamp", "1714392000"),
            ("x-iris-delivery", "dlv_1"),
            ("user-agent", USER_AGENT),
            ("content-type", "application/json"),
            ("webhook-id", "dlv_1"),
            ("webhook-timestamp", "1714392000"),
            ("webhook-signature", STANDARD),
        ];
        for (name, value) in right.into_iter().chain(changes.iter().copied()) {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn an_attempt_as_the_contract_says_is_verified() {
        assert_eq!(verify(Some(&secret()), &headers(&[]), BODY.as_bytes(), NOW + 300), Ok(()));
        assert_eq!(
            ids(BODY.as_bytes()),
            Ids {
                event_id: "evt_1".to_owned(),
                event_type: "message.sent".to_owned(),
                resource_id: "m1".to_owned()
            }
        );
    }

    #[test]
    fn every_departure_from_the_contract_is_named() {
        for (change, reason) in [
            (("x-iris-signature", "00"), "x-iris-signature does not match"),
            (("x-iris-timestamp", "1714391999"), "x-iris-signature does not match"),
            (("x-iris-timestamp", "soon"), "x-iris-timestamp \"soon\" is no epoch second"),
            (("x-iris-delivery", ""), "x-iris-delivery is missing"),
            (("webhook-id", "dlv_2"), "webhook-id \"dlv_2\" is not x-iris-delivery \"dlv_1\""),
            (("webhook-signature", "v1,AAAA"), "webhook-signature does not match"),
            (("user-agent", "curl/8"), "user-agent is \"curl/8\", not \"Iris-Webhooks/1.0\""),
            (("content-type", "text/plain"), "content-type is \"text/plain\", not \"application/json\""),
        ] {
            let result = verify(Some(&secret()), &headers(&[change]), BODY.as_bytes(), NOW);
            assert_eq!(result, Err(reason.to_owned()));
        }
        assert!(verify(Some(&secret()), &headers(&[]), BODY.as_bytes(), NOW + 301).is_err());
        assert!(verify(None, &headers(&[]), BODY.as_bytes(), NOW).is_err());
    }

    #[test]
    fn a_body_needs_its_whole_envelope() {
        assert_eq!(verify_body(BODY.as_bytes()), Ok(()));
        for (cut, reason) in [
            (BODY.replace("\"evt_1\"", "1"), "the body has no id"),
            (BODY.replace("\"event\"", "\"type\""), "the body has no event"),
            (BODY.replace("\"created_at\"", "\"created\""), "the body has no created_at"),
            (BODY.replace("\"data\"", "\"payload\""), "the body has no data object"),
        ] {
            assert_eq!(verify_body(cut.as_bytes()), Err(reason.to_owned()));
        }
        assert!(verify_body(b"{").is_err());
    }
}
