use serde_json::json;
use shared::{
    db::{
        self,
        notifications::{NotificationType, Resource, ResourceType},
        page::Page,
        suppressions::SuppressionFilter,
    },
    domain::{
        Channel,
        contact::{ContactStatus, NewContact},
        conversation::ConversationStatus,
        enrolment::{EnrolmentStatus, StopReason},
        message::{Direction, MessageStatus},
        reply::{Intent, Sentiment},
    },
    engine::{self, inbound::InboundOutcome, messages::RecordedDraft},
    events::EventType,
};
use uuid::Uuid;

use crate::fixture::{Fixture, answer, campaign, report};

/// An active campaign with one contact whose first message was sent: campaign, enrolment, message, its Message-ID.
async fn written_to(fixture: &Fixture) -> (Uuid, Uuid, Uuid, String) {
    let active = fixture.active_campaign(&campaign(), &["a@x.example"]).await;
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    let sent = fixture.sent(enrolment.id, 0).await;
    (active.id, enrolment.id, sent.id, sent.rfc_message_id.unwrap())
}

#[tokio::test]
async fn a_reply_stops_the_sequence_in_the_same_transaction() {
    let fixture = Fixture::new().await;
    let (campaign_id, enrolment_id, first, rfc_id) = written_to(&fixture).await;
    let second = fixture.approved(enrolment_id, 1).await;
    let RecordedDraft::Pending(third) = fixture.record_draft(enrolment_id, 2).await else { panic!() };
    let raw =
        answer("Someone Else <boss@x.example>", "r1@x.example", Some(&rfc_id), "Sounds great, tell me more!");
    let outcome = fixture.receive(&raw).await;
    let InboundOutcome::Reply { message_id } = outcome else { panic!("{outcome:?}") };

    let reply = fixture.message(message_id).await;
    assert_eq!((reply.direction, reply.status), (Direction::Inbound, MessageStatus::Received));
    assert_eq!((reply.intent, reply.sentiment), (Some(Intent::Interested), Some(Sentiment::Positive)));
    assert_eq!(reply.in_reply_to, Some(rfc_id));
    let enrolment = fixture.enrolment(campaign_id, "a@x.example").await;
    assert_eq!(enrolment.stop_reason, Some(StopReason::Replied));
    assert_eq!(fixture.message(first).await.status, MessageStatus::Replied);
    assert_eq!(fixture.message(second.id).await.status, MessageStatus::Cancelled);
    assert_eq!(fixture.message(third.id).await.status, MessageStatus::Cancelled);
    assert_eq!(fixture.jobs("draft").await, []);
    assert_eq!(fixture.jobs("send").await, []);
    let mut tx = fixture.tx().await;
    let conversation =
        db::conversations::find(&mut tx, fixture.account_id, reply.conversation_id).await.unwrap().unwrap();
    assert_eq!(conversation.status, ConversationStatus::Replied);
    assert_eq!((conversation.unread_count, conversation.last_direction), (1, Some(Direction::Inbound)));
    let events = fixture.events(EventType::ConversationReplyReceived).await;
    let mut expected = conversation.public();
    expected["reply"] = json!({"message": reply.public(), "intent": "interested", "sentiment": "positive"});
    assert_eq!(events, [expected]);
    assert_eq!(fixture.progress(campaign_id).await.replied, 1);
    assert_eq!(fixture.contact("a@x.example").await.status, ContactStatus::Active);
    let resource = Resource { kind: ResourceType::Conversation, id: conversation.id };
    assert_eq!(fixture.told().await, [(NotificationType::ReplyReceived, resource)]);

    // A second answer is shown too, and stops nothing more.
    let raw = answer("a@x.example", "r2@x.example", Some("<r1@x.example>"), "And another thing");
    assert!(matches!(fixture.receive(&raw).await, InboundOutcome::Reply { .. }));
    assert_eq!(fixture.progress(campaign_id).await.replied, 1);
    assert_eq!(fixture.events(EventType::ConversationReplyReceived).await.len(), 2);
}

