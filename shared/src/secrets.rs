//! Secrets that must be read back (webhook secrets, mailbox passwords), sealed at rest.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use sha2::{Digest, Sha256};

use crate::ids::random_bytes;

/// A sealed secret that does not open: the key is not the one that sealed it, or the bytes were changed.
#[derive(Debug, thiserror::Error)]
#[error("a sealed secret does not open with this IRIS_SECRET_KEY")]
pub struct Unsealable;

/// The key that seals secrets, from IRIS_SECRET_KEY: 32 bytes in base64.
#[derive(Clone)]
pub struct SecretKey {
    cipher: XChaCha20Poly1305,
    id: [u8; KEY_ID_BYTES],
}

/// The first byte of a sealed secret: the layout that follows, key id, nonce, ciphertext.
const VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 4;
const NONCE_BYTES: usize = 24;
const HEADER_BYTES: usize = 1 + KEY_ID_BYTES + NONCE_BYTES;

impl SecretKey {
    /// A new random key, as text for a file or the environment.
    pub fn generate() -> String {
        STANDARD.encode(random_bytes::<32>())
    }

    /// Seals a secret for a place, such as `endpoint/<id>`, so that it does not open elsewhere.
    pub fn seal(&self, place: &str, secret: &str) -> Result<Vec<u8>, Unsealable> {
        let nonce = random_bytes::<NONCE_BYTES>();
        let payload = Payload { msg: secret.as_bytes(), aad: place.as_bytes() };
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), payload).map_err(|_| Unsealable)?;
        Ok([&[VERSION], &self.id[..], &nonce, &sealed].concat())
    }

    /// Opens what [`seal`](Self::seal) sealed for the same place.
    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<String, Unsealable> {
        if sealed.len() < HEADER_BYTES || sealed[0] != VERSION || sealed[1..=KEY_ID_BYTES] != self.id {
            return Err(Unsealable);
        }
        let nonce: [u8; NONCE_BYTES] =
            sealed[1 + KEY_ID_BYTES..HEADER_BYTES].try_into().map_err(|_| Unsealable)?;
        let payload = Payload { msg: &sealed[HEADER_BYTES..], aad: place.as_bytes() };
        let opened = self.cipher.decrypt(&XNonce::from(nonce), payload).map_err(|_| Unsealable)?;
        String::from_utf8(opened).map_err(|_| Unsealable)
    }
}

impl FromStr for SecretKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes: [u8; 32] =
            STANDARD.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
                "must be 32 bytes in base64 (make one with: openssl rand -base64 32)".to_owned()
            })?;
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&Sha256::digest(bytes)[..KEY_ID_BYTES]);
        Ok(Self { cipher: XChaCha20Poly1305::new(&bytes.into()), id })
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_only_at_its_place_and_with_its_key() {
        let key: SecretKey = SecretKey::generate().parse().unwrap();
        let other: SecretKey = SecretKey::generate().parse().unwrap();
        let sealed = key.seal("endpoint/1", "whsec_abc").unwrap();
        assert_eq!(key.open("endpoint/1", &sealed).unwrap(), "whsec_abc");
        assert!(key.open("endpoint/2", &sealed).is_err());
        assert!(other.open("endpoint/1", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.open("endpoint/1", &changed).is_err(), "byte {at}");
        }
        assert!("short".parse::<SecretKey>().is_err());
    }
}
