//! The accounts of a campaign: what the database says happened, against what the ledgers of the outside saw.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::FromRow;
use uuid::Uuid;

use super::{Options, script::HOOK, stage::Stage};

/// The table, as JSON has it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Table {
    pub contacts: i64,
    pub drafted: i64,
    pub sent: i64,
    pub followups: i64,
    pub replies: i64,
    pub stopped_by_reply: i64,
    pub bounced: i64,
    pub unknown: i64,
    pub crossed: i64,
    pub sent_twice: i64,
    pub events: i64,
    pub deliveries: i64,
    pub verified: i64,
    pub webhook_duplicates: i64,
    pub lost: i64,
    pub seconds: f64,
    pub kills: u64,
    pub worker_memory_mib: f64,
    pub by_step: Vec<Step>,
    pub by_event: BTreeMap<String, Counts>,
}

/// What became of one step over all contacts. Every planned message has exactly one fate.
#[derive(Debug, Clone, Default, Serialize, FromRow)]
#[expect(clippy::struct_field_names, reason = "the columns of the table")]
pub struct Step {
    pub step: i32,
    pub planned: i64,
    pub sent: i64,
    pub unknown: i64,
    pub failed: i64,
    pub stopped: i64,
    pub skipped: i64,
}

/// The events of one type.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Counts {
    pub events: i64,
    pub deliveries: i64,
    pub verified: i64,
}

/// The table, and what in it is wrong.
#[derive(Debug)]
pub struct Verdict {
    pub table: Table,
    pub wrong: Vec<String>,
}

/// A message as the mail server of the outside saw it.
#[derive(Debug, Deserialize)]
struct Body {
    index: u64,
    recipient: String,
    message_id: Option<String>,
}

/// The most entries the outside lists at once.
const PAGE: usize = 5000;

/// Compares everything.
pub async fn judge(
    stage: &Stage,
    campaign: &str,
    options: &Options,
    seconds: f64,
) -> anyhow::Result<Verdict> {
    let id: Uuid = campaign.parse()?;
    let mut table = Table {
        seconds,
        kills: stage.processes.kills(),
        worker_memory_mib: stage.processes.worker_memory_mib(),
        by_step: steps(stage, id).await?,
        ..Table::default()
    };
    let mut wrong = Wrong(Vec::new());
    enrolments(stage, id, &mut table).await?;
    wrong.unless("contacts enrolled", table.contacts, i64::from(options.contacts));
    for step in &table.by_step {
        let sum = step.sent + step.unknown + step.failed + step.stopped + step.skipped;
        wrong.unless(
            &format!("step {}: sent + unknown + failed + stopped + skipped", step.step),
            sum,
            step.planned,
        );
    }
    let mail = mail(stage, id, &mut table, &mut wrong).await?;
    let hooks = hooks(stage, &mut table, &mut wrong).await?;
    replies(stage, &table, &mut wrong).await?;
    table.lost = mail + hooks;
    wrong.unless("lost", table.lost, 0);
    wrong.unless("sent twice", table.sent_twice, 0);
    if !options.kill {
        wrong.unless("unknown, though nothing was killed", table.unknown, 0);
        wrong.unless("webhook duplicates, though nothing was killed", table.webhook_duplicates, 0);
    }
    Ok(Verdict { table, wrong: wrong.0 })
}

struct Wrong(Vec<String>);

impl Wrong {
    fn unless(&mut self, what: &str, is: i64, should: i64) {
        if is != should {
            self.0.push(format!("{what}: {is}, not {should}"));
        }
    }
}

async fn steps(stage: &Stage, campaign: Uuid) -> anyhow::Result<Vec<Step>> {
    // The fate of a step comes from its message; a step without one is accounted for only by the stop of its enrolment.
    Ok(sqlx::query_as(
        "with planned as (
            select e.id, e.status, s.step
            from enrolments e join campaigns c on c.id = e.campaign_id,
                generate_series(0, cardinality(c.followup_days)) as s(step)
            where e.campaign_id = $1
         ), fates as (
            select p.step, case
                when m.sent_at is not null then 'sent'
                when m.status = 'unknown' then 'unknown'
                when m.status in ('failed', 'bounced') then 'failed'
                when m.status = 'rejected' then 'skipped'
                when p.status = 'stopped' and (m.id is null or m.status = 'cancelled') then 'stopped' end as fate
            from planned p left join messages m on m.enrolment_id = p.id and m.step = p.step
         )
         select step, count(*) as planned, count(*) filter (where fate = 'sent') as sent,
            count(*) filter (where fate = 'unknown') as unknown, count(*) filter (where fate = 'failed') as failed,
            count(*) filter (where fate = 'stopped') as stopped, count(*) filter (where fate = 'skipped') as skipped
         from fates group by step order by step",
    )
    .bind(campaign)
    .fetch_all(stage.database.pool())
    .await?)
}

