use std::time::Duration;

use serde_json::json;
use shared::{
    Clock,
    domain::{
        Channel,
        campaign::{CampaignPatch, NewCampaign},
        contact::ContactStatus,
        enrolment::{EnrolmentStatus, StopReason},
        message::{BlockedReason, Message, MessageStatus},
        send_window::SendWindow,
    },
    engine::{
        self,
        messages::DirectSend,
        sending::{Marked, Outgoing, Prepared},
    },
    events::EventType,
};
use uuid::Uuid;

use crate::fixture::{DAY, Fixture, answer, campaign};

async fn prepare(fixture: &Fixture, message_id: Uuid) -> Prepared {
    let mut conn = fixture.database.pool().acquire().await.unwrap();
    engine::sending::prepare(&mut conn, &fixture.clock, fixture.account_id, message_id).await.unwrap()
}

async fn ready(fixture: &Fixture, message_id: Uuid) -> Box<Outgoing> {
    match prepare(fixture, message_id).await {
        Prepared::Ready(outgoing) => outgoing,
        other => panic!("{other:?}"),
    }
}

async fn blocked(fixture: &Fixture, message_id: Uuid) -> (BlockedReason, Option<Duration>) {
    let mut tx = fixture.tx().await;
    let account_id = fixture.account_id;
    let waits = match prepare(fixture, message_id).await {
        Prepared::Blocked { reason, after } => {
            engine::sending::record_blocked(&mut tx, account_id, message_id, reason, after).await.unwrap();
            (reason, after)
        }
        Prepared::Homeless => {
            let after = engine::sending::bind_mailbox(&mut tx, account_id, message_id).await.unwrap();
            (BlockedReason::NoAccount, Some(after.expect("there is no mailbox")))
        }
        other => panic!("{other:?}"),
    };
    tx.commit().await.unwrap();
    waits
}

/// A direct send into the conversation of a message.
async fn directly(fixture: &Fixture, earlier: &Message) -> Message {
    let direct = DirectSend {
        channel: Channel::Email,
        conversation_id: earlier.conversation_id,
        recipient_id: earlier.contact_id,
        subject: None,
        content: "One more thing".into(),
        variables: json!({}),
    };
    let mut tx = fixture.tx().await;
    let message = engine::messages::send_direct(&mut tx, fixture.account_id, &direct).await.unwrap();
    tx.commit().await.unwrap();
    message
}

/// Gives a message that has no usable mailbox one.
async fn bind(fixture: &Fixture, message_id: Uuid) {
    assert!(matches!(prepare(fixture, message_id).await, Prepared::Homeless));
    let mut tx = fixture.tx().await;
    let after = engine::sending::bind_mailbox(&mut tx, fixture.account_id, message_id).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(after, None, "there is a mailbox");
}

/// A campaign with one contact and its approved first message.
async fn first_message(fixture: &Fixture, new: &NewCampaign) -> (Uuid, Uuid, Uuid) {
    let active = fixture.active_campaign(new, &["a@x.example"]).await;
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    let message = fixture.approved(enrolment.id, 0).await;
    (active.id, enrolment.id, message.id)
}

#[tokio::test]
async fn what_leaves_carries_its_thread() {
    let fixture = Fixture::new().await;
    let mut new = campaign();
    new.sender.name = Some("Alex the DJ".into());
    let (campaign_id, enrolment_id, first) = first_message(&fixture, &new).await;
    let outgoing = ready(&fixture, first).await;
    assert_eq!((outgoing.to.as_str(), outgoing.to_name.as_deref()), ("a@x.example", Some("Alex")));
    assert_eq!(outgoing.mailbox.id, fixture.mailbox.id);
    assert_eq!(outgoing.sender.name.as_deref(), Some("Alex the DJ"));
    assert_eq!((outgoing.campaign_id, outgoing.step), (campaign_id, Some(0)));
    assert_eq!((outgoing.in_reply_to, outgoing.references), (None, vec![]));
    let first_id = outgoing.rfc_message_id;
    fixture.mark(first).await;
    fixture.record_sent(first).await;
    // A machine's note is no part of the thread of a follow-up.
    let note =
        "From: a@x.example\r\nMessage-ID: <n1@x.example>\r\nAuto-Submitted: auto-replied\r\n\r\nAway.\r\n";
    fixture.receive(note).await;
    let second = fixture.sent(enrolment_id, 1).await;
    let third = fixture.approved(enrolment_id, 2).await;
    let outgoing = ready(&fixture, third.id).await;
    let second_id = second.rfc_message_id.unwrap();
    assert_eq!(outgoing.in_reply_to.as_ref(), Some(&second_id));
    assert_eq!(outgoing.references, [first_id, second_id]);
}

