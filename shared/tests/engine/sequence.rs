use shared::{
    domain::{
        campaign::{Approval, NewCampaign},
        enrolment::EnrolmentStatus,
        message::MessageStatus,
    },
    engine::{self, messages::RecordedDraft},
    events::EventType,
};

use crate::fixture::{Fixture, campaign};

/// A whole passage with a day of one second: drafts a day ahead, sends on days 3, 7 and 14, then the end.
#[tokio::test]
async fn a_passage_follows_its_days_to_the_end() {
    let fixture = Fixture::new().await;
    let auto = NewCampaign { approval: Approval::Auto, ..campaign() };
    let active = fixture.active_campaign(&auto, &["a@x.example"]).await;
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    fixture.clear_jobs().await;
    fixture.sent(enrolment.id, 0).await;

    for (step, day, since_last) in [(1, 3.0, 3.0), (2, 7.0, 4.0), (3, 14.0, 7.0)] {
        let drafts = fixture.jobs("draft").await;
        assert_eq!(drafts.len(), 1, "step {step}");
        assert_eq!(drafts[0].payload["step"], step);
        let wait = drafts[0].in_seconds;
        assert!(wait > since_last - 2.0 && wait <= since_last - 1.0, "step {step} is drafted in {wait}");
        fixture.clear_jobs().await;

        let RecordedDraft::Approved(message) = fixture.record_draft(enrolment.id, step).await else {
            panic!("not approved")
        };
        assert_eq!(message.status, MessageStatus::Scheduled);
        let passage = fixture.enrolment(active.id, "a@x.example").await;
        let since_start = (message.due_at.unwrap() - passage.started_at.unwrap()).as_seconds_f64();
        assert!((since_start - day).abs() < 0.5, "step {step} is due on day {since_start}");
        let sends = fixture.jobs("send").await;
        assert!(sends[0].in_seconds > since_last - 1.0 && sends[0].in_seconds <= since_last, "{sends:?}");
        fixture.clear_jobs().await;

        // The days go by.
        fixture.age(enrolment.id, since_last).await;
        fixture.mark(message.id).await;
        fixture.record_sent(message.id).await;
    }
    let ended = fixture.enrolment(active.id, "a@x.example").await;
    assert_eq!(ended.status, EnrolmentStatus::Finished);
    assert!(ended.ended_at.is_some());
    assert_eq!(fixture.jobs("draft").await, []);
    let progress = fixture.progress(active.id).await;
    assert_eq!((progress.sent, progress.followups, progress.finished), (4, 3, 1));
    assert_eq!(fixture.events(EventType::MessageSent).await.len(), 4);
}

#[tokio::test]
async fn steps_do_not_bunch_after_a_long_wait() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["a@x.example"]).await;
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    fixture.sent(enrolment.id, 0).await;
    // Step 1 was approved on day 20 only.
    fixture.age(enrolment.id, 20.0).await;
    fixture.clear_jobs().await;
    fixture.sent(enrolment.id, 1).await;
    let drafts = fixture.jobs("draft").await;
    let wait = drafts[0].in_seconds;
    assert!(wait > 2.0 && wait <= 3.0, "step 2 comes 4 days later, drafted 1 day before: {wait}");
}

#[tokio::test]
async fn a_step_after_a_rejected_one_counts_from_the_one_really_sent() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["a@x.example"]).await;
    let enrolment = fixture.enrolment(active.id, "a@x.example").await;
    fixture.sent(enrolment.id, 0).await;
    let RecordedDraft::Pending(message) = fixture.record_draft(enrolment.id, 1).await else { panic!() };
    fixture.clear_jobs().await;
    let mut tx = fixture.tx().await;
    engine::messages::reject(&mut tx, &fixture.clock, fixture.account_id, message.id, None).await.unwrap();
    tx.commit().await.unwrap();
    let drafts = fixture.jobs("draft").await;
    assert_eq!(drafts[0].payload["step"], 2);
    let wait = drafts[0].in_seconds;
    assert!(wait > 5.0 && wait <= 6.0, "step 2 is due on day 7, drafted on day 6: {wait}");
}
