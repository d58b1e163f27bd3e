//! What the receivers wrote down, beside what was committed.

use std::collections::HashMap;

use anyhow::Context;
use tokio::process::Command;
use uuid::Uuid;

use super::{load::Committed, stage::Shape};
use crate::process::{ANSWER, Process};

/// The shortest body that is measured with.
const BODY_BYTES_MIN: usize = 600;

/// The process of the receivers.
pub struct Receivers {
    process: Process,
}

/// How many requests came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requests {
    /// Answered with 200.
    pub answered: u64,
    /// Whose signature was wrong.
    pub refused: u64,
    /// Left without an answer.
    pub unanswered: u64,
}

/// One request that was answered with 200.
#[derive(Debug, Clone, Copy)]
pub struct Receipt {
    /// The number of the endpoint.
    pub endpoint: usize,
    /// The event.
    pub event: Uuid,
    /// When it came, in microseconds since 1970.
    pub at_us: i64,
}

impl Receivers {
    /// Starts them, without an endpoint yet.
    pub async fn start() -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("dispatcher-receiver");
        Ok(Self { process: Process::start(command).await? })
    }

    /// Opens the port of the next endpoint.
    pub async fn listen(&mut self, secret: &str, hangs: bool) -> anyhow::Result<u16> {
        let manner = if hangs { "hang" } else { "answer" };
        Ok(self.process.ask(&format!("listen {manner} {secret}")).await?.parse()?)
    }

    /// How many requests have come.
    pub async fn count(&mut self) -> anyhow::Result<Requests> {
        let line = self.process.ask("count").await?;
        let [answered, refused, unanswered] =
            line.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>()?[..]
        else {
            anyhow::bail!("{line} are not three counts")
        };
        Ok(Requests { answered, refused, unanswered })
    }

    /// All requests that were answered with 200, in the order in which they came.
    pub async fn ledger(&mut self) -> anyhow::Result<Vec<Receipt>> {
        let head = self.process.ask("ledger").await?;
        let (count, body_bytes_min) = head.split_once(' ').with_context(|| format!("no ledger: {head}"))?;
        let count: usize = count.parse()?;
        let body_bytes_min: usize = body_bytes_min.parse()?;
        anyhow::ensure!(
            count == 0 || body_bytes_min >= BODY_BYTES_MIN,
            "a body had {body_bytes_min} bytes only"
        );
        let mut receipts = Vec::with_capacity(count);
        for _ in 0..count {
            let line = self.process.line(ANSWER).await?;
            receipts.push(Receipt::parse(&line).with_context(|| format!("not a receipt: {line}"))?);
        }
        Ok(receipts)
    }

    /// The process, for its costs.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Ends them.
    pub async fn stop(self) {
        self.process.stop().await;
    }
}

impl Receipt {
    fn parse(line: &str) -> Option<Self> {
        let [endpoint, event, _delivery, at_us] = line.split(' ').collect::<Vec<_>>()[..] else {
            return None;
        };
        Some(Self {
            endpoint: endpoint.parse().ok()?,
            event: Uuid::try_parse(event).ok()?,
            at_us: at_us.parse().ok()?,
        })
    }
}

/// What became of the events of a part, as far as their endpoints answer.
#[derive(Debug, Default, PartialEq)]
pub struct Verdict {
    /// How many deliveries there should be.
    pub expected: usize,
    /// How many of them never came.
    pub lost: usize,
    /// How many came once more.
    pub duplicates: usize,
    /// How long each took from its commit to its receipt, in ms; one that never came, until the part ended.
    pub latencies_ms: Vec<f64>,
    /// When the last one came first.
    pub last_us: i64,
    /// How many came first after one that was committed later.
    pub out_of_order: usize,
}

