//! Keys and who may do what.

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{TestApp, answer, created, failed, ok, scrubbed};

#[tokio::test]
async fn a_key_describes_itself_whatever_its_scopes() {
    let app = TestApp::start().await;
    let key = app.key_with(&["send"]).await;
    let (status, body) = answer(app.request_as(&key, Method::GET, "/keys/me")).await;
    assert_eq!(status, 200);
    assert!(key.starts_with(body["data"]["prefix"].as_str().unwrap()));
    insta::assert_json_snapshot!("keys.me", scrubbed(&body));
}

#[tokio::test]
async fn what_is_no_live_key_is_refused_with_the_reason() {
    let app = TestApp::start().await;
    let me = || app.anonymous(Method::GET, "/keys/me");
    failed(answer(me()).await, 401, "AUTH_001");
    failed(answer(me().header("authorization", "Basic YTpi")).await, 401, "AUTH_001");
    failed(answer(me().header("authorization", "Payment abc")).await, 401, "AUTH_001");
    failed(answer(me().bearer_auth("is_live_short")).await, 401, "APIKEY_001");
    failed(answer(me().bearer_auth(shared::ids::new_api_key())).await, 401, "APIKEY_001");

    let response = me().send().await.unwrap();
    assert_eq!(response.headers()["www-authenticate"], "Bearer");

    let expired = app.key_with(&["*"]).await;
    sqlx::query("update api_keys set expires_at = now() - interval '1 second' where name = 'test'")
        .execute(app.database.pool())
        .await
        .unwrap();
    failed(answer(app.request_as(&expired, Method::GET, "/keys/me")).await, 401, "APIKEY_002");
    sqlx::query("update api_keys set revoked_at = now() where name = 'test'")
        .execute(app.database.pool())
        .await
        .unwrap();
    failed(answer(app.request_as(&expired, Method::GET, "/keys/me")).await, 401, "APIKEY_003");
}

#[tokio::test]
async fn no_scope_implies_another() {
    let app = TestApp::start().await;
    let key = app.key_with(&["write", "send", "generate", "admin"]).await;
    let (status, body) = answer(app.request_as(&key, Method::GET, "/campaigns")).await;
    insta::assert_json_snapshot!("scope_missing", scrubbed(&body));
    failed((status, body), 403, "APIKEY_004");

    let reader = app.key_with(&["read"]).await;
    ok(answer(app.request_as(&reader, Method::GET, "/campaigns")).await);
    let create = app.request_as(&reader, Method::POST, "/campaigns").json(&json!({"name": 5}));
    failed(answer(create).await, 403, "APIKEY_004");
}

#[tokio::test]
async fn sending_without_approval_needs_the_scope_to_send() {
    let app = TestApp::start().await;
    let writer = app.key_with(&["write"]).await;
    let body = json!({"name": "a", "objective_type": "sales", "approval": "auto"});
    let create = |key: &str| app.request_as(key, Method::POST, "/campaigns").json(&body);
    failed(answer(create(&writer)).await, 403, "APIKEY_004");
    let sender = app.key_with(&["write", "send"]).await;
    let campaign = created(answer(create(&sender)).await);
    assert_eq!(campaign["approval"], "auto");

    let path = format!("/campaigns/{}", app.campaign().await["id"].as_str().unwrap());
    let change = |key: &str| app.request_as(key, Method::PATCH, &path).json(&json!({"approval": "auto"}));
    failed(answer(change(&writer)).await, 403, "APIKEY_004");
    assert_eq!(ok(app.get(&path).await)["approval"], "manual");
    assert_eq!(ok(answer(change(&sender)).await)["approval"], "auto");
}

#[tokio::test]
async fn a_key_is_made_shown_once_used_and_revoked() {
    let app = TestApp::start().await;
    let (status, body) = app.post("/keys", json!({"name": "dashboard", "scopes": ["read"]})).await;
    insta::assert_json_snapshot!("keys.create", scrubbed(&body));
    let key = created((status, body));
    let raw = key["key"].as_str().unwrap();
    ok(answer(app.request_as(raw, Method::GET, "/campaigns")).await);

    let listed = ok(app.get("/keys").await);
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert!(!listed.to_string().contains(raw), "a raw key is never shown again");

    let path = format!("/keys/{}", key["id"].as_str().unwrap());
    ok(app.delete(&path).await);
    failed(answer(app.request_as(raw, Method::GET, "/keys/me")).await, 401, "APIKEY_003");
    failed(app.delete(&path).await, 404, "APIKEY_006");
    failed(app.delete("/keys/nothing").await, 404, "APIKEY_006");
    assert_eq!(app.audited().await, ["create_key", "revoke_key"]);
}

