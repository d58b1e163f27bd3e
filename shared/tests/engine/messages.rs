use serde_json::json;
use shared::{
    db::{self, conversations::ConversationFilter, page::Page},
    domain::{
        Channel,
        campaign::{Approval, CampaignPatch, NewCampaign},
        message::{BlockedReason, MessageStatus},
    },
    engine::{
        self, EngineError,
        messages::{DirectSend, DraftWork, Edits, RecordedDraft},
    },
    events::EventType,
    ids::new_id,
    jobs::enrolment_group,
};
use uuid::Uuid;

use crate::fixture::{Fixture, campaign, draft};

#[tokio::test]
async fn a_draft_waits_for_approval_and_is_written_once() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["a@x.example"]).await;
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    let mut tx = fixture.tx().await;
    let work = engine::messages::prepare_draft(&mut tx, fixture.account_id, enrolment.id, 0).await.unwrap();
    let DraftWork::Ready(context) = work else { panic!("{work:?}") };
    assert_eq!((context.campaign.id, context.previous.len()), (active.id, 0));
    assert_eq!(context.contact.email.as_deref(), Some("a@x.example"));
    drop(tx);

    let RecordedDraft::Pending(message) = fixture.record_draft(enrolment.id, 0).await else { panic!() };
    assert_eq!(message.status, MessageStatus::Pending);
    assert_eq!(message.rfc_message_id, Some(format!("<{}@iris.test>", message.id.simple())));
    assert_eq!(message.due_at, None, "step 0 is due at once");
    assert_eq!(fixture.record_draft(enrolment.id, 0).await, RecordedDraft::AlreadyDrafted);
    assert_eq!(fixture.jobs("send").await, []);
    let mut tx = fixture.tx().await;
    let work = engine::messages::prepare_draft(&mut tx, fixture.account_id, enrolment.id, 0).await.unwrap();
    assert_eq!(work, DraftWork::AlreadyDrafted);
    let pending = db::messages::list_pending(&mut tx, fixture.account_id, Some(active.id), Page::first(10))
        .await
        .unwrap();
    assert_eq!(pending.rows, [message]);
    assert_eq!(db::messages::count_pending(&mut tx, fixture.account_id, Some(new_id())).await.unwrap(), 0);
}

#[tokio::test]
async fn approving_enqueues_the_send_in_its_mailboxes_lane() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["a@x.example"]).await;
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    let message = fixture.approved(enrolment.id, 0).await;
    assert_eq!(message.status, MessageStatus::Approved);
    assert!(message.approved_at.is_some());
    let jobs = fixture.jobs("send").await;
    assert_eq!(jobs.len(), 1);
    assert_eq!(jobs[0].lane, fixture.mailbox.id.to_string());
    assert_eq!(jobs[0].group, Some(enrolment_group(active.id, enrolment.id)));
    assert_eq!(jobs[0].payload, json!({"account_id": fixture.account_id, "message_id": message.id}));
    assert!(jobs[0].in_seconds <= 0.0);
    assert_eq!(fixture.events(EventType::MessageApproved).await, [message.public()]);

    let mut tx = fixture.tx().await;
    let edits = Edits::default();
    let error = engine::messages::approve(&mut tx, fixture.account_id, message.id, &edits).await.unwrap_err();
    assert!(matches!(error, EngineError::MessageAlreadyApproved));
    let error = engine::messages::reject(&mut tx, &fixture.clock, fixture.account_id, message.id, None)
        .await
        .unwrap_err();
    assert!(matches!(error, EngineError::Conflict(_)));
    let error = engine::messages::approve(&mut tx, new_id(), message.id, &edits).await.unwrap_err();
    assert!(matches!(error, EngineError::MessageNotFound), "of another account");
}

#[tokio::test]
async fn a_follow_up_approved_early_is_sent_when_it_is_due() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["a@x.example"]).await;
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    fixture.sent(enrolment.id, 0).await;
    fixture.clear_jobs().await;
    let message = fixture.approved(enrolment.id, 1).await;
    assert_eq!(message.status, MessageStatus::Scheduled);
    let started_at = fixture.enrolment(active.id, "a@x.example").await.started_at.unwrap();
    assert_eq!(message.due_at, Some(started_at + chrono::TimeDelta::seconds(3)));
    let jobs = fixture.jobs("send").await;
    assert!(jobs[0].in_seconds > 0.0 && jobs[0].in_seconds <= 3.0, "{jobs:?}");
}

