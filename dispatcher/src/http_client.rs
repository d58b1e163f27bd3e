//! One request to a stranger's server, and nothing that the server does can hold, fill or redirect us.
//!
//! The whole attempt has one deadline. Every address a name resolves to is checked before it is connected to, and so
//! is a literal one. Redirects are not followed, nothing is decoded, no proxy is taken from the environment, and of an
//! answer's body only the beginning is read before the connection is closed.

use std::{error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, header};
use reqwest::{
    Client, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use rustls::{ClientConfig, RootCertStore};
use shared::domain::{
    delivery::ErrorClass,
    endpoint::IN_FLIGHT_MAX,
    endpoint_url::{self, AllowList, UrlError},
};
use tokio::time::Instant;

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
    client: Client,
    allow: Arc<AllowList>,
    timeout: Duration,
}

impl HttpClient {
    /// A client whose attempts take `timeout` at most, and that connects to private addresses only where `allow` says.
    pub fn new(allow: AllowList, timeout: Duration) -> anyhow::Result<Self> {
        let allow = Arc::new(allow);
        let client = Client::builder()
            .tls_backend_preconfigured(tls_config()?)
            .dns_resolver(CheckedResolver { allow: allow.clone() })
            .connect_timeout(timeout)
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .referer(false)
            .pool_max_idle_per_host(usize::try_from(IN_FLIGHT_MAX)?)
            .pool_idle_timeout(IDLE_MAX)
            .http1_max_headers(RESPONSE_HEADERS_MAX)
            .http2_max_header_list_size(RESPONSE_HEADER_BYTES_MAX)
            .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
            .http2_initial_connection_window_size(STREAM_WINDOW_BYTES * IN_FLIGHT_MAX.unsigned_abs())
            .build()
            .context("the HTTP client cannot be made")?;
        Ok(Self { client, allow, timeout })
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
        // The URL is judged again: the allow-list may have changed, and a literal address never meets the resolver.
        let url = endpoint_url::parse(url, &self.allow).map_err(|error| match error {
            UrlError::Address | UrlError::Scheme | UrlError::Port | UrlError::Credentials => {
                ErrorClass::Blocked
            }
            UrlError::TooLong | UrlError::Malformed => ErrorClass::Connect,
        })?;
        let is_tls = url.scheme() == "https";
        let sent = self.client.post(url).headers(headers).body(body).send().await;
        let mut response = sent.map_err(|error| classify(&error, is_tls))?;
        let status = response.status();
        answer.status_code = Some(status.as_u16());
        if !status.is_success() {
            let retry_after = response.headers().get(header::RETRY_AFTER);
            answer.retry_after = retry_after.and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
        }
        let read = read_beginning(&mut response, &mut answer.excerpt).await;
        if !status.is_success() {
            return Err(ErrorClass::Status);
        }
        read.map_err(|error| if error.is_timeout() { ErrorClass::Timeout } else { ErrorClass::Body })
    }
}

/// Reads the beginning of a body; dropping the response closes a connection whose answer was not read to its end. The
/// excerpt is written as it grows, for the deadline may come between two chunks.
async fn read_beginning(response: &mut Response, excerpt: &mut Option<String>) -> reqwest::Result<()> {
    let mut kept = Vec::new();
    let mut bytes = 0;
    while bytes < RESPONSE_BYTES_MAX {
        let Some(chunk) = response.chunk().await? else { return Ok(()) };
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
fn classify(error: &reqwest::Error, is_tls: bool) -> ErrorClass {
    let causes: Vec<&(dyn Error + 'static)> =
        std::iter::successors(error.source(), |cause| (*cause).source()).collect();
    let is_io = |is: fn(&io::Error) -> bool| causes.iter().filter_map(|cause| cause.downcast_ref()).any(is);
    if causes.iter().any(|cause| cause.is::<BlockedAddress>()) {
        ErrorClass::Blocked
    } else if error.is_dns() {
        ErrorClass::Dns
    } else if error.is_timeout() {
        ErrorClass::Timeout
    } else if is_io(is_rustls) || (is_tls && error.is_connect() && is_io(hung_up)) {
        ErrorClass::Tls
    } else {
        ErrorClass::Connect
    }
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

/// A name all of whose addresses are such that iris does not connect to them.
#[derive(Debug, thiserror::Error)]
#[error("the name resolves to private, local or reserved addresses only")]
struct BlockedAddress;

/// Resolves a name and gives on only the addresses that may be connected to. It runs right before the connection is made
/// and its answer is the one that is used, so that a name cannot change in between.
#[derive(Debug)]
struct CheckedResolver {
    allow: Arc<AllowList>,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow = self.allow.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let open: Vec<SocketAddr> =
                found.iter().copied().filter(|addr| allow.may_connect(name.as_str(), addr.ip())).collect();
            if open.is_empty() && !found.is_empty() {
                return Err(BlockedAddress.into());
            }
            Ok(Box::new(open.into_iter()) as Addrs)
        })
    }
}

/// TLS 1.2 and 1.3 by rustls with ring. The system's certificate authorities are trusted, so that an operator can add one
/// (`SSL_CERT_FILE` is honoured); where there are none, as in a bare container, Mozilla's are.
fn tls_config() -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in native.errors {
        tracing::warn!(%error, "some of the system's certificate authorities cannot be read");
    }
    roots.add_parsable_certificates(native.certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
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

    #[tokio::test]
    async fn names_are_judged_by_what_they_resolve_to() {
        let resolve = async |allow: &str, name: &str| {
            let resolver = CheckedResolver { allow: Arc::new(allow.parse().unwrap()) };
            resolver.resolve(name.parse().unwrap()).await.map(Iterator::count)
        };
        let refused = resolve("", "localhost").await.err().unwrap();
        assert!(refused.is::<BlockedAddress>());
        assert!(resolve("localhost", "localhost").await.unwrap() > 0);
        assert!(resolve("127.0.0.0/8,::1", "localhost").await.unwrap() > 0);
        assert!(resolve("10.0.0.0/8", "localhost").await.is_err());
    }
}
