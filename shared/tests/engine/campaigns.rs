use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::json;
use shared::{
    db::{self, page::Page},
    domain::{
        Channel,
        campaign::{CampaignPatch, CampaignStatus, NewCampaign, Progress},
        enrolment::{EnrolmentStatus, StopReason},
        message::{BlockedReason, MessageStatus},
    },
    engine::{self, EngineError},
    events::EventType,
    jobs::{campaign_group, enrolment_group},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
};

use crate::fixture::{Fixture, campaign, contact};

fn with_criteria() -> NewCampaign {
    NewCampaign { location: Some("Brooklyn, NY".into()), venue_types: vec!["bar".into()], ..campaign() }
}

#[tokio::test]
async fn creating_and_changing_raises_events_with_what_changed() {
    let fixture = Fixture::new().await;
    let created = fixture.draft_campaign(&campaign(), &[]).await;
    assert_eq!(created.status, CampaignStatus::Draft);
    let events = fixture.events(EventType::CampaignCreated).await;
    assert_eq!(events, [created.public()]);

    let patch = CampaignPatch {
        name: Some("May".into()),
        tone: Some(Some("warm".into())),
        ..CampaignPatch::default()
    };
    let mut tx = fixture.tx().await;
    let updated = engine::campaigns::update(&mut tx, fixture.account_id, created.id, &patch).await.unwrap();
    // The same again changes nothing and tells nobody.
    engine::campaigns::update(&mut tx, fixture.account_id, created.id, &patch).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!((updated.name.as_str(), updated.tone.as_deref()), ("May", Some("warm")));
    let events = fixture.events(EventType::CampaignUpdated).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["previous"], json!({"name": "April DJ outreach", "tone": null}));
    assert_eq!(events[0]["name"], "May");
}

#[tokio::test]
async fn activation_enrols_every_listed_contact() {
    let fixture = Fixture::new().await;
    let emails = ["a@x.example", "b@x.example", "c@x.example"];
    let draft = fixture.draft_campaign(&campaign(), &emails).await;
    assert_eq!(fixture.jobs("draft").await, []);
    let active = fixture.set_status(draft.id, CampaignStatus::Active).await;
    assert_eq!(active.status, CampaignStatus::Active);
    assert!(active.activated_at.is_some());

    let jobs = fixture.jobs("draft").await;
    assert_eq!(jobs.len(), 3);
    for (job, email) in jobs.iter().zip(emails) {
        let enrolment = fixture.enrolment(draft.id, email).await;
        assert_eq!(enrolment.status, EnrolmentStatus::Active);
        assert_eq!(enrolment.channel, Some(Channel::Email));
        assert_eq!(enrolment.channel_account_id, Some(fixture.mailbox.id));
        assert!(enrolment.conversation_id.is_some());
        assert_eq!(job.group, Some(enrolment_group(draft.id, enrolment.id)));
        assert_eq!(job.lane, fixture.account_id.to_string());
        assert_eq!(
            job.payload,
            json!({"account_id": fixture.account_id, "enrolment_id": enrolment.id, "step": 0})
        );
    }
    assert_eq!(fixture.events(EventType::ConversationCreated).await.len(), 3);
    let updated = fixture.events(EventType::CampaignUpdated).await;
    assert_eq!(updated[0]["previous"], json!({"status": "draft", "activated_at": null}));
    assert_eq!(fixture.jobs("discover").await, [], "there are no criteria");
    let progress = Progress { discovered: 3, enrolled: 3, active: 3, ..Progress::default() };
    assert_eq!(fixture.progress(draft.id).await, progress);
}

