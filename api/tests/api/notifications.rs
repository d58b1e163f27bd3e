//! What the account is told of.

use serde_json::{Value, json};
use shared::engine::discovery::{fail_job, finish_job, start_job};

use crate::app::{TestApp, failed, ok, scrubbed};

/// A search that ended, and one that was given up.
pub async fn told(app: &TestApp) {
    let mut tx = app.database.begin().await.unwrap();
    let criteria = serde_json::from_value(json!({
        "keywords": ["bar"], "venue_types": [], "location": "Brooklyn, NY", "radius_miles": 10.0, "max_results": 5
    }));
    let criteria = criteria.unwrap();
    let done = start_job(&mut tx, app.account_id, None, &criteria, 0).await.unwrap();
    finish_job(&mut tx, app.account_id, done.id, Vec::new()).await.unwrap();
    let failed = start_job(&mut tx, app.account_id, None, &criteria, 0).await.unwrap();
    fail_job(&mut tx, app.account_id, failed.id, "nobody answered").await.unwrap();
    tx.commit().await.unwrap();
}

fn ids(notifications: &Value) -> Vec<String> {
    let rows = notifications.as_array().unwrap().iter();
    rows.map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn notifications_are_listed_marked_and_removed() {
    let app = TestApp::start().await;
    told(&app).await;
    let (status, body) = app.get("/notifications?include_total=true").await;
    insta::assert_json_snapshot!("notifications.list", scrubbed(&body));
    let ids = ids(&ok((status, body)));
    let first = format!("/notifications/{}", ids[0]);

    let (status, body) = app.patch(&first, json!({"read": true})).await;
    insta::assert_json_snapshot!("notifications.update", scrubbed(&body));
    assert_eq!(ok((status, body))["read"], true);
    assert_eq!(ok(app.get("/notifications?read=true").await)[0]["id"], ids[0]);
    assert_eq!(ok(app.get("/notifications?read=false").await)[0]["id"], ids[1]);
    assert_eq!(ok(app.patch(&first, json!({"read": false})).await)["read"], false);
    assert_eq!(failed(app.patch(&first, json!({})).await, 400, "SERVER_002"), ["read"]);

    let (status, body) = app.post("/notifications/read-all", json!({})).await;
    insta::assert_json_snapshot!("notifications.read_all", scrubbed(&body));
    ok((status, body));
    assert_eq!(ok(app.post("/notifications/read-all", json!({})).await)["updated"], 0);
    assert_eq!(ok(app.get("/notifications?read=false").await), json!([]));

    let (status, body) = app.delete(&first).await;
    insta::assert_json_snapshot!("notifications.delete", scrubbed(&body));
    ok((status, body));
    for path in [first.as_str(), "/notifications/nobody"] {
        failed(app.delete(path).await, 404, "SERVER_003");
        failed(app.patch(path, json!({"read": true})).await, 404, "SERVER_003");
    }
}
