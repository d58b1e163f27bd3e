//! From a URL to a connection, straight or through the proxy:
//!
//! ```text
//! name -- resolve, check --> addresses -- dial --> bytes -- TLS for the name --> connection
//! ```
//!
//! The addresses that were checked are the ones that are dialled, so that a name cannot change in between; a proxy is told
//! an address and never a name.

use std::{
    error::Error,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::select;
use http::{Uri, uri::Scheme};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::ClientConfig;
use shared::domain::endpoint_url::AllowList;
use tokio::{net::TcpStream, time::timeout};
use tower::{Service, ServiceExt};

use super::proxy::{Proxy, ProxyError, ProxyUrl};

/// A TCP connection, to an endpoint's address or through a tunnel to it.
pub type Tcp = TokioIo<TcpStream>;
/// What went wrong, at whichever stage.
pub type BoxError = Box<dyn Error + Send + Sync>;
type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// How many addresses of a name are tried. A name with thousands would have us knock at every one of them.
const ADDRESSES_MAX: usize = 16;
/// How long one family of addresses is tried alone before the other is tried beside it (RFC 8305, section 8).
const FALLBACK_DELAY: Duration = Duration::from_millis(250);
/// After how long without a sign of life a connection is probed, and given up. A request on a dead connection would end at
/// its deadline, and so would all that follow it on the same one.
pub const PROBE_AFTER: Duration = Duration::from_secs(15);
const PROBES_MAX: u32 = 3;
#[cfg(any(target_os = "linux", target_os = "android", target_os = "fuchsia"))]
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

/// Opens the connections of a client. The deadline is its own: a client goes on connecting for those that come after a
/// request that was served otherwise meanwhile.
#[derive(Debug, Clone)]
pub struct Connector {
    https: HttpsConnector<Dialer>,
    timeout: Duration,
}

impl Connector {
    /// Connects within `timeout`, to private addresses only where `allow` says, and through `proxy` if there is one.
    pub fn new(allow: Arc<AllowList>, proxy: Option<ProxyUrl>, tls: ClientConfig, timeout: Duration) -> Self {
        let route = match proxy {
            None => Route::Direct(tcp_connector()),
            Some(url) => Route::Proxied(Proxy::new(url, tcp_connector())),
        };
        Self { https: HttpsConnector::from((Dialer { allow, route, timeout }, tls)), timeout }
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<Tcp>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.https.call(uri);
        let limit = self.timeout;
        Box::pin(async move { timeout(limit, connecting).await.map_err(io::Error::from)? })
    }
}

fn tcp_connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_keepalive(Some(PROBE_AFTER));
    connector.set_keepalive_interval(Some(PROBE_AFTER));
    connector.set_keepalive_retries(Some(PROBES_MAX));
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "fuchsia"))]
    connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX));
    connector
}

/// Why no address of a name may be dialled.
#[derive(Debug, thiserror::Error)]
pub enum Unresolved {
    /// It has none.
    #[error("the name does not resolve")]
    Unknown(#[source] io::Error),
    /// All of them are such that iris does not connect to them.
    #[error("the name resolves to private, local or reserved addresses only")]
    Blocked,
}

/// Dials the host of a URL.
#[derive(Debug, Clone)]
struct Dialer {
    allow: Arc<AllowList>,
    route: Route,
    timeout: Duration,
}

/// How an address is reached.
#[derive(Debug, Clone)]
enum Route {
    Direct(HttpConnector),
    Proxied(Proxy),
}

impl Service<Uri> for Dialer {
    type Response = Tcp;
    type Error = BoxError;
    type Future = Connecting<Tcp>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move { dialer.connect(&uri).await })
    }
}

impl Dialer {
    async fn connect(&self, uri: &Uri) -> Result<Tcp, BoxError> {
        let host = uri.host().ok_or("a URL without a host")?;
        let default_port = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
        let addresses =
            self.resolve(host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(default_port)).await?;
        self.dial_any(addresses).await
    }

    /// The addresses of a name, or the one of a literal, that may be connected to: at least one.
    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Unresolved> {
        let found: Vec<SocketAddr> =
            tokio::net::lookup_host((host, port)).await.map_err(Unresolved::Unknown)?.collect();
        self.check(host, found)
    }

