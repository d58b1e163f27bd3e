//! Deliveries that are made again, replays, and secrets that are replaced.

use std::time::Duration;

use chrono::DateTime;
use reqwest::Method;
use serde_json::{Value, json};
use shared::{
    clock,
    db::outbox,
    events::{EventType, NewEvent, samples},
    ids::{event_id, new_id},
};
use uuid::Uuid;

use crate::app::{TestApp, answer, created, failed, ok, scrubbed};

const DELIVER_JOBS: &str = "select count(*) from queue.ready where queue = 'deliver'";
const REPLAY_JOBS: &str = "select count(*) from queue.ready where queue = 'replay'";

/// An endpoint of the app's account.
async fn endpoint(app: &TestApp) -> Uuid {
    let body = json!({"url": "https://example.com/hooks", "events": ["message.sent", "message.bounced"]});
    created(app.post("/webhooks", body).await)["id"].as_str().unwrap().parse().unwrap()
}

/// An event of the account that was relayed.
async fn event(app: &TestApp) -> Uuid {
    let (id, data) = samples::event(EventType::MessageSent, DateTime::UNIX_EPOCH);
    let event = NewEvent::new(app.account_id, EventType::MessageSent, id, data);
    let mut tx = app.database.begin().await.unwrap();
    let ids = outbox::append(&mut tx, &[event]).await.unwrap();
    outbox::take(&mut tx, &[(outbox::shard_of(app.account_id), 10)]).await.unwrap();
    tx.commit().await.unwrap();
    ids[0]
}

/// A delivery of an event that has ended as this, after one attempt.
async fn delivery(app: &TestApp, endpoint_id: Uuid, event_id: Uuid, status: &str) -> Uuid {
    let id = new_id();
    sqlx::query(
        "with attempt as (
            insert into attempts (account_id, id, delivery_id, number, started_at, duration_ms, status_code)
            values ($1, $6, $2, 1, now(), 12, 503)
         )
         insert into deliveries (account_id, id, endpoint_id, event_id, type, number, status, attempts, finished_at)
         values ($1, $2, $3, $4, 'message.sent', 1, $5, 1, now())",
    )
    .bind(app.account_id)
    .bind(id)
    .bind(endpoint_id)
    .bind(event_id)
    .bind(status)
    .bind(new_id())
    .execute(app.database.pool())
    .await
    .unwrap();
    id
}

fn path(endpoint_id: Uuid, delivery_id: impl std::fmt::Display) -> String {
    format!("/webhooks/{endpoint_id}/deliveries/{delivery_id}/redeliver")
}

#[tokio::test]
async fn a_failed_delivery_waits_again_and_has_one_job_however_often_it_is_asked_for() {
    let app = TestApp::start().await;
    let endpoint_id = endpoint(&app).await;
    let id = delivery(&app, endpoint_id, event(&app).await, "exhausted").await;
    let (status, body) = app.post(&path(endpoint_id, id), json!({})).await;
    insta::assert_json_snapshot!("webhooks.redeliver", scrubbed(&body));
    let again = ok((status, body));
    assert_eq!((&again["id"], &again["status"]), (&json!(id), &json!("pending")));
    assert_eq!(ok(app.post(&path(endpoint_id, id), json!({})).await), again, "it is ready, so it stays so");
    assert_eq!(app.count(DELIVER_JOBS).await, 1);
    let lane: String = sqlx::query_scalar("select lane from queue.ready where queue = 'deliver'")
        .fetch_one(app.database.pool())
        .await
        .unwrap();
    assert_eq!(lane, endpoint_id.to_string());
    assert_eq!(app.audited().await, ["create_webhook"]);
}

#[tokio::test]
async fn an_acknowledged_delivery_stays_and_its_event_is_delivered_anew() {
    let app = TestApp::start().await;
    let endpoint_id = endpoint(&app).await;
    let event = event(&app).await;
    let id = delivery(&app, endpoint_id, event, "succeeded").await;
    let again = ok(app.post(&path(endpoint_id, id), json!({})).await);
    assert_ne!(again["id"], json!(id));
    assert_eq!((&again["event_id"], &again["attempts"]), (&json!(event_id(event)), &json!([])));
    assert_eq!(ok(app.post(&path(endpoint_id, id), json!({})).await), again, "who asks twice gets one");
    let listed = ok(app.get(&format!("/webhooks/{endpoint_id}/deliveries")).await);
    let statuses: Vec<&Value> = listed.as_array().unwrap().iter().map(|row| &row["status"]).collect();
    assert_eq!(statuses, ["pending", "succeeded"]);
    assert_eq!(app.count(DELIVER_JOBS).await, 1);
}

