//! What holds for every request: ids, headers, routes, bodies, the end of the server.

use reqwest::{Method, header::ALLOW};
use serde_json::{Value, json};
use shared::{domain::discovery::Criteria, engine::discovery::start_job};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    app::{TestApp, answer, created, failed, ok, read, scrubbed},
    messages::drafted,
    notifications::told,
};

#[tokio::test]
async fn every_response_has_its_id_and_the_security_headers() {
    let app = TestApp::start().await;
    for path in ["/keys/me", "/nothing", "/health/live", "/openapi.json"] {
        let response =
            app.request(Method::GET, path).header("x-request-id", "order-17.b").send().await.unwrap();
        let headers = response.headers();
        assert_eq!(headers["x-request-id"], "order-17.b", "{path}");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["x-frame-options"], "DENY");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        assert!(headers.contains_key("strict-transport-security"));
    }
    let response = app.request(Method::GET, "/nothing").header("x-request-id", "a b").send().await.unwrap();
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert!(id.starts_with("req_"), "an id that cannot be logged is replaced: {id}");
    assert_eq!(read(response).await.1["error"]["requestId"], id);
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_told_apart() {
    let app = TestApp::start().await;
    let (status, body) = answer(app.anonymous(Method::GET, "/nothing")).await;
    insta::assert_json_snapshot!("route_not_found", scrubbed(&body));
    failed((status, body), 404, "SERVER_003");

    let response = app.anonymous(Method::PUT, "/campaigns").send().await.unwrap();
    let allow = response.headers()[ALLOW].to_str().unwrap().to_owned();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
    failed(read(response).await, 405, "SERVER_004");
    failed(app.post("/health/live", json!({})).await, 405, "SERVER_004");
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_explained() {
    let app = TestApp::start().await;
    let post = |body: &'static str| app.request(Method::POST, "/campaigns").body(body);
    let (status, body) = answer(post("{\"name\": ")).await;
    assert_eq!(failed((status, body), 400, "SERVER_002"), ["body"]);
    assert_eq!(failed(answer(post("[]")).await, 400, "SERVER_002"), ["body"]);
    assert_eq!(failed(answer(post("")).await, 400, "SERVER_002"), ["name", "objective_type"]);

    let (status, body) = answer(post(r#"{"name": 5, "objective_type": "sales", "keywords": "jazz"}"#)).await;
    insta::assert_json_snapshot!("mistyped_fields", scrubbed(&body));
    assert_eq!(failed((status, body), 400, "SERVER_002"), ["keywords", "name"]);

    let body = r#"{"name": "a", "objective_type": "sales", "status": "flying", "max_results": 99999999999}"#;
    let fields = failed(answer(post(body)).await, 422, "SERVER_005");
    assert_eq!(fields, ["max_results", "status"]);

    let body = r#"{"name": "a\u0000b", "objective_type": "sales"}"#;
    assert_eq!(failed(answer(post(body)).await, 422, "SERVER_005"), ["name"]);
    assert_eq!(app.count("select count(*) from campaigns").await, 0, "nothing is stored");
}

#[tokio::test]
async fn any_content_type_will_do_for_json() {
    let app = TestApp::start().await;
    for content_type in ["application/x-www-form-urlencoded", "text/plain", "application/json; charset=utf-8"]
    {
        let request = app
            .request(Method::POST, "/campaigns")
            .header("content-type", content_type)
            .body(r#"{"name": "a", "objective_type": "sales"}"#);
        created(answer(request).await);
    }
}

#[tokio::test]
async fn unknown_fields_and_parameters_are_ignored_with_a_warning() {
    let app = TestApp::start().await;
    let body = json!({"name": "a", "objective_type": "sales", "colour": "red", "sender": {"shoe": 9}});
    let (status, body) = app.post("/campaigns", body).await;
    let warnings = body["meta"]["warnings"].to_string();
    assert_eq!(status, 201);
    assert!(warnings.contains("colour") && warnings.contains("sender.shoe"), "{warnings}");

    let (status, body) = app.get("/campaigns?colour=red&limit=5").await;
    assert_eq!(status, 200);
    assert!(body["meta"]["warnings"][0].as_str().unwrap().contains("colour"));
    assert_eq!(body["meta"]["limit"], 5);

    let (_, body) = app.get("/campaigns").await;
    assert_eq!(body["meta"].get("warnings"), None);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let app = TestApp::start().await;
    let large = format!(r#"{{"name": "{}", "objective_type": "sales"}}"#, "a".repeat(1024 * 1024));
    failed(answer(app.request(Method::POST, "/campaigns").body(large)).await, 413, "SERVER_010");
    let import = format!(r#"{{"contacts": [], "x": "{}"}}"#, "a".repeat(2 * 1024 * 1024));
    let answered = answer(app.request(Method::POST, "/contacts/bulk-import").body(import)).await;
    assert_eq!(failed(answered, 422, "SERVER_005"), ["contacts"], "imports may be larger");
}

#[tokio::test]
async fn bad_parameters_are_named() {
    let app = TestApp::start().await;
    let fields = failed(app.get("/campaigns?limit=0&status=flying").await, 400, "SERVER_002");
    assert_eq!(fields, ["limit", "status"]);
    assert_eq!(failed(app.get("/campaigns?cursor=!!").await, 400, "SERVER_002"), ["cursor"]);
    assert_eq!(failed(app.get("/campaigns?page=101&limit=100").await, 400, "SERVER_002"), ["page"]);
    assert_eq!(failed(app.get("/contacts?search=a%00").await, 400, "SERVER_002"), ["search"]);
}

#[tokio::test]
async fn lists_are_walked_by_cursor_and_by_page() {
    let app = TestApp::start().await;
    for number in 0..5 {
        created(
            app.post("/campaigns", json!({"name": format!("c{number}"), "objective_type": "sales"})).await,
        );
    }
    let names = |body: &Value| -> Vec<String> {
        let rows = body["data"].as_array().unwrap().iter();
        rows.map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    let (_, first) = app.get("/campaigns?limit=2&include_total=true").await;
    assert_eq!(names(&first), ["c4", "c3"]);
    assert_eq!((&first["meta"]["has_more"], &first["meta"]["total"]), (&json!(true), &json!(5)));
    let cursor = first["meta"]["next_cursor"].as_str().unwrap();
    let (_, second) = app.get(&format!("/campaigns?limit=2&cursor={cursor}")).await;
    assert_eq!(names(&second), ["c2", "c1"]);
    let (_, last) = app.get("/campaigns?limit=2&page=3").await;
    assert_eq!(names(&last), ["c0"]);
    assert_eq!((&last["meta"]["has_more"], &last["meta"]["next_cursor"]), (&json!(false), &Value::Null));
    assert_eq!(last["meta"].get("total"), None);
}

/// One of everything that an account has, by the path of its operations.
struct Owned {
    campaign: String,
    contact: String,
    conversation: String,
    drafts: Vec<String>,
    job: String,
    webhook: String,
    key: String,
    spare_key: String,
    notification: String,
    suppression: String,
    profile: String,
}

impl Owned {
    async fn by(app: &TestApp) -> Self {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let drafts = drafted(app, 3).await;
        let campaign = text(&drafts[0]["campaign_id"]);
        let mut tx = app.database.begin().await.unwrap();
        let criteria: Criteria = serde_json::from_value(json!({
            "keywords": ["bar"], "venue_types": [], "location": "Brooklyn, NY", "radius_miles": 10.0, "max_results": 5
        }))
        .unwrap();
        let campaign_id = campaign.parse().unwrap();
        let job = start_job(&mut tx, app.account_id, Some(campaign_id), &criteria, 0).await.unwrap();
        tx.commit().await.unwrap();
        let hook = json!({"url": "https://example.com/", "events": ["message.sent"]});
        let webhook = created(app.post("/webhooks", hook).await);
        let key = async || created(app.post("/keys", json!({"name": "one more", "scopes": ["read"]})).await);
        let (key, spare_key) = (key().await, key().await);
        told(app).await;
        let notification = ok(app.get("/notifications").await)[0].clone();
        let profile = json!({"name": "bars", "venue_types": ["bar"]});
        let profile = created(app.post(&format!("/campaigns/{campaign}/target-profiles"), profile).await);
        let never = json!({"kind": "email", "values": ["never@example.com"]});
        let suppression = created(app.post("/suppressions", never).await)["added"][0].clone();
        Self {
            campaign,
            contact: text(&drafts[0]["contact_id"]),
            conversation: text(&drafts[0]["conversation_id"]),
            drafts: drafts.iter().map(|draft| text(&draft["id"])).collect(),
            job: job.id.to_string(),
            webhook: text(&webhook["id"]),
            key: text(&key["id"]),
            spare_key: text(&spare_key["id"]),
            notification: text(&notification["id"]),
            suppression: text(&suppression["id"]),
            profile: text(&profile["id"]),
        }
    }

    /// Every operation on one of them, with its body and the code of its absence; what ends them comes last.
    fn operations(&self) -> Vec<(Method, String, Value, &'static str)> {
        let Self {
            campaign,
            contact,
            conversation,
            drafts,
            job,
            webhook,
            key,
            spare_key,
            notification,
            suppression,
            profile,
        } = self;
        let none = json!({});
        let get = |path: String, code| (Method::GET, path, json!({}), code);
        let named = json!({"name": "bars", "keywords": ["live music"]});
        let import = json!({"contacts": [{"email": "z@example.com"}], "campaign_id": campaign});
        vec![
            get(format!("/campaigns/{campaign}"), "CAMP_001"),
            get(format!("/contacts/{contact}"), "CONTACT_001"),
            get(format!("/campaigns/{campaign}/contacts"), "CAMP_001"),
            get(format!("/campaigns/{campaign}/target-profiles"), "CAMP_001"),
            get(format!("/campaigns/{campaign}/preflight"), "CAMP_001"),
            get(format!("/analytics/campaigns/{campaign}"), "CAMP_001"),
            get(format!("/analytics/performance?campaign_id={campaign}"), "CAMP_001"),
            get(format!("/analytics/response-time?campaign_id={campaign}"), "CAMP_001"),
            get(format!("/analytics/contact-types?campaign_id={campaign}"), "CAMP_001"),
            get(format!("/contacts/{contact}/conversations"), "CONTACT_001"),
            get(format!("/conversations/{conversation}"), "CONVERSATION_001"),
            get(format!("/conversations/{conversation}/messages"), "CONVERSATION_001"),
            get(format!("/discovery/jobs/{job}"), "DISCOVERY_002"),
            get(format!("/webhooks/{webhook}"), "WEBHOOK_001"),
            get(format!("/webhooks/{webhook}/deliveries"), "WEBHOOK_001"),
            (Method::PATCH, format!("/campaigns/{campaign}"), json!({"name": "theirs"}), "CAMP_001"),
            (Method::POST, "/contacts/bulk-import".into(), import, "CAMP_001"),
            (Method::POST, format!("/messages/{}/approve", drafts[0]), none.clone(), "MESSAGE_005"),
            (Method::POST, format!("/messages/{}/reject", drafts[1]), none.clone(), "MESSAGE_005"),
            (Method::PATCH, format!("/webhooks/{webhook}"), json!({"enabled": false}), "WEBHOOK_001"),
            (Method::DELETE, format!("/webhooks/{webhook}"), none.clone(), "WEBHOOK_001"),
            (Method::POST, "/discovery/search-campaign".into(), json!({"campaign_id": campaign}), "CAMP_001"),
            (
                Method::DELETE,
                format!("/campaigns/{campaign}/target-profiles/{profile}"),
                none.clone(),
                "CAMP_001",
            ),
            (Method::POST, format!("/campaigns/{campaign}/target-profiles"), named, "CAMP_001"),
            (Method::POST, format!("/conversations/{conversation}/read"), none.clone(), "CONVERSATION_001"),
            (Method::PATCH, format!("/notifications/{notification}"), json!({"read": true}), "SERVER_003"),
            (Method::DELETE, format!("/notifications/{notification}"), none.clone(), "SERVER_003"),
            (Method::DELETE, format!("/suppressions/{suppression}"), none.clone(), "SERVER_003"),
            (Method::PATCH, format!("/contacts/{contact}"), json!({"title": "theirs"}), "CONTACT_001"),
            (Method::DELETE, format!("/contacts/{contact}"), none.clone(), "CONTACT_001"),
            (Method::PATCH, format!("/keys/{key}"), json!({"name": "theirs"}), "APIKEY_006"),
            (Method::DELETE, format!("/keys/{key}"), none.clone(), "APIKEY_006"),
            (Method::POST, format!("/keys/{spare_key}/rotate"), none.clone(), "APIKEY_006"),
            (Method::DELETE, format!("/campaigns/{campaign}"), none, "CAMP_001"),
        ]
    }
}

#[tokio::test]
async fn nothing_of_one_account_is_there_for_another() {
    let app = TestApp::start().await;
    let owned = Owned::by(&app).await;
    let stranger = app.stranger().await;
    let as_stranger = async |method: Method, path: &str, body: &Value| {
        answer(app.request_as(&stranger, method, path).json(body)).await
    };
    let lists = [
        "/campaigns",
        "/contacts",
        "/webhooks",
        "/messages/pending",
        "/conversations",
        "/discovery/jobs",
        "/notifications",
        "/suppressions",
        "/channels/accounts",
    ];
    for path in lists {
        assert_ne!(ok(app.get(path).await), json!([]), "{path}");
        assert_eq!(ok(as_stranger(Method::GET, path, &json!({})).await), json!([]), "{path}");
    }
    // What the owner would have to wait for.
    let progress = format!("/campaigns/{}/progress", owned.campaign);
    assert_eq!(app.request(Method::GET, &progress).send().await.unwrap().status(), 200);
    failed(as_stranger(Method::GET, &progress, &json!({})).await, 404, "CAMP_001");
    let test = format!("/webhooks/{}/test", owned.webhook);
    failed(as_stranger(Method::POST, &test, &json!({})).await, 404, "WEBHOOK_001");
    let search = json!({"keywords": ["bar"], "location": "Brooklyn, NY", "campaign_id": owned.campaign});
    failed(as_stranger(Method::POST, "/discovery/search", &search).await, 404, "CAMP_001");
    let send = json!({"channel": "email", "conversation_id": owned.conversation, "recipient_id": owned.contact,
        "content": "hello"});
    failed(as_stranger(Method::POST, "/channels/send", &send).await, 404, "CONVERSATION_001");
    let bulk = json!({"ids": [owned.contact]});
    let outcome = ok(as_stranger(Method::POST, "/contacts/bulk-delete", &bulk).await);
    assert_eq!(outcome, json!({"deleted": 0, "not_found": [owned.contact]}));
    assert_eq!(ok(as_stranger(Method::POST, "/notifications/read-all", &json!({})).await)["updated"], 0);
    let bulk = json!({"action": "approve", "ids": [owned.drafts[2]]});
    let outcome = ok(as_stranger(Method::POST, "/messages/bulk", &bulk).await);
    assert_eq!(outcome["results"][0]["error"]["code"], "MESSAGE_005");
    assert_eq!(ok(app.post("/messages/bulk", bulk).await)["succeeded"], 1);
    for (method, path, body, code) in owned.operations() {
        failed(as_stranger(method.clone(), &path, &body).await, 404, code);
        // Its owner finds it as it was, so that it was not its absence that hid it.
        let (status, body) = answer(app.request(method, &path).json(&body)).await;
        assert!([200, 201].contains(&status), "{path}: {body}");
    }
}

#[tokio::test]
async fn the_served_document_has_every_operation() {
    let app = TestApp::start().await;
    let (status, document) = answer(app.anonymous(Method::GET, "/openapi.json")).await;
    assert_eq!((status, document["openapi"].as_str()), (200, Some("3.1.0")));
    let operation = &document["paths"]["/campaigns/{id}"]["patch"];
    assert_eq!(operation["operationId"], "campaigns.update");
    assert_eq!(operation["x-scope"], "write");
    assert_eq!(operation["x-audit"], json!(["update_campaign"]));
    for status in ["200", "400", "401", "403", "404", "409", "413", "422", "500", "503", "504"] {
        assert!(operation["responses"][status].is_object(), "{status}");
    }
    assert!(document["components"]["securitySchemes"]["api_key"].is_object());
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                // OpenAPI 3.1 requires a description.
                let description = response["description"].as_str().unwrap_or_default();
                assert!(!description.is_empty(), "{method} {path} {status}");
                let mut codes: Vec<_> = description.split("; ").collect();
                codes.dedup();
                assert_eq!(codes.join("; "), description, "{method} {path} {status}");
            }
        }
    }
    let has = |path: &str, status: &str| document["paths"][path]["post"]["responses"].get(status).is_some();
    for path in ["/contacts", "/contacts/bulk-import", "/discovery/search"] {
        assert!(has(path, "409"), "{path}");
    }
    assert!(!has("/webhooks/{id}/test", "409") && !has("/inbound/email", "422"), "never answered");
}

#[tokio::test]
async fn health_says_whether_requests_can_be_served() {
    let app = TestApp::start().await;
    assert_eq!(ok(answer(app.anonymous(Method::GET, "/health/live")).await)["status"], "ok");
    // On a busy machine the first connection may take longer than the check waits.
    let ready = async || answer(app.anonymous(Method::GET, "/health/ready")).await;
    let answered = loop {
        let answered = ready().await;
        if answered.0 == 200 {
            break answered;
        }
    };
    insta::assert_json_snapshot!("health.ready", answered.1);
    sqlx::query("delete from _sqlx_migrations").execute(app.database.pool()).await.unwrap();
    failed(ready().await, 503, "SERVER_009");
}

#[tokio::test]
async fn the_end_finishes_what_is_running() {
    let mut app = TestApp::start().await;
    let address = app.url.strip_prefix("http://").unwrap().to_owned();
    let mut connection = TcpStream::connect(&address).await.unwrap();
    let body = r#"{"name": "late", "objective_type": "sales"}"#;
    let head = format!(
        "POST /campaigns HTTP/1.1\r\nhost: iris\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\
         expect: 100-continue\r\n\r\n",
        app.key,
        body.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    // "100 Continue" says that the handler waits for the body: the request runs.
    let mut continued = [0; 25];
    connection.read_exact(&mut continued).await.unwrap();
    assert!(continued.starts_with(b"HTTP/1.1 100"));
    app.begin_stop();
    connection.write_all(body.as_bytes()).await.unwrap();
    let mut answered = String::new();
    connection.read_to_string(&mut answered).await.unwrap();
    assert!(answered.starts_with("HTTP/1.1 201"), "{answered}");
    app.stop().await;
    assert!(TcpStream::connect(&address).await.is_err(), "nobody listens any more");
    assert_eq!(app.count("select count(*) from campaigns").await, 1);
}