#[tokio::test]
async fn the_same_mail_is_stored_once() {
    let fixture = Fixture::new().await;
    let (.., rfc_id) = written_to(&fixture).await;
    let raw = answer("a@x.example", "r1@x.example", Some(&rfc_id), "yes");
    assert!(matches!(fixture.receive(&raw).await, InboundOutcome::Reply { .. }));
    assert_eq!(fixture.receive(&raw).await, InboundOutcome::Duplicate);
    let stranger = answer("who@y.example", "s1@y.example", None, "hello");
    assert_eq!(fixture.receive(&stranger).await, InboundOutcome::Unmatched);
    assert_eq!(fixture.receive(&stranger).await, InboundOutcome::Duplicate);
    assert_eq!(fixture.events(EventType::ConversationReplyReceived).await.len(), 1);
    let mut tx = fixture.tx().await;
    let unmatched =
        db::inbound_emails::list_unmatched(&mut tx, fixture.account_id, Page::first(10)).await.unwrap();
    assert_eq!(unmatched.rows.len(), 1);
    assert_eq!(unmatched.rows[0].from_address.as_deref(), Some("who@y.example"));
    let stored: i64 = sqlx::query_scalar("select count(*) from inbound_emails")
        .fetch_one(fixture.database.pool())
        .await
        .unwrap();
    assert_eq!(stored, 2);

    // The same answer to another mailbox of the account is the same answer; our own mail that comes back is none.
    let other =
        db::channel_accounts::ensure(&mut tx, fixture.account_id, Channel::Email, "two@iris.test", None)
            .await
            .unwrap();
    let email = engine::mail::read_email(raw.as_bytes()).unwrap();
    let outcome = engine::inbound::record_email(&mut tx, &other, &email, raw.as_bytes()).await.unwrap();
    assert_eq!(outcome, InboundOutcome::Duplicate);
    tx.commit().await.unwrap();
    let own = answer("dj@iris.test", rfc_id.trim_matches(['<', '>']), None, "Hello");
    assert_eq!(fixture.receive(&own).await, InboundOutcome::Unmatched);
}

#[tokio::test]
async fn a_mail_that_names_nothing_is_matched_by_its_sender() {
    let fixture = Fixture::new().await;
    let (campaign_id, enrolment_id, first, rfc_id) = written_to(&fixture).await;
    let elsewhere = fixture.active_campaign(&campaign(), &["a@x.example"]).await;
    let raw = answer("A@X.example", "r1@x.example", Some("<unknown@elsewhere>"), "call me");
    let outcome = fixture.receive(&raw).await;
    let InboundOutcome::Reply { message_id } = outcome else { panic!("{outcome:?}") };
    let reply = fixture.message(message_id).await;
    assert_eq!(reply.campaign_id, campaign_id, "the conversation in which something was sent");
    assert_eq!(fixture.message(first).await.status, MessageStatus::Replied);
    let other = fixture.enrolment(elsewhere.id, "a@x.example").await;
    assert_eq!(other.status, EnrolmentStatus::Active);
    assert_ne!(other.id, enrolment_id);
    let by_reference = format!(
        "From: x@y.example\r\nMessage-ID: <r2@y.example>\r\nReferences: {rfc_id} <lost@y.example>\r\n\r\nhi\r\n"
    );
    assert!(matches!(fixture.receive(&by_reference).await, InboundOutcome::Reply { .. }));
}

