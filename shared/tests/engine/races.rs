//! What two connections do to each other: promise 6, a reply wins.

use std::time::Duration;

use shared::{
    Tx,
    domain::{
        campaign::{CampaignPatch, CampaignStatus},
        enrolment::EnrolmentStatus,
        message::{Message, MessageStatus},
    },
    engine::{self, inbound::InboundOutcome, sending::Marked},
    events::EventType,
};
use uuid::Uuid;

use crate::fixture::{Fixture, answer, campaign, contact, report};

/// A campaign whose contact got step 0 and has step 1 approved: the follow-up, and the Message-ID of the first.
async fn before_the_follow_up(fixture: &Fixture) -> (Uuid, Uuid, String) {
    let active = fixture.active_campaign(&campaign(), &["a@x.example"]).await;
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    let first = fixture.sent(enrolment.id, 0).await;
    let follow_up = fixture.approved(enrolment.id, 1).await;
    (active.id, follow_up.id, first.rfc_message_id.unwrap())
}

async fn store(tx: &mut Tx, fixture: &Fixture, raw: &str) -> InboundOutcome {
    let email = engine::mail::read_email(raw.as_bytes()).unwrap();
    engine::inbound::record_email(tx, &fixture.mailbox, &email, raw.as_bytes()).await.unwrap()
}