#[tokio::test]
async fn auto_approval_goes_on_by_itself_unless_something_is_left_open() {
    let fixture = Fixture::new().await;
    let auto = NewCampaign { approval: Approval::Auto, ..campaign() };
    let active = fixture.active_campaign(&auto, &["a@x.example", "b@x.example"]).await;
    let a = fixture.enrolment(active.id, "a@x.example").await;
    let RecordedDraft::Approved(message) = fixture.record_draft(a.id, 0).await else { panic!() };
    assert!(message.approved_at.is_some());
    assert_eq!(fixture.jobs("send").await.len(), 1);
    assert_eq!(fixture.events(EventType::MessageApproved).await.len(), 0, "nothing was pending");

    let b = fixture.enrolment(active.id, "b@x.example").await;
    let mut tx = fixture.tx().await;
    let open = draft("hi {{nick}}", "hello {{city}}, {{nick}}");
    let recorded =
        engine::messages::record_draft(&mut tx, &fixture.clock, fixture.account_id, b.id, 0, &open)
            .await
            .unwrap();
    tx.commit().await.unwrap();
    let RecordedDraft::Pending(message) = recorded else { panic!("{recorded:?}") };
    assert_eq!(message.blocked_reason, Some(BlockedReason::UnresolvedVariables));
    assert_eq!(fixture.progress(active.id).await.blocked, 1);

    let mut tx = fixture.tx().await;
    let error = engine::messages::approve(&mut tx, fixture.account_id, message.id, &Edits::default())
        .await
        .unwrap_err();
    let EngineError::Unresolved { names } = error else { panic!("{error}") };
    assert_eq!(names, ["nick", "city"]);
    drop(tx);
    let mut tx = fixture.tx().await;
    // The address is longer than its variable: the text fits, what it becomes does not.
    let edits = Edits { subject: None, content: Some("{{email}}".repeat(7000)) };
    let error = engine::messages::approve(&mut tx, fixture.account_id, message.id, &edits).await.unwrap_err();
    assert_eq!(error.to_string(), "content must have at most 65536 bytes with its variables filled");
    let edits = Edits { subject: Some("hi".into()), content: Some("hello {{first_name}}".into()) };
    let message = engine::messages::approve(&mut tx, fixture.account_id, message.id, &edits).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!((message.subject.as_deref(), message.content.as_str()), (Some("hi"), "hello Alex"));
    assert_eq!(message.blocked_reason, None);
}

#[tokio::test]
async fn a_rejected_step_is_skipped_and_the_next_one_planned() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["a@x.example"]).await;
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    let RecordedDraft::Pending(message) = fixture.record_draft(enrolment.id, 0).await else { panic!() };
    fixture.clear_jobs().await;
    let mut tx = fixture.tx().await;
    let rejected =
        engine::messages::reject(&mut tx, &fixture.clock, fixture.account_id, message.id, Some("too pushy"))
            .await
            .unwrap();
    tx.commit().await.unwrap();
    assert_eq!((rejected.status, rejected.error.as_deref()), (MessageStatus::Rejected, Some("too pushy")));
    assert_eq!(fixture.events(EventType::MessageRejected).await, [rejected.public()]);
    let after = fixture.enrolment(active.id, "a@x.example").await;
    assert!(after.started_at.is_some() && after.last_sent_at.is_none());
    let jobs = fixture.jobs("draft").await;
    assert_eq!(jobs.len(), 1);
    assert_eq!(jobs[0].payload["step"], 1);
    assert!(jobs[0].in_seconds > 0.0 && jobs[0].in_seconds <= 2.0, "a day before day 3: {jobs:?}");

    let mut tx = fixture.tx().await;
    let error = engine::messages::approve(&mut tx, fixture.account_id, message.id, &Edits::default())
        .await
        .unwrap_err();
    assert!(matches!(error, EngineError::Conflict(_)), "a rejected one is not approved: {error}");
}

#[tokio::test]
async fn rejecting_the_last_step_finishes_the_passage() {
    let fixture = Fixture::new().await;
    let new = NewCampaign { followup_days: vec![], ..campaign() };
    let active = fixture.active_campaign(&new, &["a@x.example"]).await;
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    let RecordedDraft::Pending(message) = fixture.record_draft(enrolment.id, 0).await else { panic!() };
    let mut tx = fixture.tx().await;
    engine::messages::reject(&mut tx, &fixture.clock, fixture.account_id, message.id, None).await.unwrap();
    tx.commit().await.unwrap();
    let after = fixture.enrolment(active.id, "a@x.example").await;
    assert_eq!(after.status, shared::domain::enrolment::EnrolmentStatus::Finished);
}

