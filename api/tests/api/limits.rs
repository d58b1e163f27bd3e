//! How often a key may call.

use std::collections::BTreeMap;

use futures::future::join_all;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::app::{TestApp, answer, created, failed, ok, read, scrubbed};

/// Lets the window of every key's second, or minute, begin at another time than it did.
async fn begin(app: &TestApp, window: Window, seconds_from_now: f64) {
    sqlx::query("update rate_windows set starts[$1] = now() + make_interval(secs => $2)")
        .bind(window as i32)
        .bind(seconds_from_now)
        .execute(app.database.pool())
        .await
        .unwrap();
}

/// The place of a window in the table.
#[derive(Clone, Copy)]
enum Window {
    Minute = 1,
    Second = 2,
}

/// Asks at all addresses at once, `each` times, and returns how often which status came.
async fn ask(app: &TestApp, urls: &[String], each: usize) -> BTreeMap<u16, usize> {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let requests = urls.iter().flat_map(|url| vec![format!("{url}/keys/me"); each]);
    let answers = join_all(requests.map(|url| client.get(url).bearer_auth(&app.key).send())).await;
    let mut statuses = BTreeMap::new();
    for answer in answers {
        *statuses.entry(answer.unwrap().status().as_u16()).or_default() += 1;
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_its_requests_of_a_second_and_a_minute_over_all_replicas() {
    let app = TestApp::start_limited().await;
    let urls = [app.url.clone(), app.replica().await, app.replica().await];
    let one = &urls[..1];
    for _ in 0..6 {
        assert_eq!(ask(&app, one, 1).await, [(200, 1)].into());
        // However busy the machine is, the second does not end before all have asked.
        begin(&app, Window::Second, 60.0).await;
        begin(&app, Window::Minute, 60.0).await;
        assert_eq!(ask(&app, &urls, 12).await, [(200, 19), (429, 17)].into());
        begin(&app, Window::Second, -1.0).await;
    }
    let passed: i32 = sqlx::query_scalar("select counts[1] from rate_windows")
        .fetch_one(app.database.pool())
        .await
        .unwrap();
    assert_eq!(passed, 120, "a refused request is not charged");
    assert_eq!(ask(&app, &urls, 3).await, [(429, 9)].into(), "the minute is full");
    begin(&app, Window::Minute, -60.0).await;
    assert_eq!(ask(&app, &urls, 3).await, [(200, 9)].into(), "another minute has begun");
}

async fn refused(response: Response) -> (Value, BTreeMap<String, i64>) {
    let headers = ["retry-after", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];
    let headers = headers
        .into_iter()
        .map(|name| (name.to_owned(), response.headers()[name].to_str().unwrap().parse().unwrap()))
        .collect();
    let (status, body) = read(response).await;
    assert_eq!(status, 429, "{body}");
    (body, headers)
}

#[tokio::test]
async fn each_class_has_its_limit_and_its_code() {
    let app = TestApp::start_limited().await;
    let search = json!({"keywords": ["bar"], "location": "Brooklyn, NY", "max_results": 0});
    for (method, path, body, limit, code, window_s) in [
        (Method::POST, "/discovery/search", search, 5, "DISCOVERY_006", 3600),
        (Method::POST, "/campaigns", json!({}), 30, "RATE_001", 60),
        (Method::DELETE, "/contacts/1", json!({}), 60, "RATE_001", 60),
        (Method::GET, "/campaigns", json!({}), 120, "RATE_002", 60),
    ] {
        sqlx::query("delete from rate_windows").execute(app.database.pool()).await.unwrap();
        for _ in 0..limit {
            let (status, _) = answer(app.request(method.clone(), path).json(&body)).await;
            assert_ne!(status, 429, "{path}");
            // Only what is tried here shall be full.
            sqlx::query("update rate_windows set counts[2] = 0").execute(app.database.pool()).await.unwrap();
        }
        let response = app.request(method.clone(), path).json(&body).send().await.unwrap();
        assert!(response.headers().contains_key("x-request-id"));
        let now_ms = app.clock.now().timestamp_millis();
        let (body, headers) = refused(response).await;
        assert_eq!(body["error"]["code"], code);
        assert_eq!((headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"]), (limit, 0));
        let wait = headers["retry-after"];
        assert!((1..=window_s).contains(&wait), "{path}: {wait}");
        assert_eq!((body["retryAfter"].as_i64(), body["limit"].as_i64()), (Some(wait), Some(limit)));
        assert!((headers["x-ratelimit-reset"] - now_ms).abs() <= window_s * 1000, "{headers:?}");
    }
}

/// Lets every key have made the requests of a second that does not end.
async fn fill_second(app: &TestApp) {
    sqlx::query("update rate_windows set starts[2] = now() + interval '1 minute', counts[2] = 20")
        .execute(app.database.pool())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_refusal_says_when_to_try_again() {
    let app = TestApp::start_limited().await;
    assert_eq!(ask(&app, std::slice::from_ref(&app.url), 1).await, [(200, 1)].into());
    fill_second(&app).await;
    let (status, body) = app.get("/keys/me").await;
    insta::assert_json_snapshot!("rate_limited", scrubbed(&body));
    failed((status, body), 429, "RATE_001");

    // Another key has its own limits, and who has none at all is not counted.
    let other = app.key_with(&["read"]).await;
    ok(answer(app.request_as(&other, Method::GET, "/keys/me")).await);
    failed(
        answer(app.anonymous(Method::GET, "/keys/me").bearer_auth(shared::ids::new_api_key())).await,
        401,
        "APIKEY_001",
    );
    assert_eq!(app.count("select count(*) from rate_windows").await, 2);
    // A scope that is missing is looked at after the limit.
    fill_second(&app).await;
    failed(
        answer(app.request_as(&other, Method::POST, "/campaigns").json(&json!({}))).await,
        429,
        "RATE_001",
    );
}

#[tokio::test]
async fn a_server_without_limits_counts_nothing() {
    let app = TestApp::start().await;
    for number in 0..25 {
        created(
            app.post("/campaigns", json!({"name": format!("c{number}"), "objective_type": "sales"})).await,
        );
    }
    assert_eq!(app.count("select count(*) from rate_windows").await, 0);
}
