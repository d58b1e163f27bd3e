//! Webhooks through an operator's proxy, and TLS with and without one.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use dispatcher::{Answer, DispatcherConfig, HttpClient, ProxyUrl};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use http_body_util::{Empty, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::{RootCertStore, ServerConfig, pki_types::CertificateDer};
use shared::{
    domain::delivery::{DeliveryStatus, ErrorClass},
    events::EventType::MessageSent,
    ids::new_id,
};
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::support::{Receiver, Stage};

/// What a proxy does with a request for a tunnel.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    Open,
    Refuse(u16),
    Silence,
}

/// A request for a tunnel, as the proxy got it.
#[derive(Debug)]
struct Asked {
    method: Method,
    target: String,
    host: String,
    authorization: Option<String>,
}

/// A proxy that opens tunnels as it is told, and tells what it was asked for.
struct ConnectProxy {
    addr: SocketAddr,
    asked: mpsc::UnboundedReceiver<Asked>,
    server: JoinHandle<()>,
}

impl ConnectProxy {
    /// `judge` is given the address that is asked for.
    async fn start(judge: impl Fn(&str) -> Verdict + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, asked) = mpsc::unbounded_channel();
        let judge = Arc::new(judge);
        let server = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (sender, judge) = (sender.clone(), judge.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let asked = Asked::from(&request);
                    let verdict = judge(&asked.target);
                    let target = asked.target.clone();
                    let _ = sender.send(asked);
                    answer(request, target, verdict)
                });
                let serving = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service);
                tokio::spawn(serving.with_upgrades());
            }
        });
        Self { addr, asked, server }
    }

    /// One that opens every tunnel.
    async fn open() -> Self {
        Self::start(|_| Verdict::Open).await
    }

    fn url(&self) -> ProxyUrl {
        format!("http://ana:s3cret@{}", self.addr).parse().unwrap()
    }

    /// What was asked since the last look.
    fn asked(&mut self) -> Vec<Asked> {
        std::iter::from_fn(|| self.asked.try_recv().ok()).collect()
    }

    fn targets(&mut self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.target).collect()
    }
}

impl Drop for ConnectProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl From<&Request<Incoming>> for Asked {
    fn from(request: &Request<Incoming>) -> Self {
        let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        Self {
            method: request.method().clone(),
            target: request.uri().to_string(),
            host: header("host").unwrap_or_default(),
            authorization: header("proxy-authorization"),
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    target: String,
    verdict: Verdict,
) -> http::Result<Response<Empty<Bytes>>> {
    let status = match verdict {
        Verdict::Silence => std::future::pending().await,
        Verdict::Refuse(status) => status,
        Verdict::Open => match TcpStream::connect(target).await {
            Err(_) => 502,
            Ok(mut onward) => {
                tokio::spawn(async move {
                    let mut tunnel = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
                    let _ = copy_bidirectional(&mut tunnel, &mut onward).await;
                });
                200
            }
        },
    };
    Response::builder().status(status).body(Empty::new())
}

/// A request as a receiver with TLS got it.
#[derive(Debug, PartialEq)]
struct Seen {
    server_name: Option<String>,
    version: Version,
    host: String,
    proxy_authorization: Option<HeaderValue>,
}

/// A receiver with a certificate for a name.
struct TlsReceiver {
    addr: SocketAddr,
    certificate: CertificateDer<'static>,
    seen: mpsc::UnboundedReceiver<Seen>,
    server: JoinHandle<()>,
}

impl TlsReceiver {
    async fn start(name: &str, protocol: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate.clone()], made.signing_key.into())
                .unwrap();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, seen) = mpsc::unbounded_channel();
        let server = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve_tls(acceptor.clone(), socket, sender.clone()));
            }
        });
        Self { addr, certificate, seen, server }
    }

    /// A client that trusts this receiver.
    fn client(&self, proxy: Option<ProxyUrl>) -> HttpClient {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        HttpClient::trusting(roots, allow(), PATIENCE, proxy).unwrap()
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/hooks", self.addr.port())
    }
}

