//! Numbers on what was sent and what came of it.

use serde_json::{Value, json};

use crate::{
    app::{TestApp, failed, ok, scrubbed},
    messages::drafted,
};

/// Four messages that were sent, the first two on one day and answered after 30 s and 90 s, the third two days later and back,
/// the fourth long before.
async fn sent(app: &TestApp) -> Value {
    let drafts = drafted(app, 4).await;
    let campaign = drafts[0]["campaign_id"].clone();
    for (number, status, at, opened) in [
        (0, "replied", "2026-03-02T10:00:00Z", true),
        (1, "replied", "2026-03-02T23:59:59Z", false),
        (2, "bounced", "2026-03-04T08:00:00Z", false),
        (3, "sent", "2025-03-04T08:00:00Z", false),
    ] {
        let id: uuid::Uuid = drafts[number]["id"].as_str().unwrap().parse().unwrap();
        sqlx::query(
            "update messages set status = $2, sending_at = $3::timestamptz, sent_at = $3::timestamptz,
                opened_at = case when $4 then $3::timestamptz end, delivered_at = $3::timestamptz where id = $1",
        )
        .bind(id)
        .bind(status)
        .bind(at)
        .bind(opened)
        .execute(app.database.pool())
        .await
        .unwrap();
    }
    for (number, after, intent) in
        [(0, 5.0, "out_of_office"), (0, 30.0, "interested"), (0, 500.0, "interested"), (1, 90.0, "question")]
    {
        let id: uuid::Uuid = drafts[number]["id"].as_str().unwrap().parse().unwrap();
        sqlx::query(
            "insert into messages (account_id, id, conversation_id, campaign_id, contact_id, direction, channel, status,
                content, intent, created_at)
             select account_id, gen_random_uuid(), conversation_id, campaign_id, contact_id, 'inbound', 'email', 'received',
                'hi', $2, sent_at + make_interval(secs => $3) from messages where id = $1",
        )
        .bind(id)
        .bind(intent)
        .bind(after)
        .execute(app.database.pool())
        .await
        .unwrap();
    }
    sqlx::query(
        "update conversations set status = 'replied', last_direction = 'inbound', unread_count = 1, last_message_at = now()
         where contact_id in (select contact_id from messages where direction = 'inbound')",
    )
    .execute(app.database.pool())
    .await
    .unwrap();
    sqlx::query(
        "update contacts set contact_type = 'bar' where email in ('c0@example.com', 'c3@example.com')",
    )
    .execute(app.database.pool())
    .await
    .unwrap();
    campaign
}

const MARCH: &str = "from=2026-03-01T00:00:00Z&to=2026-03-05T00:00:00Z";

#[tokio::test]
async fn numbers_are_those_of_the_messages_of_their_time() {
    let app = TestApp::start().await;
    let campaign = sent(&app).await;
    let id = campaign.as_str().unwrap();
    let numbers = async |name: &str, path: String| {
        let (status, body) = app.get(&path).await;
        let body = match name {
            "analytics.overview" | "analytics.campaign" | "analytics.summary" | "analytics.response_time" => {
                scrubbed(&body)
            }
            _ => body,
        };
        insta::assert_json_snapshot!(name, body);
        ok((status, body))
    };
    let overview = numbers("analytics.overview", format!("/analytics/overview?{MARCH}")).await;
    let counts = json!({"sent": 3, "delivered": 3, "opened": 1, "replied": 2, "bounced": 1});
    assert_eq!((&overview["messages"], &overview["contacts_reached"]), (&counts, &json!(3)));
    assert_eq!(overview["rates"]["reply"], 0.6667);
    let of_campaign = numbers("analytics.campaign", format!("/analytics/campaigns/{id}?{MARCH}")).await;
    assert_eq!((&of_campaign["messages"], &of_campaign["steps"][0]["sent"]), (&counts, &json!(3)));

    let series =
        numbers("analytics.performance", format!("/analytics/performance?{MARCH}&campaign_id={id}")).await;
    let sent: Vec<&Value> = series["points"].as_array().unwrap().iter().map(|point| &point["sent"]).collect();
    assert_eq!(sent, [0, 2, 0, 1]);
    let weeks = ok(app.get(&format!("/analytics/performance?{MARCH}&interval=week")).await);
    let weeks: Vec<(&Value, &Value)> =
        weeks["points"].as_array().unwrap().iter().map(|point| (&point["at"], &point["sent"])).collect();
    assert_eq!(
        weeks,
        [(&json!("2026-02-23T00:00:00.000Z"), &json!(0)), (&json!("2026-03-02T00:00:00.000Z"), &json!(3))]
    );

    let times = numbers("analytics.response_time", format!("/analytics/response-time?{MARCH}")).await;
    assert_eq!((&times["replies"], &times["average_seconds"]), (&json!(2), &json!(60.0)));
    let later =
        ok(app.get("/analytics/response-time?from=2026-03-02T10:05:00Z&to=2026-03-02T11:00:00Z").await);
    assert_eq!(
        (&later["replies"], &later["p50_seconds"]),
        (&json!(0), &Value::Null),
        "the first answer was before"
    );

    let types = numbers("analytics.contact_types", "/analytics/contact-types".into()).await;
    assert_eq!(types[0], json!({"contact_type": "bar", "contacts": 2, "replied": 1}));
    assert_eq!(ok(app.get(&format!("/analytics/contact-types?campaign_id={id}")).await), types);
    let summary = numbers("analytics.summary", format!("/analytics/summary?{MARCH}")).await;
    assert_eq!((&summary["overview"], &summary["contact_types"]), (&overview, &types));
    let engagement =
        numbers("conversations.engagement", format!("/conversations/engagement?campaign_id={id}")).await;
    assert_eq!((&engagement["replied"], &engagement["reply_rate"]), (&json!(2), &json!(0.5)));
}

#[tokio::test]
async fn a_time_has_an_order_and_a_length() {
    let app = TestApp::start().await;
    assert_eq!(ok(app.get("/analytics/overview").await)["messages"]["sent"], 0);
    assert_eq!(ok(app.get("/analytics/performance").await)["points"].as_array().unwrap().len(), 31);
    let refused =
        async |query: &str| failed(app.get(&format!("/analytics/overview?{query}")).await, 400, "SERVER_002");
    assert_eq!(refused("from=2026-03-05T00:00:00Z&to=2026-03-05T00:00:00Z").await, ["from"]);
    assert_eq!(refused("from=2024-03-05T00:00:00Z&to=2026-03-05T00:00:00Z").await, ["from"]);
    assert_eq!(refused("from=yesterday").await, ["from"]);
    assert_eq!(refused("to=0001-01-01T00:00:00Z").await, ["from"]);
    assert_eq!(refused("from=9999-01-01T00:00:00Z&to=9999-01-02T00:00:00Z").await, ["from"]);
    failed(app.get("/analytics/campaigns/nobody").await, 404, "CAMP_001");
    failed(
        app.get(&format!("/analytics/performance?campaign_id={}", uuid::Uuid::nil())).await,
        404,
        "CAMP_001",
    );
    assert_eq!(
        failed(app.get("/analytics/performance?interval=hour").await, 400, "SERVER_002"),
        ["interval"]
    );
}
