use std::time::{Duration, Instant};

use http::HeaderMap;
use serde_json::Value;

use crate::{
    book::{Book, Ticket, sign},
    endpoint,
    line::Line,
};

const SECRET: &str = "whsec_aXJpcyB3b3JsZCB0ZXN0IHNlY3JldCBrZXkgMDE=";

/// A book, and the time at which the next thing happens.
struct Telling {
    book: Book,
    now: Instant,
}

impl Telling {
    /// With these endpoints taking part.
    fn of(endpoints: &[&str]) -> Self {
        // Some time after the machine's start, so that there is time before it.
        let mut telling = Self { book: Book::default(), now: Instant::now() + Duration::from_secs(60) };
        for name in endpoints {
            telling.say(&[&format!("secret {name} {SECRET}")]);
        }
        telling
    }

    fn say(&mut self, lines: &[&str]) -> &mut Self {
        for text in lines {
            let line: Line = text.parse().expect("a line");
            let _ = self.book.apply(line, self.now);
        }
        self
    }

    fn after_ms(&mut self, ms: u64) -> &mut Self {
        self.now += Duration::from_millis(ms);
        self
    }

    fn connect(&mut self) -> usize {
        self.book.connect()
    }

    fn close(&mut self, connection: usize) -> &mut Self {
        self.book.close(connection, self.now);
        self
    }

    /// A request about the event `evt_<n>` with the mark n arrives.
    fn receive(&mut self, name: &str, connection: usize, n: u32) -> Option<Ticket> {
        self.receive_as(name, connection, n, "contact.created", SECRET)
    }

