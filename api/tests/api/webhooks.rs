//! Webhook endpoints.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::{TestApp, created, failed, ok, scrubbed};

fn endpoint() -> Value {
    json!({"url": "https://example.com/hooks", "events": ["message.sent", "campaign.created", "message.sent"]})
}

fn path_of(webhook: &Value) -> String {
    format!("/webhooks/{}", webhook["id"].as_str().unwrap())
}

#[tokio::test]
async fn an_endpoint_is_registered_changed_and_deleted() {
    let app = TestApp::start().await;
    let (status, body) = app.post("/webhooks", endpoint()).await;
    insta::assert_json_snapshot!("webhooks.create", scrubbed(&body));
    let webhook = created((status, body));
    let secret = webhook["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_"));
    assert_eq!(webhook["events"], json!(["campaign.created", "message.sent"]));

    let (_, body) = app.get(&path_of(&webhook)).await;
    insta::assert_json_snapshot!("webhooks.get", scrubbed(&body));
    let listed = app.get("/webhooks?include_total=true").await.1;
    assert_eq!(listed["meta"]["total"], 1);
    assert!(!listed.to_string().contains(secret), "a secret is never shown again");

    let change = json!({"enabled": false, "description": "ours", "events": ["message.bounced"]});
    let changed = ok(app.patch(&path_of(&webhook), change).await);
    assert_eq!((&changed["enabled"], &changed["description"]), (&json!(false), &json!("ours")));
    assert_eq!(changed["url"], webhook["url"]);
    let changed = ok(app.patch(&path_of(&webhook), json!({"description": null})).await);
    assert_eq!(changed["description"], Value::Null);
    assert_eq!(ok(app.get(&format!("{}/deliveries", path_of(&webhook))).await), json!([]));

    ok(app.delete(&path_of(&webhook)).await);
    failed(app.get(&path_of(&webhook)).await, 404, "WEBHOOK_001");
    failed(app.delete(&path_of(&webhook)).await, 404, "WEBHOOK_001");
    let audited = ["create_webhook", "update_webhook", "update_webhook", "delete_webhook"];
    assert_eq!(app.audited().await, audited);
}

#[tokio::test]
async fn an_impossible_endpoint_is_refused_with_every_reason() {
    let app = TestApp::start().await;
    assert_eq!(failed(app.post("/webhooks", json!({})).await, 400, "SERVER_002"), ["events", "url"]);
    let body = json!({"url": "http://example.com", "events": ["message.sent", "message.burnt"]});
    let (status, body) = app.post("/webhooks", body).await;
    insta::assert_json_snapshot!("webhooks.create.invalid", scrubbed(&body));
    assert_eq!(failed((status, body), 422, "SERVER_005"), ["url", "events[1]"]);
    for url in
        ["https://10.0.0.1/", "https://localhost/", "https://169.254.169.254/", "ftp://example.com", "x"]
    {
        let body = json!({"url": url, "events": ["message.sent"]});
        assert_eq!(failed(app.post("/webhooks", body).await, 422, "SERVER_005"), ["url"], "{url}");
    }
    let allowed = json!({"url": "http://127.0.0.1:4000/", "events": ["message.sent"]});
    created(app.post("/webhooks", allowed).await);
    failed(
        app.post("/webhooks", json!({"url": "https://example.com", "events": []})).await,
        422,
        "SERVER_005",
    );
}

#[tokio::test]
async fn an_endpoint_is_ordered_or_not() {
    let app = TestApp::start().await;
    assert_eq!(created(app.post("/webhooks", endpoint()).await)["ordered"], false);
    let mut body = endpoint();
    body["ordered"] = json!(true);
    let webhook = created(app.post("/webhooks", body).await);
    assert_eq!(webhook["ordered"], true);
    let lane = async || -> bool {
        sqlx::query_scalar("select ordered from queue.lanes where queue = 'deliver' and lane = $1")
            .bind(webhook["id"].as_str().unwrap())
            .fetch_one(app.database.pool())
            .await
            .unwrap()
    };
    assert!(lane().await);
    let path = path_of(&webhook);
    assert_eq!(ok(app.patch(&path, json!({"description": "ours"})).await)["ordered"], true);
    assert_eq!(ok(app.patch(&path, json!({"ordered": false})).await)["ordered"], false);
    assert!(!lane().await);
    assert_eq!(failed(app.patch(&path, json!({"ordered": "yes"})).await, 400, "SERVER_002"), ["ordered"]);
}

