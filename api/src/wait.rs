//! Waiting for what another role does. What is waited for was committed before, so nothing here can fail: who waits in
//! vain answers with what it has.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// The first pause between two looks, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// How long one look may take: a connection that is dead without saying so must not use up the whole wait.
pub const LOOK_DEADLINE: Duration = Duration::from_secs(10);

/// Looks again and again, ever more slowly, until there is something, `end` has come, or the server stops. A look that
/// fails or hangs is made again: the database may come back. No connection is held between two looks.
pub async fn until<T, F>(stop: &CancellationToken, end: Instant, mut look: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Result<Option<T>, sqlx::Error>>,
{
    let looks = async {
        let mut pause = PAUSE_MIN;
        loop {
            match timeout(LOOK_DEADLINE, look()).await {
                Ok(Ok(Some(found))) => return found,
                Ok(Ok(None)) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a look failed"),
                Err(_) => tracing::debug!("a look took too long"),
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(PAUSE_MAX);
        }
    };
    tokio::select! {
        biased;
        found = timeout_at(end, looks) => found.ok(),
        () = stop.cancelled() => None,
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn in_five_seconds() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_what_it_waits_for_or_with_the_deadline() {
        let stop = CancellationToken::new();
        let mut looks = 0;
        let found = until(&stop, in_five_seconds(), || {
            looks += 1;
            let found = (looks == 4).then_some("there");
            async move { Ok(found) }
        });
        assert_eq!(found.await, Some("there"));
        let started = Instant::now();
        assert_eq!(until(&stop, in_five_seconds(), async || Ok(None::<()>)).await, None);
        assert!(started.elapsed() <= Duration::from_millis(5001));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_fails_or_hangs_is_made_again() {
        let stop = CancellationToken::new();
        let mut looks = 0;
        let found = until(&stop, Instant::now() + Duration::from_secs(60), || {
            looks += 1;
            let look = looks;
            async move {
                match look {
                    1 => Err(sqlx::Error::PoolTimedOut),
                    2 => pending().await,
                    _ => Ok(Some(look)),
                }
            }
        });
        assert_eq!(found.await, Some(3));
        let hanging = until(&stop, in_five_seconds(), pending::<Result<Option<()>, sqlx::Error>>);
        assert_eq!(hanging.await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_server_ends_the_wait() {
        let stop = CancellationToken::new();
        stop.cancel();
        let started = Instant::now();
        assert_eq!(until(&stop, in_five_seconds(), async || Ok(None::<()>)).await, None);
        assert!(started.elapsed() < Duration::from_secs(1));
    }
}
