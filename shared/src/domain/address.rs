//! Mail addresses and handles, in the one form in which they are stored and compared.

use std::str::FromStr;

use email_address::EmailAddress;

/// The longest address (RFC 5321, section 4.5.3.1.3: a path of 256 with its angle brackets).
pub const EMAIL_BYTES_MAX: usize = 254;
/// The longest handle of the social channels, with room to spare.
pub const HANDLE_CHARS_MAX: usize = 64;

/// The stored form of a mail address: trimmed and lower case. None if it is no plain `local@domain`: display names,
/// comments, quoted local parts, address literals and domains without a dot are refused.
pub fn normalise(text: &str) -> Option<String> {
    let address = text.trim();
    let plain =
        address.len() <= EMAIL_BYTES_MAX && !address.contains(['"', '<', '>', '(', ')', '[', ']', '\0']);
    if !plain || EmailAddress::from_str(address).is_err() {
        return None;
    }
    let address = address.to_lowercase();
    domain_of(&address).is_some_and(|domain| domain.contains('.')).then_some(address)
}

/// The part after the last @.
pub fn domain_of(address: &str) -> Option<&str> {
    address.rsplit_once('@').map(|(_, domain)| domain)
}

/// The stored form of a handle: without @ and spaces around it, lower case, since handles of the social channels are
/// compared so. None if it is empty, too long or has characters that no handle has.
pub fn normalise_handle(text: &str) -> Option<String> {
    let handle = text.trim().trim_start_matches('@');
    let sane = (1..=HANDLE_CHARS_MAX).contains(&handle.len())
        && handle.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    sane.then(|| handle.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_form() {
        for (given, stored) in [
            ("  Alex@Example.COM ", Some("alex@example.com")),
            ("a+b@x.example", Some("a+b@x.example")),
            ("ünïcode@bücher.example", Some("ünïcode@bücher.example")),
            ("", None),
            ("alex", None),
            ("alex@", None),
            ("@example.com", None),
            ("alex@localhost", None),
            ("a b@example.com", None),
            ("a@b@example.com", None),
            ("Alex <alex@example.com>", None),
            ("\"quoted\"@example.com", None),
            ("alex@[127.0.0.1]", None),
            ("alex@example..com", None),
            ("alex@example.com\r\nBcc: x@example.com", None),
            ("alex\0@example.com", None),
        ] {
            assert_eq!(normalise(given).as_deref(), stored, "{given:?}");
        }
        assert_eq!(normalise(&format!("{}@example.com", "a".repeat(300))), None);
    }

    #[test]
    fn handles_lose_their_at() {
        assert_eq!(normalise_handle(" @The_Bell.House ").as_deref(), Some("the_bell.house"));
        for bad in ["", "@", "a b", "a/b", "é", &"a".repeat(65)] {
            assert_eq!(normalise_handle(bad), None, "{bad:?}");
        }
    }
}
