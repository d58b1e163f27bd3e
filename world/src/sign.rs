//! HMAC signatures, made and checked here from the specifications alone.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// The length of a hex HMAC-SHA256.
const HEX_CHARS: usize = 64;

/// Secrets and signatures come with padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

fn mac(key: &[u8], parts: &[&[u8]]) -> Option<Hmac<Sha256>> {
    // HMAC takes keys of any length; None stands for the error that its type allows all the same.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            mac.update(b".");
        }
        mac.update(part);
    }
    Some(mac)
}

/// The lowercase hex HMAC-SHA256 of `<timestamp>.<body>`; the key is the UTF-8 of the whole secret.
pub fn iris_signature(secret: &str, timestamp: &str, body: &[u8]) -> String {
    mac(secret.as_bytes(), &[timestamp.as_bytes(), body])
        .map(|mac| hex::encode(mac.finalize().into_bytes()))
        .unwrap_or_default()
}

/// Checks an `X-Iris-Signature` in constant time; it must be one bare digest of 64 lowercase hex characters.
pub fn iris_verify(secret: &str, timestamp: &str, body: &[u8], signature: &str) -> bool {
    let lowercase = signature.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !lowercase || signature.len() != HEX_CHARS {
        return false;
    }
    let Ok(digest) = hex::decode(signature) else { return false };
    mac(secret.as_bytes(), &[timestamp.as_bytes(), body]).is_some_and(|mac| mac.verify_slice(&digest).is_ok())
}

/// The key of a Standard Webhooks secret: what follows `whsec_`, base64-decoded.
pub fn standard_key(secret: &str) -> Option<Vec<u8>> {
    let key = BASE64.decode(secret.strip_prefix("whsec_")?).ok()?;
    (!key.is_empty()).then_some(key)
}

/// Checks a `webhook-signature` in constant time; one matching `v1,` entry of the list is enough, as the Standard
/// Webhooks specification asks for secret rotation.
pub fn standard_verify(key: &[u8], id: &str, timestamp: &str, body: &[u8], signatures: &str) -> bool {
    signatures.split_ascii_whitespace().filter_map(|entry| entry.strip_prefix("v1,")).any(|signature| {
        BASE64.decode(signature).is_ok_and(|digest| {
            mac(key, &[id.as_bytes(), timestamp.as_bytes(), body])
                .is_some_and(|mac| mac.verify_slice(&digest).is_ok())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_aXJpcyB3b3JsZCB0ZXN0IHNlY3JldCBrZXkgMDE=";
    const TIMESTAMP: &str = "1714392000";
    const BODY: &[u8] = br#"{"id":"evt_1"}"#;

    /// `printf '%s' '1714392000.{"id":"evt_1"}' | openssl dgst -sha256 -hmac "$SECRET"`
    const HEX: &str = "dc1d4ef3cd2783ad5ec3e0685c2c4dc9b5a4043adf5323b366b9a1dd517468f6";

    /// `printf '%s' 'dlv_1.1714392000.{"id":"evt_1"}' | openssl dgst -sha256 -mac HMAC -macopt hexkey:... -binary | base64`
    const STANDARD: &str = "v1,8R9YA6ynlxsYsIbmVLpVYebexUevDFM1Z/LSErniQBE=";

    #[test]
    fn the_hex_signature_matches_openssl() {
        assert_eq!(iris_signature(SECRET, TIMESTAMP, BODY), HEX);
        assert!(iris_verify(SECRET, TIMESTAMP, BODY, HEX));
        for wrong in [HEX.to_uppercase(), format!("sha256={HEX}"), format!("{HEX} "), HEX[1..].to_owned()] {
            assert!(!iris_verify(SECRET, TIMESTAMP, BODY, &wrong), "{wrong}");
        }
        assert!(!iris_verify(SECRET, "1714392001", BODY, HEX));
        assert!(!iris_verify(SECRET, TIMESTAMP, b"{}", HEX));
        assert!(!iris_verify("whsec_other", TIMESTAMP, BODY, HEX));
    }

    #[test]
    fn the_standard_signature_matches_openssl() {
        let key = standard_key(SECRET).unwrap();
        assert!(standard_verify(&key, "dlv_1", TIMESTAMP, BODY, STANDARD));
        assert!(standard_verify(&key, "dlv_1", TIMESTAMP, BODY, &format!("v1,AAAA {STANDARD}")));
        assert!(!standard_verify(&key, "dlv_2", TIMESTAMP, BODY, STANDARD));
        assert!(!standard_verify(&key, "dlv_1", TIMESTAMP, BODY, &STANDARD.replace("v1,", "v2,")));
        assert!(!standard_verify(&key, "dlv_1", TIMESTAMP, BODY, ""));
    }

    #[test]
    fn a_secret_without_the_prefix_has_no_standard_key() {
        assert_eq!(standard_key("aXJpcw=="), None);
        assert_eq!(standard_key("whsec_"), None);
        assert_eq!(standard_key("whsec_aXJpcw"), Some(b"iris".to_vec()));
    }
}