#[tokio::test]
async fn what_cannot_be_made_again_is_refused_with_its_reason() {
    let app = TestApp::start().await;
    let (endpoint_id, other) = (endpoint(&app).await, endpoint(&app).await);
    let event = event(&app).await;
    let id = delivery(&app, endpoint_id, event, "exhausted").await;
    let post = async |path: &str| app.post(path, json!({})).await;
    failed(post(&path(new_id(), id)).await, 404, "WEBHOOK_001");
    failed(post(&path(endpoint_id, new_id())).await, 404, "WEBHOOK_002");
    failed(post(&path(endpoint_id, "x")).await, 404, "WEBHOOK_002");
    failed(post(&path(other, id)).await, 404, "WEBHOOK_002");
    let stranger = app.stranger().await;
    let by_stranger = app.request_as(&stranger, Method::POST, &path(endpoint_id, id));
    failed(answer(by_stranger).await, 404, "WEBHOOK_001");
    let writer = app.key_with(&["read", "write", "send", "generate"]).await;
    failed(answer(app.request_as(&writer, Method::POST, &path(endpoint_id, id))).await, 403, "APIKEY_004");

    // Given up a day before its history goes: its job may still be there.
    let old = delivery(&app, endpoint_id, event, "cancelled").await;
    sqlx::query(
        "update deliveries set id = uuid_v7_floor(now() - interval '29 days 1 minute') where id = $1",
    )
    .bind(old)
    .execute(app.database.pool())
    .await
    .unwrap();
    let old: Uuid = sqlx::query_scalar("select min(id::text)::uuid from deliveries")
        .fetch_one(app.database.pool())
        .await
        .unwrap();
    failed(post(&path(endpoint_id, old)).await, 409, "SERVER_016");
    let gone = delivery(&app, endpoint_id, new_id(), "exhausted").await;
    let (status, body) = post(&path(endpoint_id, gone)).await;
    assert!(body["error"]["message"].as_str().unwrap().contains("older than what is kept"), "{body}");
    failed((status, body), 409, "SERVER_016");

    let hook = format!("/webhooks/{endpoint_id}");
    ok(app.patch(&hook, json!({"enabled": false})).await);
    failed(post(&path(endpoint_id, id)).await, 409, "SERVER_016");
    ok(app.delete(&hook).await);
    failed(post(&path(endpoint_id, id)).await, 404, "WEBHOOK_001");
    assert_eq!(app.count(DELIVER_JOBS).await, 0);
    assert_eq!(app.count("select count(*) from deliveries where status = 'pending'").await, 0);
}

#[tokio::test]
async fn a_secret_is_replaced_and_shown_once() {
    let app = TestApp::start().await;
    let webhook = created(
        app.post("/webhooks", json!({"url": "https://example.com/hooks", "events": ["message.sent"]})).await,
    );
    let hook = format!("/webhooks/{}", webhook["id"].as_str().unwrap());
    let path = format!("{hook}/rotate-secret");
    let secrets = async || -> (Vec<u8>, Option<Vec<u8>>, Option<f64>) {
        sqlx::query_as(
            "select secret, old_secret, extract(epoch from old_secret_until - updated_at)::float8 from endpoints",
        )
        .fetch_one(app.database.pool())
        .await
        .unwrap()
    };
    let (first, ..) = secrets().await;
    let (status, body) = app.post(&path, json!({"overlap_seconds": 3600})).await;
    insta::assert_json_snapshot!("webhooks.rotate_secret", scrubbed(&body));
    let rotated = ok((status, body));
    let new = rotated["secret"].as_str().unwrap().to_owned();
    assert!(new.starts_with("whsec_") && rotated["secret"] != webhook["secret"]);
    let (second, old, overlap) = secrets().await;
    assert_ne!(second, first);
    assert_eq!((old, overlap), (Some(first), Some(3600.0)));

    ok(app.post(&path, json!({"overlap_seconds": 604_800})).await);
    let (_, old, _) = secrets().await;
    assert_eq!(old, Some(second), "only the newest of the old ones");
    // No body at all: the old one is dead at once, and so is the one before it.
    ok(answer(app.request(Method::POST, &path)).await);
    assert_eq!((secrets().await.1, secrets().await.2), (None, None));

    for (body, status, code) in [
        (json!({"overlap_seconds": 604_801}), 422, "SERVER_005"),
        (json!({"overlap_seconds": -1}), 422, "SERVER_005"),
        (json!({"overlap_seconds": "1h"}), 400, "SERVER_002"),
    ] {
        assert_eq!(failed(app.post(&path, body).await, status, code), ["overlap_seconds"]);
    }
    let stranger = app.stranger().await;
    failed(answer(app.request_as(&stranger, Method::POST, &path)).await, 404, "WEBHOOK_001");
    assert!(!ok(app.get(&hook).await).to_string().contains("whsec_"));
    ok(app.delete(&hook).await);
    failed(app.post(&path, json!({})).await, 404, "WEBHOOK_001");
    let told: Vec<Value> = sqlx::query_scalar("select metadata from api_audit_log")
        .fetch_all(app.database.pool())
        .await
        .unwrap();
    assert!(!json!(told).to_string().contains("whsec_"), "{told:?}");
    let audited = ["create_webhook", "update_webhook", "update_webhook", "update_webhook", "delete_webhook"];
    assert_eq!(app.audited().await, audited);
}

