//! The ports of a network of our own. Whoever comes to the public address is served; whoever comes to any other of this
//! machine's has reached what nobody may reach, which is written down.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::Context;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::{book::Shared, endpoint::PUBLIC, web::Web};

/// The ports of HTTP.
const CLEAR: u16 = 80;
const TLS: u16 = 443;
/// How long a handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// The pause after a connection that could not be taken.
const PAUSE: Duration = Duration::from_millis(10);

/// Serves the public address, and watches all others.
pub async fn serve(web: &Web, book: &Shared, trusted: &TlsAcceptor) -> anyhow::Result<()> {
    tokio::spawn(watch(listen(CLEAR).await?, book.clone(), CLEAR));
    let (web, book, trusted) = (web.clone(), book.clone(), trusted.clone());
    let listener = listen(TLS).await?;
    tokio::spawn(async move {
        loop {
            let Some((stream, address)) = accept(&listener).await else { continue };
            if address != IpAddr::V4(PUBLIC) {
                book.open().trap(address, TLS);
                continue;
            }
            let (web, trusted) = (web.clone(), trusted.clone());
            tokio::spawn(async move {
                let shaken = tokio::time::timeout(HANDSHAKE_DEADLINE, trusted.accept(stream)).await;
                if let Ok(Ok(stream)) = shaken {
                    web.serve(stream, None).await;
                }
            });
        }
    });
    Ok(())
}

/// Serves nobody: whoever connects is written down.
pub async fn watch(listener: TcpListener, book: Shared, port: u16) {
    loop {
        if let Some((_, address)) = accept(&listener).await {
            book.open().trap(address, port);
        }
    }
}

/// The next connection, and which address of ours it came to.
async fn accept(listener: &TcpListener) -> Option<(TcpStream, IpAddr)> {
    let Ok((stream, _)) = listener.accept().await else {
        tokio::time::sleep(PAUSE).await;
        return None;
    };
    let _ = stream.set_nodelay(true);
    let address = stream.local_addr().ok()?.ip().to_canonical();
    Some((stream, address))
}

/// Listens on every address of the machine, of both kinds if it has both.
async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    if let Ok(listener) = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        return Ok(listener);
    }
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .await
        .with_context(|| format!("cannot listen on port {port}"))
}
