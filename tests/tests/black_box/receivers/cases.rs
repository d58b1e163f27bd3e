//! A captured request, and what somebody else could make of it.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::capture::Captured;

const MINUTE: u64 = 60;
const OTHER_SECRET: &str = "whsec_b3RoZXIgd29ybGQgdGVzdCBzZWNyZXQga2V5IDAwMDE=";

/// A request, and whether a receiver has to accept it.
pub struct Case {
    /// What is right or wrong with it.
    pub what: &'static str,
    /// The request; its secret is what the receiver knows.
    pub request: Captured,
    /// Whether it is to be accepted.
    pub accepted: bool,
    /// Whether only a receiver that looks at the time can tell.
    pub about_age: bool,
}

/// One of the two signatures that a request has.
struct Scheme {
    timestamp: &'static str,
    signature: &'static str,
    sign: fn(secret: &str, request: &Captured) -> String,
}

/// Cases for X-Iris-Signature.
pub fn iris(request: &Captured) -> Vec<Case> {
    let scheme =
        Scheme { timestamp: "x-iris-timestamp", signature: "x-iris-signature", sign: iris_signature };
    let mut cases = scheme.cases(request);
    for (what, broken) in [
        ("a signature cut short", request.headers[scheme.signature][..63].to_owned()),
        ("two signatures in one", request.headers[scheme.signature].repeat(2)),
        ("a signature outside of ASCII", "é".repeat(64)),
        ("a signature of as many bytes outside of ASCII", "é".repeat(32)),
    ] {
        cases.push(Case::refused(what, request.with(scheme.signature, &broken)));
    }
    for (what, timestamp) in [
        ("a timestamp that is no number", "soon".to_owned()),
        ("a timestamp beyond all clocks", "9".repeat(400)),
    ] {
        let signed = scheme.signed(&request.with(scheme.timestamp, &timestamp));
        cases.push(Case { about_age: true, ..Case::refused(what, signed) });
    }
    cases
}

/// Cases for the headers of Standard Webhooks.
pub fn standard(request: &Captured) -> Vec<Case> {
    let scheme =
        Scheme { timestamp: "webhook-timestamp", signature: "webhook-signature", sign: standard_signature };
    let mut cases = scheme.cases(request);
    let other = request.with("webhook-id", "01900000-0000-7000-8000-000000000001");
    cases.push(Case::refused("another id", other));
    cases.push(Case::refused("no id", request.without("webhook-id")));
    cases
}

/// Cases of a request that is signed by two secrets, for a receiver that knows this one of them.
pub fn overlap(request: &Captured, secret: &str) -> Vec<Case> {
    let request = Captured { secret: secret.to_owned(), ..request.clone() };
    let own = standard_signature(secret, &request);
    let both = &request.headers["webhook-signature"];
    let other = both.split(' ').find(|signature| **signature != own).expect("another signature");
    let only = |signature: &str| request.with("webhook-signature", signature);
    vec![
        Case::accepted("signed by both secrets", request.clone()),
        Case::accepted("signed by the one that is known", only(&own)),
        Case::refused("signed by the other", only(other)),
        Case::refused(
            "signed by both, with another body",
            Captured { body: b"{}".to_vec(), ..request.clone() },
        ),
    ]
}

impl Scheme {
    fn cases(&self, request: &Captured) -> Vec<Case> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
        let sent_at: u64 = request.headers[self.timestamp].parse().expect("a number");
        let at = |timestamp: u64| request.with(self.timestamp, &timestamp.to_string());
        let other_body = |body: String| Captured { body: body.into_bytes(), ..request.clone() };
        let text = String::from_utf8(request.body.clone()).expect("a body in UTF-8");
        let json: Value = serde_json::from_str(&text).expect("a body in JSON");
        let digit = other_digit(&request.headers[self.signature]);
        let foreign = Captured { secret: OTHER_SECRET.to_owned(), ..request.clone() };
        let foreign = Captured { secret: request.secret.clone(), ..self.signed(&foreign) };
        let aged = |case: Case| Case { about_age: true, ..case };
        vec![
            Case::accepted("as it came", request.clone()),
            Case::accepted("signed again by the test", self.signed(request)),
            Case::refused("another body", other_body(text.replace("\"draft\"", "\"spent\""))),
            Case::refused("a body written anew", other_body(format!("{json:#}"))),
            Case::refused("a body with a line end", other_body(format!("{text}\n"))),
            Case::refused("another timestamp", at(sent_at + 1)),
            Case::refused("no timestamp", request.without(self.timestamp)),
            Case::refused("another digit in the signature", request.with(self.signature, &digit)),
            Case::refused("an empty signature", request.with(self.signature, "")),
            Case::refused("no signature", request.without(self.signature)),
            Case::refused("signed with another secret", foreign),
            Case::accepted("signed four minutes ago", self.signed(&at(now - 4 * MINUTE))),
            aged(Case::refused("signed ten minutes ago", self.signed(&at(now - 10 * MINUTE)))),
            aged(Case::refused("signed in ten minutes", self.signed(&at(now + 10 * MINUTE)))),
        ]
    }

    fn signed(&self, request: &Captured) -> Captured {
        let signature = (self.sign)(&request.secret, request);
        request.with(self.signature, &signature)
    }
}

impl Case {
    fn accepted(what: &'static str, request: Captured) -> Self {
        Self { what, request, accepted: true, about_age: false }
    }

    fn refused(what: &'static str, request: Captured) -> Self {
        Self { what, request, accepted: false, about_age: false }
    }

    /// The request as the judges read it.
    pub fn to_json(&self) -> Value {
        json!({"headers": self.request.headers, "body": hex::encode(&self.request.body)})
    }
}

impl Captured {
    fn with(&self, name: &str, value: &str) -> Self {
        let mut changed = self.clone();
        changed.headers.insert(name.to_owned(), value.to_owned());
        changed
    }

    fn without(&self, name: &str) -> Self {
        let mut changed = self.clone();
        changed.headers.remove(name).expect("the header was there");
        changed
    }
}

/// The signature with one digit of another value in its middle, where base64 has no bits to spare.
fn other_digit(signature: &str) -> String {
    let middle = signature.len() / 2;
    let other = if signature[middle..].starts_with('0') { "1" } else { "0" };
    format!("{}{other}{}", &signature[..middle], &signature[middle + 1..])
}

/// What X-Iris-Signature is of a request.
pub fn iris_signature(secret: &str, request: &Captured) -> String {
    let timestamp = request.headers["x-iris-timestamp"].as_bytes();
    hex::encode(digest(secret.as_bytes(), &[timestamp, b".", &request.body]))
}

/// What Webhook-Signature is of a request that is signed by one secret.
pub fn standard_signature(secret: &str, request: &Captured) -> String {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").expect("a secret")).expect("base64");
    let id = request.headers["webhook-id"].as_bytes();
    let timestamp = request.headers["webhook-timestamp"].as_bytes();
    format!("v1,{}", STANDARD.encode(digest(&key, &[id, b".", timestamp, b".", &request.body])))
}

fn digest(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any key serves");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}