#[tokio::test]
async fn a_campaign_with_nobody_to_write_to_is_not_activated() {
    let fixture = Fixture::new().await;
    let draft = fixture.draft_campaign(&campaign(), &[]).await;
    let mut tx = fixture.tx().await;
    let patch = CampaignPatch::status(CampaignStatus::Active);
    let error = engine::campaigns::update(&mut tx, fixture.account_id, draft.id, &patch).await.unwrap_err();
    assert!(matches!(error, EngineError::CampaignHasNoContacts), "{error}");
    drop(tx);
    let new = NewCampaign { status: CampaignStatus::Active, ..campaign() };
    let mut tx = fixture.tx().await;
    let error = engine::campaigns::create(&mut tx, fixture.account_id, &new).await.unwrap_err();
    assert!(matches!(error, EngineError::CampaignHasNoContacts), "{error}");
}

#[tokio::test]
async fn criteria_start_discovery_unless_enough_contacts_are_listed() {
    let fixture = Fixture::new().await;
    let new = NewCampaign { status: CampaignStatus::Active, ..with_criteria() };
    let mut tx = fixture.tx().await;
    let active = engine::campaigns::create(&mut tx, fixture.account_id, &new).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(active.status, CampaignStatus::Active);
    assert_eq!(fixture.events(EventType::CampaignCreated).await, [active.public()]);
    assert_eq!(fixture.events(EventType::CampaignUpdated).await, [json!(null); 0]);
    assert_eq!(fixture.jobs("discover").await.len(), 1);
    fixture.clear_jobs().await;

    let full = NewCampaign { max_results: 2, ..with_criteria() };
    fixture.active_campaign(&full, &["a@x.example", "b@x.example"]).await;
    assert_eq!(fixture.jobs("discover").await, []);
    let half = NewCampaign { max_results: 3, ..with_criteria() };
    fixture.active_campaign(&half, &["a@x.example", "b@x.example"]).await;
    assert_eq!(fixture.jobs("discover").await.len(), 1);
}

