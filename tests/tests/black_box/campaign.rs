//! What a campaign does: approval, rejection, pause, replies, bounces.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tests::{Stack, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_runs_to_its_end_and_a_reply_stops_it() {
    let stack = Stack::start().await;
    let events = ["conversation.reply_received", "message.bounced", "campaign.updated"];
    stack.hook("hook", &events).await;
    let id = stack
        .campaign(
            &json!({"followup_days": [1, 2]}),
            &["never+1@example.com", "replies+1@example.com", "bounces+1@example.com", "stops+1@example.com"],
        )
        .await;
    stack.activate(&id).await;
    stack.until_status(&id, "completed").await;
    assert_eq!(stack.mail("never+1@example.com").await.len(), 3, "the first message and both follow-ups");
    assert!(stack.mail("bounces+1@example.com").await.is_empty());
    let mail = stack.mail("never+1@example.com").await;
    assert_eq!(
        mail[1]["in_reply_to"], mail[0]["message_id"],
        "a follow-up is in the thread of the first message"
    );

    // Both answers arrive, each stops its sequence, and the one that asks to stop is never written to again.
    let ledger = until("both replies and the bounce are told", async || {
        let ledger = stack.world.get("/hooks/hook/ledger").await.body;
        (ledger["events"]["conversation.reply_received"]["events"] == 2
            && ledger["events"]["message.bounced"]["events"] == 1
            && ledger["events"]["campaign.updated"].is_object())
        .then_some(ledger)
    })
    .await;
    assert_eq!(ledger["unverified"], 0);
    let told = stack.received("hook").await;
    let told: BTreeSet<&str> = told.iter().map(|body| body["event"].as_str().unwrap()).collect();
    assert_eq!(told, events.into());
    let reasons: Vec<(Option<String>,)> = sqlx::query_as(
        "select e.stop_reason from enrolments e join contacts c on c.id = e.contact_id
         where e.campaign_id = $1::uuid order by c.email",
    )
    .bind(&id)
    .fetch_all(stack.database.pool())
    .await
    .unwrap();
    let reasons: Vec<Option<&str>> = reasons.iter().map(|(reason,)| reason.as_deref()).collect();
    assert_eq!(reasons, [Some("bounced"), None, Some("replied"), Some("opted_out")]);
    let suppressed: Vec<(String, String)> =
        sqlx::query_as("select value, reason from suppressions order by value")
            .fetch_all(stack.database.pool())
            .await
            .unwrap();
    assert_eq!(
        suppressed,
        [
            ("bounces+1@example.com".to_owned(), "bounced".to_owned()),
            ("stops+1@example.com".to_owned(), "opted_out".to_owned())
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_without_approval_and_a_rejected_step_is_skipped() {
    let stack = Stack::start().await;
    let fields = json!({"approval": "manual", "followup_days": [1]});
    let id = stack.campaign(&fields, &["never+a@example.com", "never+b@example.com"]).await;
    stack.activate(&id).await;
    let pending = async |count: usize| {
        until("drafts wait for approval", async || {
            let pending = stack.api.get(&format!("/messages/pending?campaign_id={id}")).await;
            let pending = pending.data().as_array().unwrap().clone();
            (pending.len() == count).then_some(pending)
        })
        .await
    };
    let drafts = pending(2).await;
    assert_eq!(stack.world.get("/smtp/ledger").await.body["accepted"], 0);

    let first = drafts[0]["id"].as_str().unwrap();
    let edits = json!({"subject": "An edited subject", "content": "An edited text."});
    let approved = stack.api.post(&format!("/messages/{first}/approve"), &edits).await;
    assert_eq!(approved.data()["subject"], "An edited subject");
    stack.api.post(&format!("/messages/{first}/approve"), &json!({})).await.refused(409, "MESSAGE_004");
    let second = drafts[1]["id"].as_str().unwrap();
    stack.api.post(&format!("/messages/{second}/reject"), &json!({})).await.data();
    stack.api.post(&format!("/messages/{second}/approve"), &json!({})).await.refused(409, "SERVER_016");

    // Both contacts' follow-ups are drafted next, and wait for a person too.
    let followups = pending(2).await;
    assert_eq!(stack.world.get("/smtp/ledger").await.body["accepted"], 1);
    let ids: Vec<_> = followups.iter().map(|message| message["id"].clone()).collect();
    let both = stack.api.post("/messages/bulk", &json!({"action": "approve", "ids": ids})).await;
    both.data();
    stack.until_status(&id, "completed").await;
    assert_eq!(stack.world.get("/smtp/ledger").await.body["accepted"], 3);
    let statuses: BTreeMap<(i32, String), usize> =
        stack.messages(&id).await.into_iter().fold(BTreeMap::new(), |mut counts, key| {
            *counts.entry(key).or_default() += 1;
            counts
        });
    assert_eq!(
        statuses,
        [((0, "rejected".to_owned()), 1), ((0, "sent".to_owned()), 1), ((1, "sent".to_owned()), 2)].into()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_campaign_sends_nothing_until_it_is_resumed() {
    let stack = Stack::start().await;
    let id =
        stack.campaign(&json!({"approval": "manual", "followup_days": [1]}), &["never+p@example.com"]).await;
    let path = format!("/campaigns/{id}");
    stack.activate(&id).await;
    let draft = until("a draft", async || {
        let pending = stack.api.get("/messages/pending").await;
        pending.data()[0]["id"].as_str().map(ToOwned::to_owned)
    })
    .await;
    stack.api.patch(&path, &json!({"status": "paused"})).await.data();
    stack.api.post(&format!("/messages/{draft}/approve"), &json!({})).await.data();
    // The send job is parked: that is the signal that the worker has seen it, or the claim has.
    until("the send job waits", async || {
        let waiting: (i64,) = sqlx::query_as(
            "select count(*) from queue.deferred where queue = 'send' and run_at = 'infinity'",
        )
        .fetch_one(stack.database.pool())
        .await
        .ok()?;
        (waiting.0 == 1).then_some(())
    })
    .await;
    assert_eq!(stack.world.get("/smtp/ledger").await.body["accepted"], 0);
    stack.api.patch(&path, &json!({"status": "active"})).await.data();
    until("the first message", async || (!stack.mail("never+p@example.com").await.is_empty()).then_some(()))
        .await;
    stack.api.patch(&path, &json!({"status": "active"})).await.refused(409, "CAMP_005");
    stack.api.patch(&path, &json!({"status": "draft"})).await.refused(400, "CAMP_008");
    stack.api.delete(&path).await.data();
    stack.api.get(&path).await.refused(404, "CAMP_001");
    let left: (i64,) = sqlx::query_as(
        "select count(*) from (select grp from queue.ready union all select grp from queue.deferred) jobs
         where grp like $1 || '%'",
    )
    .bind(&id)
    .fetch_one(stack.database.pool())
    .await
    .unwrap();
    assert_eq!(left.0, 0, "a deleted campaign leaves no job behind");
}