#[tokio::test]
async fn many_are_decided_upon_at_once_each_with_its_own_result() {
    let fixture = Fixture::new().await;
    let emails: Vec<String> = (0..6).map(|n| format!("p{n}@x.example")).collect();
    let emails: Vec<&str> = emails.iter().map(String::as_str).collect();
    let active = fixture.active_campaign(&campaign(), &emails).await;
    let mut ids = Vec::new();
    for email in &emails {
        let enrolment = fixture.enrolment(active.id, email).await;
        let RecordedDraft::Pending(message) = fixture.record_draft(enrolment.id, 0).await else { panic!() };
        ids.push(message.id);
    }
    fixture.clear_jobs().await;
    let missing = new_id();
    let mut tx = fixture.tx().await;
    let asked = [ids[1], missing, ids[0], ids[1]];
    let results = engine::messages::approve_many(&mut tx, fixture.account_id, &asked).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(results.iter().map(|(id, _)| *id).collect::<Vec<_>>(), asked);
    assert_eq!(results[0].1.as_ref().unwrap().status, MessageStatus::Approved);
    assert!(matches!(results[1].1, Err(EngineError::MessageNotFound)));
    assert!(results[2].1.is_ok());
    assert!(matches!(results[3].1, Err(EngineError::Conflict(_))), "given twice");
    assert_eq!(fixture.jobs("send").await.len(), 2);

    let mut tx = fixture.tx().await;
    let asked = [ids[0], ids[2], ids[3]];
    let results = engine::messages::reject_many(&mut tx, &fixture.clock, fixture.account_id, &asked, None)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert!(matches!(results[0].1, Err(EngineError::Conflict(_))), "approved");
    assert!(results[1].1.is_ok() && results[2].1.is_ok());
    assert_eq!(fixture.jobs("draft").await.len(), 2, "the follow-ups of the rejected");
    assert_eq!(fixture.events(EventType::MessageApproved).await.len(), 2);
    assert_eq!(fixture.events(EventType::MessageRejected).await.len(), 2);

    let mut tx = fixture.tx().await;
    let many = vec![missing; 501];
    let error = engine::messages::approve_many(&mut tx, fixture.account_id, &many).await.unwrap_err();
    assert!(matches!(error, EngineError::Invalid(_)));
}

#[tokio::test]
async fn a_stopped_passage_takes_no_draft() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["a@x.example"]).await;
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    let mut tx = fixture.tx().await;
    engine::enrolments::record_failed(&mut tx, fixture.account_id, enrolment.id, "the provider is gone")
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(fixture.record_draft(enrolment.id, 0).await, RecordedDraft::Stopped);
    let mut tx = fixture.tx().await;
    let work = engine::messages::prepare_draft(&mut tx, fixture.account_id, enrolment.id, 0).await.unwrap();
    assert_eq!(work, DraftWork::Stopped);
    assert_eq!(fixture.jobs("draft").await, []);
}

async fn direct(
    fixture: &Fixture,
    send: &DirectSend,
) -> Result<shared::domain::message::Message, EngineError> {
    let mut tx = fixture.tx().await;
    let message = engine::messages::send_direct(&mut tx, fixture.account_id, send).await?;
    tx.commit().await.unwrap();
    Ok(message)
}

