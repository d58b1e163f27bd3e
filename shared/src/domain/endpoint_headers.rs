//! Which headers a customer may add to the requests to an endpoint. Their values may be secrets: they are sealed at rest and never
//! shown.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};

use uuid::Uuid;

use super::FieldError;
use crate::secrets::{SecretKey, Unsealable};

/// The most headers of an endpoint.
const HEADERS_MAX: usize = 20;
/// The longest name and the longest value in bytes.
const NAME_BYTES_MAX: usize = 64;
const VALUE_BYTES_MAX: usize = 1024;

/// What belongs to the connection, to the body, or to iris, or would let a request pass for another one.
const DENIED: [&str; 27] = [
    "accept-encoding",
    "cf-connecting-ip",
    "metadata",
    "metadata-flavor",
    "true-client-ip",
    "x-client-ip",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "origin",
    "referer",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-real-ip",
];
/// The same, as beginnings of names.
const DENIED_PREFIXES: [&str; 6] = ["x-aws-ec2-", "x-iris-", "webhook-", "proxy-", "sec-", "x-forwarded-"];

/// What a value is shown as. In a change it stands for the value that is stored.
pub const MASK: &str = "***";

/// An endpoint's headers as they are stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SealedHeaders {
    /// Their names.
    pub names: Vec<String>,
    /// All of them; none if there are none.
    pub sealed: Option<Vec<u8>>,
}

impl SealedHeaders {
    /// Seals headers for an endpoint.
    pub fn seal(
        key: &SecretKey,
        endpoint_id: Uuid,
        headers: &BTreeMap<String, String>,
    ) -> Result<Self, Unsealable> {
        let text = serde_json::to_string(headers).map_err(|_| Unsealable)?;
        let sealed = (!headers.is_empty()).then(|| key.seal(&place(endpoint_id), &text)).transpose()?;
        Ok(Self { names: headers.keys().cloned().collect(), sealed })
    }
}

/// Opens the headers of an endpoint.
pub fn open(
    key: &SecretKey,
    endpoint_id: Uuid,
    sealed: Option<&[u8]>,
) -> Result<BTreeMap<String, String>, Unsealable> {
    let Some(sealed) = sealed else { return Ok(BTreeMap::new()) };
    serde_json::from_str(&key.open(&place(endpoint_id), sealed)?).map_err(|_| Unsealable)
}

fn place(endpoint_id: Uuid) -> String {
    format!("endpoint/{endpoint_id}/headers")
}

