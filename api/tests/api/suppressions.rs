//! What is never written to.

use reqwest::Method;
use serde_json::json;

use crate::app::{TestApp, answer, created, failed, ok, scrubbed};

#[tokio::test]
async fn addresses_are_suppressed_once_listed_and_lifted() {
    let app = TestApp::start().await;
    let new =
        json!({"kind": "email", "values": [" Alex@Example.com", "alex@example.com", "sam@example.com"]});
    let (status, body) = app.post("/suppressions", new.clone()).await;
    insta::assert_json_snapshot!("suppressions.create", scrubbed(&body));
    let added = created((status, body))["added"].clone();
    assert_eq!(added.as_array().unwrap().len(), 2);
    let again = created(app.post("/suppressions", new).await);
    assert_eq!(again, json!({"known": 2, "added": []}));
    let domain = json!({"kind": "domain", "values": ["Example.org"], "reason": "complained"});
    created(app.post("/suppressions", domain).await);

    let (status, body) = app.get("/suppressions?include_total=true&limit=2").await;
    assert_eq!((body["meta"]["total"].as_i64(), body["meta"]["has_more"].as_bool()), (Some(3), Some(true)));
    insta::assert_json_snapshot!("suppressions.list", scrubbed(&body));
    ok((status, body));
    assert_eq!(ok(app.get("/suppressions?kind=domain").await)[0]["value"], "example.org");
    assert_eq!(ok(app.get("/suppressions?reason=manual").await).as_array().unwrap().len(), 2);

    // Nobody writes to it, until it is lifted.
    let contact = created(app.post("/contacts", json!({"email": "sam@example.com"})).await);
    let suppressed = "select count(*) from contacts c
        where is_suppressed(account_id, email, instagram_handle, twitter_user_id, twitter_handle)";
    assert_eq!((app.count(suppressed).await, &contact["status"]), (1, &json!("active")));
    let sam = added.as_array().unwrap().iter().find(|one| one["value"] == "sam@example.com").unwrap();
    let path = format!("/suppressions/{}", sam["id"].as_str().unwrap());
    let (status, body) = app.delete(&path).await;
    insta::assert_json_snapshot!("suppressions.delete", scrubbed(&body));
    ok((status, body));
    assert_eq!(app.count(suppressed).await, 0);
    failed(app.delete(&path).await, 404, "SERVER_003");
    failed(app.delete("/suppressions/nobody").await, 404, "SERVER_003");
}

#[tokio::test]
async fn what_is_no_address_is_named() {
    let app = TestApp::start().await;
    let values = json!({"kind": "email", "values": ["alex@example.com", "example.com"], "reason": "erased"});
    assert_eq!(failed(app.post("/suppressions", values).await, 422, "SERVER_005"), ["values[1]", "reason"]);
    let none = json!({"kind": "email", "values": []});
    assert_eq!(failed(app.post("/suppressions", none).await, 422, "SERVER_005"), ["values"]);
    let many = json!({"kind": "twitter", "values": vec!["a"; 1001]});
    assert_eq!(failed(app.post("/suppressions", many).await, 422, "SERVER_005"), ["values"]);
    assert_eq!(
        failed(app.post("/suppressions", json!({"kind": 1})).await, 400, "SERVER_002"),
        ["kind", "values"]
    );
    assert_eq!(app.count("select count(*) from suppressions").await, 0, "nothing is stored");

    let writer = app.key_with(&["read", "write"]).await;
    let path = format!("/suppressions/{}", uuid::Uuid::nil());
    failed(answer(app.request_as(&writer, Method::DELETE, &path)).await, 403, "APIKEY_004");
}