#[tokio::test]
async fn a_request_to_stop_is_for_ever() {
    let fixture = Fixture::new().await;
    let (campaign_id, _, first, rfc_id) = written_to(&fixture).await;
    let elsewhere = fixture.active_campaign(&campaign(), &["a@x.example"]).await;
    let raw = answer("a@x.example", "r1@x.example", Some(&rfc_id), "please stop, unsubscribe me");
    assert!(matches!(fixture.receive(&raw).await, InboundOutcome::Reply { .. }));
    let enrolment = fixture.enrolment(campaign_id, "a@x.example").await;
    assert_eq!(enrolment.stop_reason, Some(StopReason::OptedOut));
    assert_eq!(fixture.message(first).await.status, MessageStatus::Replied);
    assert_eq!(fixture.contact("a@x.example").await.status, ContactStatus::Unsubscribed);
    let reason: String = sqlx::query_scalar("select reason from suppressions where value = 'a@x.example'")
        .fetch_one(fixture.database.pool())
        .await
        .unwrap();
    assert_eq!(reason, "opted_out");
    let updated = fixture.events(EventType::ContactUpdated).await;
    assert_eq!(updated[0]["previous"], json!({"status": "active"}));
    let events = fixture.events(EventType::ConversationReplyReceived).await;
    assert_eq!(events[0]["reply"]["intent"], "opt_out");

    // What another campaign has ready does not go out.
    let other = fixture.enrolment(elsewhere.id, "a@x.example").await;
    let message = fixture.approved(other.id, 0).await;
    assert_eq!(fixture.mark(message.id).await, engine::sending::Marked::No);
}

#[tokio::test]
async fn a_later_request_to_stop_counts_after_a_reply() {
    let fixture = Fixture::new().await;
    let (campaign_id, .., rfc_id) = written_to(&fixture).await;
    fixture.receive(&answer("a@x.example", "r1@x.example", Some(&rfc_id), "who are you?")).await;
    fixture.receive(&answer("a@x.example", "r2@x.example", Some(&rfc_id), "Stop.")).await;
    let enrolment = fixture.enrolment(campaign_id, "a@x.example").await;
    assert_eq!(enrolment.stop_reason, Some(StopReason::OptedOut));
}

#[tokio::test]
async fn a_machines_note_is_shown_and_stops_nothing() {
    let fixture = Fixture::new().await;
    let (campaign_id, _, first, rfc_id) = written_to(&fixture).await;
    let raw = format!(
        "From: a@x.example\r\nMessage-ID: <n1@x.example>\r\nIn-Reply-To: {rfc_id}\r\nAuto-Submitted: auto-replied\r\n\
         Subject: Out of office\r\n\r\nI am away. To unsubscribe from this note, call me.\r\n"
    );
    let outcome = fixture.receive(&raw).await;
    let InboundOutcome::AutoReply { message_id: Some(id) } = outcome else { panic!("{outcome:?}") };
    assert_eq!(fixture.message(id).await.intent, Some(Intent::OutOfOffice));
    let enrolment = fixture.enrolment(campaign_id, "a@x.example").await;
    assert_eq!((enrolment.status, enrolment.replied_order), (EnrolmentStatus::Active, None));
    assert_eq!(fixture.message(first).await.status, MessageStatus::Sent);
    assert_eq!(fixture.events(EventType::ConversationReplyReceived).await.len(), 0);
    assert_eq!(fixture.contact("a@x.example").await.status, ContactStatus::Active);
    assert!(fixture.jobs("draft").await.iter().any(|job| job.payload["step"] == 1));
}

#[tokio::test]
async fn a_hard_bounce_is_taken_for_the_message_it_returns() {
    let fixture = Fixture::new().await;
    let (campaign_id, _, first, rfc_id) = written_to(&fixture).await;
    let raw = report("a@x.example", "d1@x.example", &rfc_id, "failed", "5.1.1");
    assert_eq!(fixture.receive(&raw).await, InboundOutcome::Bounce { message_id: first });
    assert_eq!(fixture.receive(&raw).await, InboundOutcome::Duplicate);
    let message = fixture.message(first).await;
    assert_eq!((message.status, message.error.as_deref()), (MessageStatus::Bounced, Some("5.1.1")));
    assert_eq!(fixture.events(EventType::MessageBounced).await, [message.public()]);
    let enrolment = fixture.enrolment(campaign_id, "a@x.example").await;
    assert_eq!(enrolment.stop_reason, Some(StopReason::Bounced));
    assert_eq!(fixture.contact("a@x.example").await.status, ContactStatus::Bounced);
    assert_eq!(fixture.progress(campaign_id).await.bounced, 1);
    let resource = Resource { kind: ResourceType::Message, id: first };
    assert_eq!(fixture.told().await, [(NotificationType::MessageBounced, resource)]);
}

