//! What was broken, and how long it took until what it struck went on.

use std::time::Instant;

/// One fault.
#[derive(Debug)]
pub struct Fault {
    /// Which scenario it belongs to, by its place in the book.
    pub scenario: usize,
    /// The process that it strikes; none for all.
    pub process: Option<u32>,
    /// From when the recovery is measured.
    pub clock: Option<Instant>,
}

impl Fault {
    /// Whether it strikes what runs in a process.
    pub fn strikes(&self, process: u32) -> bool {
        self.process.is_none_or(|struck| struck == process)
    }
}

/// The faults of one kind.
#[derive(Debug, Default)]
pub struct Scenario {
    /// What it is called.
    pub name: String,
    /// How many faults there were.
    pub faults: u32,
    /// How many runs were struck.
    pub struck: u64,
    /// The milliseconds from each fault to the next start or the end of each job that it struck.
    pub recovery_ms: Vec<u32>,
}

/// The value that the given share of all do not exceed; none of none.
pub fn percentile(sorted: &[u32], share: f64) -> Option<u32> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a list that fits into memory"
    )]
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<u32> = (1..=200).collect();
        assert_eq!(percentile(&values, 0.99), Some(198));
        assert_eq!(percentile(&values, 0.5), Some(100));
        assert_eq!(percentile(&[7], 0.99), Some(7), "of few it is the greatest");
        assert_eq!(percentile(&[], 0.99), None);
    }
}
