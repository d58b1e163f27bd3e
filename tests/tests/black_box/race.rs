//! A reply that races a follow-up: no message is marked after a stored reply.

use serde_json::json;
use tests::{Stack, until};

/// The reply's order number; the follow-up's, whether it crossed, its status, and whether it was sent after the reply was
/// stored or as good as at the same moment.
type FollowUp = (i64, Option<i64>, bool, String, Option<bool>, Option<bool>);

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_wins_or_the_follow_up_is_shown_as_crossed() {
    let stack = Stack::start().await;
    let addresses: Vec<String> = (0..30).map(|n| format!("never+{n}@example.com")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let id = stack.campaign(&json!({"followup_days": [1]}), &addresses).await;
    // The outside thinks for a while before it answers a message, so that replies come in between.
    stack.world.put("/smtp/behaviour", &json!({"pause_before_final_ms": 150})).await;
    stack.activate(&id).await;
    let mut replies = tokio::task::JoinSet::new();
    for (n, address) in addresses.iter().enumerate() {
        let (world, address) = (stack.world.clone(), (*address).to_owned());
        let due = std::time::Duration::from_millis(900 + 15 * n as u64);
        let first = until("the first message", async || {
            let path = format!("/smtp/messages?recipient={}", address.replace('+', "%2B"));
            world.get(&path).await.body[0]["message_id"].as_str().map(ToOwned::to_owned)
        })
        .await;
        replies.spawn(async move {
            tokio::time::sleep(due).await;
            let reply = json!({"from": address, "to_message_id": first, "subject": "Re: hello", "text": "Tell me more."});
            world.post("/reply", &reply).await.body["outcome"].clone()
        });
    }
    for outcome in replies.join_all().await {
        assert_eq!(outcome, "accepted");
    }
    stack.until_status(&id, "completed").await;

    // By order numbers: every follow-up that was marked, was marked before the reply. It has crossed if the reply was
    // stored while its text was on the way; both times are those of a transaction's beginning, so that of what happened
    // within two seconds of each other they do not say which was first.
    let rows: Vec<FollowUp> = sqlx::query_as(
        "select e.replied_order, m.order_number, m.crossed, m.status, m.sent_at > reply.created_at,
            abs(extract(epoch from m.sent_at - reply.created_at)) < 2
         from enrolments e join messages m on m.enrolment_id = e.id and m.step = 1
         join messages reply on reply.conversation_id = e.conversation_id and reply.direction = 'inbound'
         where e.campaign_id = $1::uuid and e.stop_reason = 'replied'",
    )
    .bind(&id)
    .fetch_all(stack.database.pool())
    .await
    .unwrap();
    assert!(!rows.is_empty(), "no reply met a follow-up");
    for (replied, marked, crossed, status, sent_after, too_close) in &rows {
        match marked {
            Some(marked) => {
                assert!(marked < replied, "marked after a stored reply");
                assert!(status == "sent" || status == "replied", "{status}");
                assert!(
                    *too_close == Some(true) || Some(*crossed) == *sent_after,
                    "{crossed} {sent_after:?}"
                );
            }
            None => assert_eq!((status.as_str(), *crossed, *sent_after), ("cancelled", false, None)),
        }
    }
    let unsent: Vec<(String,)> = sqlx::query_as(
        "select c.email from enrolments e join contacts c on c.id = e.contact_id
         left join messages m on m.enrolment_id = e.id and m.step = 1
         where e.campaign_id = $1::uuid and e.stop_reason = 'replied' and m.sent_at is null",
    )
    .bind(&id)
    .fetch_all(stack.database.pool())
    .await
    .unwrap();
    for (address,) in &unsent {
        assert_eq!(stack.mail(address).await.len(), 1, "{address} replied before its follow-up was marked");
    }
}