#[tokio::test]
async fn a_bounce_of_a_former_address_says_nothing_of_the_new_one() {
    let fixture = Fixture::new().await;
    let (.., first, rfc_id) = written_to(&fixture).await;
    let contact = fixture.contact("a@x.example").await;
    let change = async |body: serde_json::Value| {
        let mut tx = fixture.tx().await;
        let patch = serde_json::from_value(body).unwrap();
        engine::contacts::update(&mut tx, fixture.account_id, contact.id, &patch).await.unwrap();
        tx.commit().await.unwrap();
    };
    change(json!({"email": "mid@x.example", "instagram_handle": "old_bell"})).await;
    change(json!({"email": "new@x.example"})).await;
    let raw = report("a@x.example", "d1@x.example", &rfc_id, "failed", "5.1.1");
    assert_eq!(fixture.receive(&raw).await, InboundOutcome::Bounce { message_id: first });
    assert_eq!(fixture.contact("new@x.example").await.status, ContactStatus::Active);
    let suppressed = async || {
        let mut conn = fixture.conn().await;
        let filter = SuppressionFilter::default();
        let listed =
            db::suppressions::list(&mut conn, fixture.account_id, filter, Page::first(9)).await.unwrap();
        listed.rows.into_iter().map(|row| row.value).collect::<Vec<_>>()
    };
    assert_eq!(suppressed().await, ["a@x.example"]);

    // Who answers from where the message went is known; nothing was ever written to the other one.
    let raw = answer("a@x.example", "s1@x.example", None, "who is this?");
    assert!(matches!(fixture.receive(&raw).await, InboundOutcome::Reply { .. }));
    let raw = answer("mid@x.example", "s2@x.example", None, "who is this?");
    assert_eq!(fixture.receive(&raw).await, InboundOutcome::Unmatched);

    // The erasure reaches what it was known by before, but for what is another contact's by now.
    change(json!({"instagram_handle": "new_bell"})).await;
    let mut tx = fixture.tx().await;
    let other = NewContact { instagram_handle: Some("old_bell".into()), ..NewContact::default() };
    engine::contacts::upsert_many(&mut tx, fixture.account_id, &[other], None).await.unwrap();
    engine::erasure::erase_many(&mut tx, fixture.account_id, &[contact.id]).await.unwrap();
    tx.commit().await.unwrap();
    let hashed = suppressed().await;
    // Three addresses and one handle.
    assert_eq!(
        (hashed.len(), hashed.iter().all(|value| value.starts_with("sha256:"))),
        (4, true),
        "{hashed:?}"
    );
    let mut conn = fixture.conn().await;
    let unmatched = db::inbound_emails::count_unmatched(&mut conn, fixture.account_id).await.unwrap();
    assert_eq!(unmatched, 0);
}

#[tokio::test]
async fn who_asks_to_stop_from_a_former_address_is_not_written_to_there_either() {
    let fixture = Fixture::new().await;
    let (.., rfc_id) = written_to(&fixture).await;
    let contact = fixture.contact("a@x.example").await;
    let mut tx = fixture.tx().await;
    let patch = serde_json::from_value(json!({"email": "new@x.example"})).unwrap();
    engine::contacts::update(&mut tx, fixture.account_id, contact.id, &patch).await.unwrap();
    tx.commit().await.unwrap();
    let raw = answer("a@x.example", "r1@x.example", Some(&rfc_id), "Please unsubscribe me");
    assert!(matches!(fixture.receive(&raw).await, InboundOutcome::Reply { .. }));
    assert_eq!(fixture.contact("new@x.example").await.status, ContactStatus::Unsubscribed);
    let mut conn = fixture.conn().await;
    let emails = ["a@x.example".to_owned(), "b@x.example".to_owned(), "new@x.example".to_owned()];
    let suppressed = db::contacts::suppressed_emails(&mut conn, fixture.account_id, &emails).await.unwrap();
    assert_eq!(suppressed, ["a@x.example", "new@x.example"]);
}

