//! Identifiers, as they look outside.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::RngCore;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// A new row's id: a UUIDv7, which sorts by the time it was made and finds its partition.
pub fn new_id() -> Uuid {
    Uuid::now_v7()
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