#[tokio::test]
async fn a_message_sent_counts_and_plans_the_next_step() {
    let fixture = Fixture::new().await;
    let (campaign_id, enrolment_id, message_id) = first_message(&fixture, &campaign()).await;
    fixture.clear_jobs().await;
    assert_eq!(fixture.mark(message_id).await, Marked::Yes { order: Some(1) });
    assert_eq!(fixture.message(message_id).await.status, MessageStatus::Sending);
    assert!(matches!(prepare(&fixture, message_id).await, Prepared::WasSending));
    assert_eq!(fixture.mark(message_id).await, Marked::No, "it is marked already");
    let sent = fixture.record_sent(message_id).await;
    assert_eq!((sent.status, sent.crossed), (MessageStatus::Sent, false));
    assert_eq!(fixture.record_sent(message_id).await, sent, "twice is once");
    assert!(matches!(prepare(&fixture, message_id).await, Prepared::Finished));
    assert_eq!(fixture.events(EventType::MessageSent).await, [sent.public()]);
    let enrolment = fixture.enrolment(campaign_id, "a@x.example").await;
    assert_eq!((enrolment.started_at, enrolment.last_sent_step), (sent.sent_at, Some(0)));
    let jobs = fixture.jobs("draft").await;
    assert_eq!(jobs.len(), 1);
    assert_eq!(
        jobs[0].payload,
        json!({"account_id": fixture.account_id, "enrolment_id": enrolment_id, "step": 1})
    );
    assert!(jobs[0].in_seconds > 1.0 && jobs[0].in_seconds <= 2.0, "{jobs:?}");
    let progress = fixture.progress(campaign_id).await;
    assert_eq!((progress.drafted, progress.sent, progress.followups), (1, 1, 0));
}

#[tokio::test]
async fn a_message_of_which_nobody_knows_counts_as_sent_and_may_be_resolved() {
    let fixture = Fixture::new().await;
    let (campaign_id, _, message_id) = first_message(&fixture, &campaign()).await;
    fixture.clear_jobs().await;
    fixture.mark(message_id).await;
    let mut tx = fixture.tx().await;
    let unknown = engine::sending::record_unknown(
        &mut tx,
        &fixture.clock,
        fixture.account_id,
        message_id,
        "the connection was lost",
    )
    .await
    .unwrap();
    tx.commit().await.unwrap();
    assert_eq!((unknown.status, unknown.sent_at), (MessageStatus::Unknown, None));
    assert_eq!(fixture.events(EventType::MessageSent).await.len(), 0);
    assert_eq!(fixture.jobs("draft").await.len(), 1, "the sequence goes on");
    assert_eq!(fixture.progress(campaign_id).await.unknown, 1);
    assert!(matches!(prepare(&fixture, message_id).await, Prepared::Finished), "never by itself again");

    // The final answer comes after all.
    let sent = fixture.record_sent(message_id).await;
    assert_eq!(sent.status, MessageStatus::Sent);
    assert_eq!(fixture.jobs("draft").await.len(), 1, "planned once");
    assert_eq!(fixture.events(EventType::MessageSent).await.len(), 1);
}

#[tokio::test]
async fn a_bounce_suppresses_the_address_and_stops_the_passage() {
    let fixture = Fixture::new().await;
    let (campaign_id, _, message_id) = first_message(&fixture, &campaign()).await;
    let bounce = async || {
        let mut tx = fixture.tx().await;
        let bounced = engine::sending::record_bounced(
            &mut tx,
            fixture.account_id,
            message_id,
            "a@x.example",
            "550 5.1.1 no such user",
        )
        .await
        .unwrap();
        tx.commit().await.unwrap();
        bounced
    };
    let bounced = bounce().await;
    assert_eq!(bounced.status, MessageStatus::Bounced);
    assert_eq!(bounced.error.as_deref(), Some("550 5.1.1 no such user"));
    assert_eq!(bounce().await, bounced, "twice is once");
    assert_eq!(fixture.events(EventType::MessageBounced).await, [bounced.public()]);
    let enrolment = fixture.enrolment(campaign_id, "a@x.example").await;
    assert_eq!(enrolment.stop_reason, Some(StopReason::Bounced));
    assert_eq!(fixture.contact("a@x.example").await.status, ContactStatus::Bounced);
    let updated = fixture.events(EventType::ContactUpdated).await;
    assert_eq!(updated.len(), 1);
    assert_eq!(updated[0]["previous"], json!({"status": "active"}));
    assert_eq!(fixture.jobs("draft").await, []);
    assert_eq!(fixture.jobs("send").await, [], "its group is cancelled");

    // The next campaign does not even list the address.
    let next = fixture.draft_campaign(&campaign(), &["a@x.example"]).await;
    assert_eq!(fixture.progress(next.id).await.discovered, 0);
}

