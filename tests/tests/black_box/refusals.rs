//! Wrong key, wrong scope, wrong state, wrong body: a 4xx with a stable code, and nothing stored.

use serde_json::json;
use tests::Stack;

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_its_code_and_stores_nothing() {
    let stack = Stack::start().await;
    let api = &stack.api;
    api.with_key(None).get("/campaigns").await.refused(401, "AUTH_001");
    api.with_key(Some("is_live_wrong")).get("/campaigns").await.refused(401, "APIKEY_001");
    api.get("/nowhere").await.refused(404, "SERVER_003");
    let wrong_method = api.delete("/campaigns").await;
    wrong_method.refused(405, "SERVER_004");
    assert!(wrong_method.headers.contains_key("allow"));

    let reader = api.post("/keys", &json!({"name": "reader", "scopes": ["read"]})).await.text("key");
    let reader = api.with_key(Some(&reader));
    reader.get("/campaigns").await.data();
    let refused = reader.post("/campaigns", &json!({"name": "x", "objective_type": "sales"})).await;
    refused.refused(403, "APIKEY_004");
    assert_eq!(refused.body["error"]["message"], "API key missing required scope: write");

    let bad = api.post("/campaigns", &json!({"name": 5, "objective_type": "sales"})).await;
    bad.refused(400, "SERVER_002");
    assert_eq!(bad.body["error"]["details"][0]["field"], "name");
    let bad =
        json!({"name": "", "objective_type": "Not A Slug", "radius_miles": 1000, "followup_days": [7, 3]});
    let bad = api.post("/campaigns", &bad).await;
    bad.refused(422, "SERVER_005");
    let fields: Vec<&str> =
        bad.body["error"]["details"].as_array().unwrap().iter().filter_map(|d| d["field"].as_str()).collect();
    assert_eq!(fields.len(), 4, "every wrong field at once: {fields:?}");
    api.post("/contacts", &json!({"email": "not an address"})).await.refused(400, "CONTACT_003");

    let empty = api.post("/campaigns", &json!({"name": "Empty", "objective_type": "sales"})).await.text("id");
    let activated = api.patch(&format!("/campaigns/{empty}"), &json!({"status": "active"})).await;
    activated.refused(400, "CAMP_007");
    api.get("/campaigns/00000000-0000-7000-8000-000000000000").await.refused(404, "CAMP_001");
    api.get("/campaigns/not-an-id").await.refused(404, "CAMP_001");

    let stored: (i64, i64) =
        sqlx::query_as("select (select count(*) from campaigns), (select count(*) from contacts)")
            .fetch_one(stack.database.pool())
            .await
            .unwrap();
    assert_eq!(stored, (1, 0));
    let status: (String,) =
        sqlx::query_as("select status from campaigns").fetch_one(stack.database.pool()).await.unwrap();
    assert_eq!(status.0, "draft");
}