#[tokio::test]
async fn contacts_who_cannot_be_written_to_are_passed_over() {
    let fixture = Fixture::new().await;
    let new = NewCampaign { outreach_channels: vec![Channel::Instagram, Channel::Email], ..campaign() };
    let emails = ["ok@x.example", "asked@x.example", "gone@x.example", "a@bad.example"];
    let draft = fixture.draft_campaign(&new, &emails).await;
    let mut tx = fixture.tx().await;
    let handle = shared::domain::contact::NewContact {
        instagram_handle: Some("bell".into()),
        ..shared::domain::contact::NewContact::default()
    };
    engine::contacts::upsert_many(&mut tx, fixture.account_id, &[handle], Some(draft.id)).await.unwrap();
    tx.commit().await.unwrap();
    for (kind, value) in
        [("email", "asked@x.example"), ("domain", "bad.example"), ("domain", "worse.example")]
    {
        sqlx::query(
            "insert into suppressions (account_id, id, kind, value, reason)
             values ($1, gen_random_uuid(), $2, $3, 'manual')",
        )
        .bind(fixture.account_id)
        .bind(kind)
        .bind(value)
        .execute(fixture.database.pool())
        .await
        .unwrap();
    }
    let gone = fixture.contact("gone@x.example").await;
    sqlx::query("update contacts set deleted_at = now() where id = $1")
        .bind(gone.id)
        .execute(fixture.database.pool())
        .await
        .unwrap();
    fixture.set_status(draft.id, CampaignStatus::Active).await;

    let ok = fixture.enrolment(draft.id, "ok@x.example").await;
    assert_eq!((ok.status, ok.channel), (EnrolmentStatus::Active, Some(Channel::Email)));
    for (email, reason) in [
        ("asked@x.example", StopReason::Suppressed),
        ("a@bad.example", StopReason::Suppressed),
        ("gone@x.example", StopReason::ContactDeleted),
    ] {
        let enrolment = fixture.enrolment(draft.id, email).await;
        assert_eq!(enrolment.stop_reason, Some(reason), "{email}");
        assert_eq!(enrolment.conversation_id, None);
    }
    let stopped: Vec<String> =
        sqlx::query_scalar("select stop_reason from enrolments where stop_reason = 'no_channel'")
            .fetch_all(fixture.database.pool())
            .await
            .unwrap();
    assert_eq!(stopped.len(), 1, "no Instagram account is connected");
    assert_eq!(fixture.jobs("draft").await.len(), 1);

    // Whoever is suppressed before is not even listed, one who comes while it is active starts at once.
    let mut tx = fixture.tx().await;
    let rows = [contact("x@worse.example"), contact("late@x.example")];
    engine::contacts::upsert_many(&mut tx, fixture.account_id, &rows, Some(draft.id)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(fixture.enrolment(draft.id, "late@x.example").await.status, EnrolmentStatus::Active);
    assert_eq!(fixture.progress(draft.id).await.discovered, 6);
}

#[tokio::test]
async fn mailboxes_are_filled_evenly() {
    let fixture = Fixture::new().await;
    let emails: Vec<String> = (0..10).map(|n| format!("p{n}@x.example")).collect();
    let emails: Vec<&str> = emails.iter().map(String::as_str).collect();
    fixture.active_campaign(&campaign(), &emails[..4]).await;
    let mut tx = fixture.tx().await;
    for address in ["two@iris.test", "three@iris.test"] {
        db::channel_accounts::ensure(&mut tx, fixture.account_id, Channel::Email, address, None)
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    // Loads are 4, 0, 0: eight more make 4, 4, 4.
    fixture.active_campaign(&campaign(), &emails[2..10]).await;
    let loads: Vec<i64> = sqlx::query_scalar(
        "select count(*) from enrolments where status = 'active' group by channel_account_id order by 1",
    )
    .fetch_all(fixture.database.pool())
    .await
    .unwrap();
    assert_eq!(loads, [4, 4, 4]);
}

#[tokio::test]
async fn transitions_that_are_not_drawn_are_refused() {
    use CampaignStatus::{Active, Draft};
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["a@x.example"]).await;
    let mut tx = fixture.tx().await;
    let again = CampaignPatch::status(Active);
    let error = engine::campaigns::update(&mut tx, fixture.account_id, active.id, &again).await.unwrap_err();
    assert!(matches!(error, EngineError::CampaignAlreadyActive));
    let back = CampaignPatch::status(Draft);
    let error = engine::campaigns::update(&mut tx, fixture.account_id, active.id, &back).await.unwrap_err();
    assert!(matches!(error, EngineError::InvalidTransition { from: Active, to: Draft }));
}

#[tokio::test]
async fn a_pause_holds_and_a_resume_releases() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["a@x.example", "b@x.example"]).await;
    let a = fixture.enrolment(active.id, "a@x.example").await;
    let approved = fixture.approved(a.id, 0).await;
    fixture.set_status(active.id, CampaignStatus::Paused).await;

    let held = |jobs: Vec<crate::fixture::Waiting>| jobs.iter().all(|job| job.in_seconds.is_infinite());
    assert!(held(fixture.jobs("draft").await) && held(fixture.jobs("send").await));
    let message = fixture.message(approved.id).await;
    assert_eq!(message.blocked_reason, Some(BlockedReason::CampaignPaused));
    // Approving meanwhile is possible; the message says what it waits for.
    let b = fixture.enrolment(active.id, "b@x.example").await;
    let late = fixture.approved(b.id, 0).await;
    assert_eq!(late.blocked_reason, Some(BlockedReason::CampaignPaused));
    // A contact added meanwhile starts with the resume.
    let mut tx = fixture.tx().await;
    let rows = [contact("c@x.example")];
    engine::contacts::upsert_many(&mut tx, fixture.account_id, &rows, Some(active.id)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(fixture.enrolment(active.id, "c@x.example").await.status, EnrolmentStatus::Listed);

    fixture.set_status(active.id, CampaignStatus::Active).await;
    assert!(fixture.jobs("send").await.iter().all(|job| job.in_seconds <= 0.0));
    assert_eq!(fixture.message(approved.id).await.blocked_reason, None);
    assert_eq!(fixture.enrolment(active.id, "c@x.example").await.status, EnrolmentStatus::Active);
    assert_eq!(fixture.jobs("draft").await.len(), 3);
}

