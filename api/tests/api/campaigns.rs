//! Campaigns: their life, their numbers.

use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    app::{TestApp, answer, created, failed, ok, scrubbed},
    messages::wait_for_mailbox,
};

/// The example of the documentation, word for word.
fn example() -> Value {
    json!({
        "name": "April DJ outreach - Brooklyn",
        "objective_type": "venue_dj",
        "location": "Brooklyn, NY",
        "radius_miles": 10,
        "venue_types": ["bar", "club", "lounge"],
        "keywords": ["live music", "dj nights"],
        "max_results": 50,
        "outreach_channels": ["email", "instagram", "twitter"],
        "followup_days": [3, 7, 14],
        "status": "draft"
    })
}

fn id_of(resource: &Value) -> &str {
    resource["id"].as_str().unwrap()
}

#[tokio::test]
async fn a_campaign_is_created_read_changed_and_deleted() {
    let app = TestApp::start().await;
    let (status, body) = app.post("/campaigns", example()).await;
    insta::assert_json_snapshot!("campaigns.create", scrubbed(&body));
    let campaign = created((status, body));
    let path = format!("/campaigns/{}", id_of(&campaign));

    let (_, body) = app.get(&path).await;
    insta::assert_json_snapshot!("campaigns.get", scrubbed(&body));

    let changed = ok(app.patch(&path, json!({"name": "May", "location": null, "tone": "dry"})).await);
    assert_eq!(
        (&changed["name"], &changed["location"], &changed["tone"]),
        (&json!("May"), &Value::Null, &json!("dry"))
    );
    assert_eq!(changed["keywords"], campaign["keywords"], "absent fields stay");

    let (_, body) = app.get("/campaigns?status=draft").await;
    insta::assert_json_snapshot!("campaigns.list", scrubbed(&body));
    assert_eq!(ok(app.get("/campaigns?status=active").await), json!([]));

    let (status, body) = app.delete(&path).await;
    insta::assert_json_snapshot!("campaigns.delete", scrubbed(&body));
    assert_eq!(status, 200);
    failed(app.get(&path).await, 404, "CAMP_001");
    failed(app.delete(&path).await, 404, "CAMP_001");
    assert_eq!(ok(app.get("/campaigns").await), json!([]));
    assert_eq!(app.audited().await, ["create_campaign", "update_campaign", "delete_campaign"]);
    assert_eq!(app.events().await, ["campaign.created", "campaign.updated", "campaign.deleted"]);
}

#[tokio::test]
async fn what_was_read_can_be_written_back() {
    let app = TestApp::start().await;
    let campaign = app.campaign().await;
    let path = format!("/campaigns/{}", id_of(&campaign));
    let mut read = ok(app.get(&path).await);
    read["name"] = json!("Summer");
    let written = ok(app.patch(&path, read).await);
    assert_eq!(written["name"], "Summer");
}

#[tokio::test]
async fn impossible_fields_are_all_named_and_nothing_is_stored() {
    let app = TestApp::start().await;
    let body = json!({
        "name": "", "objective_type": "Not A Slug", "radius_miles": 0, "max_results": 1001, "latitude": 91,
        "outreach_channels": [], "followup_days": [7, 3], "daily_cap": 0,
        "send_window": {"timezone": "Mars", "days": ["mon"], "from": "09:00", "to": "08:00"}
    });
    let (status, body) = app.post("/campaigns", body).await;
    insta::assert_json_snapshot!("campaigns.create.invalid", scrubbed(&body));
    let fields = failed((status, body), 422, "SERVER_005");
    for field in ["name", "objective_type", "radius_miles", "max_results", "latitude", "followup_days"] {
        assert!(fields.iter().any(|found| found == field), "{field} in {fields:?}");
    }
    assert_eq!(app.count("select count(*) from campaigns").await, 0);
    assert_eq!(app.audited().await, [""; 0]);
}

