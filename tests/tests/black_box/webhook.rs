//! Webhooks as a receiver sees them. The signature is checked here with the hmac crate alone.

use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;
use tests::{Stack, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_signed_retried_with_the_same_id_and_recorded() {
    let stack = Stack::start().await;
    let (id, secret) = stack.hook("flaky", &["campaign.created"]).await;
    let behaviour = json!({"behaviour": {"kind": "status", "code": 503, "times": 2}});
    stack.world.put("/hooks/flaky", &behaviour).await;
    let campaign = stack.campaign(&json!({}), &[]).await;
    until("the delivery is acknowledged", async || {
        let ledger = stack.world.get("/hooks/flaky/ledger").await.body;
        (ledger["acknowledged"] == 1).then_some(())
    })
    .await;
    let seen = stack.world.get("/hooks/flaky/events").await.body;
    let seen = seen.as_array().unwrap();
    assert_eq!(seen.len(), 3, "two failures and a success");
    for attempt in seen {
        assert_eq!(attempt["delivery"], seen[0]["delivery"], "the id is the same on every attempt");
        assert_eq!(attempt["body"], seen[0]["body"], "and so are the bytes");
        assert_eq!(attempt["body"]["data"]["id"], campaign.as_str());
    }

    let delivery = until("the delivery is recorded", async || {
        let deliveries = stack.api.get(&format!("/webhooks/{id}/deliveries")).await;
        let delivery = deliveries.data()[0].clone();
        (delivery["status"] == "succeeded").then_some(delivery)
    })
    .await;
    let codes: Vec<_> = delivery["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| attempt["status_code"].clone())
        .collect();
    assert_eq!(codes, [503, 503, 200]);

    let headers = &seen[0]["attempt_headers"];
    let header = |name: &str| headers[name].as_str().unwrap_or_else(|| panic!("no {name} in {headers}"));
    let raw: (String,) = sqlx::query_as("select body from events where type = 'campaign.created'")
        .fetch_one(stack.database.pool())
        .await
        .unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{}.{}", header("x-iris-timestamp"), raw.0).as_bytes());
    assert_eq!(header("x-iris-signature"), hex::encode(mac.finalize().into_bytes()));
    assert_eq!(header("user-agent"), "Iris-Webhooks/1.0");
    assert_eq!(header("content-type"), "application/json");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_type_can_be_tested_and_verifies() {
    let stack = Stack::start().await;
    let types = [
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
    ];
    let (id, _) = stack.hook("all", &types).await;
    for kind in types {
        let tested = stack.api.post(&format!("/webhooks/{id}/test"), &json!({"event": kind})).await;
        tested.data();
    }
    let ledger = stack.world.get("/hooks/all/ledger").await.body;
    assert_eq!((&ledger["verified"], &ledger["unverified"]), (&json!(16), &json!(0)));
    for kind in types {
        assert_eq!(ledger["events"][kind]["events"], 1, "{kind}");
    }
    let received = stack.received("all").await;
    assert_eq!(received.iter().map(|body| &body["event"]).collect::<Vec<_>>(), types);
    assert!(received.iter().all(|body| body["data"]["test"] == true));
    let listed = stack.api.get("/webhooks/events").await;
    let listed = listed.data().as_array().unwrap();
    assert_eq!(listed.iter().map(|kind| &kind["event"]).collect::<Vec<_>>(), types);
}
