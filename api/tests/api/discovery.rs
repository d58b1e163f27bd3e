//! Discovery: a search that waits for a worker.

use serde_json::json;
use shared::{
    domain::contact::NewContact,
    engine::discovery::{Found, begin_job, fail_job, finish_job},
};
use uuid::Uuid;

use crate::app::{TestApp, failed, ok, scrubbed};

/// Waits for the job that a search enqueues, as a worker would be woken for it.
async fn queued(app: &TestApp) -> Uuid {
    loop {
        let id = sqlx::query_scalar("select id from discovery_jobs where status = 'queued'")
            .fetch_optional(app.database.pool())
            .await
            .unwrap();
        match id {
            Some(id) => return id,
            None => tokio::task::yield_now().await,
        }
    }
}

fn search() -> serde_json::Value {
    json!({
        "keywords": ["bar", "lounge"], "location": "Brooklyn, NY", "radius_miles": 10, "max_results": 50,
        "enrich_emails": true
    })
}

#[tokio::test]
async fn a_search_answers_with_what_the_worker_found() {
    let app = TestApp::start().await;
    let campaign = app.campaign().await;
    let mut body = search();
    body["campaign_id"] = campaign["id"].clone();
    let worker = async {
        let id = queued(&app).await;
        let mut tx = app.database.begin().await.unwrap();
        begin_job(&mut tx, app.account_id, id).await.unwrap().unwrap();
        let contact = NewContact { email: Some("bar@example.com".into()), ..NewContact::default() };
        let found = vec![Found { source: "places".into(), contact }];
        finish_job(&mut tx, app.account_id, id, found).await.unwrap();
        tx.commit().await.unwrap();
    };
    let ((status, body), ()) = tokio::join!(app.post("/discovery/search", body), worker);
    assert_eq!(status, 200, "{body}");
    insta::assert_json_snapshot!("discovery.search", scrubbed(&body));
    let job = ok(app.get(&format!("/discovery/jobs/{}", body["data"]["job_id"].as_str().unwrap())).await);
    insta::assert_json_snapshot!("discovery.get_job", scrubbed(&job));
    assert_eq!(ok(app.get("/discovery/jobs").await), json!([job]));
    assert_eq!(app.count("select count(*) from enrolments").await, 1);
    assert_eq!(app.audited().await.last().unwrap(), "discover_contacts");
}

#[tokio::test]
async fn a_search_answers_with_its_job_when_the_server_stops() {
    let app = TestApp::start().await;
    let stop = async {
        let id = queued(&app).await;
        app.begin_stop();
        id
    };
    let (answered, job_id) = tokio::join!(app.post("/discovery/search", search()), stop);
    let result = ok(answered);
    assert_eq!((&result["partial"], &result["job_id"]), (&json!(true), &json!(job_id)));
}

#[tokio::test]
async fn a_search_that_fails_says_so() {
    let app = TestApp::start().await;
    let worker = async {
        let id = queued(&app).await;
        let mut tx = app.database.begin().await.unwrap();
        fail_job(&mut tx, app.account_id, id, "no source answered").await.unwrap();
        tx.commit().await.unwrap();
    };
    let (answered, ()) = tokio::join!(app.post("/discovery/search", search()), worker);
    failed(answered, 500, "DISCOVERY_001");
}

#[tokio::test]
async fn an_impossible_search_is_refused() {
    let app = TestApp::start().await;
    let fields = failed(app.post("/discovery/search", json!({"radius_miles": 500})).await, 422, "SERVER_005");
    assert_eq!(fields, ["radius_miles", "keywords", "location"]);
    let mut body = search();
    body["campaign_id"] = json!(Uuid::now_v7());
    failed(app.post("/discovery/search", body).await, 404, "CAMP_001");
    assert_eq!(app.count("select count(*) from discovery_jobs").await, 0);
    failed(app.get("/discovery/jobs/none").await, 404, "DISCOVERY_002");
}