#[tokio::test]
async fn a_refusal_that_says_nothing_of_the_address_fails_the_passage() {
    let fixture = Fixture::new().await;
    let (campaign_id, _, message_id) = first_message(&fixture, &campaign()).await;
    fixture.mark(message_id).await;
    let mut tx = fixture.tx().await;
    let failed = engine::sending::record_failed(&mut tx, fixture.account_id, message_id, "554 5.7.1 refused")
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(failed.status, MessageStatus::Failed);
    let enrolment = fixture.enrolment(campaign_id, "a@x.example").await;
    assert_eq!(enrolment.stop_reason, Some(StopReason::Failed));
    assert_eq!(fixture.contact("a@x.example").await.status, ContactStatus::Active);
}

#[tokio::test]
async fn a_final_refusal_for_now_takes_the_mark_back() {
    let fixture = Fixture::new().await;
    let (campaign_id, _, message_id) = first_message(&fixture, &campaign()).await;
    let put_back = async || {
        fixture.mark(message_id).await;
        let mut tx = fixture.tx().await;
        let message = engine::sending::record_put_back(&mut tx, fixture.account_id, message_id, "451 later")
            .await
            .unwrap();
        tx.commit().await.unwrap();
        message
    };
    let message = put_back().await;
    assert_eq!((message.status, message.sending_at), (MessageStatus::Approved, None));
    assert_eq!(message.error.as_deref(), Some("451 later"));
    assert!(matches!(prepare(&fixture, message_id).await, Prepared::Ready(_)));
    assert_eq!(fixture.mark(message_id).await, Marked::Yes { order: Some(2) });

    // A reply that came while the body was on the way: nothing was accepted, so nothing is sent.
    fixture.receive(&answer("a@x.example", "r1@x.example", None, "hello")).await;
    let mut tx = fixture.tx().await;
    let message =
        engine::sending::record_put_back(&mut tx, fixture.account_id, message_id, "451 later").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(message.status, MessageStatus::Cancelled);
    let enrolment = fixture.enrolment(campaign_id, "a@x.example").await;
    assert_eq!(enrolment.status, EnrolmentStatus::Stopped);
}

#[tokio::test]
async fn a_suppressed_contact_gets_nothing() {
    let fixture = Fixture::new().await;
    let (campaign_id, _, message_id) = first_message(&fixture, &campaign()).await;
    sqlx::query(
        "insert into suppressions (account_id, id, kind, value, reason)
         values ($1, gen_random_uuid(), 'domain', 'x.example', 'manual')",
    )
    .bind(fixture.account_id)
    .execute(fixture.database.pool())
    .await
    .unwrap();
    assert_eq!(fixture.mark(message_id).await, Marked::No, "also between prepare and mark");
    assert_eq!(blocked(&fixture, message_id).await, (BlockedReason::Suppressed, None));
    let message = fixture.message(message_id).await;
    assert_eq!(message.status, MessageStatus::Cancelled);
    assert_eq!(message.blocked_reason, Some(BlockedReason::Suppressed));
    let enrolment = fixture.enrolment(campaign_id, "a@x.example").await;
    assert_eq!(enrolment.stop_reason, Some(StopReason::Suppressed));
}