/// Puts stored values where a change says that they stay: [`MASK`].
pub fn keep_stored(
    mut headers: BTreeMap<String, String>,
    stored: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Vec<FieldError>> {
    let mut wrong = Vec::new();
    for (name, value) in headers.iter_mut().filter(|(_, value)| *value == MASK) {
        match stored.get(name) {
            Some(stored) => stored.clone_into(value),
            None => wrong
                .push(FieldError::new(format!("headers.{name}"), "must be the value itself: none is stored")),
        }
    }
    if wrong.is_empty() { Ok(headers) } else { Err(wrong) }
}

/// Checks headers and brings their names into the form in which they are stored: lower case.
pub fn check(headers: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Vec<FieldError>> {
    if headers.len() > HEADERS_MAX {
        return Err(vec![FieldError::new("headers", format!("must have at most {HEADERS_MAX} headers"))]);
    }
    let mut wrong = Vec::new();
    let mut checked = BTreeMap::new();
    for (name, value) in headers {
        let lower = name.to_ascii_lowercase();
        let field = format!("headers.{}", lower.chars().take(NAME_BYTES_MAX).collect::<String>());
        if let Some(reason) = reason_against(&lower, value) {
            wrong.push(FieldError::new(field, reason));
        } else if checked.insert(lower, value.clone()).is_some() {
            wrong.push(FieldError::new(field, "must be given once"));
        }
    }
    if wrong.is_empty() { Ok(checked) } else { Err(wrong) }
}

fn reason_against(name: &str, value: &str) -> Option<String> {
    if name.len() > NAME_BYTES_MAX || HeaderName::from_bytes(name.as_bytes()).is_err() {
        return Some(format!("must be a header's name of at most {NAME_BYTES_MAX} bytes"));
    }
    if DENIED.contains(&name) || DENIED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return Some("must not be set".into());
    }
    let printable = value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if value.len() > VALUE_BYTES_MAX || !printable || value.trim() != value {
        return Some(format!(
            "must have at most {VALUE_BYTES_MAX} bytes of printable ASCII, with no space at either end"
        ));
    }
    None
}

/// Headers as a request carries them, marked so that no log shows them.
pub fn for_request(headers: &BTreeMap<String, String>) -> HeaderMap {
    headers
        .iter()
        .filter_map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            let mut value = HeaderValue::from_str(value).ok()?;
            value.set_sensitive(true);
            Some((name, value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    #[test]
    fn names_are_stored_in_lower_case() {
        let given = headers([("X-Api-Key", "s3cret"), ("authorization", "Bearer a b"), ("x-empty", "")]);
        let stored = check(&given).unwrap();
        assert_eq!(
            stored,
            headers([("x-api-key", "s3cret"), ("authorization", "Bearer a b"), ("x-empty", "")])
        );
        let sent = for_request(&stored);
        assert_eq!(sent.len(), 3);
        assert!(sent["x-api-key"] == "s3cret" && !format!("{sent:?}").contains("s3cret"));
    }

    #[test]
    fn stored_values_are_sealed_and_stay_where_they_are_masked() {
        let key: SecretKey = SecretKey::generate().parse().unwrap();
        let id = Uuid::from_u128(1);
        let stored = headers([("authorization", "Bearer a b"), ("x-env", "test")]);
        let sealed = SealedHeaders::seal(&key, id, &stored).unwrap();
        assert_eq!(sealed.names, ["authorization", "x-env"]);
        let bytes = sealed.sealed.as_deref();
        assert!(!String::from_utf8_lossy(bytes.unwrap()).contains("Bearer"));
        assert_eq!(open(&key, id, bytes).unwrap(), stored);
        assert!(open(&key, Uuid::from_u128(2), bytes).is_err(), "they open nowhere else");
        assert_eq!(SealedHeaders::seal(&key, id, &headers([])).unwrap(), SealedHeaders::default());
        let changed = headers([("authorization", MASK), ("x-new", "1")]);
        let expected = headers([("authorization", "Bearer a b"), ("x-new", "1")]);
        assert_eq!(keep_stored(changed, &stored).unwrap(), expected);
        assert_eq!(keep_stored(headers([("x-new", MASK)]), &stored).unwrap_err().len(), 1);
    }

    #[test]
    fn what_would_change_or_forge_a_request_is_refused() {
        let long = "v".repeat(1025);
        for (name, value) in [
            ("Host", "example.com"),
            ("content-length", "0"),
            ("X-Iris-Signature", "00"),
            ("webhook-id", "1"),
            ("Proxy-Authorization", "x"),
            ("transfer-encoding", "chunked"),
            ("", "x"),
            ("a b", "x"),
            ("x-name:", "x"),
            ("x-größe", "x"),
            ("x-value", "a\r\nx-iris-delivery: 1"),
            ("x-value", "a\0"),
            ("x-value", "ä"),
            ("x-value", " x"),
            ("x-value", long.as_str()),
        ] {
            assert_eq!(check(&headers([(name, value)])).unwrap_err().len(), 1, "{name}: {value}");
        }
        assert!(check(&headers([("X-A", "1"), ("x-a", "2")])).is_err());
        let many = (0..21).map(|n| (format!("x-{n}"), String::new())).collect();
        assert!(check(&many).is_err());
    }
}