#[tokio::test]
async fn a_direct_send_fills_its_variables_and_goes_first() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["a@x.example"]).await;
    fixture.clear_jobs().await;
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    let send = DirectSend {
        channel: Channel::Email,
        conversation_id: enrolment.conversation_id.unwrap(),
        recipient_id: enrolment.contact_id,
        subject: Some("quick question about djing at {{venue}}".into()),
        content: "hi {{first_name}}, about {{campaign_name}} {{x|...}}".into(),
        variables: json!({"venue": "The Bell\r\nHouse"}),
    };
    let message = direct(&fixture, &send).await.unwrap();
    assert_eq!(message.subject.as_deref(), Some("quick question about djing at The Bell  House"));
    assert_eq!(message.content, "hi Alex, about April DJ outreach ...");
    assert_eq!((message.status, message.enrolment_id, message.step), (MessageStatus::Approved, None, None));
    let jobs = fixture.jobs("send").await;
    assert_eq!((jobs[0].lane.clone(), jobs[0].group.clone()), (fixture.mailbox.id.to_string(), None));
    let priority: i16 = sqlx::query_scalar("select priority from queue.ready")
        .fetch_one(fixture.database.pool())
        .await
        .unwrap();
    assert!(priority < 0);

    let refused = [
        (DirectSend { content: "{{a}} {{b}}".into(), ..send.clone() }, "no value for a, b"),
        (DirectSend { conversation_id: new_id(), ..send.clone() }, "conversation not found"),
        (
            DirectSend { recipient_id: new_id(), ..send.clone() },
            "recipient_id must be the contact of the conversation",
        ),
        (
            DirectSend { channel: Channel::Instagram, ..send.clone() },
            "channel the contact has no instagram address",
        ),
        (DirectSend { subject: None, ..send.clone() }, "subject must be given for the first email"),
        (DirectSend { content: String::new(), ..send.clone() }, "content must have 1 to 65536 characters"),
        (DirectSend { variables: json!([]), ..send.clone() }, "variables must be an object"),
    ];
    let long =
        DirectSend { variables: json!({"v": "x".repeat(9000)}), content: "{{v}}".repeat(8), ..send.clone() };
    let error = direct(&fixture, &long).await.unwrap_err().to_string();
    assert_eq!(error, "content must have at most 65536 bytes with its variables filled");
    for (wrong, reason) in refused {
        assert_eq!(direct(&fixture, &wrong).await.unwrap_err().to_string(), reason);
    }
    assert!(matches!(fixture.mark(message.id).await, engine::sending::Marked::Yes { order: None }));
    fixture.record_sent(message.id).await;
    let next = direct(&fixture, &DirectSend { subject: None, ..send }).await.unwrap();
    assert_eq!(next.subject.as_deref(), Some("Re: quick question about djing at The Bell  House"));
    assert_eq!(fixture.enrolment(active.id, "a@x.example").await.last_sent_at, None, "it is no step");
}

#[tokio::test]
async fn a_direct_send_to_a_suppressed_contact_is_shown_and_not_sent() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["a@x.example"]).await;
    fixture.clear_jobs().await;
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    sqlx::query(
        "insert into suppressions (account_id, id, kind, value, reason)
         values ($1, gen_random_uuid(), 'email', 'a@x.example', 'manual')",
    )
    .bind(fixture.account_id)
    .execute(fixture.database.pool())
    .await
    .unwrap();
    let send = DirectSend {
        channel: Channel::Email,
        conversation_id: enrolment.conversation_id.unwrap(),
        recipient_id: enrolment.contact_id,
        subject: Some("hi".into()),
        content: "hi".into(),
        variables: json!({}),
    };
    let message = direct(&fixture, &send).await.unwrap();
    assert_eq!(message.status, MessageStatus::Cancelled);
    assert_eq!(message.blocked_reason, Some(BlockedReason::Suppressed));
    assert_eq!(fixture.jobs("send").await, []);
}

#[tokio::test]
async fn conversations_are_listed_with_their_messages() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["a@x.example", "b@x.example"]).await;
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    let conversation_id = enrolment.conversation_id.unwrap();
    let first = fixture.sent(enrolment.id, 0).await;
    let RecordedDraft::Pending(second) = fixture.record_draft(enrolment.id, 1).await else { panic!() };
    let mut tx = fixture.tx().await;
    let account_id = fixture.account_id;
    let messages = db::messages::list_by_conversation(&mut tx, account_id, conversation_id, Page::first(10))
        .await
        .unwrap();
    assert_eq!(messages.rows.iter().map(|m| m.id).collect::<Vec<_>>(), [second.id, first.id]);
    let conversation = db::conversations::find(&mut tx, account_id, conversation_id).await.unwrap().unwrap();
    assert_eq!(conversation.last_channel, Some(Channel::Email));
    let none = ConversationFilter::default();
    for (filter, count) in [
        (none.clone(), 2),
        (ConversationFilter { campaign_id: Some(active.id), ..none.clone() }, 2),
        (ConversationFilter { contact_id: Some(enrolment.contact_id), ..none.clone() }, 1),
        (ConversationFilter { channel: Some(Channel::Email), ..none.clone() }, 1),
        (ConversationFilter { name: Some("B@X".into()), ..none.clone() }, 1),
        (ConversationFilter { campaign_id: Some(Uuid::nil()), ..none }, 0),
    ] {
        let rows = db::conversations::list(&mut tx, account_id, &filter, Page::first(10)).await.unwrap();
        assert_eq!(rows.rows.len(), count, "{filter:?}");
        let counted = db::conversations::count(&mut tx, account_id, &filter).await.unwrap();
        assert_eq!(usize::try_from(counted).unwrap(), count, "{filter:?}");
    }
    let patch = CampaignPatch::default();
    let same = engine::campaigns::update(&mut tx, account_id, active.id, &patch).await.unwrap();
    assert_eq!(same.id, active.id);
}