    fn receive_as(
        &mut self,
        name: &str,
        connection: usize,
        n: u32,
        kind: &str,
        secret: &str,
    ) -> Option<Ticket> {
        let field = if kind.starts_with("campaign") { "name" } else { "company" };
        let body =
            format!(r#"{{"id":"evt_{n:032x}","event":"{kind}","data":{{"id":"a","{field}":"chaos-{n}"}}}}"#);
        let mut headers = HeaderMap::new();
        let signature = sign(secret, "1714392000", body.as_bytes()).expect("a signature");
        let delivery = format!("delivery-{name}-{n}");
        for (name, value) in [
            ("x-iris-timestamp", "1714392000"),
            ("x-iris-signature", signature.as_str()),
            ("x-iris-delivery", delivery.as_str()),
        ] {
            headers.insert(name, value.parse().expect("a value"));
        }
        let place = endpoint::find(name).expect("an endpoint");
        self.book.receive(place, connection, (&headers, body.as_bytes()), self.now)
    }

    fn answer(&mut self, ticket: Option<Ticket>, taken: bool) -> &mut Self {
        self.book.answer(ticket.expect("it was taken in"), taken, self.now);
        self
    }

    /// A request arrives and is taken.
    fn deliver(&mut self, name: &str, connection: usize, n: u32) -> &mut Self {
        let ticket = self.receive(name, connection, n);
        self.answer(ticket, true)
    }

    fn verdict(&self) -> Value {
        self.book.verdict()
    }

    fn counts(&self) -> (u64, u64) {
        let verdict = self.verdict();
        let count = |name: &str| verdict[name].as_u64().expect("a count");
        (count("duplicates"), count("duplicates_not_in_flight"))
    }
}

#[test]
fn a_signature_is_what_openssl_makes_of_it() {
    assert_eq!(
        sign(SECRET, "1714392000", br#"{"id":"evt_1"}"#).unwrap(),
        "dc1d4ef3cd2783ad5ec3e0685c2c4dc9b5a4043adf5323b366b9a1dd517468f6"
    );
    let mut telling = Telling::of(&["prompt_1"]);
    assert!(telling.receive_as("prompt_1", 0, 1, "contact.created", "whsec_other").is_none());
    assert!(telling.receive_as("prompt_1", 0, 1, "message.sent", SECRET).is_none(), "not subscribed to");
    assert!(telling.receive("prompt_2", 0, 1).is_none(), "it takes no part");
    assert_eq!(telling.verdict()["totals"]["unverified"], 3);
    assert_eq!(telling.verdict()["totals"]["events"], 0);
}

#[test]
fn what_was_acknowledged_has_to_reach_everyone() {
    let mut telling = Telling::of(&["prompt_1", "prompt_2", "flood"]);
    telling.say(&["acknowledged contact 1"]);
    assert_eq!(telling.verdict()["lost"], 2, "flood hears of campaigns only");
    telling.deliver("prompt_1", 0, 1);
    assert_eq!(telling.verdict()["lost"], 1);
    let refused = telling.receive("prompt_2", 0, 1);
    telling.answer(refused, false);
    assert_eq!(telling.verdict()["lost"], 1, "a refused request is none");
    telling.deliver("prompt_2", 0, 1);
    assert_eq!(telling.verdict()["lost"], 0);
    telling.say(&["unsure 2"]);
    assert_eq!(telling.verdict()["lost"], 0, "it may not have happened");
    telling.deliver("prompt_1", 0, 2);
    assert_eq!(telling.verdict()["lost"], 1, "what reached one reaches all");
}

#[test]
fn one_call_makes_one_event_under_one_id() {
    let mut telling = Telling::of(&["prompt_1"]);
    telling.deliver("prompt_1", 0, 1).deliver("prompt_1", 0, 1);
    assert_eq!(telling.verdict()["totals"]["deliveries_renamed"], 0);
    assert_eq!(telling.verdict()["totals"]["events_twice"], 0);
    let place = endpoint::find("prompt_1").unwrap();
    for event in ["evt_00000000000000000000000000000001", "evt_00000000000000000000000000000009"] {
        let body = format!(
            r#"{{"id":"{event}","event":"contact.created","data":{{"id":"a","company":"chaos-1"}}}}"#
        );
        let mut headers = HeaderMap::new();
        headers.insert("x-iris-timestamp", "7".parse().unwrap());
        headers.insert("x-iris-delivery", "another".parse().unwrap());
        headers.insert("x-iris-signature", sign(SECRET, "7", body.as_bytes()).unwrap().parse().unwrap());
        telling.book.receive(place, 0, (&headers, body.as_bytes()), telling.now).unwrap();
    }
    assert_eq!(telling.verdict()["totals"]["deliveries_renamed"], 1);
    assert_eq!(telling.verdict()["totals"]["events_twice"], 1);
}

#[test]
fn at_the_ordered_endpoint_no_event_comes_after_a_later_one() {
    let mut telling = Telling::of(&["ordered", "prompt_1"]);
    telling.deliver("ordered", 0, 1).deliver("ordered", 0, 3).deliver("ordered", 0, 1);
    telling.deliver("prompt_1", 0, 3).deliver("prompt_1", 0, 2);
    assert_eq!(
        telling.verdict()["totals"]["out_of_order"],
        0,
        "a double is none, and others promise no order"
    );
    telling.deliver("ordered", 0, 2);
    assert_eq!(telling.verdict()["totals"]["out_of_order"], 1);
}

#[test]
fn a_double_is_in_flight_only_where_a_kill_or_an_outage_struck() {
    let begin = |strikes: &str| format!("fault 1 begin x {strikes}");
    // A request is answered, then comes a fault; the connection ends with it or goes on; then the request comes again.
    let judge = |before_ms: u64, strikes: Option<&str>, closes: bool| {
        let mut telling = Telling::of(&["prompt_1"]);
        let connection = telling.connect();
        telling.deliver("prompt_1", connection, 1).after_ms(before_ms);
        if let Some(strikes) = strikes {
            telling.say(&[&begin(strikes)]).after_ms(5);
            if closes {
                telling.close(connection);
            }
            telling.say(&["fault 1 end"]);
        }
        telling.after_ms(5000).deliver("prompt_1", connection, 1);
        telling.counts()
    };
    assert_eq!(judge(10, Some("dispatcher"), true), (1, 0));
    assert_eq!(judge(10, Some("dispatcher"), false), (1, 1), "it was not the one that died");
    assert_eq!(judge(3000, Some("dispatcher"), true), (1, 1), "it had to be recorded long before");
    assert_eq!(judge(10, Some("recording"), false), (1, 0));
    assert_eq!(judge(3000, Some("recording"), false), (1, 1));
    assert_eq!(judge(10, Some("nothing"), true), (1, 1), "the API has nothing under way");
    assert_eq!(judge(10, None, false), (1, 1));
}

#[test]
fn a_request_without_an_answer_was_in_flight_until_its_connection_ended() {
    let mut telling = Telling::of(&["prompt_1"]);
    let connection = telling.connect();
    let _ = telling.receive("prompt_1", connection, 1);
    telling.after_ms(20_000).say(&["fault 1 begin kills dispatcher"]);
    telling.after_ms(2).close(connection).say(&["fault 1 end"]);
    telling.after_ms(7000).deliver("prompt_1", connection, 1);
    assert_eq!(telling.counts(), (1, 0));
    let kills = &telling.verdict()["scenarios"][0];
    assert_eq!((&kills["in_flight"], &kills["duplicates"]), (&1.into(), &1.into()));
    telling.after_ms(5000).deliver("prompt_1", connection, 1);
    assert_eq!(telling.counts(), (2, 1), "nothing explains the third");
}

#[test]
fn what_is_refused_comes_again_and_is_no_double() {
    let mut telling = Telling::of(&["flaky", "hang"]);
    let first = telling.receive("flaky", 0, 1);
    telling.answer(first, false).after_ms(1000).deliver("flaky", 0, 1);
    let _ = telling.receive_as("hang", 0, 2, "campaign.created", SECRET);
    let _ = telling.receive_as("hang", 0, 2, "campaign.created", SECRET);
    assert_eq!(telling.counts(), (0, 0), "an endpoint that never answers is asked again");
}

#[test]
fn what_the_api_shows_is_compared_with_what_had_to_become_of_it() {
    let problem = |name: &str, arrives: bool, listed: Option<&str>| {
        let mut telling = Telling::of(&[name]);
        telling.say(&["acknowledged campaign 1"]);
        let ticket = telling.receive_as(name, 0, 1, "campaign.created", SECRET);
        if arrives {
            telling.answer(ticket, true);
        }
        if let Some(listed) = listed {
            telling.say(&[&format!("listed {name} evt_{:032x} {listed}", 1)]);
        }
        let verdict = telling.verdict();
        let problems = verdict["endpoints"][0]["problems"].as_array().unwrap().len();
        (verdict["lost"].as_u64().unwrap(), problems > 0)
    };
    let fine = (0, false);
    for listed in ["pending timeout", "exhausted timeout,timeout,timeout,timeout", "cancelled timeout"] {
        assert_eq!(problem("hang", false, Some(listed)), fine, "{listed}");
    }
    assert_eq!(problem("hang", false, Some("pending none")), (0, true), "nothing was attempted");
    assert_eq!(problem("hang", false, Some("exhausted none")), (0, true));
    assert_eq!(problem("hang", false, Some("pending timeout,connect")), (0, true));
    assert_eq!(problem("hang", false, Some("succeeded ok")), (1, true));
    assert_eq!(problem("hang", false, None).0, 1, "it is missing");
    assert_eq!(problem("flood", true, Some("succeeded ok")), fine);
    assert_eq!(problem("flood", true, Some("pending none")), (0, true), "it arrived and is not recorded");
    assert_eq!(problem("flood", false, Some("succeeded ok")).0, 1, "it is recorded and did not arrive");
    assert_eq!(problem("dns_flip", true, Some("succeeded blocked,ok")), fine);
    assert_eq!(problem("dns_flip", true, Some("succeeded ok")), (0, true), "it was never refused");
    assert_eq!(problem("dns_flip", false, Some("exhausted blocked")), (0, true), "it was never reached");
}

#[test]
fn whoever_reaches_a_blocked_address_is_counted() {
    let mut telling = Telling::of(&[]);
    assert_eq!(telling.verdict()["blocked_addresses_reached"], 0);
    telling.book.trap("127.0.0.1".parse().unwrap(), 443);
    telling.book.trap("169.254.169.254".parse().unwrap(), 80);
    assert_eq!(telling.verdict()["blocked_addresses_reached"], 2);
}