impl Drop for TlsReceiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve_tls(acceptor: TlsAcceptor, socket: TcpStream, sender: mpsc::UnboundedSender<Seen>) {
    // A client that does not trust us hangs up.
    let Ok(tls) = acceptor.accept(socket).await else { return };
    let server_name = tls.get_ref().1.server_name().map(ToOwned::to_owned);
    let service = service_fn(move |request: Request<Incoming>| {
        let host = request.headers().get("host").map(|host| host.to_str().unwrap());
        let host = host.or(request.uri().authority().map(http::uri::Authority::as_str));
        let _ = sender.send(Seen {
            server_name: server_name.clone(),
            version: request.version(),
            host: host.unwrap().to_owned(),
            proxy_authorization: request.headers().get("proxy-authorization").cloned(),
        });
        async { http::Result::Ok(Response::new(Full::new(Bytes::from("thanks")))) }
    });
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tls), service).await;
}

const PATIENCE: Duration = Duration::from_secs(20);

/// The name and the addresses of this machine.
fn allow() -> shared::domain::endpoint_url::AllowList {
    "localhost,127.0.0.0/8".parse().unwrap()
}

async fn post(client: &HttpClient, url: &str) -> Answer {
    client.post(url, HeaderMap::new(), Bytes::from("{}")).await
}

fn end(answer: &Answer) -> (Option<u16>, Option<ErrorClass>) {
    (answer.status_code, answer.error_class)
}

#[tokio::test]
async fn a_delivery_leaves_through_the_proxy() {
    let stage = Stage::set().await;
    let mut receiver = Receiver::answering(&[200]).await;
    let mut proxy = ConnectProxy::open().await;
    let (endpoint, secret) =
        stage.endpoint(&receiver.url.replace("127.0.0.1", "localhost"), &[MessageSent]).await;
    stage.append(MessageSent, new_id(), 1).await;
    let config = DispatcherConfig { webhook_proxy: Some(proxy.url()), ..DispatcherConfig::default() };
    let dispatcher = stage.dispatch_with(config, "localhost", "5s");
    let request = receiver.next().await;
    request.verify(&secret);
    let port = receiver.url.split([':', '/']).nth(4).unwrap();
    assert_eq!(request.header("host"), format!("localhost:{port}"));
    assert_eq!(request.header("proxy-authorization"), "");
    stage.until_status(endpoint, DeliveryStatus::Succeeded).await;
    dispatcher.stop().await;

    let asked = proxy.asked();
    for asked in &asked {
        let addr: SocketAddr = asked.target.parse().expect("an address, never a name");
        assert!(addr.ip().is_loopback() && addr.port().to_string() == port, "{asked:?}");
        assert_eq!((&asked.method, &asked.host), (&Method::CONNECT, &asked.target));
        assert_eq!(asked.authorization.as_deref(), Some("Basic YW5hOnMzY3JldA=="));
    }
    // The name may have an address of the other family too, where nobody listens.
    assert_eq!(asked.last().unwrap().target, format!("127.0.0.1:{port}"));
}

#[tokio::test]
async fn what_a_proxy_refuses_is_no_answer_of_the_receiver() {
    let stage = Stage::set().await;
    let mut receiver = Receiver::answering(&[200]).await;
    let proxy = ConnectProxy::start(|_| Verdict::Refuse(410)).await;
    let (endpoint, _) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    stage.append(MessageSent, new_id(), 1).await;
    let config = DispatcherConfig {
        webhook_proxy: Some(proxy.url()),
        webhook_retries: "none".parse().unwrap(),
        ..DispatcherConfig::default()
    };
    let dispatcher = stage.dispatch(config);
    let delivery = stage.until_status(endpoint, DeliveryStatus::Exhausted).await;
    let [attempt] = &delivery.attempts[..] else { panic!("{delivery:?}") };
    assert_eq!((attempt.status_code, attempt.error_class), (None, Some(ErrorClass::Connect)));
    assert_eq!(attempt.response_excerpt, None);
    dispatcher.stop().await;
    assert_eq!(receiver.rest().len(), 0);
}