/// Returns once `count` connections of this database wait for a lock.
async fn until_waiting(fixture: &Fixture, count: i64) {
    let waiting = async {
        loop {
            let waiting: i64 = sqlx::query_scalar(
                "select count(*) from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock'",
            )
            .fetch_one(fixture.database.pool())
            .await
            .expect("PostgreSQL answers");
            if waiting >= count {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    // Less than the lock timeout of the connections, so that what is said is that nobody waits.
    tokio::time::timeout(Duration::from_secs(9), waiting).await.expect("a connection waits for a lock");
}

#[tokio::test]
async fn no_message_is_marked_after_a_stored_reply() {
    let fixture = Fixture::new().await;
    let (_, follow_up, rfc_id) = before_the_follow_up(&fixture).await;
    let mut reply = fixture.tx().await;
    let raw = answer("a@x.example", "r1@x.example", Some(&rfc_id), "hello");
    store(&mut reply, &fixture, &raw).await;

    // The mark waits for the transaction that stores the reply, and then finds it.
    let mark = fixture.mark(follow_up);
    let commit = async {
        until_waiting(&fixture, 1).await;
        reply.commit().await.unwrap();
    };
    let (marked, ()) = tokio::join!(mark, commit);
    assert_eq!(marked, Marked::No);
    assert_eq!(fixture.message(follow_up).await.status, MessageStatus::Cancelled);
}

#[tokio::test]
async fn no_message_is_marked_after_a_pause() {
    let fixture = Fixture::new().await;
    let (campaign_id, follow_up, _) = before_the_follow_up(&fixture).await;
    let mut pause = fixture.tx().await;
    let paused = CampaignPatch::status(CampaignStatus::Paused);
    engine::campaigns::update(&mut pause, fixture.account_id, campaign_id, &paused).await.unwrap();

    // The mark waits for the pause, in a statement that began when the campaign was active.
    let mark = fixture.mark(follow_up);
    let commit = async {
        until_waiting(&fixture, 1).await;
        pause.commit().await.unwrap();
    };
    let (marked, ()) = tokio::join!(mark, commit);
    assert_eq!(marked, Marked::No);
    assert!(fixture.message(follow_up).await.status.is_approved());
    fixture.set_status(campaign_id, CampaignStatus::Active).await;
    assert!(matches!(fixture.mark(follow_up).await, Marked::Yes { .. }));
}

#[tokio::test]
async fn a_pause_and_a_stop_do_not_wait_for_each_other_in_a_circle() {
    let fixture = Fixture::new().await;
    let (campaign_id, follow_up, _) = before_the_follow_up(&fixture).await;
    let grp = fixture.jobs("send").await.pop().unwrap().group.unwrap();
    // A stop has locked its message; the pause waits for it, and must not have what the stop takes next.
    let mut stop = fixture.tx().await;
    shared::db::messages::lock_many(&mut stop, fixture.account_id, &[follow_up]).await.unwrap();
    let pause = fixture.set_status(campaign_id, CampaignStatus::Paused);
    let cancel = async {
        until_waiting(&fixture, 1).await;
        let (removed, wake) = queue::groups::cancel(&mut stop, &grp).await.unwrap();
        stop.wake(wake);
        stop.commit().await.unwrap();
        removed
    };
    let (paused, removed) = tokio::join!(pause, cancel);
    assert_eq!(paused.status, CampaignStatus::Paused);
    assert!(removed > 0);
}

#[tokio::test]
async fn a_message_marked_before_the_reply_arrives_after_it_and_is_shown_as_crossed() {
    let fixture = Fixture::new().await;
    let (campaign_id, follow_up, rfc_id) = before_the_follow_up(&fixture).await;
    let mut mark = fixture.tx().await;
    let marked = engine::sending::mark_sending(
        &mut mark,
        &fixture.clock,
        fixture.account_id,
        follow_up,
        "a@x.example",
    );
    let marked = marked.await.unwrap();
    assert_eq!(marked, Marked::Yes { order: Some(2) });

    let raw = answer("a@x.example", "r1@x.example", Some(&rfc_id), "hello");
    let reply = fixture.receive(&raw);
    let commit = async {
        until_waiting(&fixture, 1).await;
        mark.commit().await.unwrap();
    };
    let (outcome, ()) = tokio::join!(reply, commit);
    assert!(matches!(outcome, InboundOutcome::Reply { .. }));
    assert_eq!(fixture.message(follow_up).await.status, MessageStatus::Sending, "it is on the way");

    let sent = fixture.record_sent(follow_up).await;
    assert_eq!((sent.status, sent.crossed), (MessageStatus::Sent, true));
    let events = fixture.events(EventType::MessageSent).await;
    assert_eq!(events.last().unwrap()["crossed"], true);
    let enrolment = fixture.enrolment(campaign_id, "a@x.example").await;
    assert_eq!(enrolment.status, EnrolmentStatus::Stopped);
    assert_eq!(fixture.jobs("draft").await, [], "nothing is planned after a reply");
}

#[tokio::test]
async fn an_answer_faster_than_the_final_answer_of_the_server_is_no_crossing() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["a@x.example"]).await;
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    let message = fixture.approved(enrolment.id, 0).await;
    fixture.mark(message.id).await;
    let raw = answer("a@x.example", "r1@x.example", message.rfc_message_id.as_deref(), "that was quick");
    fixture.receive(&raw).await;
    assert_eq!(fixture.message(message.id).await.status, MessageStatus::Sending);
    let sent = fixture.record_sent(message.id).await;
    assert_eq!((sent.status, sent.crossed), (MessageStatus::Replied, false));
}

/// What a run records that finds the mark of a process that died.
async fn record_unknown(fixture: &Fixture, message_id: Uuid) -> Message {
    let mut tx = fixture.tx().await;
    let (clock, account_id) = (&fixture.clock, fixture.account_id);
    let message =
        engine::sending::record_unknown(&mut tx, clock, account_id, message_id, "died").await.unwrap();
    tx.commit().await.unwrap();
    message
}

#[tokio::test]
async fn an_answer_stored_while_the_sender_dies_says_that_the_message_arrived() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["a@x.example"]).await;
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    let message = fixture.approved(enrolment.id, 0).await;
    fixture.mark(message.id).await;
    let raw = answer("a@x.example", "r1@x.example", message.rfc_message_id.as_deref(), "that was quick");
    fixture.receive(&raw).await;

    let known = record_unknown(&fixture, message.id).await;
    assert_eq!((known.status, known.crossed, known.error.as_deref()), (MessageStatus::Replied, false, None));
    assert_eq!(known.sent_at, known.sending_at);
    assert_eq!(fixture.events(EventType::MessageSent).await, [known.public()]);
    assert_eq!(record_unknown(&fixture, message.id).await, known, "twice is once");
    assert_eq!(fixture.events(EventType::MessageSent).await.len(), 1);
    assert_eq!(fixture.enrolment(active.id, "a@x.example").await.last_sent_step, Some(0));
}

#[tokio::test]
async fn an_arrival_noted_while_the_message_is_on_the_way_is_not_forgotten() {
    let fixture = Fixture::new().await;
    let emails = ["a@x.example", "b@x.example"];
    let active = fixture.active_campaign(&campaign(), &emails).await;
    let mut known = Vec::new();
    for (email, dies) in emails.into_iter().zip([true, false]) {
        let enrolment = fixture.enrolment(active.id, email).await;
        let message = fixture.approved(enrolment.id, 0).await;
        fixture.mark(message.id).await;
        let original = message.rfc_message_id.unwrap();
        fixture.receive(&report(email, &format!("dsn-{email}"), &original, "delivered", "2.0.0")).await;
        assert_eq!(fixture.message(message.id).await.status, MessageStatus::Sending);
        known.push(if dies {
            record_unknown(&fixture, message.id).await
        } else {
            fixture.record_sent(message.id).await
        });
    }
    assert!(
        known.iter().all(|message| message.status == MessageStatus::Delivered && message.sent_at.is_some())
    );
    let public: Vec<_> = known.iter().map(Message::public).collect();
    assert_eq!(fixture.events(EventType::MessageSent).await, public);
    assert_eq!(fixture.events(EventType::MessageDelivered).await, public);
    assert_eq!(fixture.jobs("draft").await.len(), 4, "two first drafts and two follow-ups");
    assert_eq!(fixture.progress(active.id).await.delivered, 2);
}

