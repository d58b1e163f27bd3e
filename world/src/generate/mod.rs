//! Generated data: venues for discovery and contacts for campaigns, the same on every machine.

pub mod contacts;
pub mod places;
mod words;

/// `SplitMix64`. The committed data set must not change with the version of a random number crate, which promises no
/// stable values; this generator is its published constants and nothing else.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number under `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Whether a draw of so many percent succeeds.
    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of a list that is not empty.
    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        let len = list.len() as u64;
        list[usize::try_from(self.below(len)).unwrap_or_default()]
    }
}

/// A name as it stands in a host name or a handle.
fn slug(name: &str, separator: &str) -> String {
    name.to_lowercase()
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_published_one() {
        // The first values of the reference implementation for seed 1234567.
        let mut rng = Rng(1_234_567);
        assert_eq!([rng.next(), rng.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn slugs_hold_only_letters_and_digits() {
        assert_eq!(slug("Ruby & Sons' Bar", "-"), "ruby-sons-bar");
    }
}