#[tokio::test]
async fn tls_is_for_the_name_straight_and_through_the_proxy() {
    for (protocol, version) in [("h2", Version::HTTP_2), ("http/1.1", Version::HTTP_11)] {
        let mut proxy = ConnectProxy::open().await;
        for through in [None, Some(proxy.url())] {
            let mut receiver = TlsReceiver::start("localhost", protocol).await;
            let client = receiver.client(through.clone());
            // The second goes over the connection of the first.
            for _ in 0..2 {
                let answer = post(&client, &receiver.url()).await;
                assert_eq!(end(&answer), (Some(200), None), "{protocol} {through:?}");
                assert_eq!(answer.excerpt.as_deref(), Some("thanks"));
                let seen = receiver.seen.recv().await.unwrap();
                let expected = Seen {
                    server_name: Some("localhost".to_owned()),
                    version,
                    host: format!("localhost:{}", receiver.addr.port()),
                    proxy_authorization: None,
                };
                assert_eq!(seen, expected);
            }
            let to_the_receiver = receiver.addr.to_string();
            let asked = proxy.targets().into_iter().filter(|target| *target == to_the_receiver).count();
            assert_eq!(asked, usize::from(through.is_some()), "{protocol}");
        }
    }
}

#[tokio::test]
async fn a_certificate_must_be_for_the_name_and_trusted() {
    let proxy = ConnectProxy::open().await;
    for through in [None, Some(proxy.url())] {
        let mut other = TlsReceiver::start("other.example.com", "h2").await;
        let answer = post(&other.client(through.clone()), &other.url()).await;
        assert_eq!(end(&answer), (None, Some(ErrorClass::Tls)), "another name, {through:?}");
        let unknown = HttpClient::new(allow(), PATIENCE, through.clone()).unwrap();
        let mut receiver = TlsReceiver::start("localhost", "h2").await;
        let answer = post(&unknown, &receiver.url()).await;
        assert_eq!(end(&answer), (None, Some(ErrorClass::Tls)), "another issuer, {through:?}");
        assert!(other.seen.try_recv().is_err() && receiver.seen.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_proxy_is_asked_for_no_private_address() {
    let mut proxy = ConnectProxy::open().await;
    let client = HttpClient::new("10.0.0.0/8".parse().unwrap(), PATIENCE, Some(proxy.url())).unwrap();
    let own = proxy.addr.port();
    for url in [
        format!("http://127.0.0.1:{own}/"),
        format!("https://127.0.0.1:{own}/"),
        format!("https://localhost:{own}/"),
        "https://169.254.169.254/latest/meta-data".to_owned(),
        "https://[::ffff:169.254.169.254]/".to_owned(),
    ] {
        assert_eq!(end(&post(&client, &url).await), (None, Some(ErrorClass::Blocked)), "{url}");
    }
    assert!(proxy.asked().is_empty());
}

#[tokio::test]
async fn a_proxy_that_opens_no_tunnel_is_a_failure_to_connect() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut urls: Vec<ProxyUrl> = vec![format!("http://{gone}").parse().unwrap()];
    let mut proxies = Vec::new();
    for status in [301, 403, 407, 502] {
        proxies.push(ConnectProxy::start(move |_| Verdict::Refuse(status)).await);
    }
    urls.extend(proxies.iter().map(ConnectProxy::url));
    for said in ["", "HTTP/1.1 200", "220 mail.example.com ESMTP\r\n"] {
        urls.push(saying(said).await);
    }
    for url in urls {
        let client = HttpClient::new(allow(), PATIENCE, Some(url.clone())).unwrap();
        for target in ["https://127.0.0.1:4443/", "http://127.0.0.1:4443/"] {
            let answer = post(&client, target).await;
            assert_eq!(end(&answer), (None, Some(ErrorClass::Connect)), "{url} {target}");
            assert_eq!(answer.excerpt, None);
        }
    }
}

/// A server that says something to everybody and hangs up.
async fn saying(text: &'static str) -> ProxyUrl {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.write_all(text.as_bytes()).await;
        }
    });
    url
}

#[tokio::test]
async fn a_proxy_that_is_silent_ends_at_the_deadline() {
    let proxy = ConnectProxy::start(|_| Verdict::Silence).await;
    let client = HttpClient::new(allow(), Duration::from_millis(300), Some(proxy.url())).unwrap();
    let answer = post(&client, "https://127.0.0.1:4443/").await;
    assert_eq!(end(&answer), (None, Some(ErrorClass::Timeout)));
}
