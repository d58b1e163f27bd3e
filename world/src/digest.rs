//! Stable hashes: they decide personas and stand in for ids in the ledgers, so they must never change between runs.

use sha2::{Digest, Sha256};

/// The first 64 bits of the SHA-256 of a text.
pub fn hash64(text: &str) -> u64 {
    u64::try_from(hash128(&[text]) >> 64).unwrap_or(u64::MAX)
}

/// The first 128 bits of the SHA-256 of some parts. Parts are length-prefixed, so that no two lists of parts collide.
///
/// Ledgers keep these 16 bytes instead of the ids they stand for.
pub fn hash128(parts: &[&str]) -> u128 {
    let mut hasher = Sha256::new();
    if let [only] = parts {
        hasher.update(only.as_bytes());
    } else {
        for part in parts {
            hasher.update(part.len().to_be_bytes());
            hasher.update(part.as_bytes());
        }
    }
    hasher.finalize().iter().take(16).fold(0, |hash, byte| (hash << 8) | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash64_is_the_head_of_sha256() {
        // printf '%s' 'ada@example.com' | openssl dgst -sha256
        assert_eq!(hash64("ada@example.com"), 0xb5fc_85e5_5755_f9e0);
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(hash128(&["ab", "c"]), hash128(&["a", "bc"]));
    }
}
