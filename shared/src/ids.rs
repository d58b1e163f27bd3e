//! Identifiers, as they look outside.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::RngCore;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// A new row's id: a UUIDv7, which sorts by the time it was made and finds its partition.
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}

/// A bound below every UUIDv7 that is made up to `margin` before this one, for clocks that do not quite agree.
pub fn floor_before(id: Uuid, margin: Duration) -> Uuid {
    // The first 48 bits are milliseconds (RFC 9562, section 5.7).
    let ms = id.as_u128() >> 80;
    Uuid::from_u128(ms.saturating_sub(margin.as_millis()) << 80)
}

/// An event's id outside: `evt_` and 32 hex digits.
pub fn event_id(id: Uuid) -> String {
    format!("evt_{}", id.simple())
}

/// A request's id: `req_` and hex.
pub fn request_id() -> String {
    format!("req_{}", Uuid::new_v4().simple())
}

/// What every API key begins with.
pub const KEY_PREFIX: &str = "is_live_";

/// A new API key: [`KEY_PREFIX`] and 43 base64url characters (32 random bytes).
pub fn new_api_key() -> String {
    format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(random_bytes::<32>()))
}

/// What is stored of an API key. The key has 256 random bits, so a plain hash cannot be searched.
pub fn hash_api_key(key: &str) -> Vec<u8> {
    Sha256::digest(key.as_bytes()).to_vec()
}

/// Random bytes from the system.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_lies_a_margin_before_an_id() {
        let at = |ms: u128| Uuid::from_u128(ms << 80 | 0x7abc_8def_0123_4567_89ab);
        let floor = floor_before(at(1_800_000_000_000), Duration::from_secs(60));
        assert!(floor < at(1_799_999_940_000) && floor > at(1_799_999_939_999));
        assert_eq!(floor_before(at(5), Duration::from_secs(60)), Uuid::nil());
    }
}