#[tokio::test]
async fn a_deleted_campaign_is_gone_and_nothing_of_it_goes_out() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["a@x.example", "b@x.example"]).await;
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    let approved = fixture.approved(enrolment.id, 0).await;
    let mut tx = fixture.tx().await;
    let deleted = engine::campaigns::delete(&mut tx, fixture.account_id, active.id).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(deleted.status, CampaignStatus::Deleted);
    assert_eq!(fixture.events(EventType::CampaignDeleted).await, [deleted.public()]);
    assert_eq!(fixture.campaign(active.id).await, None);
    assert_eq!(fixture.jobs("draft").await, []);
    assert_eq!(fixture.jobs("send").await, []);
    assert_eq!(fixture.message(approved.id).await.status, MessageStatus::Cancelled);
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    assert_eq!(enrolment.stop_reason, Some(StopReason::CampaignDeleted));
    let mut tx = fixture.tx().await;
    let error = engine::campaigns::delete(&mut tx, fixture.account_id, active.id).await.unwrap_err();
    assert!(matches!(error, EngineError::CampaignNotFound));
}

#[tokio::test]
async fn another_accounts_campaign_is_not_found() {
    let fixture = Fixture::new().await;
    let draft = fixture.draft_campaign(&campaign(), &[]).await;
    let mut tx = fixture.tx().await;
    let other = shared::ids::new_id();
    let patch = CampaignPatch { name: Some("x".into()), ..CampaignPatch::default() };
    let error = engine::campaigns::update(&mut tx, other, draft.id, &patch).await.unwrap_err();
    assert!(matches!(error, EngineError::CampaignNotFound));
    assert_eq!(db::campaigns::find(&mut tx, other, draft.id).await.unwrap(), None);
}

#[tokio::test]
async fn a_campaign_completes_when_nothing_can_still_happen() {
    let fixture = Fixture::new().await;
    let new = NewCampaign { followup_days: vec![], ..campaign() };
    let active = fixture.active_campaign(&new, &["a@x.example"]).await;
    let sweep = async || {
        let mut tx = fixture.tx().await;
        let completed = engine::campaigns::complete_finished(&mut tx, 100).await.unwrap();
        tx.commit().await.unwrap();
        completed
    };
    assert_eq!(sweep().await, 0, "a contact is on the way");
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    fixture.sent(enrolment.id, 0).await;
    assert_eq!(fixture.enrolment(active.id, "a@x.example").await.status, EnrolmentStatus::Finished);

    let mut tx = fixture.tx().await;
    let criteria = shared::domain::discovery::Criteria::of(
        &shared::domain::campaign::Campaign {
            location: Some("Brooklyn".into()),
            keywords: vec!["bar".into()],
            ..active.clone()
        },
        10,
    );
    let job = engine::discovery::start_job(&mut tx, fixture.account_id, Some(active.id), &criteria, 0)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(sweep().await, 0, "discovery may still find somebody");
    let mut tx = fixture.tx().await;
    engine::discovery::fail_job(&mut tx, fixture.account_id, job.id, "no").await.unwrap();
    tx.commit().await.unwrap();

    assert_eq!(sweep().await, 1);
    assert_eq!(sweep().await, 0);
    let completed = fixture.campaign(active.id).await.unwrap();
    assert_eq!(completed.status, CampaignStatus::Completed);
    assert!(completed.completed_at.is_some());
    let last = fixture.events(EventType::CampaignUpdated).await.pop().unwrap();
    assert_eq!(last["previous"], json!({"status": "active", "completed_at": null}));
    assert_eq!(fixture.jobs("draft").await.len(), 1, "only the one of step 0, which no worker ran here");
}

