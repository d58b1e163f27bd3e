//! What a customer does, by the API alone.

use anyhow::Context;
use reqwest::Method;
use serde_json::{Value, json};
use shared::events::EventType;

use super::stage::Stage;

/// The webhook receiver's name in the outside.
pub const HOOK: &str = "demo";
/// How many contacts the campaign discovers: its `max_results`.
const DISCOVERED: u32 = 50;
/// How many drafts a person approves one by one before the campaign is switched to `auto`.
const APPROVED_BY_HAND: usize = 10;
/// The most contacts of one import.
const IMPORT_MAX: u32 = 500;
/// The most messages of one bulk approval.
const BULK_MAX: usize = 100;

/// What the API says of a draft that waits no more: approved, or in another state.
const SETTLED: [&str; 2] = ["MESSAGE_004", "SERVER_016"];

/// The example campaign of the API's documentation, word for word.
const CAMPAIGN: &str = r#"{
    "name": "April DJ outreach - Brooklyn",
    "objective_type": "venue_dj",
    "location": "Brooklyn, NY",
    "radius_miles": 10,
    "venue_types": ["bar", "club", "lounge"],
    "keywords": ["live music", "dj nights"],
    "max_results": 50,
    "outreach_channels": ["email", "instagram", "twitter"],
    "followup_days": [3, 7, 14],
    "status": "draft"
  }"#;

/// Registers the webhook, creates the campaign and activates it. Returns the campaign's id.
pub async fn open(stage: &Stage, contacts: u32) -> anyhow::Result<String> {
    let client = &stage.client;
    let events = EventType::ALL.map(EventType::as_str);
    let webhook =
        json!({"url": client.hook_url(HOOK), "events": events, "description": "the demo's receiver"});
    let webhook = client.api(Method::POST, "/webhooks", Some(&webhook)).await?.data()?;
    let secret = webhook["secret"].as_str().context("the webhook has no secret")?;
    client.register_hook(HOOK, secret).await?;

    let campaign: Value = serde_json::from_str(CAMPAIGN)?;
    let campaign = client.api(Method::POST, "/campaigns", Some(&campaign)).await?.data()?;
    let id = campaign["id"].as_str().context("the campaign has no id")?.to_owned();
    let path = format!("/campaigns/{id}");
    client.api(Method::PATCH, &path, Some(&json!({"status": "active"}))).await?.data()?;
    tracing::debug!(id, contacts, "the campaign is active");
    Ok(id)
}

/// Approves ten drafts by hand, switches to `auto`, and imports the other contacts. Drafts come when they come: the caller
/// has the deadline.
pub async fn run(stage: &Stage, campaign: &str, contacts: u32) -> anyhow::Result<()> {
    let client = &stage.client;
    let mut approved = 0;
    while approved < APPROVED_BY_HAND {
        let pending = pending(stage, campaign).await?;
        for id in pending.iter().take(APPROVED_BY_HAND - approved) {
            let answer = client.api(Method::POST, &format!("/messages/{id}/approve"), None).await?;
            // Approved by the call before, whose answer was lost with the process that made it.
            if answer.code() != "MESSAGE_004" {
                answer.data()?;
            }
            approved += 1;
        }
        if pending.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    let auto = json!({"approval": "auto"});
    client.api(Method::PATCH, &format!("/campaigns/{campaign}"), Some(&auto)).await?.data()?;
    import(stage, campaign, contacts).await
}

async fn import(stage: &Stage, campaign: &str, contacts: u32) -> anyhow::Result<()> {
    let mut offset = 0;
    while offset < contacts - DISCOVERED {
        let count = IMPORT_MAX.min(contacts - DISCOVERED - offset);
        let generated = stage.client.world(&format!("/contacts?count={count}&offset={offset}")).await?;
        let body = json!({"contacts": generated, "campaign_id": campaign});
        stage.client.api(Method::POST, "/contacts/bulk-import", Some(&body)).await?.data()?;
        offset += count;
    }
    Ok(())
}

/// Approves the drafts that wait for a person: those that were written before the switch to `auto`.
pub async fn approve_pending(stage: &Stage, campaign: &str) -> anyhow::Result<()> {
    let pending = pending(stage, campaign).await?;
    if pending.is_empty() {
        return Ok(());
    }
    let body = json!({"action": "approve", "ids": pending});
    let decided = stage.client.api(Method::POST, "/messages/bulk", Some(&body)).await?.data()?;
    let results = decided["results"].as_array().context("a bulk decision has no results")?;
    for result in results.iter().filter(|result| result["success"] != true) {
        let code = result["error"]["code"].as_str().unwrap_or_default();
        // Decided or cancelled since it was listed; any other refusal would come back every time.
        anyhow::ensure!(SETTLED.contains(&code), "a draft is not approved: {result}");
    }
    Ok(())
}

async fn pending(stage: &Stage, campaign: &str) -> anyhow::Result<Vec<String>> {
    let path = format!("/messages/pending?campaign_id={campaign}&limit={BULK_MAX}");
    let pending = stage.client.api(Method::GET, &path, None).await?.data()?;
    let ids = pending.as_array().context("the pending messages are no list")?.iter();
    Ok(ids.filter_map(|message| message["id"].as_str().map(ToOwned::to_owned)).collect())
}
