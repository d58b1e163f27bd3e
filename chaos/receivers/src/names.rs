//! The names of a run, and the server that says what they mean: each of them lies, but one.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::Context;
use hickory_server::{
    net::runtime::Time,
    proto::{
        op::{Header, HeaderCounts, MessageType, Metadata, ResponseCode},
        rr::{RData, Record, RecordType},
    },
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo, Server},
    zone_handler::MessageResponseBuilder,
};
use tokio::net::{TcpListener, UdpSocket};

use crate::endpoint::{ENDPOINTS, METADATA, PRIVATE, PUBLIC, Place};

/// Where resolvers ask.
const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);
/// How long a connection to it may be idle.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// The answers that may wait for a slow asker.
const BUFFER: usize = 32;

/// Answers for ever.
pub async fn serve() -> anyhow::Result<()> {
    let udp = UdpSocket::bind(ADDRESS).await.context("cannot listen on port 53")?;
    let tcp = TcpListener::bind(ADDRESS).await.context("cannot listen on port 53")?;
    tokio::spawn(async move {
        let mut server = Server::new(Names::default());
        server.register_socket(udp);
        server.register_listener(tcp, IDLE_MAX, BUFFER);
        if let Err(error) = server.block_until_done().await {
            eprintln!("the name server ended: {error}");
        }
    });
    Ok(())
}

#[derive(Debug, Default)]
struct Names {
    /// How often somebody asked for the address that flips.
    asked: AtomicU64,
}

impl Names {
    /// What a name means now; `None` is a name that does not exist.
    fn look_up(&self, host: &str, kind: RecordType) -> Option<Vec<IpAddr>> {
        let endpoint =
            ENDPOINTS.iter().find(|endpoint| endpoint.place == Place::Named && endpoint.host() == host)?;
        let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let means: Vec<IpAddr> = match endpoint.name {
            "public" => vec![PUBLIC.into()],
            // Whoever looks twice, once to check and once to connect, is told two things.
            "dns_flip" if kind == RecordType::A => {
                let first = self.asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
                vec![if first { PUBLIC.into() } else { localhost }]
            }
            "dns_both" => vec![localhost, PUBLIC.into(), METADATA.into()],
            "dns_loopback" => vec![localhost],
            "dns_private" => vec![PRIVATE.into()],
            "dns_metadata" => vec![METADATA.into()],
            "dns_loopback_v6" => vec![Ipv6Addr::LOCALHOST.into()],
            "dns_mapped_v6" => vec![METADATA.to_ipv6_mapped().into()],
            _ => Vec::new(),
        };
        let wanted = |address: &IpAddr| match kind {
            RecordType::A => address.is_ipv4(),
            RecordType::AAAA => address.is_ipv6(),
            _ => false,
        };
        Some(means.into_iter().filter(wanted).collect())
    }
}

#[async_trait::async_trait]
impl RequestHandler for Names {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = true;
        let mut answers = Vec::new();
        match request.request_info() {
            Ok(info) => {
                let host = info.query.name().to_string();
                match self.look_up(host.trim_end_matches('.'), info.query.query_type()) {
                    // Nobody may remember it.
                    Some(addresses) => answers.extend(addresses.into_iter().map(|address| {
                        let data = match address {
                            IpAddr::V4(address) => RData::A(address.into()),
                            IpAddr::V6(address) => RData::AAAA(address.into()),
                        };
                        Record::from_rdata(info.query.original().name().clone(), 0, data)
                    })),
                    None => metadata.response_code = ResponseCode::NXDomain,
                }
            }
            Err(_) => metadata.response_code = ResponseCode::FormErr,
        }
        let message =
            MessageResponseBuilder::from_message_request(request).build(metadata, &answers, &[], &[], &[]);
        match response.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                eprintln!("a name was not answered: {error}");
                let metadata =
                    Metadata::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
                ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_flips_means_another_address_every_other_time() {
        let names = Names::default();
        let look = |kind| names.look_up("dns-flip.chaos.test", kind);
        assert_eq!(look(RecordType::A), Some(vec![PUBLIC.into()]));
        assert_eq!(look(RecordType::AAAA), Some(vec![]), "which does not count");
        assert_eq!(look(RecordType::A), Some(vec![Ipv4Addr::LOCALHOST.into()]));
        assert_eq!(look(RecordType::A), Some(vec![PUBLIC.into()]));
        assert_eq!(look(RecordType::MX), Some(vec![]));
    }

    #[test]
    fn every_name_of_an_endpoint_means_something_and_no_other_does() {
        let names = Names::default();
        for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.place == Place::Named) {
            let mut addresses = names.look_up(&endpoint.host(), RecordType::A).unwrap();
            addresses.extend(names.look_up(&endpoint.host(), RecordType::AAAA).unwrap());
            assert!(!addresses.is_empty(), "{}", endpoint.name);
        }
        assert_eq!(names.look_up("hang.chaos.test", RecordType::A), None);
        assert_eq!(names.look_up("chaos.test", RecordType::A), None);
    }
}
