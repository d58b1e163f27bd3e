//! What was made to happen, what arrived of it and when, and what was broken meanwhile.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use serde_json::Value;
use sha2::Sha256;

use crate::{
    endpoint::{ENDPOINTS, Fate, ORDERED},
    line::{EventId, Line, Mark, Strikes, Subject, parse_event_id},
};

/// How long after its answer an outcome may take to be recorded: for so long a kill may still take it back.
const RECORDING: Duration = Duration::from_secs(1);
/// How long after a fault what it struck may still come in, or end.
const GRACE: Duration = Duration::from_secs(1);
/// What marks begin with.
const MARK_PREFIX: &str = "chaos-";
/// How many complaints of one kind are kept word for word.
pub const EXAMPLES_MAX: usize = 5;

/// Something that was made to happen by a call of the API.
#[derive(Debug, Default)]
pub struct Happening {
    /// What it is about.
    pub subject: Option<Subject>,
    /// The call was answered with 2xx: its event has to arrive.
    pub acknowledged: bool,
    /// The event, once it has arrived anywhere.
    pub event: Option<EventId>,
    /// It arrived as two events.
    pub twice: bool,
}

/// One request of a delivery, read to its end.
#[derive(Debug, Clone, Copy)]
pub struct Receipt {
    /// When it was.
    pub received: Instant,
    /// When its answer was given, and whether that was a 2xx.
    pub answered: Option<(Instant, bool)>,
    /// On which connection it came.
    connection: usize,
}

impl Receipt {
    /// Whether it was taken.
    pub fn is_taken(&self) -> bool {
        self.answered.is_some_and(|(_, taken)| taken)
    }

    /// Whether it was refused, so that another has to come.
    pub fn is_refused(&self) -> bool {
        self.answered.is_some_and(|(_, taken)| !taken)
    }
}

/// One event at one endpoint.
#[derive(Debug, Default)]
pub struct Delivery {
    id: String,
    /// It came under two ids.
    pub renamed: bool,
    /// Its requests, as they came.
    pub receipts: Vec<Receipt>,
}

/// Something that was broken.
#[derive(Debug)]
pub struct Fault {
    number: u32,
    /// The scenario that it belongs to.
    pub scenario: String,
    strikes: Strikes,
    begun: Instant,
    ended: Option<Instant>,
}

/// What the API shows of a delivery in the end.
#[derive(Debug)]
pub struct Listed {
    /// Its status.
    pub status: String,
    /// Why each attempt failed, or `ok`.
    pub reasons: Vec<String>,
}

/// A request whose answer is to be written down.
#[derive(Debug, Clone, Copy)]
pub struct Ticket {
    endpoint: usize,
    event: EventId,
    receipt: usize,
    mark: Mark,
}

impl Ticket {
    /// Whether it is the first request of every so many deliveries.
    pub fn is_first_of_every(&self, deliveries: u64) -> bool {
        self.receipt == 0 && self.mark.is_multiple_of(deliveries)
    }
}

/// What a request says.
struct Read {
    /// The delivery.
    id: String,
    event: EventId,
    mark: Mark,
    /// The campaign or contact.
    resource: String,
}

/// Everything that is known.
#[derive(Debug, Default)]
pub struct Book {
    secrets: HashMap<usize, String>,
    pub happenings: HashMap<Mark, Happening>,
    pub deliveries: HashMap<(usize, EventId), Delivery>,
    pub listed: HashMap<(usize, EventId), Listed>,
    pub faults: Vec<Fault>,
    /// Requests, and connections that came to none, by endpoint.
    pub requests: HashMap<usize, u64>,
    /// Connections to addresses that nobody may reach.
    pub trapped: BTreeMap<String, u64>,
    /// Requests that no receiver would take, and why some of them.
    pub unverified: u64,
    pub unverified_examples: Vec<String>,
    pub unsure: u64,
    /// Events that came to the ordered endpoint after a later one of the same campaign or contact.
    pub out_of_order: Vec<String>,
    /// The last mark of each campaign and contact there.
    last_marks: HashMap<String, Mark>,
    /// Lines that were not understood.
    pub spoilt: Vec<String>,
    /// When each connection ended.
    connections: Vec<Option<Instant>>,
}

