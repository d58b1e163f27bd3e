//! The bodies of operations that no other test has on record.

use serde_json::{Value, json};

use crate::{
    app::{TestApp, created, ok, scrubbed},
    messages::{drafted, wait_for_mailbox},
};

/// Records the answer of each path under the name of its operation.
macro_rules! record {
    ($app:ident { $($id:literal: $method:ident $path:expr $(, $body:expr)?;)+ }) => {
        $(
            let (status, body) = $app.$method(&$path $(, $body)?).await;
            insta::assert_json_snapshot!($id, scrubbed(&body));
            assert!([200, 201].contains(&status), "{}", $id);
        )+
    };
}

#[tokio::test]
async fn people_and_what_is_written_to_them() {
    let app = TestApp::start().await;
    let drafts = drafted(&app, 2).await;
    let text = |name: &str| drafts[0][name].as_str().unwrap().to_owned();
    let (campaign, contact, conversation) =
        (text("campaign_id"), text("contact_id"), text("conversation_id"));
    record!(app {
        "contacts.list": get "/contacts?limit=1";
        "contacts.get": get format!("/contacts/{contact}");
        "contacts.bulk_import": post "/contacts/bulk-import", json!({"contacts": [{"email": "new@example.com"}]});
        "contacts.conversations": get format!("/contacts/{contact}/conversations");
        "contacts.update": patch format!("/contacts/{contact}"), json!({"company": "The Bell"});
        "conversations.messages": get format!("/conversations/{conversation}/messages");
        "conversations.mark_read": post format!("/conversations/{conversation}/read"), json!({});
        "campaigns.contacts": get format!("/campaigns/{campaign}/contacts?limit=1");
        "campaigns.update": patch format!("/campaigns/{campaign}"), json!({"tone": "dry"});
        "messages.pending": get "/messages/pending?limit=1";
        "messages.reject": post format!("/messages/{}/reject", text("id")), json!({"reason": "too long"});
        "discovery.jobs": get "/discovery/jobs";
        "discovery.sources": get "/discovery/sources";
        "contacts.delete": delete format!("/contacts/{contact}");
        "contacts.bulk_delete": post "/contacts/bulk-delete", json!({"ids": [drafts[1]["contact_id"], contact]});
    });
    assert_eq!(app.count("select count(*) from contacts where deleted_at is null").await, 1);
}

#[tokio::test]
async fn keys_accounts_and_webhooks() {
    let app = TestApp::start().await;
    let key = created(app.post("/keys", json!({"name": "one", "scopes": ["read"]})).await);
    let hook = json!({"url": "https://example.com/", "events": ["message.sent"]});
    let id = |row: &Value| row["id"].as_str().unwrap().to_owned();
    let (webhook, key) = (id(&created(app.post("/webhooks", hook).await)), id(&key));
    let replay = created_replay(&app, &webhook).await;
    wait_for_mailbox(&app).await;
    record!(app {
        "keys.list": get "/keys?limit=1";
        "keys.rename": patch format!("/keys/{key}"), json!({"name": "two"});
        "keys.rotate": post format!("/keys/{key}/rotate"), json!({});
        "channels.accounts": get "/channels/accounts";
        "conversations.unmatched": get "/conversations/unmatched";
        "webhooks.list": get "/webhooks";
        "webhooks.update": patch format!("/webhooks/{webhook}"), json!({"description": "ours"});
        "webhooks.get_replay": get format!("/webhooks/{webhook}/replay/{replay}");
        "webhooks.delete": delete format!("/webhooks/{webhook}");
        "health.live": get "/health/live";
    });
    let rotated = ok(app.get("/keys").await)[0].clone();
    assert_eq!((&rotated["name"], rotated["id"] == key), (&json!("two"), false));
    let revoked = app.delete(&format!("/keys/{}", id(&rotated))).await;
    insta::assert_json_snapshot!("keys.revoke", scrubbed(&revoked.1));
    // The body of the schemas is docs/events.json itself.
    let events = ok(app.get("/webhooks/events").await);
    let names: Vec<&Value> = events.as_array().unwrap().iter().map(|event| &event["event"]).collect();
    insta::assert_json_snapshot!("webhooks.events", names);
}

async fn created_replay(app: &TestApp, webhook: &str) -> String {
    let since = json!({"since": app.clock.now() - chrono::TimeDelta::hours(1)});
    let (status, body) = app.post(&format!("/webhooks/{webhook}/replay"), since).await;
    assert_eq!(status, 202, "{body}");
    body["data"]["id"].as_str().unwrap().to_owned()
}
