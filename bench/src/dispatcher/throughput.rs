//! How many deliveries are made in a second, and how close that comes to what its halves can do.

use std::time::{Duration, Instant};

use anyhow::Context;

use super::{
    Tally,
    cpu::Cpu,
    ledger::judge,
    requests,
    role::Dispatcher,
    stage::{Shape, Stage},
    statements,
};
use crate::{
    clock::now_us,
    report::{Goal, Report, median},
    server::Server,
};

/// A hundred endpoints, one for each type of event of each account.
pub const APART: Shape = Shape { accounts: 10, endpoints: 10, types: 10, hanging: 0, ordered: false };
/// A hundred endpoints, ten for each event.
const FANNED: Shape = Shape { types: 1, ..APART };
/// One endpoint whose deliveries are made in their order.
const ORDERED: Shape = Shape { accounts: 1, endpoints: 1, types: 1, hanging: 0, ordered: true };
/// How many events go to it at most.
const ORDERED_MAX: usize = 10_000;
/// How often one looks how many answers were made up, and how long that may take at all.
const LOOK: Duration = Duration::from_millis(10);
const MADE_UP: Duration = Duration::from_secs(400);

/// One endpoint for each event, beside the same with answers made up and requests without a database.
pub async fn apart(
    server: &Server,
    report: &mut Report,
    tally: &mut Tally,
    events: usize,
    rounds: u32,
) -> anyhow::Result<()> {
    let (mut whole, mut sql, mut http) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        whole.push(deliver(server, report, tally, APART, events, "deliveries").await?.per_second);
        sql.push(make_up(server, report, APART, events).await?);
        http.push(requests::measure(server, APART, events).await?);
    }
    let (whole, sql, http) = (median(whole), median(sql), median(http));
    report.add("deliveries_per_s", whole, Goal::AtLeast(10_000.0));
    report.add("sql_per_s", sql, Goal::None);
    report.add("http_per_s", http, Goal::None);
    report.add("limit_ratio", whole * (1.0 / sql + 1.0 / http), Goal::AtLeast(0.55));
    Ok(())
}

/// Ten endpoints for each event.
pub async fn fanned(
    server: &Server,
    report: &mut Report,
    tally: &mut Tally,
    deliveries: usize,
    rounds: u32,
) -> anyhow::Result<()> {
    let mut per_second = Vec::new();
    for _ in 0..rounds {
        let events = deliveries / FANNED.fanout();
        per_second.push(deliver(server, report, tally, FANNED, events, "fanout10").await?.per_second);
    }
    report.add("fanout10_per_s", median(per_second), Goal::AtLeast(14_000.0));
    Ok(())
}

/// One endpoint that wants its deliveries in their order.
pub async fn ordered(
    server: &Server,
    report: &mut Report,
    tally: &mut Tally,
    events: usize,
) -> anyhow::Result<()> {
    let delivered = deliver(server, report, tally, ORDERED, events.min(ORDERED_MAX), "ordered").await?;
    report.add("ordered_per_s", delivered.per_second, Goal::AtLeast(300.0));
    #[expect(clippy::cast_precision_loss, reason = "a count of deliveries")]
    report.add("ordered_out_of_order", delivered.out_of_order as f64, Goal::AtMost(0.0));
    Ok(())
}

/// What a run came to.
struct Delivered {
    per_second: f64,
    out_of_order: usize,
}

/// Commits events as fast as it goes while a dispatcher runs that is there already, until all have come.
async fn deliver(
    server: &Server,
    report: &mut Report,
    tally: &mut Tally,
    shape: Shape,
    events: usize,
    what: &str,
) -> anyhow::Result<Delivered> {
    let mut stage = Stage::set(server, shape).await?;
    let dispatcher = Dispatcher::start(&stage, false).await?;
    let before = Cpu::now(server, &stage, &dispatcher).await?;
    let load = stage.producer().pour(events).await?;
    let committed_us = now_us();
    let requests = stage.until_answered(events * shape.fanout()).await?;
    let ended_us = now_us();
    let after = Cpu::now(server, &stage, &dispatcher).await?;
    if !stage.until_quiet().await? {
        report.note(format!("{what}: something was still to be done a minute after the last delivery"));
    }
    statements::note(server, &stage, report, events * shape.fanout()).await?;
    let memory = dispatcher.process().memory_mib();
    dispatcher.stop().await;
    let verdict = judge(&load.events, &shape, &stage.clear().await?, ended_us)?;
    tally.add(&verdict, requests);
    let received = verdict.expected - verdict.lost;
    anyhow::ensure!(received > 0, "{what}: nothing was delivered");
    #[expect(clippy::cast_precision_loss, reason = "a count of deliveries")]
    let per_second = received as f64 / load.seconds_until(verdict.last_us);
    report.note(after.since(&before, received, what));
    report.note(format!(
        "{what}: {events} events were committed in {:.1} s, {received} deliveries came in {:.1} s, {per_second:.0} in a \
         second; the dispatcher had {memory:.0} MiB at most",
        load.seconds_until(committed_us),
        load.seconds_until(verdict.last_us),
    ));
    Ok(Delivered { per_second, out_of_order: verdict.out_of_order })
}

/// Deliveries per second that are written, but not sent.
async fn make_up(server: &Server, report: &mut Report, shape: Shape, events: usize) -> anyhow::Result<f64> {
    let stage = Stage::set(server, shape).await?;
    let mut dispatcher = Dispatcher::start(&stage, true).await?;
    let before = Cpu::now(server, &stage, &dispatcher).await?;
    let load = stage.producer().pour(events).await?;
    let (expected, began) = (events * shape.fanout(), Instant::now());
    let last_us = loop {
        let (made, last_us) = dispatcher.made_up().await?;
        if made >= u64::try_from(expected)? {
            break last_us;
        }
        anyhow::ensure!(began.elapsed() < MADE_UP, "{made} of {expected} answers were made up in time");
        tokio::time::sleep(LOOK).await;
    };
    let after = Cpu::now(server, &stage, &dispatcher).await?;
    let quiet = stage.until_quiet().await?;
    let written: i64 = sqlx::query_scalar("select count(*) from deliveries where status = 'succeeded'")
        .fetch_one(stage.database.pool())
        .await
        .context("what was written")?;
    anyhow::ensure!(
        quiet && usize::try_from(written)? == expected,
        "{written} of {expected} deliveries were written"
    );
    dispatcher.stop().await;
    stage.clear().await?;
    report.note(after.since(&before, expected, "sql"));
    #[expect(clippy::cast_precision_loss, reason = "a count of deliveries")]
    Ok(expected as f64 / load.seconds_until(last_us))
}
