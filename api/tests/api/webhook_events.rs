//! The catalogue of event types.

use reqwest::Method;
use serde_json::Value;

use crate::app::{TestApp, answer, failed, ok};

/// The file that is published with a release, and that the tests hold every body against.
const DOCUMENTED: &str = include_str!("../../../docs/events.json");

#[tokio::test]
async fn every_event_type_is_listed_with_its_schema() {
    let app = TestApp::start().await;
    let listed = ok(app.get("/webhooks/events").await);
    let documented: Value = serde_json::from_str(DOCUMENTED).unwrap();
    assert_eq!(listed, documented, "docs/events.json is stale: run `cargo xtask gen`");
    let names: Vec<&str> =
        listed.as_array().unwrap().iter().map(|kind| kind["event"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "campaign.created",
            "campaign.updated",
            "campaign.deleted",
            "contact.created",
            "contact.updated",
            "contact.deleted",
            "conversation.created",
            "conversation.reply_received",
            "message.sent",
            "message.delivered",
            "message.opened",
            "message.bounced",
            "message.approved",
            "message.rejected",
            "discovery.completed",
            "discovery.failed",
        ]
    );

    let reader = app.key_with(&["read", "write"]).await;
    failed(answer(app.request_as(&reader, Method::GET, "/webhooks/events")).await, 403, "APIKEY_004");
    failed(app.delete("/webhooks/events").await, 405, "SERVER_004");
}