#[tokio::test]
async fn a_rate_limit_and_headers_are_set_changed_and_taken_away() {
    let app = TestApp::start().await;
    let body = json!({"url": "https://example.com/hooks", "events": ["message.sent"], "rate_limit": 2.5,
        "headers": {"X-Api-Key": "s3cret"}});
    let webhook = created(app.post("/webhooks", body).await);
    assert_eq!((&webhook["rate_limit"], &webhook["headers"]), (&json!(2.5), &json!({"x-api-key": "***"})));
    let rate = async || -> Option<f64> {
        sqlx::query_scalar("select per_second from queue.lanes where queue = 'deliver' and lane = $1")
            .bind(webhook["id"].as_str().unwrap())
            .fetch_one(app.database.pool())
            .await
            .unwrap()
    };
    assert_eq!(rate().await, Some(2.5));
    let path = path_of(&webhook);
    let changed = ok(app.patch(&path, json!({"headers": {"x-api-key": "***", "x-env": "s3cret"}})).await);
    assert_eq!(changed["headers"], json!({"x-api-key": "***", "x-env": "***"}));
    let unknown = app.patch(&path, json!({"headers": {"x-other": "***"}})).await;
    assert_eq!(failed(unknown, 422, "SERVER_005"), ["headers.x-other"]);
    let stored = "select string_agg(e::text, '') || string_agg(a.metadata::text, '') from endpoints e, api_audit_log a";
    let stored: String = sqlx::query_scalar(stored).fetch_one(app.database.pool()).await.unwrap();
    assert!(!stored.contains("s3cret") && !stored.contains(&hex::encode("s3cret")));
    let changed = ok(app.patch(&path, json!({"headers": {}, "rate_limit": 100})).await);
    assert_eq!((&changed["rate_limit"], &changed["headers"]), (&json!(100.0), &json!({})));
    assert_eq!(rate().await, Some(100.0));
    let changed = ok(app.patch(&path, json!({"rate_limit": null})).await);
    assert_eq!((&changed["rate_limit"], rate().await), (&Value::Null, None));
    assert_eq!(ok(app.patch(&path, json!({"description": "ours"})).await)["rate_limit"], Value::Null);

    let body = json!({"rate_limit": 0, "headers": {"Host": "example.org", "x-evil": "a\r\nb: c"}});
    let wrong = failed(app.patch(&path, body).await, 422, "SERVER_005");
    assert_eq!(wrong, ["rate_limit", "headers.host", "headers.x-evil"]);
    failed(app.patch(&path, json!({"headers": {"x-number": 1}})).await, 400, "SERVER_002");
    assert_eq!(ok(app.get(&path).await)["headers"], json!({}));
    let told: Vec<Value> = sqlx::query_scalar("select metadata from api_audit_log")
        .fetch_all(app.database.pool())
        .await
        .unwrap();
    assert!(told.len() >= 4 && !json!(told).to_string().contains("s3cret"), "the audit log holds no secret");
}

#[tokio::test]
async fn a_test_answers_with_its_delivery() {
    let app = TestApp::start().await;
    let webhook = created(app.post("/webhooks", endpoint()).await);
    let path = format!("{}/test", path_of(&webhook));
    failed(app.post(&path, json!({"event": "message.burnt"})).await, 422, "SERVER_005");
    let (answered, ()) =
        tokio::join!(app.post(&path, json!({"event": "conversation.reply_received"})), deliver(&app));
    let (status, body) = answered;
    assert_eq!(status, 200, "{body}");
    insta::assert_json_snapshot!("webhooks.test", scrubbed(&body));
    assert_eq!(app.audited().await.last().unwrap(), "test_webhook");
    let (_, body) = app.get(&format!("{}/deliveries", path_of(&webhook))).await;
    insta::assert_json_snapshot!("webhooks.deliveries", scrubbed(&body));
}

/// What a dispatcher does with the test event, as far as the database shows it.
async fn deliver(app: &TestApp) {
    let (event_id, endpoint_id, body): (Uuid, Option<Uuid>, String) = loop {
        let row =
            sqlx::query_as("select event_id, endpoint_id, body from outbox where endpoint_id is not null")
                .fetch_optional(app.database.pool())
                .await
                .unwrap();
        if let Some(row) = row {
            break row;
        }
        tokio::task::yield_now().await;
    };
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&body["event"], &body["data"]["test"]),
        (&json!("conversation.reply_received"), &json!(true))
    );
    assert!(body["data"]["reply"]["message"].is_object());
    let delivery_id = Uuid::now_v7();
    let mut tx = app.database.begin().await.unwrap();
    sqlx::query(
        "insert into deliveries (account_id, id, endpoint_id, event_id, type, number, status, attempts, finished_at)
         values ($1, $2, $3, $4, 'conversation.reply_received', 1, 'succeeded', 1, now())",
    )
    .bind(app.account_id)
    .bind(delivery_id)
    .bind(endpoint_id)
    .bind(event_id)
    .execute(&mut *tx)
    .await
    .unwrap();
    sqlx::query(
        "insert into attempts (account_id, id, delivery_id, number, started_at, duration_ms, status_code)
         values ($1, $2, $3, 1, now(), 12, 204)",
    )
    .bind(app.account_id)
    .bind(Uuid::now_v7())
    .bind(delivery_id)
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
}
