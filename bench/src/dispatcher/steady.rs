//! How soon deliveries are made at a steady rate: when all receivers answer, and beside some that do not.

use std::time::Duration;

use super::{
    Tally,
    ledger::judge,
    role::Dispatcher,
    stage::{Shape, Stage},
    throughput::APART,
};
use crate::{
    clock::now_us,
    report::{Goal, Report, percentile},
    server::Server,
};

/// How many events are committed in a second, each in a transaction of its own.
const PER_SECOND: u32 = 500;
/// A thousand endpoints.
const MANY: Shape = Shape { accounts: 100, ..APART };
/// How many of the ten endpoints of an account never answer.
const HANGING: usize = 1;
const HANGING_OF_MANY: usize = 3;
/// How long one waits for what should not come any more.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// How soon each delivery came.
#[derive(Debug)]
pub struct Latencies {
    p50_ms: f64,
    p99_ms: f64,
}

/// A hundred endpoints that answer.
pub async fn healthy(
    server: &Server,
    report: &mut Report,
    tally: &mut Tally,
    lasting: Duration,
) -> anyhow::Result<Latencies> {
    let latencies = deliver(server, report, tally, APART, lasting, "latency").await?;
    report.add("latency_ms_p50", latencies.p50_ms, Goal::AtMost(15.0));
    report.add("latency_ms_p99", latencies.p99_ms, Goal::AtMost(60.0));
    Ok(latencies)
}

/// A hundred endpoints of which ten hang, beside the same that all answer.
pub async fn poisoned(
    server: &Server,
    report: &mut Report,
    tally: &mut Tally,
    healthy: &Latencies,
    lasting: Duration,
) -> anyhow::Result<()> {
    let shape = Shape { hanging: HANGING, ..APART };
    let poisoned = deliver(server, report, tally, shape, lasting, "poison").await?;
    report.add("poison_ms_p99", poisoned.p99_ms, Goal::None);
    report.add("poison_ratio", poisoned.p99_ms / healthy.p99_ms, Goal::AtMost(1.5));
    Ok(())
}

/// A thousand endpoints of which three hundred hang, beside the same that all answer.
pub async fn many_poisoned(
    server: &Server,
    report: &mut Report,
    tally: &mut Tally,
    lasting: Duration,
) -> anyhow::Result<()> {
    let healthy = deliver(server, report, tally, MANY, lasting, "poison_many, all answering").await?;
    let shape = Shape { hanging: HANGING_OF_MANY, ..MANY };
    let poisoned = deliver(server, report, tally, shape, lasting, "poison_many").await?;
    report.add("poison_many_ms_p99", poisoned.p99_ms, Goal::None);
    report.add("poison_many_ratio", poisoned.p99_ms / healthy.p99_ms, Goal::AtMost(2.0));
    Ok(())
}

/// How soon the endpoints that answer get theirs.
async fn deliver(
    server: &Server,
    report: &mut Report,
    tally: &mut Tally,
    shape: Shape,
    lasting: Duration,
    what: &str,
) -> anyhow::Result<Latencies> {
    let mut stage = Stage::set(server, shape).await?;
    let dispatcher = Dispatcher::start(&stage, false).await?;
    let load = stage.producer().drip(PER_SECOND, lasting).await?;
    let seconds = load.seconds_until(now_us());
    let expected: usize =
        load.events.iter().map(|event| shape.who_hears(event.account, event.kind).count()).sum();
    let requests = stage.until_answered(expected).await?;
    let ended_us = now_us();
    tokio::time::sleep(AFTERWARDS).await;
    dispatcher.stop().await;
    let verdict = judge(&load.events, &shape, &stage.clear().await?, ended_us)?;
    tally.add(&verdict, requests);
    let latency = |share| percentile(verdict.latencies_ms.clone(), share);
    let latencies = Latencies { p50_ms: latency(0.5), p99_ms: latency(0.99) };
    report.note(format!(
        "{what}: {} events in {seconds:.1} s; {} deliveries took {:.1} ms at the median, {:.1} ms at p99 and {:.0} ms at \
         most; {} requests were left without an answer",
        load.events.len(),
        verdict.expected - verdict.lost,
        latencies.p50_ms,
        latencies.p99_ms,
        latency(1.0),
        requests.unanswered,
    ));
    Ok(latencies)
}
