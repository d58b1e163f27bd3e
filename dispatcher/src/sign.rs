//! The headers of a request: what a receiver verifies. A change here changes the wire snapshot.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use sha2::Sha256;
use shared::domain::endpoint::SECRET_PREFIX;
use uuid::Uuid;

/// How iris names itself.
const USER_AGENT: &str = "Iris-Webhooks/1.0";

const X_IRIS_DELIVERY: HeaderName = HeaderName::from_static("x-iris-delivery");
const X_IRIS_TIMESTAMP: HeaderName = HeaderName::from_static("x-iris-timestamp");
const X_IRIS_SIGNATURE: HeaderName = HeaderName::from_static("x-iris-signature");
// The three of Standard Webhooks 1.0, so that its libraries verify iris without a line of code.
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// A secret that is not `whsec_` and base64. It is not shown.
#[derive(Debug, thiserror::Error)]
#[error("the endpoint's secret is not whsec_ and base64")]
pub struct BadSecret;

/// An endpoint's secret, ready to sign.
#[derive(Clone)]
pub struct SigningKey {
    iris: Hmac<Sha256>,
    standard: Hmac<Sha256>,
    /// The secret before it, while receivers may know that one alone.
    old: Option<Hmac<Sha256>>,
    /// The endpoint's own headers.
    own: HeaderMap,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

impl SigningKey {
    /// Reads a secret. X-Iris-Signature is keyed by its whole text, webhook-signature by the bytes it encodes.
    pub fn new(secret: &str) -> Result<Self, BadSecret> {
        let iris = Hmac::new_from_slice(secret.as_bytes()).map_err(|_| BadSecret)?;
        Ok(Self { iris, standard: standard_key(secret)?, old: None, own: HeaderMap::new() })
    }

    /// Signs with the secret before this one too. X-Iris-Signature has room for one signature and goes without it.
    pub fn with_old(self, secret: &str) -> Result<Self, BadSecret> {
        Ok(Self { old: Some(standard_key(secret)?), ..self })
    }

    /// Sends headers of the endpoint's own besides; none of them replaces one of ours.
    #[must_use]
    pub fn with_own(self, own: HeaderMap) -> Self {
        Self { own, ..self }
    }

    /// The headers of one attempt, made at `timestamp` (epoch seconds). The delivery's id is the same at every attempt.
    pub fn headers(&self, delivery_id: Uuid, timestamp: i64, body: &[u8]) -> HeaderMap {
        let id = delivery_id.to_string();
        let timestamp = timestamp.to_string();
        let iris = digest(&self.iris, &[timestamp.as_bytes(), b".", body]);
        let standard = |key: &Hmac<Sha256>| {
            let digest = digest(key, &[id.as_bytes(), b".", timestamp.as_bytes(), b".", body]);
            format!("v1,{}", STANDARD.encode(digest))
        };
        let mut signatures = standard(&self.standard);
        if let Some(old) = &self.old {
            signatures.push(' ');
            signatures.push_str(&standard(old));
        }
        let mut headers = self.own.clone();
        headers.extend([
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (header::USER_AGENT, HeaderValue::from_static(USER_AGENT)),
            (X_IRIS_DELIVERY, ascii(id.clone())),
            (X_IRIS_TIMESTAMP, ascii(timestamp.clone())),
            (X_IRIS_SIGNATURE, ascii(hex::encode(iris))),
            (WEBHOOK_ID, ascii(id)),
            (WEBHOOK_TIMESTAMP, ascii(timestamp)),
            (WEBHOOK_SIGNATURE, ascii(signatures)),
        ]);
        headers
    }
}

/// The key of Standard Webhooks: the bytes that a secret encodes.
fn standard_key(secret: &str) -> Result<Hmac<Sha256>, BadSecret> {
    let encoded = secret.strip_prefix(SECRET_PREFIX).ok_or(BadSecret)?;
    let bytes = STANDARD.decode(encoded).map_err(|_| BadSecret)?;
    if bytes.is_empty() {
        return Err(BadSecret);
    }
    Hmac::new_from_slice(&bytes).map_err(|_| BadSecret)
}

fn digest(key: &Hmac<Sha256>, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = key.clone();
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Ids, numbers, hex and base64 are header values as they are.
fn ascii(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_is_the_contracts() {
        let key = SigningKey::new("whsec_aXJpcyB3b3JsZCB0ZXN0IHNlY3JldCBrZXkgMDE=").unwrap();
        let id = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
        let headers = key.headers(id, 1_714_392_000, br#"{"id":"evt_1"}"#);
        let mut lines: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        // The digests were made with `openssl dgst -sha256 -mac HMAC`.
        assert_eq!(
            lines,
            [
                "content-type: application/json",
                "user-agent: Iris-Webhooks/1.0",
                "webhook-id: 01900000-0000-7000-8000-000000000001",
                "webhook-signature: v1,V2N/4WhYmfthzhKWiQhUNyCYPo90DbzaoZQDLG9NEjk=",
                "webhook-timestamp: 1714392000",
                "x-iris-delivery: 01900000-0000-7000-8000-000000000001",
                "x-iris-signature: dc1d4ef3cd2783ad5ec3e0685c2c4dc9b5a4043adf5323b366b9a1dd517468f6",
                "x-iris-timestamp: 1714392000",
            ]
        );
    }

    #[test]
    fn during_an_overlap_the_new_signature_comes_first_and_the_old_one_behind_it() {
        let (old, new) = (
            "whsec_aXJpcyB3b3JsZCB0ZXN0IHNlY3JldCBrZXkgMDE=",
            "whsec_b3RoZXIgd29ybGQgdGVzdCBzZWNyZXQga2V5IDAwMDE=",
        );
        let id = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
        let headers = |key: SigningKey| key.headers(id, 1_714_392_000, br#"{"id":"evt_1"}"#);
        let alone = headers(SigningKey::new(new).unwrap());
        let both = headers(SigningKey::new(new).unwrap().with_old(old).unwrap());
        let new_signature = alone["webhook-signature"].to_str().unwrap();
        // The old one's is that of the test above.
        let expected = format!("{new_signature} v1,V2N/4WhYmfthzhKWiQhUNyCYPo90DbzaoZQDLG9NEjk=");
        assert_eq!(both["webhook-signature"].to_str().unwrap(), expected);
        assert_eq!(both["x-iris-signature"], alone["x-iris-signature"]);
        assert!(SigningKey::new(new).unwrap().with_old("aXJpcw==").is_err());
    }

    #[test]
    fn a_secret_of_another_form_is_refused_and_never_shown() {
        for bad in ["", "whsec_", "whsec_***", "aXJpcw=="] {
            assert!(SigningKey::new(bad).is_err(), "{bad}");
        }
        let key = SigningKey::new("whsec_aXJpcw==").unwrap();
        assert_eq!(format!("{key:?}"), "SigningKey(..)");
    }
}
