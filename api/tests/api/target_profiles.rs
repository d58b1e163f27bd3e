//! Whom campaigns look for.

use serde_json::{Value, json};

use crate::app::{TestApp, created, failed, ok, scrubbed};

/// What the searches of the newest job look for.
async fn criteria(app: &TestApp) -> Value {
    sqlx::query_scalar("select criteria from discovery_jobs order by id desc limit 1")
        .fetch_one(app.database.pool())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_campaign_is_searched_for_by_its_profiles() {
    let app = TestApp::start().await;
    let campaign = app.campaign().await;
    let path = format!("/campaigns/{}/target-profiles", campaign["id"].as_str().unwrap());
    let search = json!({"campaign_id": campaign["id"], "max_results": 7});
    // Neither a profile nor anything of its own says what to look for.
    failed(app.post("/discovery/search-campaign", search.clone()).await, 409, "SERVER_016");
    let none = json!({"campaign_id": campaign["id"], "max_results": 0});
    assert_eq!(
        failed(app.post("/discovery/search-campaign", none).await, 422, "SERVER_005"),
        ["max_results"]
    );

    let bars = json!({"name": "bars", "venue_types": ["bar"], "titles": ["owner"], "notes": "no chains"});
    let (status, body) = app.post(&path, bars).await;
    insta::assert_json_snapshot!("campaigns.create_target_profile", scrubbed(&body));
    let bars = created((status, body));
    let clubs = json!({"name": "clubs", "keywords": ["techno"], "location": "Berlin", "radius_miles": 5});
    created(app.post(&path, clubs).await);
    let (status, body) = app.get(&path).await;
    insta::assert_json_snapshot!("campaigns.list_target_profiles", scrubbed(&body));
    assert_eq!(ok((status, body)).as_array().unwrap().len(), 2);

    let (status, body) = app.post("/discovery/search-campaign", search.clone()).await;
    insta::assert_json_snapshot!("discovery.search_campaign", scrubbed(&body));
    let job = ok((status, body));
    assert_eq!((&job["status"], &job["campaign_id"]), (&json!("queued"), &campaign["id"]));
    let searches = criteria(&app).await;
    assert_eq!((&searches[0]["location"], &searches[0]["radius_miles"]), (&json!("Berlin"), &json!(5.0)));
    assert_eq!(searches[1]["location"], "Brooklyn, NY", "the campaign's own");
    assert_eq!((&searches[1]["keywords"], &searches[1]["max_results"]), (&json!(["owner"]), &json!(7)));

    let own = format!("{path}/{}", bars["id"].as_str().unwrap());
    let (status, body) = app.delete(&own).await;
    insta::assert_json_snapshot!("campaigns.delete_target_profile", scrubbed(&body));
    ok((status, body));
    failed(app.delete(&own).await, 404, "SERVER_003");
    failed(app.delete(&format!("{path}/nobody")).await, 404, "SERVER_003");
    failed(app.get("/campaigns/nobody/target-profiles").await, 404, "CAMP_001");
    let other = app.campaign().await;
    let left = ok(app.get(&path).await)[0]["id"].as_str().unwrap().to_owned();
    let foreign = format!("/campaigns/{}/target-profiles/{left}", other["id"].as_str().unwrap());
    failed(app.delete(&foreign).await, 404, "SERVER_003");
    let audited = app.audited().await;
    assert_eq!(audited.iter().filter(|action| *action == "update_campaign").count(), 3);
}

#[tokio::test]
async fn a_campaign_without_profiles_is_searched_for_by_itself() {
    let app = TestApp::start().await;
    let new = json!({"name": "Spring", "objective_type": "venue_dj", "location": "Brooklyn, NY",
        "keywords": ["dj nights"], "max_results": 9});
    let campaign = created(app.post("/campaigns", new).await);
    ok(app.post("/discovery/search-campaign", json!({"campaign_id": campaign["id"]})).await);
    let searches = criteria(&app).await;
    assert_eq!((searches.as_array().unwrap().len(), &searches[0]["max_results"]), (1, &json!(9)));
    let path = format!("/campaigns/{}/target-profiles", campaign["id"].as_str().unwrap());
    assert_eq!(failed(app.post(&path, json!({"name": "x"})).await, 422, "SERVER_005"), ["keywords"]);
    assert_eq!(
        failed(app.post(&path, json!({"keywords": "x"})).await, 400, "SERVER_002"),
        ["keywords", "name"]
    );
    for number in 0..20 {
        created(app.post(&path, json!({"name": format!("p{number}"), "keywords": ["x"]})).await);
    }
    failed(app.post(&path, json!({"name": "one more", "keywords": ["x"]})).await, 409, "SERVER_016");
}
