//! Which URLs an endpoint may have, and which addresses iris connects to. Checked when an endpoint is registered and
//! again at every attempt, then for every address its name resolves to, so that a name that changes its address later
//! gains nothing.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;
use url::{Host, Url};

/// The longest URL in bytes.
pub const URL_BYTES_MAX: usize = 2048;
/// The low ports that serve HTTP; below 1024 every other one belongs to some other service.
const LOW_PORTS: [u16; 2] = [80, 443];
/// No allow-list is longer.
const ALLOWED_MAX: usize = 1000;

/// Why a URL is no endpoint's. Its text is the reason a customer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Longer than [`URL_BYTES_MAX`].
    #[error("must have at most {URL_BYTES_MAX} bytes")]
    TooLong,
    /// No URL at all, or one with characters that parsers drop silently.
    #[error("must be a URL such as https://example.com/hooks")]
    Malformed,
    /// Neither https, nor http on an allow-listed host.
    #[error("must be an https URL")]
    Scheme,
    /// It carries a user name or a password.
    #[error("must not contain a user name or password")]
    Credentials,
    /// A port of another service.
    #[error("must use port 443, 80 or one above 1023")]
    Port,
    /// A literal address, or a name, that is this machine's or a private network's.
    #[error("must not point to a private, local or reserved address")]
    Address,
}

/// Reads an endpoint's URL and checks it. A fragment is dropped, since it is never sent.
pub fn parse(text: &str, allow: &AllowList) -> Result<Url, UrlError> {
    if text.len() > URL_BYTES_MAX {
        return Err(UrlError::TooLong);
    }
    // The URL standard has parsers drop tabs and line ends; whoever sends them means something else.
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(UrlError::Malformed);
    }
    let mut url = Url::parse(text).map_err(|_| UrlError::Malformed)?;
    url.set_fragment(None);
    if url.as_str().len() > URL_BYTES_MAX {
        return Err(UrlError::TooLong);
    }
    check(&url, allow)?;
    Ok(url)
}

fn check(url: &Url, allow: &AllowList) -> Result<(), UrlError> {
    if !matches!(url.scheme(), "https" | "http") {
        return Err(UrlError::Scheme);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlError::Credentials);
    }
    let host = url.host().ok_or(UrlError::Malformed)?;
    let (allowed, local) = match host {
        Host::Domain(name) => (allow.allows_host(name), is_local_name(name)),
        Host::Ipv4(ip) => (allow.allows_ip(ip.into()), is_blocked(ip.into())),
        Host::Ipv6(ip) => (allow.allows_ip(ip.into()), is_blocked(ip.into())),
    };
    if local && !allowed {
        return Err(UrlError::Address);
    }
    if url.scheme() == "http" && !allowed {
        return Err(UrlError::Scheme);
    }
    match url.port_or_known_default() {
        Some(port) if port >= 1024 || LOW_PORTS.contains(&port) => Ok(()),
        _ => Err(UrlError::Port),
    }
}

/// The names that mean this machine whatever a resolver says (RFC 6761, section 6.3).
fn is_local_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether iris refuses to connect to an address: everything that is not a unicast address of the public internet
/// (IANA's special-purpose registries, RFC 6890), and the metadata services of clouds.
pub fn is_blocked(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => BLOCKED_V4.iter().any(|(net, bits)| has_prefix_v4(ip, *net, *bits)),
        IpAddr::V6(ip) => {
            // Global unicast is 2000::/3. Outside it lie loopback, unspecified, the v4-mapped and v4-compatible ranges,
            // NAT64 (64:ff9b::/96), discard (100::/64), segment routing, unique local, link-local and multicast.
            !has_prefix_v6(ip, GLOBAL_V6.0, GLOBAL_V6.1)
                || BLOCKED_V6.iter().any(|(net, bits)| has_prefix_v6(ip, *net, *bits))
        }
    }
}