async fn enrolments(stage: &Stage, campaign: Uuid, table: &mut Table) -> anyhow::Result<()> {
    let pool = stage.database.pool();
    (table.contacts, table.stopped_by_reply) = sqlx::query_as(
        "select count(*), count(*) filter (where stop_reason in ('replied', 'opted_out'))
         from enrolments where campaign_id = $1",
    )
    .bind(campaign)
    .fetch_one(pool)
    .await?;
    (table.drafted, table.sent, table.followups, table.bounced, table.unknown, table.crossed) =
        sqlx::query_as(
            "select count(*), count(*) filter (where sent_at is not null),
            count(*) filter (where sent_at is not null and step > 0),
            count(*) filter (where status = 'bounced'), count(*) filter (where status = 'unknown'),
            count(*) filter (where crossed)
         from messages where campaign_id = $1 and step is not null",
        )
        .bind(campaign)
        .fetch_one(pool)
        .await?;
    Ok(())
}

/// Compares the messages with the bodies that the mail server took. Returns how many were lost.
async fn mail(stage: &Stage, campaign: Uuid, table: &mut Table, wrong: &mut Wrong) -> anyhow::Result<i64> {
    let mut took: BTreeMap<String, i64> = BTreeMap::new();
    let mut recipients: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut after = 0;
    loop {
        let page = stage.client.world(&format!("/smtp/message_ids?after={after}&limit={PAGE}")).await?;
        let page: Vec<Body> = serde_json::from_value(page)?;
        let Some(last) = page.last() else { break };
        after = last.index;
        for body in page {
            let id = body.message_id.unwrap_or_default().trim_matches(['<', '>']).to_owned();
            *took.entry(id.clone()).or_default() += 1;
            recipients.entry(body.recipient).or_default().insert(id);
        }
    }
    table.sent_twice = took.values().map(|times| times - 1).sum();
    let steps = table.by_step.len();
    let crowded = recipients.values().filter(|ids| ids.len() > steps).count();
    wrong.unless("recipients with more messages than steps", i64::try_from(crowded)?, 0);

    let messages: Vec<(String, String, bool)> = sqlx::query_as(
        "select trim(both '<>' from rfc_message_id), status, sent_at is not null
         from messages where campaign_id = $1 and direction = 'outbound' and rfc_message_id is not null",
    )
    .bind(campaign)
    .fetch_all(stage.database.pool())
    .await?;
    let lost = messages.iter().filter(|(id, _, sent)| *sent && !took.contains_key(id)).count();
    let known: BTreeSet<&str> = messages
        .iter()
        .filter(|(_, status, sent)| *sent || status == "unknown")
        .map(|(id, _, _)| id.as_str())
        .collect();
    let unrecorded = took.keys().filter(|id| !known.contains(id.as_str())).count();
    wrong.unless("messages that arrived but are neither sent nor unknown", i64::try_from(unrecorded)?, 0);
    Ok(i64::try_from(lost)?)
}

/// Compares the answers that were handed in with those that are stored, once each.
async fn replies(stage: &Stage, table: &Table, wrong: &mut Wrong) -> anyhow::Result<()> {
    let ledger = stage.client.world("/smtp/ledger").await?;
    let number = |name: &str| ledger[name].as_i64().unwrap_or(-1);
    let (stored, unmatched, people): (i64, i64, i64) = sqlx::query_as(
        "select count(*), count(*) filter (where kind = 'unmatched'), count(*) filter (where kind = 'reply')
         from inbound_emails",
    )
    .fetch_one(stage.database.pool())
    .await?;
    wrong.unless("conversation.reply_received events", table.replies, people);
    wrong.unless("answers stored", stored, number("replies_accepted"));
    wrong.unless("answers that match no conversation", unmatched, 0);
    wrong.unless("answers refused", number("replies_refused"), 0);
    wrong.unless("answers lost", number("reply_lost"), 0);
    Ok(())
}