#[tokio::test]
async fn no_campaign_begins_at_its_end() {
    let app = TestApp::start().await;
    for status in ["paused", "completed", "deleted"] {
        let body = json!({"name": "", "objective_type": "sales", "status": status});
        assert_eq!(failed(app.post("/campaigns", body).await, 400, "CAMP_008"), ["name", "status"]);
    }
    assert_eq!(app.count("select count(*) from campaigns").await, 0);
}

#[tokio::test]
async fn a_status_changes_only_as_drawn() {
    let app = TestApp::start().await;
    let campaign = app.campaign().await;
    let path = format!("/campaigns/{}", id_of(&campaign));
    let to = |status: &str| json!({"status": status});
    failed(app.patch(&path, to("active")).await, 400, "CAMP_007");
    failed(app.patch(&path, to("paused")).await, 400, "CAMP_008");
    failed(app.patch(&path, to("deleted")).await, 400, "CAMP_008");
    let listed = json!({"contacts": [{"email": "alex@example.com"}], "campaign_id": campaign["id"]});
    created(app.post("/contacts/bulk-import", listed).await);

    assert_eq!(ok(app.patch(&path, to("active")).await)["status"], "active");
    let (status, body) = app.patch(&path, to("active")).await;
    insta::assert_json_snapshot!("campaigns.already_active", scrubbed(&body));
    failed((status, body), 409, "CAMP_005");
    let (status, body) = app.patch(&path, to("draft")).await;
    insta::assert_json_snapshot!("campaigns.transition_invalid", scrubbed(&body));
    failed((status, body), 400, "CAMP_008");
    assert_eq!(ok(app.patch(&path, to("paused")).await)["status"], "paused");
    assert_eq!(
        ok(app.patch(&path, to("paused")).await)["status"],
        "paused",
        "the same status changes nothing"
    );
    assert_eq!(ok(app.patch(&path, to("active")).await)["status"], "active");
    assert_eq!(ok(app.get(&path).await)["progress"]["enrolled"], 1);
}

#[tokio::test]
async fn creating_an_active_campaign_without_anybody_stores_nothing() {
    let app = TestApp::start().await;
    let body = json!({"name": "a", "objective_type": "sales", "status": "active"});
    failed(app.post("/campaigns", body).await, 400, "CAMP_007");
    assert_eq!(app.count("select count(*) from campaigns").await, 0);
    let mut body = example();
    body["status"] = json!("active");
    assert_eq!(created(app.post("/campaigns", body).await)["status"], "active");
    assert_eq!(app.count("select count(*) from discovery_jobs where status = 'queued'").await, 1);
}

/// The next event of a stream: its id and its data.
async fn next_event(
    stream: &mut (impl StreamExt<Item = reqwest::Result<bytes::Bytes>> + Unpin),
) -> Option<(String, Value)> {
    let mut text = String::new();
    while !text.contains("\n\n") {
        text.push_str(std::str::from_utf8(&stream.next().await?.unwrap()).unwrap());
    }
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(field("event:"), "progress");
    Some((field("id:"), serde_json::from_str(&field("data:")).unwrap()))
}

#[tokio::test]
async fn progress_is_streamed_and_resumed() {
    let app = TestApp::start().await;
    let campaign = app.campaign().await;
    let path = format!("/campaigns/{}/progress", id_of(&campaign));
    let follow = |last: &str| app.request(Method::GET, &path).header("last-event-id", last.to_owned());

    let response = follow("").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut stream = response.bytes_stream();
    let (first, data) = next_event(&mut stream).await.unwrap();
    assert_eq!((&data["status"], &data["progress"]["discovered"]), (&json!("draft"), &json!(0)));

    let listed = json!({"contacts": [{"email": "alex@example.com"}], "campaign_id": campaign["id"]});
    created(app.post("/contacts/bulk-import", listed).await);
    let (second, data) = next_event(&mut stream).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(data["progress"]["discovered"], 1);
    drop(stream);

    let mut resumed = follow(&second).send().await.unwrap().bytes_stream();
    ok(app.patch(&format!("/campaigns/{}", id_of(&campaign)), json!({"status": "active"})).await);
    let (_, data) = next_event(&mut resumed).await.unwrap();
    assert_eq!(data["status"], "active", "what the client had is not sent again");

    sqlx::query("update campaigns set status = 'completed', completed_at = now()")
        .execute(app.database.pool())
        .await
        .unwrap();
    let (last, data) = next_event(&mut resumed).await.unwrap();
    assert_eq!(data["status"], "completed");
    assert!(next_event(&mut resumed).await.is_none(), "nothing comes after the end");
    assert_eq!(follow(&last).send().await.unwrap().status(), 204);
}