#[tokio::test]
async fn ending_a_campaign_by_hand_stops_its_passages() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["a@x.example"]).await;
    let completed = fixture.set_status(active.id, CampaignStatus::Completed).await;
    assert_eq!(completed.status, CampaignStatus::Completed);
    assert_eq!(fixture.jobs("draft").await, []);
    assert_eq!(fixture.enrolment(active.id, "a@x.example").await.status, EnrolmentStatus::Stopped);
    let mut tx = fixture.tx().await;
    let rows = [contact("b@x.example")];
    let error =
        engine::contacts::upsert_many(&mut tx, fixture.account_id, &rows, Some(active.id)).await.unwrap_err();
    assert!(matches!(error, EngineError::Conflict(_)), "{error}");
}

#[tokio::test]
async fn lists_go_on_where_they_stopped() {
    let fixture = Fixture::new().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(fixture.draft_campaign(&campaign(), &[]).await.id);
    }
    ids.reverse();
    let mut tx = fixture.tx().await;
    let first = db::campaigns::list(&mut tx, fixture.account_id, None, Page::first(2)).await.unwrap();
    assert_eq!(first.rows.iter().map(|c| c.id).collect::<Vec<_>>(), ids[..2]);
    let page = Page::after(first.next.unwrap(), 2);
    let second = db::campaigns::list(&mut tx, fixture.account_id, None, page).await.unwrap();
    assert_eq!(second.rows.iter().map(|c| c.id).collect::<Vec<_>>(), ids[2..4]);
    let page = Page::after(second.next.unwrap(), 2);
    let third = db::campaigns::list(&mut tx, fixture.account_id, None, page).await.unwrap();
    assert_eq!((third.rows[0].id, third.next), (ids[4], None));
    let active = Some(CampaignStatus::Active);
    assert_eq!(db::campaigns::count(&mut tx, fixture.account_id, active).await.unwrap(), 0);
    assert_eq!(db::campaigns::count(&mut tx, fixture.account_id, None).await.unwrap(), 5);
    let paged = Page { after: None, offset: 4, limit: 2 };
    let last = db::campaigns::list(&mut tx, fixture.account_id, None, paged).await.unwrap();
    assert_eq!(last.rows.len(), 1);
}

/// Counts the statements that sqlx reports on this thread.
#[derive(Clone, Default)]
struct Statements(Arc<AtomicUsize>);

impl<S: tracing::Subscriber> Layer<S> for Statements {
    fn on_event(&self, event: &tracing::Event<'_>, _ctx: Context<'_, S>) {
        if event.metadata().target() == "sqlx::query" {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test]
async fn five_thousand_contacts_are_activated_by_few_statements() {
    let fixture = Fixture::new().await;
    let draft = fixture.draft_campaign(&campaign(), &[]).await;
    for chunk in 0..5 {
        let rows: Vec<_> = (0..1000).map(|n| contact(&format!("p{n}@c{chunk}.example"))).collect();
        let mut tx = fixture.tx().await;
        engine::contacts::upsert_many(&mut tx, fixture.account_id, &rows, Some(draft.id)).await.unwrap();
        tx.commit().await.unwrap();
    }
    let statements = Statements::default();
    let counting = tracing::subscriber::set_default(tracing_subscriber::registry().with(statements.clone()));
    fixture.set_status(draft.id, CampaignStatus::Active).await;
    drop(counting);
    // Six for each thousand, and a few for the campaign.
    let count = statements.0.load(Ordering::Relaxed);
    assert!((30..60).contains(&count), "{count} statements");
    assert_eq!(fixture.jobs("draft").await.len(), 5000);
    assert_eq!(fixture.events(EventType::ConversationCreated).await.len(), 5000);
    let progress = fixture.progress(draft.id).await;
    assert_eq!((progress.discovered, progress.enrolled, progress.active), (5000, 5000, 5000));
    let groups = fixture.jobs("draft").await.into_iter().filter_map(|job| job.group);
    let prefix = campaign_group(draft.id);
    assert!(groups.into_iter().all(|group| group.starts_with(&prefix)));
}