#[tokio::test]
async fn a_key_that_cannot_be_is_refused_with_every_reason() {
    let app = TestApp::start().await;
    assert_eq!(failed(app.post("/keys", json!({})).await, 400, "SERVER_002"), ["name", "scopes"]);
    let body = json!({"name": "", "scopes": ["read", "root"], "expires_at": "2020-01-01T00:00:00Z"});
    let fields = failed(app.post("/keys", body).await, 422, "SERVER_005");
    assert_eq!(fields, ["name", "scopes[1]", "expires_at"]);
    failed(app.post("/keys", json!({"name": "a", "scopes": []})).await, 422, "SERVER_005");
    for _ in 1..25 {
        created(app.post("/keys", json!({"name": "one more", "scopes": ["read"]})).await);
    }
    failed(app.post("/keys", json!({"name": "a", "scopes": ["read"]})).await, 429, "APIKEY_005");
}

#[tokio::test]
async fn the_use_of_a_key_is_noted_once_a_minute() {
    let app = TestApp::start().await;
    let first = ok(app.get("/keys/me").await)["last_used_at"].clone();
    assert!(first.is_string());
    assert_eq!(ok(app.get("/keys/me").await)["last_used_at"], first);
    sqlx::query("update api_keys set last_used_at = now() - interval '61 seconds'")
        .execute(app.database.pool())
        .await
        .unwrap();
    let later = ok(app.get("/keys/me").await)["last_used_at"].clone();
    assert!(later.as_str() >= first.as_str());
}

#[tokio::test]
async fn a_rotated_key_gives_way_to_one_like_it() {
    let app = TestApp::start().await;
    let expires_at = "2036-01-01T00:00:00.000Z";
    let new = json!({"name": "robot", "scopes": ["read", "write"], "expires_at": expires_at});
    let old = created(app.post("/keys", new).await);
    // As many as an account may have: a rotation makes no more of them.
    for _ in 0..23 {
        created(app.post("/keys", json!({"name": "full", "scopes": ["read"]})).await);
    }
    failed(app.post("/keys", json!({"name": "full", "scopes": ["read"]})).await, 429, "APIKEY_005");
    let path = format!("/keys/{}/rotate", old["id"].as_str().unwrap());
    let rotated = created(answer(app.request(Method::POST, &path)).await);
    for field in ["name", "scopes", "expires_at"] {
        assert_eq!(rotated[field], old[field], "{field}");
    }
    let me = async |key: &Value| answer(app.request_as(key.as_str().unwrap(), Method::GET, "/keys/me")).await;
    assert_eq!(ok(me(&rotated["key"]).await)["id"], rotated["id"]);
    failed(me(&old["key"]).await, 401, "APIKEY_003");
    assert_eq!(app.audited().await[24..], ["create_key", "revoke_key"]);

    failed(app.post(&path, json!({})).await, 404, "APIKEY_006");
    let own = ok(app.get("/keys/me").await);
    failed(
        app.post(&format!("/keys/{}/rotate", own["id"].as_str().unwrap()), json!({})).await,
        409,
        "SERVER_016",
    );
    ok(app.get("/keys/me").await);
}

#[tokio::test]
async fn an_expired_key_is_not_rotated() {
    let app = TestApp::start().await;
    let key = created(app.post("/keys", json!({"name": "old", "scopes": ["read"]})).await);
    sqlx::query("update api_keys set expires_at = now() - interval '1 second' where name = 'old'")
        .execute(app.database.pool())
        .await
        .unwrap();
    let path = format!("/keys/{}/rotate", key["id"].as_str().unwrap());
    failed(app.post(&path, json!({})).await, 409, "SERVER_016");
    assert_eq!(
        app.count("select count(*) from api_keys where revoked_at is null").await,
        2,
        "nothing is stored"
    );
}

#[tokio::test]
async fn only_the_label_of_a_key_changes() {
    let app = TestApp::start().await;
    let key = created(app.post("/keys", json!({"name": "one", "scopes": ["read"]})).await);
    let path = format!("/keys/{}", key["id"].as_str().unwrap());
    let renamed = ok(app.patch(&path, json!({"name": "two", "scopes": ["*"]})).await);
    assert_eq!((&renamed["name"], &renamed["scopes"]), (&json!("two"), &json!(["read"])));
    assert_eq!(failed(app.patch(&path, json!({"name": ""})).await, 422, "SERVER_005"), ["name"]);
    assert_eq!(failed(app.patch(&path, json!({})).await, 400, "SERVER_002"), ["name"]);
    failed(app.patch("/keys/nobody", json!({"name": "two"})).await, 404, "APIKEY_006");
    ok(app.delete(&path).await);
    failed(app.patch(&path, json!({"name": "three"})).await, 404, "APIKEY_006");
}
