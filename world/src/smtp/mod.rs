//! The SMTP server of RFC 5321: `session` talks, `body` receives, `ledger` remembers.

pub mod body;
pub mod ledger;
mod session;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::world::World;

/// Connections served at a time; further ones are told to come back later.
const CONNECTIONS_MAX: usize = 200;
/// The pause after a failed accept, which means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What tests may change while the server runs.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// How long the final answer is withheld after the body is recorded.
    pub pause_before_final_ms: u64,
    /// Whether the server is down: it closes every connection, new ones at once.
    pub fail_connections: bool,
}

/// Serves until the world stops.
pub async fn serve(listener: TcpListener, world: Arc<World>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = world.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let mut stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "SMTP accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if world.smtp_behaviour.borrow().fail_connections {
            continue;
        }
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            // A full send buffer is impossible on a connection this new, so this cannot hold up the loop.
            if let Err(error) = stream.write_all(b"421 4.7.0 Too many connections\r\n").await {
                tracing::debug!(%error, "a refused SMTP client left first");
            }
            continue;
        };
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            if let Err(error) = session::run(stream, &world).await {
                tracing::debug!(%error, "an SMTP session ended early");
            }
            drop(slot);
        });
    }
}
