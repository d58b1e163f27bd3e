//! Drafts and decisions, conversations, and sending at once.

use std::time::Duration;

use serde_json::{Value, json};
use shared::engine::messages::{Draft, record_draft};
use uuid::Uuid;

use crate::app::{TestApp, created, failed, ok, scrubbed};

/// An active campaign whose first messages are drafted, and those drafts, oldest first.
pub async fn drafted(app: &TestApp, contacts: usize) -> Vec<Value> {
    let campaign = app.campaign().await;
    let rows: Vec<Value> =
        (0..contacts).map(|n| json!({"email": format!("c{n}@example.com"), "first_name": "Alex"})).collect();
    created(
        app.post("/contacts/bulk-import", json!({"contacts": rows, "campaign_id": campaign["id"]})).await,
    );
    wait_for_mailbox(app).await;
    ok(app
        .patch(&format!("/campaigns/{}", campaign["id"].as_str().unwrap()), json!({"status": "active"}))
        .await);
    let enrolments: Vec<Uuid> = sqlx::query_scalar("select id from enrolments order by id")
        .fetch_all(app.database.pool())
        .await
        .unwrap();
    for enrolment_id in enrolments {
        let draft = Draft {
            subject: Some("quick question".into()),
            content: "hi Alex, ...".into(),
            model: Some("template".into()),
            variables: json!({}),
        };
        let mut tx = app.database.begin().await.unwrap();
        record_draft(&mut tx, &app.clock, app.account_id, enrolment_id, 0, &draft).await.unwrap();
        tx.commit().await.unwrap();
    }
    let mut drafts = ok(app.get("/messages/pending?limit=100").await).as_array().unwrap().clone();
    drafts.reverse();
    drafts
}

/// The server stores its mailbox after it has begun to listen.
pub async fn wait_for_mailbox(app: &TestApp) {
    let stored = async {
        while app.count("select count(*) from channel_accounts").await == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), stored).await.expect("the server stores its mailbox");
}

