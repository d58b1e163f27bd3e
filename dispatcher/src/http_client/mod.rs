//! One request to a stranger's server, and nothing that the server does can hold, fill or redirect us.
//!
//! The whole attempt has one deadline. Every address a name resolves to is checked before it is connected to, and so
//! is a literal one. Redirects are not followed, nothing is decoded, no proxy is taken from the environment, and of an
//! answer's body only the beginning is read before the connection is closed.
//!
//! `targets.rs` judges URLs, `connector.rs` opens connections, through the operator's proxy (`proxy.rs`) if there is one,
//! and `tls.rs` says whom we trust. Start reading at [`HttpClient::post`].

use std::{error::Error, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header, uri::Scheme};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, Client},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::RootCertStore;
use shared::domain::{
    delivery::ErrorClass,
    endpoint::IN_FLIGHT_MAX,
    endpoint_url::{AllowList, UrlError},
};
use tokio::time::Instant;

mod connector;
mod proxy;
mod targets;
mod tls;

use connector::{Connector, PROBE_AFTER, Unresolved};
pub use proxy::ProxyUrl;
use targets::Targets;

/// How much of an answer's body is read.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;
/// How much of it is kept.
const EXCERPT_BYTES_MAX: usize = 1024;
/// How many headers an answer may have, and how many bytes of them over HTTP/2.
const RESPONSE_HEADERS_MAX: usize = 100;
const RESPONSE_HEADER_BYTES_MAX: u32 = 64 * 1024;
/// What one HTTP/2 answer may send before we read it: the protocol's default.
const STREAM_WINDOW_BYTES: u32 = 65_535;
/// How long an unused connection is kept.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// What became of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status, if there was an answer.
    pub status_code: Option<u16>,
    /// Why the attempt failed; `None` is success: 2xx, and the body in time.
    pub error_class: Option<ErrorClass>,
    /// The beginning of the body, without control characters.
    pub excerpt: Option<String>,
    /// The Retry-After header of a failure.
    pub retry_after: Option<String>,
    /// How long it took.
    pub duration: Duration,
}

/// The client of all deliveries of a process.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: Client<Connector, Full<Bytes>>,
    targets: Arc<Targets>,
    timeout: Duration,
}

impl HttpClient {
    /// A client whose attempts take `timeout` at most, that connects to private addresses only where `allow` says, and
    /// leaves through `proxy` if there is one.
    pub fn new(allow: AllowList, timeout: Duration, proxy: Option<ProxyUrl>) -> anyhow::Result<Self> {
        Self::trusting(tls::system_roots(), allow, timeout, proxy)
    }

    /// A client that trusts these certificate authorities instead of the system's.
    pub fn trusting(
        roots: RootCertStore,
        allow: AllowList,
        timeout: Duration,
        proxy: Option<ProxyUrl>,
    ) -> anyhow::Result<Self> {
        let allow = Arc::new(allow);
        let connector = Connector::new(allow.clone(), proxy, tls::config(roots)?, timeout);
        // A request of which nothing was written, because its connection was just closed by the server, is sent on another
        // one. Nothing else is ever sent twice.
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(usize::try_from(IN_FLIGHT_MAX)?)
            .http1_max_headers(RESPONSE_HEADERS_MAX)
            .http2_max_header_list_size(RESPONSE_HEADER_BYTES_MAX)
            // Behind a proxy the kernel's probes tell of the way to the proxy only.
            .http2_keep_alive_interval(PROBE_AFTER)
            .http2_keep_alive_timeout(PROBE_AFTER)
            .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
            .http2_initial_connection_window_size(STREAM_WINDOW_BYTES * IN_FLIGHT_MAX.unsigned_abs())
            .build(connector);
        Ok(Self { client, targets: Arc::new(Targets::new(allow)), timeout })
    }

    /// Makes one attempt. It ends within the timeout, whatever the server does.
    pub async fn post(&self, url: &str, headers: HeaderMap, body: Bytes) -> Answer {
        let started = Instant::now();
        let mut answer = Answer {
            status_code: None,
            error_class: None,
            excerpt: None,
            retry_after: None,
            duration: Duration::ZERO,
        };
        let exchange = self.exchange(url, headers, body, &mut answer);
        let ended = tokio::time::timeout(self.timeout, exchange).await;
        answer.error_class = match ended {
            Ok(Ok(())) => None,
            Ok(Err(class)) => Some(class),
            Err(_) => Some(ErrorClass::Timeout),
        };
        answer.duration = started.elapsed();
        answer
    }