const BLOCKED_V4: [(Ipv4Addr, u32); 16] = [
    (Ipv4Addr::UNSPECIFIED, 8),            // this network, unspecified
    (Ipv4Addr::new(10, 0, 0, 0), 8),       // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),    // carrier-grade NAT, Alibaba's metadata
    (Ipv4Addr::new(127, 0, 0, 0), 8),      // loopback
    (Ipv4Addr::new(168, 63, 129, 16), 32), // Azure's wire server
    (Ipv4Addr::new(169, 254, 0, 0), 16),   // link-local, metadata of most clouds
    (Ipv4Addr::new(172, 16, 0, 0), 12),    // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),     // protocol assignments, Oracle's metadata
    (Ipv4Addr::new(192, 0, 2, 0), 24),     // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24),   // 6to4 relays
    (Ipv4Addr::new(192, 168, 0, 0), 16),   // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),    // benchmarks
    (Ipv4Addr::new(198, 51, 100, 0), 24),  // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),   // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),      // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),      // class E, broadcast
];

const GLOBAL_V6: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

const BLOCKED_V6: [(Ipv6Addr, u32); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // Teredo, benchmarks, ORCHID
    (Ipv6Addr::new(0x2001, 0x0db8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

fn has_prefix_v4(ip: Ipv4Addr, net: Ipv4Addr, bits: u32) -> bool {
    (ip.to_bits() ^ net.to_bits()) >> (32 - bits) == 0
}

fn has_prefix_v6(ip: Ipv6Addr, net: Ipv6Addr, bits: u32) -> bool {
    (ip.to_bits() ^ net.to_bits()) >> (128 - bits) == 0
}

/// What an operator opens: networks, and hosts by name. An allow-listed host may have any address and speak plain
/// http; an allow-listed network opens its addresses, and plain http to URLs that name one of them literally.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList {
    nets: Vec<IpNet>,
    hosts: BTreeSet<String>,
}

impl AllowList {
    /// Whether an address is in an allow-listed network.
    pub fn allows_ip(&self, ip: IpAddr) -> bool {
        self.nets.iter().any(|net| net.contains(&ip))
    }

    /// Whether a host is allow-listed by its name.
    pub fn allows_host(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.');
        self.hosts.contains(name) || self.hosts.contains(&name.to_ascii_lowercase())
    }

    /// Whether iris may connect to this address of this host.
    pub fn may_connect(&self, name: &str, ip: IpAddr) -> bool {
        !is_blocked(ip) || self.allows_ip(ip) || self.allows_host(name)
    }
}

impl FromStr for AllowList {
    type Err = String;

    /// Reads a list such as `10.0.0.0/8,::1,receiver.internal`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut list = Self::default();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            if let Ok(net) = item.parse::<IpNet>() {
                list.nets.push(net);
            } else if let Ok(ip) = item.parse::<IpAddr>() {
                list.nets.push(ip.into());
            } else {
                match Host::parse(item) {
                    Ok(Host::Domain(name)) if !item.contains('*') => {
                        list.hosts.insert(name.trim_end_matches('.').to_owned());
                    }
                    _ => return Err(format!("{item:?} is neither a network, an address nor a host name")),
                }
            }
            if list.nets.len() + list.hosts.len() > ALLOWED_MAX {
                return Err(format!("must have at most {ALLOWED_MAX} entries"));
            }
        }
        Ok(list)
    }
}

