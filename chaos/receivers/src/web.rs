//! The receivers that read whole requests: each notes what it got, and answers as it is meant to.

use std::{
    convert::Infallible,
    io::{self, Write},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::{StreamExt, stream};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::Rng;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};

use crate::{
    book::Shared,
    endpoint::{Behaviour, ENDPOINTS},
};

/// No request is larger.
const BODY_BYTES_MAX: usize = 1 << 20;
/// How long an idle connection is kept, and a request may take to come.
const IDLE_MAX: Duration = Duration::from_secs(120);
/// What a flood consists of: 1,600 times 64 KiB.
const FLOOD_PIECE: usize = 64 << 10;
const FLOOD_PIECES: usize = 1600;
/// What a bomb becomes when it is opened, in bytes.
const BOMB_BYTES: usize = 512 << 20;
/// Of how many deliveries an endpoint that is flaky refuses one at first.
const FLAKY: u64 = 4;
/// How long an endpoint that hangs does so.
const HANG: Duration = Duration::from_secs(600);
/// The pause after a connection that could not be taken.
const PAUSE: Duration = Duration::from_millis(10);

type Body = BoxBody<Bytes, Infallible>;

/// What all receivers share.
#[derive(Debug, Clone)]
pub struct Web {
    book: Shared,
    bomb: Bytes,
    flood: Bytes,
    /// Where the redirect leads.
    forbidden: Arc<str>,
}

impl Web {
    /// Receivers that write in the book; the redirect leads to `forbidden`.
    pub fn new(book: Shared, forbidden: &str) -> anyhow::Result<Self> {
        let bomb = make_bomb().context("the bomb")?;
        Ok(Self { book, bomb, flood: vec![b'a'; FLOOD_PIECE].into(), forbidden: forbidden.into() })
    }

    /// Receives at one endpoint.
    pub async fn listen(self, listener: TcpListener, endpoint: usize) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let _ = stream.set_nodelay(true);
            tokio::spawn(self.clone().serve(stream, Some(endpoint)));
        }
    }

    /// Serves a connection, of one endpoint or of whichever is named by the path.
    pub async fn serve<S>(self, stream: S, endpoint: Option<usize>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connection = self.book.open().connect();
        let service = service_fn(|request: Request<Incoming>| {
            let path = request.uri().path().trim_start_matches('/');
            let endpoint = endpoint.or_else(|| crate::endpoint::find(path));
            let this = self.clone();
            async move { this.answer(request, endpoint, connection).await }
        });
        // Whatever ends it, it is over: that is all that has to be known of it.
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        self.book.open().close(connection, Instant::now());
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        endpoint: Option<usize>,
        connection: usize,
    ) -> Result<Response<Body>, Infallible> {
        let (head, body) = request.into_parts();
        let body =
            Limited::new(body, BODY_BYTES_MAX).collect().await.map(http_body_util::Collected::to_bytes);
        let (Some(endpoint), Ok(body)) = (endpoint, body) else {
            return Ok(plain(StatusCode::NOT_FOUND));
        };
        let behaviour = ENDPOINTS[endpoint].behaviour;
        let ticket = self.book.open().receive(endpoint, connection, (&head.headers, &body), Instant::now());
        let Some(ticket) = ticket else { return Ok(plain(StatusCode::UNAUTHORIZED)) };
        if let Behaviour::Answers(ms) = behaviour {
            let ms = rand::rng().random_range(0..=ms);
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        let answer = match behaviour {
            Behaviour::Flaky if ticket.is_first_of_every(FLAKY) => plain(StatusCode::SERVICE_UNAVAILABLE),
            Behaviour::Redirect => with(StatusCode::TEMPORARY_REDIRECT, header::LOCATION, &self.forbidden),
            Behaviour::Closes => with(StatusCode::OK, header::CONNECTION, "close"),
            Behaviour::Flood => self.flood(),
            Behaviour::Bomb => self.bomb(),
            Behaviour::Hang => {
                tokio::time::sleep(HANG).await;
                plain(StatusCode::OK)
            }
            _ => plain(StatusCode::OK),
        };
        self.book.open().answer(ticket, answer.status().is_success(), Instant::now());
        Ok(answer)
    }

    fn flood(&self) -> Response<Body> {
        let pieces = stream::repeat(self.flood.clone()).take(FLOOD_PIECES);
        let body = StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece))));
        Response::new(BodyExt::boxed(body))
    }

    fn bomb(&self) -> Response<Body> {
        let mut response = Response::new(Full::new(self.bomb.clone()).boxed());
        response.headers_mut().insert(header::CONTENT_ENCODING, http::HeaderValue::from_static("gzip"));
        response
    }
}

/// Gzip of very many zeros.
fn make_bomb() -> io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0; 1 << 20];
    for _ in 0..BOMB_BYTES / zeros.len() {
        encoder.write_all(&zeros)?;
    }
    Ok(encoder.finish()?.into())
}

fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"noted")).boxed());
    *response.status_mut() = status;
    response
}

fn with(status: StatusCode, name: http::HeaderName, value: &str) -> Response<Body> {
    let mut response = plain(status);
    if let Ok(value) = http::HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}

/// Binds a port that the system chooses.
pub async fn bind(address: std::net::IpAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener =
        TcpListener::bind((address, 0)).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}
