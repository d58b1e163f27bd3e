//! The receivers that are no servers at all: what they do to whoever connects.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    book::Shared,
    endpoint::{Behaviour, ENDPOINTS},
};

/// How long they keep anybody busy.
const DEADLINE: Duration = Duration::from_secs(120);
/// The pause between two bytes of a trickle.
const TRICKLE: Duration = Duration::from_secs(1);
/// How much of a request is read.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// The pause after a connection that could not be taken.
const PAUSE: Duration = Duration::from_millis(10);

/// A header, again and again.
const HEADER: &[u8] = b"x-more: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n";

/// Behaves as its endpoint is meant to; `untrusted` is a certificate that nobody believes.
pub async fn listen(listener: TcpListener, endpoint: usize, book: Shared, untrusted: TlsAcceptor) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        book.open().count(endpoint);
        let untrusted = untrusted.clone();
        tokio::spawn(async move {
            // The other end goes away sooner or later, which is an error here and as it should be.
            let _ = tokio::time::timeout(DEADLINE, behave(stream, ENDPOINTS[endpoint].behaviour, untrusted))
                .await;
        });
    }
}

async fn behave(mut stream: TcpStream, behaviour: Behaviour, untrusted: TlsAcceptor) -> io::Result<()> {
    match behaviour {
        Behaviour::Reset => {
            read_head(&mut stream).await?;
            stream.set_zero_linger()
        }
        Behaviour::Trickle => {
            read_head(&mut stream).await?;
            stream.write_all(b"HTTP/1.1 200 OK\r\nx-slow: ").await?;
            loop {
                stream.write_all(b"z").await?;
                tokio::time::sleep(TRICKLE).await;
            }
        }
        Behaviour::EndlessHeaders => {
            read_head(&mut stream).await?;
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            loop {
                stream.write_all(HEADER).await?;
            }
        }
        Behaviour::Untrusted => {
            let mut stream = untrusted.accept(stream).await?;
            stream.read_u8().await.map(drop)
        }
        Behaviour::NoTls => {
            stream.write_all(b"220 mail.example.com ESMTP\r\n").await?;
            let mut rest = Vec::new();
            stream.take(REQUEST_BYTES_MAX as u64).read_to_end(&mut rest).await.map(drop)
        }
        _ => Ok(()),
    }
}

/// Reads a request's head, and of its body whatever comes with it.
async fn read_head(stream: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while head.len() < REQUEST_BYTES_MAX && !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    Ok(())
}
