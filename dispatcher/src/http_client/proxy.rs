//! The proxy that an operator may have webhooks leave through. It is asked for a tunnel to an address (RFC 9110, section
//! 9.3.6); what goes through the tunnel, TLS or plain HTTP, is none of its business.

use std::{
    fmt, io,
    net::SocketAddr,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderValue, StatusCode, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tower::ServiceExt;
use url::Url;

use super::connector::Tcp;

/// How long connecting to the proxy may take: it is near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The share of an address's time that it may take at most, so that the deadline of the attempt does not hide that the proxy is
/// away.
const CONNECT_SHARE: f64 = 0.9;
/// The longest head of the proxy's answer.
const ANSWER_BYTES_MAX: usize = 8 * 1024;
const ANSWER_HEADERS_MAX: usize = 64;

/// Where a proxy is and who it lets through: `http://[user:password@]host:port`. The password is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl {
    place: Uri,
    /// The value of Proxy-Authorization.
    authorization: Option<HeaderValue>,
}

impl FromStr for ProxyUrl {
    type Err = String;

    /// Its errors never repeat what was given.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "must be http://host:port or http://user:password@host:port".to_owned();
        let url = Url::parse(text).map_err(|_| wrong())?;
        let host = url.host_str().ok_or_else(wrong)?;
        let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if url.scheme() != "http" || !is_bare {
            return Err(wrong());
        }
        let port = url.port_or_known_default().ok_or_else(wrong)?;
        let place = format!("http://{host}:{port}/").parse().map_err(|_| wrong())?;
        Ok(Self { place, authorization: authorization_of(&url)? })
    }
}

/// Basic (RFC 7617), if there is a user name or a password.
fn authorization_of(url: &Url) -> Result<Option<HeaderValue>, String> {
    let password = url.password().unwrap_or_default();
    if url.username().is_empty() && password.is_empty() {
        return Ok(None);
    }
    let mut credentials: Vec<u8> = percent_decode_str(url.username()).collect();
    if credentials.contains(&b':') {
        return Err("its user name must not contain a colon".to_owned());
    }
    credentials.push(b':');
    credentials.extend(percent_decode_str(password));
    let value = format!("Basic {}", STANDARD.encode(credentials));
    let mut value = HeaderValue::from_str(&value).map_err(|error| error.to_string())?;
    value.set_sensitive(true);
    Ok(Some(value))
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let credentials = if self.authorization.is_some() { "***@" } else { "" };
        let place = self.place.authority().map_or("", |authority| authority.as_str());
        write!(f, "http://{credentials}{place}")
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyUrl({self})")
    }
}

/// Why there is no tunnel. No cause is named as such: it would pass for a failure of the receiver's, of its TLS for one.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// No connection to the proxy.
    #[error("the proxy cannot be reached: {0:#}")]
    Unreachable(anyhow::Error),
    /// It does not speak HTTP, or hung up.
    #[error("the proxy did not answer CONNECT: {0}")]
    Broken(io::Error),
    /// It answered with anything but 2xx.
    #[error("the proxy answered CONNECT with {0}")]
    Refused(StatusCode),
    /// There is one, and whoever is at its other end does not wait for a request.
    #[error("the other end of the tunnel spoke first")]
    SpokeFirst,
}

impl ProxyError {
    /// Whether every tunnel would fail so.
    pub fn is_hopeless(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused(status) => *status == StatusCode::PROXY_AUTHENTICATION_REQUIRED,
            Self::Broken(_) | Self::SpokeFirst => false,
        }
    }

    /// Whether it is the proxy's own failure. Any other is about one address.
    fn is_the_proxys(&self) -> bool {
        self.is_hopeless() || matches!(self, Self::Broken(_))
    }
}

/// Opens tunnels through the proxy.
#[derive(Debug, Clone)]
pub struct Proxy {
    url: ProxyUrl,
    connector: HttpConnector,
    /// Whether the last tunnel failed by the proxy's fault.
    fails: Arc<AtomicBool>,
}