/// The book, for everyone who writes in it.
#[derive(Debug, Clone, Default)]
pub struct Shared(Arc<Mutex<Book>>);

impl Shared {
    /// The book itself, for a moment.
    pub fn open(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Writes a line down; whoever asks gets an answer.
    pub fn apply(&mut self, line: Line, now: Instant) -> Option<String> {
        match line {
            Line::Secret(endpoint, secret) => _ = self.secrets.insert(endpoint, secret),
            Line::Acknowledged(subject, mark) => {
                let happening = self.happenings.entry(mark).or_default();
                (happening.acknowledged, happening.subject) = (true, Some(subject));
                return None;
            }
            Line::Unsure(_) => {
                self.unsure += 1;
                return None;
            }
            Line::Listed { endpoint, event, status, reasons } => {
                self.listed.insert((endpoint, event), Listed { status, reasons });
                return None;
            }
            Line::FaultBegin { fault, scenario, strikes } => {
                self.faults.push(Fault { number: fault, scenario, strikes, begun: now, ended: None });
            }
            Line::FaultEnd(number) => {
                for fault in self.faults.iter_mut().filter(|fault| fault.number == number) {
                    fault.ended = Some(now);
                }
            }
            Line::Status => return Some(self.status()),
            Line::Report => return Some(self.verdict().to_string()),
        }
        Some("noted".into())
    }

    fn status(&self) -> String {
        let acknowledged = self.happenings.values().filter(|happening| happening.acknowledged).count();
        let requests: u64 = self.requests.values().sum();
        format!("{acknowledged} {requests} {}", self.missing().len())
    }

    /// A connection begins; its number is for [`Book::close`].
    pub fn connect(&mut self) -> usize {
        self.connections.push(None);
        self.connections.len() - 1
    }

    /// It ended.
    pub fn close(&mut self, connection: usize, now: Instant) {
        if let Some(closed) = self.connections.get_mut(connection) {
            *closed = Some(now);
        }
    }

    /// Somebody came to an endpoint.
    pub fn count(&mut self, endpoint: usize) {
        *self.requests.entry(endpoint).or_default() += 1;
    }

    /// Somebody connected where nobody may.
    pub fn trap(&mut self, address: IpAddr, port: u16) {
        *self.trapped.entry(format!("{address} port {port}")).or_default() += 1;
    }

    /// Takes a request if it is signed as it should be.
    pub fn receive(
        &mut self,
        endpoint: usize,
        connection: usize,
        request: (&HeaderMap, &[u8]),
        now: Instant,
    ) -> Option<Ticket> {
        self.count(endpoint);
        match self.read(endpoint, request.0, request.1) {
            Ok(Read { id, event, mark, resource }) => {
                let delivery = self.deliveries.entry((endpoint, event)).or_default();
                if delivery.receipts.is_empty() {
                    delivery.id = id;
                    if ENDPOINTS[endpoint].name == ORDERED {
                        let last = self.last_marks.entry(resource).or_default();
                        // Whoever makes things happen does so one after the other, with rising marks.
                        if mark < *last {
                            let fault = self.faults.last();
                            let (ago, what) = fault.map_or((Duration::ZERO, "none"), |fault| {
                                (now.saturating_duration_since(fault.begun), fault.scenario.as_str())
                            });
                            let ago = ago.as_millis();
                            self.out_of_order.push(format!("{mark} after {last}, {ago} ms after {what}"));
                        }
                        *last = mark.max(*last);
                    }
                } else {
                    delivery.renamed |= delivery.id != id;
                }
                delivery.receipts.push(Receipt { received: now, answered: None, connection });
                Some(Ticket { endpoint, event, receipt: delivery.receipts.len() - 1, mark })
            }
            Err(error) => {
                self.unverified += 1;
                if self.unverified_examples.len() < EXAMPLES_MAX {
                    self.unverified_examples.push(format!("{}: {error:#}", ENDPOINTS[endpoint].name));
                }
                None
            }
        }
    }

    /// The answer to a request is given.
    pub fn answer(&mut self, ticket: Ticket, taken: bool, now: Instant) {
        let delivery = self.deliveries.get_mut(&(ticket.endpoint, ticket.event));
        if let Some(receipt) = delivery.and_then(|delivery| delivery.receipts.get_mut(ticket.receipt)) {
            receipt.answered = Some((now, taken));
        }
    }

    /// What a request says that a receiver may believe.
    fn read(&mut self, endpoint: usize, headers: &HeaderMap, body: &[u8]) -> anyhow::Result<Read> {
        let header = |name: &str| {
            let value = headers.get(name).with_context(|| format!("no {name}"))?;
            value.to_str().with_context(|| format!("{name} is no text"))
        };
        let secret = self.secrets.get(&endpoint).context("its secret is not known")?;
        let signed = sign(secret, header("x-iris-timestamp")?, body)?;
        ensure!(header("x-iris-signature")? == signed, "the signature is wrong");
        let body: Value = serde_json::from_slice(body).context("the body is no JSON")?;
        let kind = body["event"].as_str().context("no event")?;
        ensure!(ENDPOINTS[endpoint].hears.hears(kind), "{kind} is not subscribed to");
        let event = parse_event_id(body["id"].as_str().context("no id")?)?;
        let (subject, field) = match kind.split_once('.') {
            Some(("campaign", _)) => (Subject::Campaign, "name"),
            _ => (Subject::Contact, "company"),
        };
        let mark = body["data"][field].as_str().and_then(|text| text.strip_prefix(MARK_PREFIX));
        let mark: Mark = mark.context("no mark")?.parse()?;
        let happening = self.happenings.entry(mark).or_default();
        happening.subject = Some(subject);
        happening.twice |= happening.event.is_some_and(|known| known != event);
        happening.event = Some(event);
        let resource = body["data"]["id"].as_str().context("no id of what it is about")?.to_owned();
        Ok(Read { id: header("x-iris-delivery")?.to_owned(), event, mark, resource })
    }

    /// Whether an endpoint takes part.
    pub fn takes_part(&self, endpoint: usize) -> bool {
        self.secrets.contains_key(&endpoint)
    }

    /// What has to have arrived and did not: the endpoint and the mark. An event that reached anyone has to reach all.
    pub fn missing(&self) -> Vec<(usize, Mark)> {
        let known = self.happenings.iter();
        let known = known.filter(|(_, happening)| happening.acknowledged || happening.event.is_some());
        let mut missing = Vec::new();
        for (mark, happening) in known {
            for (place, endpoint) in ENDPOINTS.iter().enumerate() {
                let wanted = self.takes_part(place)
                    && endpoint.fate == Fate::Arrives
                    && happening.subject.is_some_and(|subject| endpoint.hears.is_about(subject));
                if wanted && !happening.event.is_some_and(|event| self.has_taken(place, event)) {
                    missing.push((place, *mark));
                }
            }
        }
        missing
    }

    /// Whether an endpoint took an event.
    pub fn has_taken(&self, endpoint: usize, event: EventId) -> bool {
        let delivery = self.deliveries.get(&(endpoint, event));
        delivery.is_some_and(|delivery| delivery.receipts.iter().any(Receipt::is_taken))
    }

    /// Whether a fault struck a request: it was under way, or answered so shortly before that nobody had to have recorded
    /// it yet. Of a dispatcher that dies every connection ends, so one that goes on is another's.
    pub fn is_struck(&self, receipt: &Receipt, fault: &Fault) -> bool {
        let closed = self.connections.get(receipt.connection).copied().flatten();
        let last = receipt.answered.map(|(at, _)| at).or(closed);
        let end = fault.ended.map(|end| end + GRACE);
        let in_time = end.is_none_or(|end| receipt.received <= end)
            && last.is_none_or(|last| last + RECORDING >= fault.begun);
        match fault.strikes {
            Strikes::Nothing => false,
            Strikes::Recording => in_time,
            Strikes::Dispatcher => {
                in_time && closed.is_some_and(|closed| end.is_none_or(|end| closed <= end))
            }
        }
    }
}

/// X-Iris-Signature: hexadecimal HMAC-SHA256 of `<timestamp>.<body>` under the whole secret.
pub fn sign(secret: &str, timestamp: &str, body: &[u8]) -> anyhow::Result<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())?;
    for part in [timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    Ok(hex::encode(mac.finalize().into_bytes()))
}
