//! The HTTP side over TCP, as a dispatcher and a test see it.

use serde_json::{Value, json};

use crate::clock::epoch_secs;
use crate::replies::Inbound;
use crate::sign::iris_signature;
use crate::testing::TestWorld;

const SECRET: &str = "whsec_aXJpcyB3b3JsZCB0ZXN0IHNlY3JldCBrZXkgMDE=";

/// A signed attempt as the contract says; `hmac` is called here directly, as `sign` only checks this signature.
fn attempt(world: &TestWorld, hook: &str, delivery: &str) -> reqwest::RequestBuilder {
    use base64::Engine as _;
    use hmac::{KeyInit as _, Mac as _};

    let body = json!({
        "id": "evt_1", "event": "message.sent", "timestamp": "2026-04-29T12:00:00.000Z",
        "created_at": "2026-04-29T12:00:00.000Z", "data": {"id": "m1"}
    })
    .to_string();
    let timestamp = epoch_secs().to_string();
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(b"iris world test secret key 01").unwrap();
    mac.update(format!("{delivery}.{timestamp}.{body}").as_bytes());
    let standard = base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes());
    world
        .client
        .post(world.url(&format!("/hooks/{hook}")))
        .header("content-type", "application/json")
        .header("user-agent", "Iris-Webhooks/1.0")
        .header("x-iris-signature", iris_signature(SECRET, &timestamp, body.as_bytes()))
        .header("x-iris-timestamp", &timestamp)
        .header("x-iris-delivery", delivery)
        .header("webhook-id", delivery)
        .header("webhook-timestamp", &timestamp)
        .header("webhook-signature", format!("v1,{standard}"))
        .body(body)
}

async fn status(world: &TestWorld, hook: &str, delivery: &str) -> u16 {
    attempt(world, hook, delivery).send().await.unwrap().status().as_u16()
}

async fn configure(world: &TestWorld, hook: &str, registration: Value) {
    assert_eq!(world.put(&format!("/hooks/{hook}"), &registration).await, 200);
}

#[tokio::test]
async fn a_duplicate_delivery_is_acknowledged_and_counted() {
    let world = TestWorld::start(Inbound::default()).await;
    assert_eq!(status(&world, "a", "dlv_1").await, 401);
    configure(&world, "a", json!({"secret": SECRET})).await;
    for _ in 0..2 {
        assert_eq!(status(&world, "a", "dlv_1").await, 200);
    }
    assert_eq!(
        world.get("/hooks/a/ledger").await,
        json!({
            "attempts": 3, "verified": 2, "unverified": 1, "acknowledged": 1, "duplicates": 1,
            "events": {"message.sent": {"events": 1, "deliveries": 1, "acknowledged": 1, "verified": 2}},
            "failures": ["no secret is registered for this hook"]
        })
    );
    let events = world.get("/hooks/a/events?after=1&limit=1").await;
    assert_eq!(events.as_array().unwrap().len(), 1);
    assert_eq!((&events[0]["index"], &events[0]["delivery"]), (&json!(2), &json!("dlv_1")));
    assert_eq!(events[0]["body"]["data"]["id"], "m1");
    assert_eq!(events[0]["attempt_headers"]["user-agent"], "Iris-Webhooks/1.0");
}

#[tokio::test]
async fn a_receiver_behaves_as_it_was_told() {
    let world = TestWorld::start(Inbound::default()).await;
    configure(
        &world,
        "a",
        json!({"secret": SECRET, "behaviour": {"kind": "status", "code": 503, "times": 1, "retry_after": 9}}),
    )
    .await;
    let first = attempt(&world, "a", "dlv_1").send().await.unwrap();
    assert_eq!((first.status().as_u16(), &first.headers()["retry-after"]), (503, &"9".parse().unwrap()));
    assert_eq!(status(&world, "a", "dlv_1").await, 200);
    assert_eq!(status(&world, "a", "dlv_2").await, 503);

    configure(&world, "a", json!({"behaviour": {"kind": "gone"}})).await;
    assert_eq!(status(&world, "a", "dlv_3").await, 410);
    configure(&world, "a", json!({"behaviour": {"kind": "redirect", "to": world.url("/health")}})).await;
    let redirected = attempt(&world, "a", "dlv_4").send().await.unwrap();
    assert!(redirected.url().path().ends_with("/health"));
    configure(&world, "a", json!({"behaviour": {"kind": "hang"}})).await;
    let hanging = attempt(&world, "a", "dlv_5").timeout(std::time::Duration::from_millis(100)).send().await;
    assert!(hanging.unwrap_err().is_timeout());
    let ledger = world.get("/hooks/a/ledger").await;
    assert_eq!((&ledger["attempts"], &ledger["acknowledged"]), (&json!(6), &json!(1)));
}

#[tokio::test]
async fn a_tampered_body_is_answered_401() {
    let world = TestWorld::start(Inbound::default()).await;
    configure(&world, "a", json!({"secret": SECRET})).await;
    let tampered = attempt(&world, "a", "dlv_1").body("{}").send().await.unwrap();
    assert_eq!(tampered.status().as_u16(), 401);
    assert_eq!(tampered.json::<Value>().await.unwrap(), json!({"ok": false}));
    assert_eq!(world.get("/hooks/a/ledger").await["failures"], json!(["x-iris-signature does not match"]));
}

#[tokio::test]
async fn bad_settings_are_refused() {
    let world = TestWorld::start(Inbound::default()).await;
    assert_eq!(world.put("/hooks/a", &json!({"secret": "iris"})).await, 400);
    assert_eq!(world.put("/inbound", &json!({"url": "nowhere"})).await, 422);
    let unset =
        world.client.post(world.url("/reply")).json(&json!({"from": "a@b", "subject": "", "text": ""}));
    assert_eq!(unset.send().await.unwrap().status().as_u16(), 409);
    let missing = world.client.get(world.url("/hooks/none/ledger")).send().await.unwrap();
    assert_eq!(missing.status().as_u16(), 404);
}

#[tokio::test]
async fn personas_and_contacts_can_be_asked_for() {
    let world = TestWorld::start(Inbound::default()).await;
    assert_eq!(
        world.get("/personas?address=stops%2B1@example.com").await,
        json!({"address": "stops+1@example.com", "persona": "stops", "explicit": true})
    );
    let contacts = world.get("/contacts?count=2&offset=3").await;
    assert_eq!(contacts.as_array().unwrap().len(), 2);
    assert!(contacts[0]["email"].as_str().unwrap().contains(".3@"));
}