impl Proxy {
    /// Connects to the proxy with `connector`, wherever it is: its address is the operator's choice and is not checked.
    pub fn new(url: ProxyUrl, connector: HttpConnector) -> Self {
        Self { url, connector, fails: Arc::default() }
    }

    /// A connection to an address, through the proxy; nobody waits for it after `limit`.
    pub async fn tunnel_to(&self, address: SocketAddr, limit: Duration) -> Result<Tcp, ProxyError> {
        let opened = self.open(address, limit).await;
        self.note(opened.as_ref().err());
        opened
    }

    async fn open(&self, address: SocketAddr, limit: Duration) -> Result<Tcp, ProxyError> {
        let connecting = self.connector.clone().oneshot(self.url.place.clone());
        let connected = timeout(CONNECT_TIMEOUT.min(limit.mul_f64(CONNECT_SHARE)), connecting).await;
        let connected =
            connected.map_err(|_| ProxyError::Unreachable(anyhow::anyhow!("it does not answer")))?;
        let mut tcp = connected.map_err(|error| ProxyError::Unreachable(error.into()))?;
        ask(tcp.inner_mut(), address, self.url.authorization.as_ref()).await?;
        Ok(tcp)
    }

    /// Says when the proxy begins to fail, and when it serves again; the counter says how often it fails.
    fn note(&self, error: Option<&ProxyError>) {
        let fails = match error {
            None => false,
            Some(error) if error.is_the_proxys() => true,
            Some(_) => return,
        };
        if fails {
            metrics::counter!("webhook_proxy_failures_total").increment(1);
        }
        if self.fails.swap(fails, Ordering::Relaxed) == fails {
            return;
        }
        let proxy = &self.url;
        if let Some(error) = error {
            tracing::warn!(%proxy, %error, "webhooks do not leave");
        } else {
            tracing::info!(%proxy, "webhooks leave");
        }
    }
}

