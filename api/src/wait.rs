//! Waiting for what another role does.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::ApiError;

/// The first pause between two looks, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// Looks again and again, ever more slowly, until there is something or the deadline has passed. No connection is held
/// between two looks.
pub async fn until<T, F>(deadline: Duration, mut look: impl FnMut() -> F) -> Result<Option<T>, ApiError>
where
    F: Future<Output = Result<Option<T>, ApiError>>,
{
    let end = Instant::now() + deadline;
    let mut pause = PAUSE_MIN;
    loop {
        if let Some(found) = look().await? {
            return Ok(Some(found));
        }
        if Instant::now() + pause > end {
            return Ok(None);
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_what_it_waits_for_or_with_the_deadline() {
        let mut looks = 0;
        let found = until(Duration::from_secs(5), || {
            looks += 1;
            let found = (looks == 4).then_some("there");
            async move { Ok(found) }
        });
        assert_eq!(found.await.unwrap(), Some("there"));
        let started = Instant::now();
        let nothing = until(Duration::from_secs(5), || async { Ok(None::<()>) }).await.unwrap();
        assert_eq!(nothing, None);
        assert!(started.elapsed() <= Duration::from_secs(5));
    }
}
