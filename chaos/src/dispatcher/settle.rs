//! The end of a run: what was acknowledged arrives, and what the API shows is handed over to be judged.

use std::time::{Duration, Instant};

use anyhow::Context;
use reqwest::Method;
use serde_json::Value;

use super::{Registered, Stage};

/// How long everything may take to arrive.
const ARRIVAL_DEADLINE: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(500);
/// How long one waits for what should not come any more: longer than a lease lasts, and a retry waits.
const QUIET: Duration = Duration::from_secs(12);
/// The deliveries of one page.
const PAGE: usize = 100;

/// Waits until all has arrived, and a little longer. False: it did not.
pub async fn until_arrived(stage: &Stage) -> anyhow::Result<bool> {
    let deadline = Instant::now() + ARRIVAL_DEADLINE;
    loop {
        let status = stage.receivers.status().await?;
        if status.missing == 0 {
            stage.say(&format!(
                "all has arrived: {} acknowledged, {} requests",
                status.acknowledged, status.requests
            ));
            tokio::time::sleep(QUIET).await;
            return Ok(true);
        }
        if Instant::now() > deadline {
            stage.say(&format!("{} deliveries have not arrived", status.missing));
            return Ok(false);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Hands over what the API shows of the deliveries to endpoints, page by page, with one key after the other.
pub async fn list_deliveries(stage: &Stage, endpoints: &[Registered]) -> anyhow::Result<()> {
    let mut keys = stage.keys.iter().cycle();
    for Registered { id, endpoint } in endpoints.iter().filter(|one| one.endpoint.listed) {
        let mut cursor = String::new();
        loop {
            let path = format!("/webhooks/{id}/deliveries?limit={PAGE}{cursor}");
            let key = keys.next().context("no key")?;
            let page = stage.client.insist(key, &Method::GET, &path, None).await?;
            let shown = page["data"].as_array().context("the deliveries are no list")?;
            let lines = shown.iter().map(|delivery| describe(&endpoint.name, delivery));
            stage.receivers.control.tell(&lines.collect::<anyhow::Result<String>>()?).await?;
            match page["meta"]["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
    }
    Ok(())
}

/// The line about one delivery.
fn describe(endpoint: &str, delivery: &Value) -> anyhow::Result<String> {
    let text = |field: &str| delivery[field].as_str().with_context(|| format!("a delivery without {field}"));
    let attempts = delivery["attempts"].as_array().context("a delivery without attempts")?;
    let reasons: Vec<&str> =
        attempts.iter().map(|attempt| attempt["error_class"].as_str().unwrap_or("ok")).collect();
    let reasons = if reasons.is_empty() { "none".to_owned() } else { reasons.join(",") };
    Ok(format!("listed {endpoint} {} {} {reasons}\n", text("event_id")?, text("status")?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_delivery_is_one_line() {
        let mut delivery = json!({"event_id": "evt_1", "status": "pending", "attempts": []});
        assert_eq!(describe("hang", &delivery).unwrap(), "listed hang evt_1 pending none\n");
        delivery["attempts"] = json!([{"error_class": "timeout"}, {"error_class": null}]);
        assert_eq!(describe("hang", &delivery).unwrap(), "listed hang evt_1 pending timeout,ok\n");
        assert!(describe("hang", &json!({"status": "pending"})).is_err());
    }
}