    fn check(&self, host: &str, mut addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Unresolved> {
        if addresses.is_empty() {
            return Err(Unresolved::Unknown(io::ErrorKind::NotFound.into()));
        }
        addresses.retain(|address| self.allow.may_connect(host, address.ip()));
        addresses.truncate(ADDRESSES_MAX);
        if addresses.is_empty() { Err(Unresolved::Blocked) } else { Ok(addresses) }
    }

    /// The addresses of one family in turn, and a moment later those of the other family beside them.
    async fn dial_any(&self, addresses: Vec<SocketAddr>) -> Result<Tcp, BoxError> {
        let is_ipv6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
        let (first, second): (Vec<_>, Vec<_>) =
            addresses.into_iter().partition(|address| address.is_ipv6() == is_ipv6);
        let mut first = pin!(self.dial_in_turn(&first));
        if second.is_empty() {
            return first.await;
        }
        match timeout(FALLBACK_DELAY, &mut first).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(_)) => return self.dial_in_turn(&second).await,
            Err(_) => {}
        }
        let second = pin!(self.dial_in_turn(&second));
        match select(first, second).await.factor_first() {
            (Ok(tcp), _) => Ok(tcp),
            (Err(_), other) => other.await,
        }
    }

    /// Each has an equal share of the time; the first failure is the one that is told.
    async fn dial_in_turn(&self, addresses: &[SocketAddr]) -> Result<Tcp, BoxError> {
        let share = self.timeout / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut failure = None;
        for address in addresses {
            let dialled = timeout(share, self.dial(*address, share)).await;
            match dialled.map_err(|elapsed| io::Error::from(elapsed).into()).flatten() {
                Ok(tcp) => return Ok(tcp),
                Err(error) => {
                    let in_vain = error.downcast_ref().is_some_and(ProxyError::is_hopeless);
                    failure = failure.or(Some(error));
                    if in_vain {
                        break;
                    }
                }
            }
        }
        Err(failure.unwrap_or_else(|| "no address to dial".into()))
    }

    async fn dial(&self, address: SocketAddr, limit: Duration) -> Result<Tcp, BoxError> {
        match &self.route {
            Route::Direct(connector) => {
                let target = format!("http://{address}/").parse::<Uri>()?;
                Ok(connector.clone().oneshot(target).await?)
            }
            Route::Proxied(proxy) => Ok(proxy.tunnel_to(address, limit).await?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn dialer(allow: &str, route: Route) -> Dialer {
        Dialer { allow: Arc::new(allow.parse().unwrap()), route, timeout: Duration::from_secs(20) }
    }

    fn direct(allow: &str) -> Dialer {
        dialer(allow, Route::Direct(tcp_connector()))
    }

    #[tokio::test]
    async fn names_and_literals_are_judged_by_their_addresses() {
        for blocked in ["localhost", "127.0.0.1", "::1", "169.254.169.254"] {
            let refused = direct("10.0.0.0/8").resolve(blocked, 443).await;
            assert!(matches!(refused, Err(Unresolved::Blocked)), "{blocked}: {refused:?}");
        }
        let found = direct("localhost").resolve("localhost", 443).await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|addr| addr.ip().is_loopback() && addr.port() == 443));
        assert!(!direct("127.0.0.0/8,::1").resolve("localhost", 443).await.unwrap().is_empty());
        assert_eq!(direct("").resolve("8.8.8.8", 80).await.unwrap(), ["8.8.8.8:80".parse().unwrap()]);
        let unknown = direct("").resolve("no-such-host.invalid", 80).await;
        assert!(matches!(unknown, Err(Unresolved::Unknown(_))), "{unknown:?}");
    }

    #[test]
    fn only_what_may_be_connected_to_is_dialled_and_not_too_much_of_it() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        let mixed = addresses(&["10.0.0.1:80", "8.8.8.8:80", "[::1]:80", "[2a00:1450::1]:80"]);
        let open = direct("").check("example.com", mixed.clone()).unwrap();
        assert_eq!(open, addresses(&["8.8.8.8:80", "[2a00:1450::1]:80"]));
        assert_eq!(direct("example.com").check("example.com", mixed.clone()).unwrap(), mixed);
        let many: Vec<_> = (1..=100).map(|n| SocketAddr::from(([8, 8, 8, n], 80))).collect();
        assert_eq!(direct("").check("example.com", many.clone()).unwrap(), many[..ADDRESSES_MAX]);
        assert!(matches!(direct("").check("example.com", Vec::new()), Err(Unresolved::Unknown(_))));
    }

    /// The URL was judged before; this is what holds when its name resolves to something else by now.
    #[tokio::test]
    async fn what_is_blocked_reaches_neither_its_address_nor_the_proxy() {
        let receiver = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = receiver.local_addr().unwrap().port();
        let url = format!("http://{}", proxy.local_addr().unwrap()).parse().unwrap();
        let through = dialer("", Route::Proxied(Proxy::new(url, tcp_connector())));
        for dialer in [direct(""), through] {
            for host in ["localhost", "127.0.0.1"] {
                let uri = format!("http://{host}:{port}/").parse().unwrap();
                let refused = dialer.connect(&uri).await.unwrap_err();
                assert!(matches!(refused.downcast_ref(), Some(Unresolved::Blocked)), "{refused:?}");
            }
        }
        for untouched in [receiver, proxy] {
            untouched.set_nonblocking(true).unwrap();
            assert_eq!(untouched.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[tokio::test]
    async fn the_addresses_of_a_name_are_tried_until_one_answers() {
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = open.local_addr().unwrap();
        // Nobody listens on the discard port here, of either family.
        let closed = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let closed_ipv6 = SocketAddr::from((Ipv6Addr::LOCALHOST, 9));
        let dialer = direct("");
        for addresses in [vec![closed, open], vec![closed_ipv6, closed, open], vec![open, closed_ipv6]] {
            let tcp = dialer.dial_any(addresses.clone()).await.expect("one of them answers");
            assert_eq!(tcp.inner().peer_addr().unwrap(), open, "{addresses:?}");
        }
        assert!(dialer.dial_any(vec![closed, closed_ipv6]).await.is_err());
    }

    #[tokio::test]
    async fn a_silent_family_does_not_hold_up_the_other() {
        let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", proxy.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            let mut silent = Vec::new();
            while let Ok((mut socket, _)) = proxy.accept().await {
                let mut asked = [0; 256];
                if socket.read(&mut asked).await.unwrap() > 0 && !asked.starts_with(b"CONNECT [") {
                    socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                }
                silent.push(socket);
            }
        });
        let dialer = dialer("", Route::Proxied(Proxy::new(url, tcp_connector())));
        let addresses = ["[2001:db8::1]:443", "8.8.8.8:443"].map(|text| text.parse().unwrap());
        // The silent one has its whole share of the time, which is all of it here.
        let answered = timeout(dialer.timeout / 2, dialer.dial_any(addresses.to_vec())).await;
        assert!(answered.expect("the other was tried beside it").is_ok());
    }
}