#[tokio::test]
async fn outside_the_window_a_message_waits_until_it_opens() {
    // A Saturday noon; the window is on weekdays from nine to five, UTC.
    let mut fixture = Fixture::new().await;
    let window = SendWindow {
        timezone: "UTC".into(),
        days: ["mon", "tue", "wed", "thu", "fri"].map(Into::into).to_vec(),
        from: "09:00".into(),
        to: "17:00".into(),
    };
    let new = NewCampaign { send_window: Some(window), ..campaign() };
    let (.., message_id) = first_message(&fixture, &new).await;
    fixture.clock = Clock::fixed("2026-01-17T12:00:00Z".parse().unwrap(), DAY);
    let (reason, after) = blocked(&fixture, message_id).await;
    assert_eq!((reason, after), (BlockedReason::OutsideWindow, Some(Duration::from_secs(45 * 3600))));
    let message = fixture.message(message_id).await;
    assert_eq!(message.status, MessageStatus::Approved);
    assert_eq!(message.blocked_reason, Some(BlockedReason::OutsideWindow));
    let wait = message.next_attempt_at.unwrap() - message.updated_at;
    assert_eq!(wait.num_hours(), 45);
    fixture.clock = Clock::fixed("2026-01-19T09:00:00Z".parse().unwrap(), DAY);
    assert!(matches!(prepare(&fixture, message_id).await, Prepared::Ready(_)));
}

#[tokio::test]
async fn a_daily_cap_holds_over_messages_sent_and_unknown() {
    let mut fixture = Fixture::new().await;
    fixture.clock = Clock::system(Duration::from_secs(3600));
    let new = NewCampaign { daily_cap: Some(2), ..campaign() };
    let emails = ["a@x.example", "b@x.example", "c@x.example"];
    let active = fixture.active_campaign(&new, &emails).await;
    let mut ids = Vec::new();
    for email in emails {
        let enrolment = fixture.enrolment(active.id, email).await;
        ids.push(fixture.approved(enrolment.id, 0).await.id);
    }
    fixture.mark(ids[0]).await;
    fixture.record_sent(ids[0]).await;
    fixture.mark(ids[1]).await;
    assert_eq!(fixture.mark(ids[2]).await, Marked::No, "two are on the way or sent");
    let (reason, after) = blocked(&fixture, ids[2]).await;
    assert_eq!(reason, BlockedReason::DailyCap);
    let after = after.unwrap();
    assert!(after <= Duration::from_secs(3600) && after > Duration::from_secs(3000), "{after:?}");
    // A put-back message makes room again.
    let mut tx = fixture.tx().await;
    engine::sending::record_put_back(&mut tx, fixture.account_id, ids[1], "451").await.unwrap();
    tx.commit().await.unwrap();
    assert!(matches!(fixture.mark(ids[2]).await, Marked::Yes { .. }));
    sqlx::query(
        "update messages set sending_at = sending_at - interval '2 hours' where sending_at is not null",
    )
    .execute(fixture.database.pool())
    .await
    .unwrap();
    assert!(matches!(prepare(&fixture, ids[1]).await, Prepared::Ready(_)), "a day later");
}

#[tokio::test]
async fn what_waits_under_a_daily_cap_takes_turns() {
    let mut fixture = Fixture::new().await;
    fixture.clock = Clock::system(Duration::from_secs(3600));
    let new = NewCampaign { daily_cap: Some(2), ..campaign() };
    let emails: Vec<String> = (0..7).map(|n| format!("p{n}@x.example")).collect();
    let emails: Vec<&str> = emails.iter().map(String::as_str).collect();
    let active = fixture.active_campaign(&new, &emails).await;
    let mut ids = Vec::new();
    for email in emails {
        let enrolment = fixture.enrolment(active.id, email).await;
        ids.push(fixture.approved(enrolment.id, 0).await.id);
    }
    ids.sort_unstable();
    for id in &ids[..2] {
        fixture.mark(*id).await;
        fixture.record_sent(*id).await;
    }
    let mut waits = Vec::new();
    for id in &ids[2..] {
        let (reason, after) = blocked(&fixture, *id).await;
        assert_eq!(reason, BlockedReason::DailyCap);
        waits.push(after.unwrap());
    }
    assert!(waits[0] < waits[1] && waits[1] < waits[2], "each when a place becomes free: {waits:?}");
    assert!(waits[2] < waits[3], "those of a later day look after those of this one: {waits:?}");
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(3600 + 36)), "but every day: {waits:?}");
    // The one whose turn it is leaves; the next one's turn is still to come.
    sqlx::query("update messages set sending_at = sending_at - interval '1 hour' where id = $1")
        .bind(ids[0])
        .execute(fixture.database.pool())
        .await
        .unwrap();
    assert!(matches!(fixture.mark(ids[2]).await, Marked::Yes { .. }));
    assert_eq!(blocked(&fixture, ids[3]).await.0, BlockedReason::DailyCap);
}