#[tokio::test]
async fn the_same_mail_handed_in_twice_at_once_is_stored_once() {
    let fixture = Fixture::new().await;
    let (.., rfc_id) = before_the_follow_up(&fixture).await;
    let raw = answer("a@x.example", "r1@x.example", Some(&rfc_id), "hello");
    let mut first = fixture.tx().await;
    let outcome = store(&mut first, &fixture, &raw).await;
    assert!(matches!(outcome, InboundOutcome::Reply { .. }));
    let second = fixture.receive(&raw);
    let commit = async {
        until_waiting(&fixture, 1).await;
        first.commit().await.unwrap();
    };
    let (outcome, ()) = tokio::join!(second, commit);
    assert_eq!(outcome, InboundOutcome::Duplicate);
    assert_eq!(fixture.events(EventType::ConversationReplyReceived).await.len(), 1);
}

#[tokio::test]
async fn two_imports_of_the_same_new_contacts_make_each_once() {
    let fixture = Fixture::new().await;
    let rows: Vec<_> = (0..50).map(|n| contact(&format!("p{n}@x.example"))).collect();
    let reversed: Vec<_> = rows.iter().rev().cloned().collect();
    let mut first = fixture.tx().await;
    let one = engine::contacts::upsert_many(&mut first, fixture.account_id, &rows, None).await.unwrap();
    let other = async {
        let mut tx = fixture.tx().await;
        let other =
            engine::contacts::upsert_many(&mut tx, fixture.account_id, &reversed, None).await.unwrap();
        tx.commit().await.unwrap();
        other
    };
    let commit = async {
        until_waiting(&fixture, 1).await;
        first.commit().await.unwrap();
    };
    let (other, ()) = tokio::join!(other, commit);
    assert!(one.iter().all(|row| row.created) && other.iter().all(|row| !row.created));
    assert!(one.iter().zip(other.iter().rev()).all(|(a, b)| a.contact == b.contact));
    assert_eq!(fixture.events(EventType::ContactCreated).await.len(), 50);
}

#[tokio::test]
async fn a_contact_being_added_keeps_its_campaign_from_completing() {
    let fixture = Fixture::new().await;
    let new = shared::domain::campaign::NewCampaign { followup_days: vec![], ..campaign() };
    let active = fixture.active_campaign(&new, &["a@x.example"]).await;
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    fixture.sent(enrolment.id, 0).await;
    let mut import = fixture.tx().await;
    let rows = [contact("b@x.example")];
    engine::contacts::upsert_many(&mut import, fixture.account_id, &rows, Some(active.id)).await.unwrap();
    let sweep = async || {
        let mut tx = fixture.tx().await;
        let completed = engine::campaigns::complete_finished(&mut tx, 10).await.unwrap();
        tx.commit().await.unwrap();
        completed
    };
    assert_eq!(sweep().await, 0, "the import holds the campaign");
    import.commit().await.unwrap();
    assert_eq!(sweep().await, 0, "the contact is on the way");
}

#[tokio::test]
async fn two_marks_do_not_take_the_last_place_under_a_cap() {
    let fixture = Fixture::new().await;
    let new = shared::domain::campaign::NewCampaign { daily_cap: Some(1), ..campaign() };
    let active = fixture.active_campaign(&new, &["a@x.example", "b@x.example"]).await;
    let a = fixture.enrolment(active.id, "a@x.example").await;
    let b = fixture.enrolment(active.id, "b@x.example").await;
    let a = fixture.approved(a.id, 0).await;
    let b = fixture.approved(b.id, 0).await;
    let clock = shared::Clock::system(std::time::Duration::from_secs(3600));
    let mut first = fixture.tx().await;
    let marked = engine::sending::mark_sending(&mut first, &clock, fixture.account_id, a.id, "a@x.example");
    let marked = marked.await.unwrap();
    assert!(matches!(marked, Marked::Yes { .. }));
    let second = async {
        let mut tx = fixture.tx().await;
        engine::sending::mark_sending(&mut tx, &clock, fixture.account_id, b.id, "b@x.example").await.unwrap()
    };
    let commit = async {
        until_waiting(&fixture, 1).await;
        first.commit().await.unwrap();
    };
    let (marked, ()) = tokio::join!(second, commit);
    assert_eq!(marked, Marked::No);
}