/// Compares events, deliveries and what the receiver verified, by type. Returns how many events were lost.
async fn hooks(stage: &Stage, table: &mut Table, wrong: &mut Wrong) -> anyhow::Result<i64> {
    let pool = stage.database.pool();
    let ledger = stage.client.world(&format!("/hooks/{HOOK}/ledger")).await?;
    let events: Vec<(String, i64)> =
        sqlx::query_as("select type, count(*) from events group by type").fetch_all(pool).await?;
    let deliveries: Vec<(String, i64, i64)> = sqlx::query_as(
        "select type, count(*), count(*) filter (where status = 'succeeded') from deliveries group by type",
    )
    .fetch_all(pool)
    .await?;
    for (kind, count) in events {
        table.by_event.entry(kind).or_default().events = count;
    }
    for (kind, count, succeeded) in deliveries {
        wrong.unless(&format!("{kind}: deliveries that succeeded"), succeeded, count);
        table.by_event.entry(kind).or_default().deliveries = count;
    }
    let mut lost = 0;
    for (kind, counts) in &mut table.by_event {
        let seen: &Value = &ledger["events"][kind];
        counts.verified = seen["verified"].as_i64().unwrap_or_default();
        let distinct = seen["events"].as_i64().unwrap_or_default();
        wrong.unless(&format!("{kind}: deliveries"), counts.deliveries, counts.events);
        wrong.unless(&format!("{kind}: events received"), distinct, counts.events);
        lost += (counts.events - distinct).max(0);
        table.events += counts.events;
        table.deliveries += counts.deliveries;
        table.verified += counts.verified;
    }
    table.replies = table.by_event.get("conversation.reply_received").map_or(0, |counts| counts.events);
    let sent = table.by_event.get("message.sent").map_or(0, |counts| counts.events);
    wrong.unless("message.sent events", sent, table.sent);
    table.webhook_duplicates = ledger["duplicates"].as_i64().unwrap_or(-1);
    wrong.unless("webhooks that did not verify", ledger["unverified"].as_i64().unwrap_or(-1), 0);
    Ok(lost)
}

impl Verdict {
    /// Prints the table for people.
    pub fn print(&self) {
        let table = &self.table;
        println!("\n  {:<28} {:>8} {:>11} {:>9}", "event", "events", "deliveries", "verified");
        for (kind, counts) in &table.by_event {
            println!("  {kind:<28} {:>8} {:>11} {:>9}", counts.events, counts.deliveries, counts.verified);
        }
        println!("  {:<28} {:>8} {:>11} {:>9}", "total", table.events, table.deliveries, table.verified);
        println!(
            "\n  {:<6} {:>8} {:>6} {:>8} {:>7} {:>8} {:>8}",
            "step", "planned", "sent", "unknown", "failed", "stopped", "skipped"
        );
        for step in &table.by_step {
            println!(
                "  {:<6} {:>8} {:>6} {:>8} {:>7} {:>8} {:>8}",
                step.step, step.planned, step.sent, step.unknown, step.failed, step.stopped, step.skipped
            );
        }
        println!();
        let numbers = [
            ("contacts", table.contacts),
            ("replies", table.replies),
            ("enrolments stopped by a reply", table.stopped_by_reply),
            ("bounced", table.bounced),
            ("crossed", table.crossed),
            ("unknown", table.unknown),
            ("sent twice", table.sent_twice),
            ("webhook duplicates", table.webhook_duplicates),
            ("lost", table.lost),
        ];
        for (name, number) in numbers {
            println!("  {name:<30} {number:>8}");
        }
        println!("  {:<30} {:>8.1}", "seconds", table.seconds);
        println!("  {:<30} {:>8.0}", "worker memory, MiB at most", table.worker_memory_mib);
        if table.kills > 0 {
            println!("  {:<30} {:>8}", "roles killed", table.kills);
        }
        if self.wrong.is_empty() {
            println!("\n  Every count adds up.");
        }
    }
}
