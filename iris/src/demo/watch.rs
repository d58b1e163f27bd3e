//! Shows the campaign while it runs, and waits until nothing can happen any more.

use std::{
    convert::Infallible,
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use uuid::Uuid;

use super::{
    script::{self, HOOK},
    stage::Stage,
};

/// How often the campaign is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How often a line is printed where there is no terminal for bars.
const LINE: Duration = Duration::from_secs(5);
/// The longest a demo may take: a minute, and as much again for every 250 contacts.
pub fn patience(contacts: u32) -> Duration {
    Duration::from_secs(120 + u64::from(contacts) * 60 / 250)
}

/// What can still happen.
#[derive(Debug, sqlx::FromRow)]
struct Left {
    active: bool,
    events: i64,
    deliveries: i64,
    jobs: i64,
    dead: i64,
}

/// Approves what still waits for it, until the campaign is completed, every reply was taken, every event is relayed and
/// every delivery is over; fails at `ends`.
pub async fn until_quiet(stage: &Stage, campaign: &str, ends: Instant) -> anyhow::Result<()> {
    let id: Uuid = campaign.parse()?;
    loop {
        script::approve_pending(stage, campaign).await?;
        // The outside first: an answer on its way is in the database once it is no longer in the outside.
        let replies =
            stage.client.world("/smtp/ledger").await?["replies_pending"].as_u64().unwrap_or(u64::MAX);
        let left = left(stage, id).await?;
        anyhow::ensure!(left.dead == 0, "{} jobs are dead", left.dead);
        if !left.active && replies == 0 && left.events == 0 && left.deliveries == 0 && left.jobs == 0 {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < ends,
            "the campaign is not over in time: {left:?}, {replies} replies on their way"
        );
        tokio::time::sleep(LOOK).await;
    }
}

async fn left(stage: &Stage, campaign: Uuid) -> anyhow::Result<Left> {
    Ok(sqlx::query_as(
        "select exists (select 1 from campaigns where id = $1 and status = 'active') as active,
            (select count(*) from outbox) as events,
            (select count(*) from deliveries where status = 'pending') as deliveries,
            (select count(*) from (
                select queue from queue.ready union all select queue from queue.running
                union all select queue from queue.deferred) jobs
             where queue in ('discover', 'draft', 'send', 'deliver')) as jobs,
            (select count(*) from queue.dead) as dead",
    )
    .bind(campaign)
    .fetch_one(stage.database.pool())
    .await?)
}

/// Bars of the campaign, for ever. Without a terminal, a line now and then.
pub async fn show(stage: &Stage, campaign: &str, contacts: u32) -> Infallible {
    let terminal = std::io::stderr().is_terminal();
    let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bars = Bars::new(&MultiProgress::with_draw_target(target), contacts);
    let mut printed = Instant::now();
    let mut webhooks = (Instant::now(), 0_u64);
    loop {
        let path = format!("/campaigns/{campaign}");
        let shown = stage.client.glance(&path).await;
        let verified = verified(stage).await;
        if let (Some(shown), Some(verified)) = (&shown, verified) {
            let more = u32::try_from(verified.saturating_sub(webhooks.1)).unwrap_or(u32::MAX);
            let rate = f64::from(more) / webhooks.0.elapsed().as_secs_f64();
            webhooks = (Instant::now(), verified);
            bars.set(&shown["progress"], verified, rate);
            if !terminal && printed.elapsed() > LINE {
                printed = Instant::now();
                tracing::info!(progress = %shown["progress"], webhooks = verified, "running");
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn verified(stage: &Stage) -> Option<u64> {
    stage.client.world(&format!("/hooks/{HOOK}/ledger")).await.ok()?["verified"].as_u64()
}

struct Bars {
    bars: Vec<(&'static str, ProgressBar)>,
    webhooks: ProgressBar,
}

impl Bars {
    fn new(all: &MultiProgress, contacts: u32) -> Self {
        let contacts = u64::from(contacts);
        let style = |template: &str| {
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
        };
        let bar = |name: &'static str, label: &'static str, most: u64| {
            let bar = all.add(ProgressBar::new(most));
            bar.set_style(style("  {prefix:<12} {bar:40} {pos:>6}"));
            bar.set_prefix(label);
            (name, bar)
        };
        let bars = vec![
            bar("discovered", "discovered", contacts),
            bar("drafted", "drafted", contacts * 4),
            bar("sent", "sent", contacts * 4),
            bar("followups", "followed up", contacts * 3),
            bar("replied", "replied", contacts),
        ];
        let webhooks = all.add(ProgressBar::new_spinner());
        webhooks.set_style(style("  {prefix:<12} {msg}"));
        webhooks.set_prefix("webhooks");
        Self { bars, webhooks }
    }

    fn set(&self, progress: &Value, verified: u64, rate: f64) {
        for (name, bar) in &self.bars {
            bar.set_position(progress[name].as_u64().unwrap_or_default());
        }
        self.webhooks.set_message(format!("{verified:>6} verified, {rate:.0}/s"));
    }
}

/// What was shown stays on the screen.
impl Drop for Bars {
    fn drop(&mut self) {
        for (_, bar) in &self.bars {
            bar.abandon();
        }
        self.webhooks.abandon();
    }
}