#[tokio::test]
async fn a_cap_that_is_raised_or_removed_lets_go_what_it_held() {
    let mut fixture = Fixture::new().await;
    fixture.clock = Clock::system(Duration::from_secs(3600));
    let new = NewCampaign { daily_cap: Some(1), ..campaign() };
    let active = fixture.active_campaign(&new, &["a@x.example", "b@x.example", "c@x.example"]).await;
    let sent = fixture.sent(fixture.enrolment(active.id, "a@x.example").await.id, 0).await;
    let step = fixture.approved(fixture.enrolment(active.id, "b@x.example").await.id, 0).await;
    let direct = directly(&fixture, &sent).await;
    // One that waits for its mailbox keeps its timer.
    let other = fixture.approved(fixture.enrolment(active.id, "c@x.example").await.id, 0).await;
    let hold = async || {
        for id in [step.id, direct.id] {
            assert_eq!(blocked(&fixture, id).await.0, BlockedReason::DailyCap);
        }
        sqlx::query(
            "with moved as (delete from queue.ready where queue = 'send' returning *)
             insert into queue.deferred select *, now() + interval '1 hour' from moved",
        )
        .execute(fixture.database.pool())
        .await
        .unwrap();
    };
    let patch = async |cap: Option<i32>| {
        let mut tx = fixture.tx().await;
        let patch = CampaignPatch { daily_cap: Some(cap), ..CampaignPatch::default() };
        engine::campaigns::update(&mut tx, fixture.account_id, active.id, &patch).await.unwrap();
        tx.commit().await.unwrap();
    };
    let waiting = async || -> Vec<Uuid> {
        let jobs = fixture.jobs("send").await.into_iter().filter(|job| job.in_seconds > 0.0);
        jobs.map(|job| job.payload["message_id"].as_str().unwrap().parse().unwrap()).collect()
    };
    hold().await;
    patch(Some(2)).await;
    assert_eq!(waiting().await, [sent.id, other.id]);
    for id in [step.id, direct.id] {
        let message = fixture.message(id).await;
        assert_eq!((message.blocked_reason, message.next_attempt_at), (None, None));
        assert!(matches!(prepare(&fixture, id).await, Prepared::Ready(_)));
    }
    fixture.mark(step.id).await;
    blocked(&fixture, direct.id).await;
    sqlx::query("update queue.deferred set run_at = now() + interval '1 hour' where queue = 'send'")
        .execute(fixture.database.pool())
        .await
        .unwrap();
    patch(Some(1)).await;
    assert_eq!(waiting().await.len(), 4, "a lower cap lets nothing go");
    patch(None).await;
    assert_eq!(waiting().await.len(), 3);
    assert!(!waiting().await.contains(&direct.id));
}

#[tokio::test]
async fn a_paused_or_removed_mailbox_and_a_paused_campaign_make_it_wait() {
    let fixture = Fixture::new().await;
    let (campaign_id, _, message_id) = first_message(&fixture, &campaign()).await;
    let set = async |status: &str| {
        sqlx::query("update channel_accounts set status = $1")
            .bind(status)
            .execute(fixture.database.pool())
            .await
            .unwrap();
    };
    set("paused").await;
    assert_eq!(blocked(&fixture, message_id).await.0, BlockedReason::MailboxPaused);
    set("disconnected").await;
    assert_eq!(blocked(&fixture, message_id).await.0, BlockedReason::NoAccount);
    set("connected").await;
    assert!(matches!(prepare(&fixture, message_id).await, Prepared::Ready(_)));
    fixture.set_status(campaign_id, shared::domain::campaign::CampaignStatus::Paused).await;
    assert_eq!(fixture.mark(message_id).await, Marked::No);
    let (reason, after) = blocked(&fixture, message_id).await;
    assert_eq!(reason, BlockedReason::CampaignPaused);
    assert!(after.is_some());
}