/// Compares what was committed, in this order, with what came until `ended_us`. An error is a delivery that should not be.
pub fn judge(
    events: &[Committed],
    shape: &Shape,
    receipts: &[Receipt],
    ended_us: i64,
) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict::default();
    // Where it stands in the order of the commits, and when it came first.
    let mut deliveries: HashMap<(Uuid, usize), (usize, i64, Option<i64>)> = HashMap::new();
    for (position, event) in events.iter().enumerate() {
        for endpoint in shape.who_hears(event.account, event.kind) {
            deliveries.insert((event.id, endpoint), (position, event.at_us, None));
        }
    }
    verdict.expected = deliveries.len();
    let mut newest = 0;
    for receipt in receipts {
        let delivery = deliveries.get_mut(&(receipt.event, receipt.endpoint));
        let (position, _, received) = delivery.with_context(|| format!("nobody asked for {receipt:?}"))?;
        if received.is_some() {
            verdict.duplicates += 1;
            continue;
        }
        *received = Some(receipt.at_us);
        verdict.last_us = verdict.last_us.max(receipt.at_us);
        verdict.out_of_order += usize::from(*position < newest);
        newest = newest.max(*position);
    }
    for (_, committed_us, received) in deliveries.into_values() {
        verdict.lost += usize::from(received.is_none());
        #[expect(clippy::cast_precision_loss, reason = "microseconds of minutes")]
        verdict.latencies_ms.push((received.unwrap_or(ended_us) - committed_us) as f64 / 1000.0);
    }
    Ok(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { accounts: 2, endpoints: 4, types: 2, hanging: 1, ordered: false };

    fn event(n: u128, account: usize, kind: usize) -> Committed {
        Committed { id: Uuid::from_u128(n), account, kind, at_us: 1000 }
    }

    fn receipt(n: u128, endpoint: usize, at_us: i64) -> Receipt {
        Receipt { endpoint, event: Uuid::from_u128(n), at_us }
    }

    #[test]
    fn every_delivery_is_accounted_for() {
        // Endpoint 4 hangs, so the first event goes to endpoint 6 only; the second goes to 1 and 3.
        let events = [event(1, 1, 0), event(2, 0, 1)];
        let judge = |receipts: &[Receipt]| judge(&events, &SHAPE, receipts, 9000);
        let all = [receipt(1, 6, 2000), receipt(2, 1, 4000), receipt(2, 3, 3000)];
        let mut verdict = judge(&all).unwrap();
        verdict.latencies_ms.sort_by(f64::total_cmp);
        let good = Verdict {
            expected: 3,
            lost: 0,
            duplicates: 0,
            latencies_ms: vec![1.0, 2.0, 3.0],
            last_us: 4000,
            out_of_order: 0,
        };
        assert_eq!(verdict, good);

        let verdict = judge(&all[..2]).unwrap();
        assert_eq!((verdict.lost, verdict.duplicates), (1, 0));
        assert!(verdict.latencies_ms.contains(&8.0), "a lost one took to the end: {verdict:?}");

        let twice = [all[0], all[1], all[0], all[2]];
        let verdict = judge(&twice).unwrap();
        assert_eq!((verdict.lost, verdict.duplicates, verdict.out_of_order), (0, 1, 0));

        let verdict = judge(&[all[1], all[2], all[0]]).unwrap();
        assert_eq!(verdict.out_of_order, 1);

        assert!(judge(&[receipt(1, 4, 2000)]).is_err(), "one that hangs was answered");
        assert!(judge(&[receipt(3, 1, 2000)]).is_err(), "an event that was never committed");
    }

    #[test]
    fn receipts_are_read_as_they_are_written() {
        let line =
            "12 01900000-0000-7000-8000-00000000000a 01900000-0000-7000-8000-00000000000b 1714392000000000";
        let receipt = Receipt::parse(line).unwrap();
        assert_eq!((receipt.endpoint, receipt.at_us), (12, 1_714_392_000_000_000));
        assert_eq!(receipt.event, Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_000a));
        assert!(Receipt::parse("12 x y 1").is_none());
    }
}