/// Asks for a tunnel and reads the head of the answer, after which the stream is the tunnel.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    address: SocketAddr,
    authorization: Option<&HeaderValue>,
) -> Result<(), ProxyError> {
    let mut request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n").into_bytes();
    if let Some(value) = authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(value.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await.map_err(ProxyError::Broken)?;
    let (status, rest_bytes) = read_head(stream).await.map_err(ProxyError::Broken)?;
    match (status.is_success(), rest_bytes) {
        (false, _) => Err(ProxyError::Refused(status)),
        (true, 0) => Ok(()),
        (true, _) => Err(ProxyError::SpokeFirst),
    }
}

/// The status of an answer, and how many bytes came with its head that are not part of it.
async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(StatusCode, usize)> {
    let mut answer = Vec::with_capacity(ANSWER_BYTES_MAX);
    while answer.len() < ANSWER_BYTES_MAX {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut headers = [httparse::EMPTY_HEADER; ANSWER_HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        let parsed = head.parse(&answer).map_err(|error| invalid(&error.to_string()))?;
        if let httparse::Status::Complete(head_bytes) = parsed {
            let status = head.code.and_then(|code| StatusCode::from_u16(code).ok());
            return Ok((status.ok_or_else(|| invalid("no status"))?, answer.len() - head_bytes));
        }
    }
    Err(invalid("an endless head"))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxys_url_is_read_and_its_password_is_not_shown() {
        for (text, shown, authorization) in [
            ("http://proxy.internal:3128", "http://proxy.internal:3128", None),
            ("http://10.0.0.1:3128/", "http://10.0.0.1:3128", None),
            ("http://[::1]:8080", "http://[::1]:8080", None),
            ("http://proxy.internal", "http://proxy.internal:80", None),
            ("http://ana:hunter2@proxy:3128", "http://***@proxy:3128", Some("ana:hunter2")),
            ("http://ana@proxy:3128", "http://***@proxy:3128", Some("ana:")),
            ("http://:hunter2@proxy:3128", "http://***@proxy:3128", Some(":hunter2")),
            ("http://an%40a:h%3A%2Fr@proxy:3128", "http://***@proxy:3128", Some("an@a:h:/r")),
        ] {
            let url: ProxyUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("ProxyUrl({shown})"));
            let expected = authorization.map(|credentials| format!("Basic {}", STANDARD.encode(credentials)));
            let value = url.authorization.as_ref().map(|value| value.to_str().unwrap());
            assert_eq!(value, expected.as_deref(), "{text}");
            assert!(!format!("{:?}", Proxy::new(url, HttpConnector::new())).contains("hunter2"));
        }
    }

    #[test]
    fn what_is_no_proxys_url_is_refused_without_repeating_it() {
        for wrong in [
            "",
            "hunter2",
            "proxy:3128",
            "https://ana:hunter2@proxy:3128",
            "socks5://ana:hunter2@proxy:1080",
            "http://ana:hunter2@proxy:3128/path",
            "http://ana:hunter2@proxy:3128?query",
            "http://ana:hunter2@proxy:99999",
            "http://ana:hunter2@",
            "http://an%3Aa:hunter2@proxy:3128",
        ] {
            let reason = wrong.parse::<ProxyUrl>().unwrap_err();
            assert!(reason.starts_with("must be ") || reason.contains("colon"), "{wrong}: {reason}");
            assert!(!reason.contains("hunter2") && !reason.contains("ana"), "{wrong}: {reason}");
        }
    }

    /// What becomes of an answer, and what was asked.
    async fn asked(answer: &str, authorization: Option<&str>) -> (Result<(), ProxyError>, String) {
        let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
        theirs.write_all(answer.as_bytes()).await.unwrap();
        theirs.shutdown().await.unwrap();
        let authorization = authorization.map(|value| HeaderValue::from_str(value).unwrap());
        let address = "[2001:db8::1]:443".parse().unwrap();
        let opened = ask(&mut ours, address, authorization.as_ref()).await;
        drop(ours);
        let mut request = String::new();
        theirs.read_to_string(&mut request).await.unwrap();
        (opened, request)
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_by_address() {
        let request = "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n";
        let (opened, bare) = asked("HTTP/1.1 200 Connection established\r\n\r\n", None).await;
        assert!(opened.is_ok(), "{opened:?}");
        assert_eq!(bare, format!("{request}\r\n"));
        let (opened, with) = asked("HTTP/1.0 204\r\nvia: 1.1 p\r\n\r\n", Some("Basic YTpi")).await;
        assert!(opened.is_ok(), "{opened:?}");
        assert_eq!(with, format!("{request}Proxy-Authorization: Basic YTpi\r\n\r\n"));
    }

    #[tokio::test]
    async fn only_an_answer_of_2xx_opens_a_tunnel() {
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(ANSWER_BYTES_MAX));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: a\r\n".repeat(ANSWER_HEADERS_MAX + 1));
        // What was answered, what is made of it, and whether the proxy is to blame.
        for (answer, expected, is_the_proxys) in [
            ("", "the proxy did not answer CONNECT: unexpected end of file", true),
            ("HTTP/1.1 200 OK\r\n", "the proxy did not answer CONNECT: unexpected end of file", true),
            ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "the proxy did not answer CONNECT: invalid HTTP version", true),
            (&endless, "the proxy did not answer CONNECT: an endless head", true),
            (&many, "the proxy did not answer CONNECT: too many headers", true),
            ("HTTP/1.1 407 No\r\ncontent-length: 3\r\n\r\nno!", "the proxy answered CONNECT with 407", true),
            ("HTTP/1.1 403 No\r\n\r\n", "the proxy answered CONNECT with 403", false),
            ("HTTP/1.1 502 No\r\n\r\n", "the proxy answered CONNECT with 502", false),
            ("HTTP/1.1 200 OK\r\n\r\n220 mail.example.com", "the other end of the tunnel spoke", false),
        ] {
            let error = asked(answer, None).await.0.unwrap_err();
            assert!(error.to_string().starts_with(expected), "{answer:.60}: {error}");
            assert_eq!(error.is_the_proxys(), is_the_proxys, "{error}");
        }
    }
}