#[tokio::test]
async fn what_a_closed_lane_keeps_is_counted_as_it_is_shown() {
    let fixture = Fixture::new().await;
    let (campaign_id, _, message_id) = first_message(&fixture, &campaign()).await;
    let lane = fixture.mailbox.id.to_string();
    let (hour, reason) = (Duration::from_secs(3600), BlockedReason::MailboxPaused);
    queue::lanes::close(&mut *fixture.conn().await, "send", &lane, hour, reason.as_str()).await.unwrap();
    assert_eq!(fixture.message(message_id).await.blocked_reason, Some(reason));
    assert_eq!(fixture.progress(campaign_id).await.blocked, 1);
    // What is not due yet does not wait for the lane.
    sqlx::query("update messages set due_at = now() + interval '1 hour'")
        .execute(fixture.database.pool())
        .await
        .unwrap();
    assert_eq!(fixture.message(message_id).await.blocked_reason, None);
    assert_eq!(fixture.progress(campaign_id).await.blocked, 0);
}

#[tokio::test]
async fn a_pause_forgets_nothing_that_a_message_waits_for() {
    let fixture = Fixture::new().await;
    let (campaign_id, _, message_id) = first_message(&fixture, &campaign()).await;
    sqlx::query("update channel_accounts set status = 'disconnected'")
        .execute(fixture.database.pool())
        .await
        .unwrap();
    blocked(&fixture, message_id).await;
    let before = fixture.message(message_id).await;
    assert_eq!(before.blocked_reason, Some(BlockedReason::NoAccount));
    assert!(before.next_attempt_at.is_some());

    fixture.set_status(campaign_id, shared::domain::campaign::CampaignStatus::Paused).await;
    // A run that was under way finds the pause.
    assert_eq!(blocked(&fixture, message_id).await.0, BlockedReason::CampaignPaused);
    let paused = fixture.message(message_id).await;
    assert_eq!((paused.blocked_reason, paused.next_attempt_at), (Some(BlockedReason::CampaignPaused), None));
    assert_eq!(fixture.progress(campaign_id).await.blocked, 1);

    fixture.set_status(campaign_id, shared::domain::campaign::CampaignStatus::Active).await;
    assert_eq!(fixture.message(message_id).await, before);
}

#[tokio::test]
async fn without_a_mailbox_messages_wait_for_one() {
    let fixture = Fixture::new().await;
    sqlx::query("delete from channel_accounts").execute(fixture.database.pool()).await.unwrap();
    let (campaign_id, enrolment_id, message_id) = first_message(&fixture, &campaign()).await;
    let enrolment = fixture.enrolment(campaign_id, "a@x.example").await;
    assert_eq!((enrolment.status, enrolment.channel_account_id), (EnrolmentStatus::Active, None));
    let (reason, after) = blocked(&fixture, message_id).await;
    assert_eq!((reason, after.is_some()), (BlockedReason::NoAccount, true));
    assert_eq!(fixture.mark(message_id).await, Marked::No, "it has nowhere to leave from");

    let mut tx = fixture.tx().await;
    let email = shared::domain::Channel::Email;
    let mailbox =
        shared::db::channel_accounts::ensure(&mut tx, fixture.account_id, email, "new@iris.test", None)
            .await
            .unwrap();
    tx.commit().await.unwrap();
    fixture.clear_jobs().await;
    bind(&fixture, message_id).await;
    // It goes on in the lane that the mailbox's pace and pauses are set for.
    let job = fixture.jobs("send").await.pop().unwrap();
    assert_eq!(
        (job.lane, job.payload["message_id"].as_str()),
        (mailbox.id.to_string(), Some(&*message_id.to_string()))
    );
    assert_eq!(job.group, Some(shared::jobs::enrolment_group(campaign_id, enrolment_id)));
    let outgoing = ready(&fixture, message_id).await;
    assert_eq!(outgoing.mailbox.id, mailbox.id);
    let message = fixture.message(message_id).await;
    assert_eq!((message.channel_account_id, message.blocked_reason), (Some(mailbox.id), None));
    assert_eq!(message.rfc_message_id.as_deref(), Some(outgoing.rfc_message_id.as_str()));
    assert!(outgoing.rfc_message_id.ends_with("@iris.test>"));
    fixture.mark(message_id).await;
    fixture.record_sent(message_id).await;
    let enrolment = fixture.enrolment(campaign_id, "a@x.example").await;
    assert_eq!(enrolment.channel_account_id, Some(mailbox.id));
    let follow_up = fixture.approved(enrolment_id, 1).await;
    assert_eq!(follow_up.channel_account_id, Some(mailbox.id));
}