    async fn exchange(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        answer: &mut Answer,
    ) -> Result<(), ErrorClass> {
        let uri = self.targets.get(url).map_err(|error| match error {
            UrlError::Address | UrlError::Scheme | UrlError::Port | UrlError::Credentials => {
                ErrorClass::Blocked
            }
            UrlError::TooLong | UrlError::Malformed => ErrorClass::Connect,
        })?;
        let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
        let sent = self.client.request(request(uri, headers, body)).await;
        let response = sent.map_err(|error| classify(&error, is_tls))?;
        let status = response.status();
        answer.status_code = Some(status.as_u16());
        if !status.is_success() {
            let retry_after = response.headers().get(header::RETRY_AFTER);
            answer.retry_after = retry_after.and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
        }
        let read = read_beginning(response.into_body(), &mut answer.excerpt).await;
        if !status.is_success() {
            return Err(ErrorClass::Status);
        }
        read.map_err(|error| if timed_out(&causes(&error)) { ErrorClass::Timeout } else { ErrorClass::Body })
    }
}

fn request(uri: Uri, mut headers: HeaderMap, body: Bytes) -> Request<Full<Bytes>> {
    headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    request
}

/// Reads the beginning of a body; dropping the rest closes a connection whose answer was not read to its end. The
/// excerpt is written as it grows, for the deadline may come between two chunks.
async fn read_beginning(mut body: Incoming, excerpt: &mut Option<String>) -> hyper::Result<()> {
    let mut kept = Vec::new();
    let mut bytes = 0;
    while bytes < RESPONSE_BYTES_MAX {
        let Some(frame) = body.frame().await.transpose()? else { return Ok(()) };
        // Trailers are of no interest.
        let Ok(chunk) = frame.into_data() else { continue };
        bytes += chunk.len();
        let room = EXCERPT_BYTES_MAX - kept.len();
        if room > 0 {
            kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
            *excerpt = printable(&kept);
        }
    }
    Ok(())
}

/// Text that can be stored and shown: UTF-8, no control characters, at most [`EXCERPT_BYTES_MAX`] bytes.
fn printable(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut kept: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    // A replacement character is longer than the byte that it replaces.
    kept.truncate(kept.floor_char_boundary(EXCERPT_BYTES_MAX));
    let kept = kept.trim();
    (!kept.is_empty()).then(|| kept.to_owned())
}

/// Why a request got no answer.
fn classify(error: &legacy::Error, is_tls: bool) -> ErrorClass {
    let causes = causes(error);
    let is_io = |is: fn(&io::Error) -> bool| causes.iter().filter_map(|cause| cause.downcast_ref()).any(is);
    if let Some(unresolved) = causes.iter().find_map(|cause| cause.downcast_ref()) {
        match unresolved {
            Unresolved::Blocked => ErrorClass::Blocked,
            Unresolved::Unknown(_) => ErrorClass::Dns,
        }
    } else if timed_out(&causes) {
        ErrorClass::Timeout
    } else if is_io(is_rustls) || (is_tls && error.is_connect() && is_io(hung_up)) {
        ErrorClass::Tls
    } else {
        ErrorClass::Connect
    }
}

/// What an error stems from, each cause after the one that it caused.
fn causes(error: &dyn Error) -> Vec<&(dyn Error + 'static)> {
    std::iter::successors(error.source(), |cause| (*cause).source()).collect()
}

fn timed_out(causes: &[&(dyn Error + 'static)]) -> bool {
    let mut errors = causes.iter().filter_map(|cause| cause.downcast_ref::<io::Error>());
    errors.any(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// An I/O error and those it wraps. Its source is what the innermost one stems from, none of them itself.
fn wrapped(error: &io::Error) -> impl Iterator<Item = &io::Error> {
    std::iter::successors(Some(error), |error| error.get_ref()?.downcast_ref())
}

fn is_rustls(error: &io::Error) -> bool {
    wrapped(error).any(|error| error.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<rustls::Error>))
}

fn hung_up(error: &io::Error) -> bool {
    wrapped(error).any(|error| error.kind() == io::ErrorKind::UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_printable_and_short() {
        assert_eq!(printable(b""), None);
        assert_eq!(printable(b" \r\n\0\x1b "), None);
        assert_eq!(printable(b"ok\0\r\nthen").as_deref(), Some("ok   then"));
        assert_eq!(printable("grüße".as_bytes()).as_deref(), Some("grüße"));
        assert_eq!(printable(b"a\xff").as_deref(), Some("a\u{fffd}"));
        assert_eq!(printable(&[0xff; 1024]).map(|text| text.len()), Some(1023));
    }
}
