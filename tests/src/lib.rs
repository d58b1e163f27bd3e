//! The parts of a black-box test: the real binaries, a database of the test's own, the simulated outside, and a client.
//!
//! Start reading at [`Stack`]. The tests are in `tests/black_box/`.

#![expect(clippy::missing_panics_doc, reason = "a part of a test panics when the test fails")]

mod binaries;
mod client;
mod stack;

pub use binaries::{OF_THE_MACHINE, iris, iris_command, repository, without_settings, world};
pub use client::{Answer, Client};
pub use stack::{Options, ROLES, Stack};

/// How long a test waits for something that must happen.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Waits until `look` finds something; fails when it does not within [`PATIENCE`].
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    found.unwrap_or_else(|_| panic!("this never came: {what}"))
}