#[tokio::test]
async fn streams_are_counted_and_end_with_the_server() {
    let mut app = TestApp::start().await;
    let campaign = app.campaign().await;
    let path = format!("/campaigns/{}/progress", id_of(&campaign));
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = app.request(Method::GET, &path).send().await.unwrap().bytes_stream();
        next_event(&mut stream).await.unwrap();
        open.push(stream);
    }
    failed(answer(app.request(Method::GET, &path)).await, 503, "SERVER_009");
    app.stop().await;
    for mut stream in open {
        assert!(next_event(&mut stream).await.is_none());
    }
}

#[tokio::test]
async fn a_stream_ends_with_the_key_that_opened_it() {
    let app = TestApp::start().await;
    let campaign = app.campaign().await;
    let reader = app.key_with(&["read"]).await;
    let path = format!("/campaigns/{}/progress", id_of(&campaign));
    let mut stream = app.request_as(&reader, Method::GET, &path).send().await.unwrap().bytes_stream();
    next_event(&mut stream).await.unwrap();
    sqlx::query("update api_keys set revoked_at = now() where name = 'test'")
        .execute(app.database.pool())
        .await
        .unwrap();
    assert!(next_event(&mut stream).await.is_none());
}

#[tokio::test]
async fn what_would_stop_a_campaign_is_told_before() {
    let app = TestApp::start().await;
    let campaign = app.campaign().await;
    let id = campaign["id"].as_str().unwrap();
    let path = format!("/campaigns/{id}/preflight");
    wait_for_mailbox(&app).await;
    let codes = async || {
        let preflight = ok(app.get(&path).await);
        let findings = preflight["findings"].as_array().unwrap().iter();
        let codes: Vec<String> =
            findings.map(|finding| finding["code"].as_str().unwrap().to_owned()).collect();
        (preflight["ready"].as_bool().unwrap(), codes)
    };
    assert_eq!(codes().await, (false, vec!["no_contacts".to_owned(), "no_postal_address".to_owned()]));

    let rows = json!([{"email": "a@example.com"}, {"email": "b@example.com"}, {"phone": "555"}]);
    created(app.post("/contacts/bulk-import", json!({"contacts": rows, "campaign_id": id})).await);
    let never = json!({"kind": "email", "values": ["b@example.com"]});
    created(app.post("/suppressions", never).await);
    let change = json!({"approval": "auto", "sender": {"postal_address": "1 Main St, Brooklyn"}});
    ok(app.patch(&format!("/campaigns/{id}"), change).await);
    let (status, body) = app.get(&path).await;
    insta::assert_json_snapshot!("campaigns.preflight", scrubbed(&body));
    assert_eq!(ok((status, body))["ready"], true);

    for (status, code) in [("paused", "account_paused"), ("disconnected", "no_account")] {
        sqlx::query("update channel_accounts set status = $1")
            .bind(status)
            .execute(app.database.pool())
            .await
            .unwrap();
        let (ready, codes) = codes().await;
        assert_eq!((ready, codes[0].as_str()), (false, code));
    }
    sqlx::query("update channel_accounts set status = 'connected'")
        .execute(app.database.pool())
        .await
        .unwrap();
    let never = json!({"kind": "domain", "values": ["example.com"]});
    created(app.post("/suppressions", never).await);
    let (ready, codes) = codes().await;
    assert_eq!((ready, codes[0].as_str()), (false, "nobody_reachable"));
    failed(app.get("/campaigns/nobody/preflight").await, 404, "CAMP_001");
}