#[tokio::test]
async fn a_stored_secret_is_the_one_that_was_shown() {
    let app = TestApp::start().await;
    let endpoint_id = endpoint(&app).await;
    let shown = ok(app.post(&format!("/webhooks/{endpoint_id}/rotate-secret"), json!({})).await);
    let sealed: Vec<u8> =
        sqlx::query_scalar("select secret from endpoints").fetch_one(app.database.pool()).await.unwrap();
    let opened = app.secret_key.open(&format!("endpoint/{endpoint_id}"), &sealed).unwrap();
    assert_eq!(shown["secret"], opened);
}

#[tokio::test]
async fn a_replay_is_begun_and_looked_at() {
    let app = TestApp::start().await;
    let endpoint_id = endpoint(&app).await;
    let path = format!("/webhooks/{endpoint_id}/replay");
    let ago = |seconds| clock::iso(app.clock.now() - Duration::from_secs(seconds));
    let (status, body) = app.post(&path, json!({"since": ago(3600)})).await;
    assert_eq!(status, 202, "{body}");
    insta::assert_json_snapshot!("webhooks.replay", scrubbed(&body));
    let replay = &body["data"];
    assert_eq!(replay["events"], json!(["message.sent", "message.bounced"]), "those that it hears of");
    let of = format!("{path}/{}", replay["id"].as_str().unwrap());
    assert_eq!(&ok(app.get(&of).await), replay);
    assert_eq!(app.count(REPLAY_JOBS).await, 1);

    failed(app.post(&path, json!({"since": ago(60)})).await, 409, "SERVER_016");
    assert_eq!(app.count(REPLAY_JOBS).await, 1);
    sqlx::query("update replays set status = 'succeeded', finished_at = now()")
        .execute(app.database.pool())
        .await
        .unwrap();
    let asked = json!({"since": ago(28 * 86_400), "until": "2999-01-01T00:00:00Z",
        "events": ["contact.created", "campaign.deleted", "contact.created"], "failed_only": true});
    let (status, body) = app.post(&path, asked).await;
    assert_eq!(status, 202, "{body}");
    let second = &body["data"];
    assert_eq!(second["events"], json!(["campaign.deleted", "contact.created"]));
    assert_eq!(second["failed_only"], true);
    let until: DateTime<chrono::Utc> = second["until"].as_str().unwrap().parse().unwrap();
    assert!(until <= app.clock.now() + Duration::from_secs(60), "it ends with the present: {until}");

    let stranger = app.stranger().await;
    failed(answer(app.request_as(&stranger, Method::GET, &of)).await, 404, "WEBHOOK_003");
    failed(app.get(&format!("{path}/{}", new_id())).await, 404, "WEBHOOK_003");
    failed(
        app.get(&format!("/webhooks/{}/replay/{}", new_id(), replay["id"].as_str().unwrap())).await,
        404,
        "WEBHOOK_003",
    );
    ok(app.delete(&format!("/webhooks/{endpoint_id}")).await);
    assert_eq!(ok(app.get(&of).await)["status"], "succeeded", "also once the endpoint is gone");
}

#[tokio::test]
async fn an_impossible_replay_is_refused_with_every_reason() {
    let app = TestApp::start().await;
    let endpoint_id = endpoint(&app).await;
    let path = format!("/webhooks/{endpoint_id}/replay");
    let ago = |seconds| clock::iso(app.clock.now() - Duration::from_secs(seconds));
    let later = clock::iso(app.clock.now() + Duration::from_secs(60));
    for (body, status, code, fields) in [
        (json!({}), 400, "SERVER_002", vec!["since"]),
        (json!({"since": "yesterday", "failed_only": 1}), 400, "SERVER_002", vec!["failed_only", "since"]),
        (json!({"since": later}), 422, "SERVER_005", vec!["since"]),
        (json!({"since": ago(29 * 86_400 + 60)}), 422, "SERVER_005", vec!["since"]),
        (json!({"since": ago(60), "until": ago(60)}), 422, "SERVER_005", vec!["until"]),
        (json!({"since": ago(60), "events": []}), 422, "SERVER_005", vec!["events"]),
        (
            json!({"since": later, "until": ago(60), "events": ["message.sent", "message.burnt"]}),
            422,
            "SERVER_005",
            vec!["since", "until", "events[1]"],
        ),
    ] {
        assert_eq!(failed(app.post(&path, body.clone()).await, status, code), fields, "{body}");
    }
    let body = json!({"since": ago(60)});
    let stranger = app.stranger().await;
    let by_stranger = app.request_as(&stranger, Method::POST, &path).json(&body);
    failed(answer(by_stranger).await, 404, "WEBHOOK_001");
    let writer = app.key_with(&["read", "write", "send", "generate"]).await;
    failed(answer(app.request_as(&writer, Method::POST, &path).json(&body)).await, 403, "APIKEY_004");
    ok(app.patch(&format!("/webhooks/{endpoint_id}"), json!({"enabled": false})).await);
    failed(app.post(&path, body.clone()).await, 409, "SERVER_016");
    ok(app.delete(&format!("/webhooks/{endpoint_id}")).await);
    failed(app.post(&path, body).await, 404, "WEBHOOK_001");
    assert_eq!(app.count("select count(*) from replays").await, 0);
}