#[tokio::test]
async fn other_reports_say_less() {
    let fixture = Fixture::new().await;
    let (campaign_id, _, first, rfc_id) = written_to(&fixture).await;
    let delayed = report("a@x.example", "d1@x.example", &rfc_id, "delayed", "4.4.1");
    assert_eq!(fixture.receive(&delayed).await, InboundOutcome::AutoReply { message_id: None });
    let unknown = report("a@x.example", "d2@x.example", "<other@iris.test>", "failed", "5.1.1");
    assert_eq!(
        fixture.receive(&unknown).await,
        InboundOutcome::Unmatched,
        "another's Message-ID proves nothing"
    );
    assert_eq!(fixture.message(first).await.status, MessageStatus::Sent);
    let delivered = report("a@x.example", "d3@x.example", &rfc_id, "delivered", "2.1.5");
    assert_eq!(fixture.receive(&delivered).await, InboundOutcome::Delivered { message_id: first });
    let message = fixture.message(first).await;
    assert_eq!(message.status, MessageStatus::Delivered);
    assert_eq!(fixture.events(EventType::MessageDelivered).await, [message.public()]);
    // A full mailbox stops the passage, but the address may be written to again.
    let full = report("a@x.example", "d4@x.example", &rfc_id, "failed", "5.2.2");
    assert_eq!(fixture.receive(&full).await, InboundOutcome::Bounce { message_id: first });
    assert_eq!(fixture.contact("a@x.example").await.status, ContactStatus::Active);
    assert_eq!(fixture.enrolment(campaign_id, "a@x.example").await.status, EnrolmentStatus::Stopped);
    let progress = fixture.progress(campaign_id).await;
    assert_eq!((progress.delivered, progress.bounced), (1, 1), "what arrived did arrive");
}

#[tokio::test]
async fn what_was_delivered_and_opened_stays_counted_when_it_is_answered() {
    let fixture = Fixture::new().await;
    let (campaign_id, _, first, rfc_id) = written_to(&fixture).await;
    fixture.receive(&report("a@x.example", "d1@x.example", &rfc_id, "delivered", "2.1.5")).await;
    let mut tx = fixture.tx().await;
    db::messages::record_arrived(&mut tx, fixture.account_id, first, MessageStatus::Opened).await.unwrap();
    tx.commit().await.unwrap();
    let before = fixture.progress(campaign_id).await;
    fixture.receive(&answer("a@x.example", "r1@x.example", Some(&rfc_id), "yes")).await;
    assert_eq!(fixture.message(first).await.status, MessageStatus::Replied);
    let after = fixture.progress(campaign_id).await;
    assert_eq!((before.delivered, before.opened, before.replied), (1, 1, 0));
    assert_eq!((after.delivered, after.opened, after.replied), (1, 1, 1));
}

#[tokio::test]
async fn an_answer_resolves_a_message_of_which_nobody_knew() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["a@x.example"]).await;
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    let message = fixture.approved(enrolment.id, 0).await;
    fixture.mark(message.id).await;
    let mut tx = fixture.tx().await;
    engine::sending::record_unknown(&mut tx, &fixture.clock, fixture.account_id, message.id, "lost")
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let raw = answer("a@x.example", "r1@x.example", message.rfc_message_id.as_deref(), "got it");
    fixture.receive(&raw).await;
    let resolved = fixture.message(message.id).await;
    assert_eq!(resolved.status, MessageStatus::Replied);
    assert!(resolved.sent_at.is_some());
    assert_eq!(fixture.events(EventType::MessageSent).await, [resolved.public()]);
    assert_eq!(fixture.progress(active.id).await.unknown, 0);
}