impl fmt::Display for AllowList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nets = self.nets.iter().map(ToString::to_string);
        f.write_str(&nets.chain(self.hosts.iter().cloned()).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_connected_to() {
        for blocked in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::ffff:0:8.8.8.8",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(is_blocked(blocked.parse().unwrap()), "{blocked}");
        }
        for open in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2003::1",
            "2606:4700::1111",
            "2a00:1450::1",
            "3ffe::1",
        ] {
            assert!(!is_blocked(open.parse().unwrap()), "{open}");
        }
    }

    #[test]
    fn urls_are_checked() {
        let nobody = AllowList::default();
        for (text, expected) in [
            ("https://example.com/hooks?x=1", Ok("https://example.com/hooks?x=1")),
            ("HTTPS://EXAMPLE.com", Ok("https://example.com/")),
            ("https://example.com/a#frag", Ok("https://example.com/a")),
            ("https://example.com:8443/", Ok("https://example.com:8443/")),
            ("https://example.com:8080/", Ok("https://example.com:8080/")),
            ("https://8.8.8.8/", Ok("https://8.8.8.8/")),
            ("https://[2606:4700::1111]/", Ok("https://[2606:4700::1111]/")),
            ("http://example.com/", Err(UrlError::Scheme)),
            ("ftp://example.com/", Err(UrlError::Scheme)),
            ("file:///etc/passwd", Err(UrlError::Scheme)),
            ("javascript:alert(1)", Err(UrlError::Scheme)),
            ("https://user@example.com/", Err(UrlError::Credentials)),
            ("https://user:pass@example.com/", Err(UrlError::Credentials)),
            ("https://:pass@example.com/", Err(UrlError::Credentials)),
            ("https://example.com:22/", Err(UrlError::Port)),
            ("https://example.com:0/", Err(UrlError::Port)),
            ("https://example.com:25/", Err(UrlError::Port)),
            ("https://example.com:99999/", Err(UrlError::Malformed)),
            ("https://127.0.0.1/", Err(UrlError::Address)),
            ("https://127.1/", Err(UrlError::Address)),
            ("https://0x7f000001/", Err(UrlError::Address)),
            ("https://2130706433/", Err(UrlError::Address)),
            ("https://0177.0.0.1/", Err(UrlError::Address)),
            ("https://169.254.169.254/latest", Err(UrlError::Address)),
            ("https://[::1]/", Err(UrlError::Address)),
            ("https://[::ffff:127.0.0.1]/", Err(UrlError::Address)),
            ("https://localhost/", Err(UrlError::Address)),
            ("https://LOCALHOST./", Err(UrlError::Address)),
            ("https://a.localhost/", Err(UrlError::Address)),
            ("https://", Err(UrlError::Malformed)),
            ("example.com/hooks", Err(UrlError::Malformed)),
            ("https://exa mple.com/", Err(UrlError::Malformed)),
            ("https://example.com/\r\nX-Evil: 1", Err(UrlError::Malformed)),
            ("https://example.com/\n", Err(UrlError::Malformed)),
            ("", Err(UrlError::Malformed)),
        ] {
            let parsed = parse(text, &nobody);
            assert_eq!(parsed.as_ref().map(Url::as_str).map_err(|error| *error), expected, "{text:?}");
        }
        let long = format!("https://example.com/{}", "a".repeat(URL_BYTES_MAX));
        assert_eq!(parse(&long, &nobody), Err(UrlError::TooLong));
        // Each of these becomes three times as long when it is escaped.
        let grows = format!("https://example.com/{}", "\"".repeat(1000));
        assert_eq!(parse(&grows, &nobody), Err(UrlError::TooLong));
    }

    #[test]
    fn an_allow_list_opens_networks_and_hosts() {
        let allow: AllowList = "127.0.0.0/8, ::1, Receiver.Internal".parse().unwrap();
        for open in [
            "http://127.0.0.1:4000/",
            "https://127.0.0.1:4000/",
            "http://[::1]:4000/",
            "http://receiver.internal/",
            "http://RECEIVER.internal./",
            "https://receiver.internal/",
        ] {
            assert!(parse(open, &allow).is_ok(), "{open}");
        }
        for (closed, why) in [
            ("http://example.com/", UrlError::Scheme),
            ("http://other.receiver.internal/", UrlError::Scheme),
            ("https://10.0.0.1/", UrlError::Address),
            ("http://localhost:4000/", UrlError::Address),
            ("http://127.0.0.1:22/", UrlError::Port),
        ] {
            assert_eq!(parse(closed, &allow), Err(why), "{closed}");
        }
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(allow.may_connect("example.com", ip("127.0.0.1")));
        assert!(allow.may_connect("example.com", ip("8.8.8.8")));
        assert!(allow.may_connect("receiver.internal", ip("10.0.0.1")));
        assert!(!allow.may_connect("example.com", ip("10.0.0.1")));
        assert_eq!(allow.to_string().parse::<AllowList>().as_ref(), Ok(&allow));
        for bad in ["10.0.0.0/33", "*.example.com", "a b", "http://x/"] {
            assert!(bad.parse::<AllowList>().is_err(), "{bad}");
        }
        assert_eq!("".parse(), Ok(AllowList::default()));
    }
}
