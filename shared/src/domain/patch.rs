//! Changes as they are sent: an absent field stays, null empties it.

use serde::{Deserialize, Deserializer};

/// A field that is there, be it null.
pub fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}
