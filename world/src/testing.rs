//! A world for tests: in a directory of its own, with both servers on free ports, stopped when dropped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::replies::Inbound;
use crate::world::{Settings, World};
use crate::{http, install_tls, smtp};

/// A running world.
pub struct TestWorld {
    pub world: Arc<World>,
    pub smtp: SocketAddr,
    pub http: SocketAddr,
    pub client: reqwest::Client,
    _dir: TempDir,
}

impl TestWorld {
    /// Starts a world whose day lasts 20 ms.
    pub async fn start(inbound: Inbound) -> Self {
        install_tls();
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { day: Duration::from_millis(20), keep_raw: false, inbound };
        let (world, _) = World::open(dir.path(), settings, CancellationToken::new()).await.unwrap();
        let smtp_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (smtp, http) = (smtp_listener.local_addr().unwrap(), http_listener.local_addr().unwrap());
        tokio::spawn(smtp::serve(smtp_listener, Arc::clone(&world)));
        tokio::spawn(http::serve(http_listener, Arc::clone(&world)));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { world, smtp, http, client, _dir: dir }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    pub async fn get(&self, path: &str) -> Value {
        self.client.get(self.url(path)).send().await.unwrap().json().await.unwrap()
    }

    /// The status of the answer to a PUT.
    pub async fn put(&self, path: &str, body: &Value) -> u16 {
        self.client.put(self.url(path)).json(body).send().await.unwrap().status().as_u16()
    }
}

impl Drop for TestWorld {
    fn drop(&mut self) {
        self.world.stop.cancel();
    }
}
