//! Which server the databases of this test program are on.

use std::sync::OnceLock;

use embedded::{Throwaway, start_throwaway};

/// The server of this process. It is never dropped: its guardian stops it when the process ends.
static OWN: OnceLock<Throwaway> = OnceLock::new();

/// The address of a server whose user may create databases.
///
/// It is `IRIS_TEST_DATABASE_URL` if that is set, or else a private server that this process starts on the first
/// call and that ends with it.
///
/// # Panics
///
/// Panics with the reason when the private server cannot be started, since no test can go on without one.
pub async fn server_url() -> String {
    if let Ok(url) = std::env::var("IRIS_TEST_DATABASE_URL") {
        return url;
    }
    // Every test has a runtime of its own, so those that wait here do so on threads, bound to none of them.
    tokio::task::spawn_blocking(|| OWN.get_or_init(start).url().to_owned())
        .await
        .expect("the thread that starts PostgreSQL ends by itself")
}

fn start() -> Throwaway {
    match start_throwaway() {
        Ok(server) => server,
        Err(error) => panic!("tests need PostgreSQL: {error}"),
    }
}