#[tokio::test]
async fn what_started_on_a_mailbox_that_is_no_longer_used_leaves_from_another() {
    let fixture = Fixture::new().await;
    let old = fixture.mailbox.id;
    let active = fixture.active_campaign(&campaign(), &["a@x.example", "b@x.example"]).await;
    let sent = fixture.sent(fixture.enrolment(active.id, "a@x.example").await.id, 0).await;
    let waiting = fixture.enrolment(active.id, "b@x.example").await;
    let step = fixture.approved(waiting.id, 0).await;
    let direct = directly(&fixture, &sent).await;
    let mut tx = fixture.tx().await;
    // As if both had been written by somebody who did not see the change of the mailbox.
    sqlx::query("update channel_accounts set status = 'disconnected'").execute(&mut *tx).await.unwrap();
    let new = shared::db::channel_accounts::ensure(
        &mut tx,
        fixture.account_id,
        Channel::Email,
        "new@iris.test",
        None,
    )
    .await
    .unwrap();
    tx.commit().await.unwrap();
    fixture.clear_jobs().await;
    for message in [&step, &direct] {
        assert_eq!(message.channel_account_id, Some(old));
        bind(&fixture, message.id).await;
        assert_eq!(ready(&fixture, message.id).await.mailbox.id, new.id);
    }
    let lanes: Vec<_> = fixture.jobs("send").await.into_iter().map(|job| job.lane).collect();
    assert_eq!(lanes, vec![new.id.to_string(); 2]);
    assert_eq!(fixture.enrolment(active.id, "b@x.example").await.channel_account_id, Some(new.id));
    // A draft finds out by itself.
    let follow_up = fixture.approved(sent.enrolment_id.unwrap(), 1).await;
    assert_eq!(follow_up.channel_account_id, Some(new.id));
}

#[tokio::test]
async fn variables_left_open_give_the_message_back() {
    let fixture = Fixture::new().await;
    let (campaign_id, _, message_id) = first_message(&fixture, &campaign()).await;
    sqlx::query("update messages set content = 'hi {{who}}' where id = $1")
        .bind(message_id)
        .execute(fixture.database.pool())
        .await
        .unwrap();
    assert_eq!(blocked(&fixture, message_id).await, (BlockedReason::UnresolvedVariables, None));
    let message = fixture.message(message_id).await;
    assert_eq!((message.status, message.approved_at), (MessageStatus::Pending, None));
    assert_eq!(fixture.progress(campaign_id).await.blocked, 1);
}

#[tokio::test]
async fn a_direct_send_goes_out_while_the_campaign_is_paused_or_over() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["a@x.example"]).await;
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    let first = fixture.sent(enrolment.id, 0).await;
    let raw = answer("a@x.example", "r1@x.example", first.rfc_message_id.as_deref(), "when?");
    fixture.receive(&raw).await;
    fixture.set_status(active.id, shared::domain::campaign::CampaignStatus::Paused).await;
    let send = DirectSend {
        channel: shared::domain::Channel::Email,
        conversation_id: enrolment.conversation_id.unwrap(),
        recipient_id: enrolment.contact_id,
        subject: None,
        content: "Friday".into(),
        variables: json!({}),
    };
    let mut tx = fixture.tx().await;
    let message = engine::messages::send_direct(&mut tx, fixture.account_id, &send).await.unwrap();
    tx.commit().await.unwrap();
    let outgoing = ready(&fixture, message.id).await;
    assert_eq!(outgoing.in_reply_to.as_deref(), Some("<r1@x.example>"), "it answers the answer");
    assert_eq!(outgoing.references, [first.rfc_message_id.unwrap(), "<r1@x.example>".into()]);
    assert_eq!(fixture.mark(message.id).await, Marked::Yes { order: None });
    assert_eq!(fixture.record_sent(message.id).await.status, MessageStatus::Sent);

    let mut tx = fixture.tx().await;
    let patch = CampaignPatch::default();
    engine::campaigns::update(&mut tx, fixture.account_id, active.id, &patch).await.unwrap();
    engine::campaigns::delete(&mut tx, fixture.account_id, active.id).await.unwrap();
    let error = engine::messages::send_direct(&mut tx, fixture.account_id, &send).await.unwrap_err();
    assert_eq!(error.to_string(), "conversation not found");
}