fn path_of(message: &Value, action: &str) -> String {
    format!("/messages/{}/{action}", message["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_draft_is_approved_with_edits_and_once() {
    let app = TestApp::start().await;
    let drafts = drafted(&app, 2).await;
    assert_eq!(drafts.len(), 2);
    let (status, body) =
        app.post(&path_of(&drafts[0], "approve"), json!({"subject": "a better question"})).await;
    insta::assert_json_snapshot!("messages.approve", scrubbed(&body));
    let approved = ok((status, body));
    assert_eq!(
        (&approved["status"], &approved["subject"]),
        (&json!("approved"), &json!("a better question"))
    );
    assert_eq!(approved["content"], drafts[0]["content"]);

    let (status, body) = app.post(&path_of(&drafts[0], "approve"), json!({})).await;
    insta::assert_json_snapshot!("messages.already_approved", scrubbed(&body));
    failed((status, body), 409, "MESSAGE_004");
    failed(app.post(&path_of(&drafts[0], "reject"), json!({})).await, 409, "SERVER_016");

    let empty = app.request(reqwest::Method::POST, &path_of(&drafts[1], "reject"));
    assert_eq!(ok(crate::app::answer(empty).await)["status"], "rejected", "an absent body will do");
    failed(app.post(&path_of(&drafts[1], "approve"), json!({})).await, 409, "SERVER_016");
    let edits = json!({"content": "", "subject": "two\nlines"});
    assert_eq!(failed(app.post(&path_of(&drafts[1], "approve"), edits).await, 422, "SERVER_005").len(), 2);
    assert_eq!(ok(app.get("/messages/pending").await), json!([]));
    let audited = app.audited().await;
    assert_eq!(&audited[audited.len() - 2..], ["approve_message", "reject_message"]);
    assert_eq!(app.count("select count(*) from outbox where type = 'message.approved'").await, 1);
    assert_eq!(app.count("select count(*) from outbox where type = 'message.rejected'").await, 1);
}

#[tokio::test]
async fn many_drafts_are_decided_at_once() {
    let app = TestApp::start().await;
    let drafts = drafted(&app, 4).await;
    let id = |index: usize| drafts[index]["id"].clone();
    ok(app.post(&path_of(&drafts[0], "approve"), json!({})).await);
    let unknown = Uuid::now_v7();
    let bulk = json!({"action": "approve", "ids": [id(0), id(1), id(2), unknown]});
    let (status, body) = app.post("/messages/bulk", bulk).await;
    insta::assert_json_snapshot!("messages.bulk", scrubbed(&body));
    let outcome = ok((status, body));
    assert_eq!((&outcome["succeeded"], &outcome["failed"]), (&json!(2), &json!(2)));
    let codes: Vec<_> = outcome["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| result["error"]["code"].as_str())
        .collect();
    assert_eq!(codes, [Some("MESSAGE_004"), None, None, Some("MESSAGE_005")]);

    let bulk = json!({"action": "reject", "ids": [id(3)], "reason": "too long"});
    let outcome = ok(app.post("/messages/bulk", bulk).await);
    assert_eq!(outcome["results"][0]["status"], "rejected");
    assert_eq!(app.audited().await.last().unwrap(), "reject_message");

    let fields = failed(app.post("/messages/bulk", json!({"action": "approve"})).await, 400, "SERVER_002");
    assert_eq!(fields, ["ids"]);
    failed(app.post("/messages/bulk", json!({"action": "burn", "ids": [id(1)]})).await, 422, "SERVER_005");
    failed(app.post("/messages/bulk", json!({"action": "approve", "ids": []})).await, 422, "SERVER_005");
    failed(
        app.post("/messages/bulk", json!({"action": "approve", "ids": [id(1), id(1)]})).await,
        422,
        "SERVER_005",
    );
    let many: Vec<Uuid> = (0..501).map(|_| Uuid::now_v7()).collect();
    failed(app.post("/messages/bulk", json!({"action": "approve", "ids": many})).await, 422, "SERVER_005");
}

#[tokio::test]
async fn conversations_show_their_contact_messages_and_draft() {
    let app = TestApp::start().await;
    let drafts = drafted(&app, 1).await;
    let (_, body) = app.get("/conversations").await;
    insta::assert_json_snapshot!("conversations.list", scrubbed(&body));
    let path = format!("/conversations/{}", drafts[0]["conversation_id"].as_str().unwrap());
    let (status, body) = app.get(&path).await;
    insta::assert_json_snapshot!("conversations.get", scrubbed(&body));
    assert_eq!(ok((status, body))["draft"], drafts[0]);
    assert_eq!(ok(app.get(&format!("{path}/messages?include_total=true")).await), json!(drafts));
    assert_eq!(ok(app.get("/conversations?name=alex").await).as_array().unwrap().len(), 1);
    assert_eq!(ok(app.get("/conversations?status=replied").await), json!([]));
}

#[tokio::test]
async fn channels_can_be_used_once_connected() {
    let app = TestApp::start().await;
    wait_for_mailbox(&app).await;
    let (_, body) = app.get("/channels/availability").await;
    insta::assert_json_snapshot!("channels.availability", scrubbed(&body));
}

/// A direct message into the conversation of a draft.
fn direct_to(draft: &Value) -> Value {
    json!({
        "channel": "email",
        "conversation_id": draft["conversation_id"],
        "recipient_id": draft["contact_id"],
        "subject": "quick question about djing at {{venue}}",
        "content": "hi {{first_name}}, ...",
        "variables": {"first_name": "Alex", "venue": "The Bell House"}
    })
}

/// What a worker does with a message that is to be sent at once, as far as the database shows it.
async fn deliver(app: &TestApp) {
    loop {
        let sent = sqlx::query(
            "update messages set status = 'sent', sending_at = now(), sent_at = now() where status = 'approved'",
        );
        if sent.execute(app.database.pool()).await.unwrap().rows_affected() == 1 {
            break;
        }
    }
}

async fn wait_for_approved(app: &TestApp) {
    while app.count("select count(*) from messages where status = 'approved'").await == 0 {
        tokio::task::yield_now().await;
    }
}

async fn run_all(app: &TestApp, statements: &[&'static str]) {
    let mut tx = app.database.begin().await.unwrap();
    for statement in statements {
        sqlx::query(*statement).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_stored_message_is_answered_though_the_database_fails_while_it_is_sent() {
    let app = TestApp::start().await;
    let drafts = drafted(&app, 1).await;
    let worker = async {
        wait_for_approved(&app).await;
        // From now on every look at the message fails, and is counted: a sequence is not rolled back.
        run_all(
            &app,
            &[
                "create sequence looks",
                "create function fail() returns boolean language plpgsql as
                    $$ begin perform nextval('looks'); raise exception 'the database is away'; end $$",
                "alter table messages rename to kept_messages",
                "create view messages as select * from kept_messages where fail()",
            ],
        )
        .await;
        while app.count("select count(*) from looks where is_called").await == 0 {
            tokio::task::yield_now().await;
        }
        run_all(&app, &["drop view messages", "alter table kept_messages rename to messages"]).await;
        deliver(&app).await;
    };
    let (answered, ()) = tokio::join!(app.post("/channels/send", direct_to(&drafts[0])), worker);
    assert_eq!(created(answered)["status"], "sent");
}

#[tokio::test]
async fn a_stored_message_is_answered_when_the_server_stops() {
    let app = TestApp::start().await;
    let drafts = drafted(&app, 1).await;
    let stop = async {
        wait_for_approved(&app).await;
        app.begin_stop();
    };
    let (answered, ()) = tokio::join!(app.post("/channels/send", direct_to(&drafts[0])), stop);
    assert_eq!(created(answered)["status"], "approved");
}

#[tokio::test]
async fn a_direct_message_answers_with_what_became_of_it() {
    let app = TestApp::start().await;
    let drafts = drafted(&app, 1).await;
    let mut direct = direct_to(&drafts[0]);
    let (answered, ()) = tokio::join!(app.post("/channels/send", direct.clone()), deliver(&app));
    insta::assert_json_snapshot!("channels.send", scrubbed(&answered.1));
    let message = created(answered);
    assert_eq!((&message["status"], &message["direction"]), (&json!("sent"), &json!("outbound")));
    assert_eq!(message["subject"], "quick question about djing at The Bell House");
    assert_eq!(app.audited().await.last().unwrap(), "send_channel_message");

    direct["variables"] = json!({});
    direct["content"] = json!("hi {{nobody_knows}}");
    failed(app.post("/channels/send", direct.clone()).await, 422, "SERVER_005");
    direct["conversation_id"] = json!(Uuid::now_v7());
    failed(app.post("/channels/send", direct).await, 404, "CONVERSATION_001");
}
