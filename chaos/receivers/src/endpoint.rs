//! The endpoints of a run: where each is, what it hears of, how it behaves, and what has to become of its deliveries.

use std::net::{IpAddr, Ipv4Addr};

use crate::line::Subject;

/// Where the receivers are that the dispatchers may reach by an allow-list. The rest of loopback is none of them.
pub const ALLOWED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 77, 1));
/// The network that has to be in the allow-list for it.
pub const ALLOWED_NET: &str = "127.0.77.0/24";
/// The one address of the public internet that is ours, in a network of our own.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(93, 184, 215, 14);
/// The metadata service of most clouds.
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// An address of a private network.
pub const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 11, 12, 13);
/// The domain of the endpoints that have names.
pub const DOMAIN: &str = "chaos.test";

/// Of which events an endpoint hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hears {
    /// Of every one.
    All,
    /// Of campaigns only, which are few.
    Campaigns,
}

impl Hears {
    /// The event types of a subscription.
    pub fn events(self) -> &'static [&'static str] {
        const ALL: [&str; 4] = ["campaign.created", "campaign.updated", "contact.created", "contact.updated"];
        match self {
            Self::All => &ALL,
            Self::Campaigns => &ALL[..2],
        }
    }

    /// Whether a subscription has the event type.
    pub fn hears(self, event: &str) -> bool {
        self.events().contains(&event)
    }

    /// Whether it has the events about something.
    pub fn is_about(self, subject: Subject) -> bool {
        self == Self::All || subject == Subject::Campaign
    }
}

/// How an endpoint behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// 200, after up to so many milliseconds.
    Answers(u64),
    /// 503 to the first request of every fourth delivery, else 200: never for long, or its circuit would open.
    Flaky,
    /// 200 and 100 MB.
    Flood,
    /// 200 and a little gzip that becomes very much.
    Bomb,
    /// No answer.
    Hang,
    /// 307 to an address that nobody may reach, which would answer with 307 back.
    Redirect,
    /// The connection is reset.
    Reset,
    /// A byte of a header each second.
    Trickle,
    /// Headers without end.
    EndlessHeaders,
    /// A certificate of nobody's.
    Untrusted,
    /// Another protocol where TLS is spoken.
    NoTls,
    /// 200, and the connection is closed, so that the next request looks the name up again.
    Closes,
}

/// Where an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At the address in the allow-list, in clear.
    Clear,
    /// There, behind TLS or what should be.
    Tls,
    /// Behind TLS and a name, in a network of our own: what the name means is in `names.rs`.
    Named,
}

/// What has to become of deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Every one arrives.
    Arrives,
    /// Every attempt fails, for one of these reasons as the API names them.
    Fails(&'static [&'static str]),
    /// It arrives, or is refused for its address; both happen.
    Either,
}

/// One endpoint.
#[derive(Debug)]
pub struct Endpoint {
    /// What it is called; the path of its URL and the name of its scenario.
    pub name: &'static str,
    /// Where it is.
    pub place: Place,
    /// What it hears of.
    pub hears: Hears,
    /// How it behaves.
    pub behaviour: Behaviour,
    /// What has to become of its deliveries.
    pub fate: Fate,
}

/// The endpoint whose deliveries come in the order of their events.
pub const ORDERED: &str = "ordered";

const fn at(place: Place, name: &'static str, hears: Hears, behaviour: Behaviour, fate: Fate) -> Endpoint {
    Endpoint { name, place, hears, behaviour, fate }
}

/// Every endpoint.
pub static ENDPOINTS: [Endpoint; 24] = {
    use Behaviour::{
        Answers, Bomb, Closes, EndlessHeaders, Flaky, Flood, Hang, NoTls, Redirect, Reset, Trickle, Untrusted,
    };
    use Fate::{Arrives, Either, Fails};
    use Hears::{All, Campaigns};
    use Place::{Clear, Named, Tls};
    const BLOCKED: Fate = Fails(&["blocked"]);
    [
        at(Clear, "prompt_1", All, Answers(5), Arrives),
        at(Clear, "prompt_2", All, Answers(5), Arrives),
        at(Clear, "steady_1", All, Answers(50), Arrives),
        at(Clear, "steady_2", All, Answers(50), Arrives),
        at(Clear, ORDERED, All, Answers(5), Arrives),
        at(Clear, "flaky", All, Flaky, Arrives),
        at(Clear, "slow", Campaigns, Answers(1500), Arrives),
        at(Clear, "flood", Campaigns, Flood, Arrives),
        at(Clear, "gzip_bomb", Campaigns, Bomb, Arrives),
        at(Clear, "hang", Campaigns, Hang, Fails(&["timeout"])),
        at(Clear, "trickle", Campaigns, Trickle, Fails(&["timeout"])),
        at(Clear, "reset", Campaigns, Reset, Fails(&["connect"])),
        at(Clear, "endless_headers", Campaigns, EndlessHeaders, Fails(&["connect"])),
        at(Clear, "redirect", Campaigns, Redirect, Fails(&["status"])),
        at(Tls, "tls_untrusted", Campaigns, Untrusted, Fails(&["tls"])),
        at(Tls, "tls_none", Campaigns, NoTls, Fails(&["tls"])),
        at(Named, "public", All, Answers(5), Arrives),
        at(Named, "dns_flip", Campaigns, Closes, Either),
        at(Named, "dns_both", Campaigns, Closes, Arrives),
        at(Named, "dns_loopback", Campaigns, Closes, BLOCKED),
        at(Named, "dns_private", Campaigns, Closes, BLOCKED),
        at(Named, "dns_metadata", Campaigns, Closes, BLOCKED),
        at(Named, "dns_loopback_v6", Campaigns, Closes, BLOCKED),
        at(Named, "dns_mapped_v6", Campaigns, Closes, BLOCKED),
    ]
};

impl Endpoint {
    /// The host of one that has a name.
    pub fn host(&self) -> String {
        format!("{}.{DOMAIN}", self.name.replace('_', "-"))
    }
}

/// The place of the endpoint of a name.
pub fn find(name: &str) -> Option<usize> {
    ENDPOINTS.iter().position(|endpoint| endpoint.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_found() {
        for (place, endpoint) in ENDPOINTS.iter().enumerate() {
            assert_eq!(find(endpoint.name), Some(place));
        }
        assert_eq!(find("nobody"), None);
    }

    #[test]
    fn campaigns_are_some_of_all_events() {
        assert!(Hears::Campaigns.hears("campaign.updated") && !Hears::Campaigns.hears("contact.created"));
        assert!(Hears::Campaigns.events().iter().all(|event| Hears::All.hears(event)));
    }
}
