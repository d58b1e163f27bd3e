//! The draft and discover jobs.

use std::time::Duration;

use queue::Outcome;
use serde_json::json;
use shared::{
    db::{discovery_jobs, places},
    domain::discovery::{Criteria, DiscoveryStatus, Place},
    engine,
};

use crate::{
    bench::{Bench, hurry, soon},
    providers::Api,
    smtp::SmtpServer,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_run_twice_makes_one_message() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    bench.campaign(&["alex@venue.example"]).await;
    let claimed = soon(bench.drafts.next()).await.unwrap();
    for _ in 0..2 {
        let run = worker::jobs::draft::run(claimed.payload.clone(), claimed.job.clone(), bench.shared());
        assert_eq!(soon(run).await.unwrap(), Outcome::Done);
    }
    assert_eq!(bench.count("select count(*) from messages").await, 1);
    assert_eq!(bench.count("select count(*) from queue.running where queue = 'draft'").await, 0);
    soon(bench.sends.next()).await.unwrap();
    assert!(bench.sends.try_next().is_none(), "one message is sent once");
}

fn place(number: u32) -> Place {
    Place {
        id: format!("p{number}"),
        name: format!("The Room {number}"),
        venue_type: "bar".into(),
        email: Some(format!("room{number}@venue.example")),
        phone: None,
        website: None,
        instagram_handle: None,
        twitter_handle: None,
        street: None,
        location: "Brooklyn, NY".into(),
        latitude: 40.68,
        longitude: -73.95 + f64::from(number) / 1000.0,
        keywords: vec!["live music".into()],
        description: "A room.".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_finds_places_and_ends_once() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    let criteria = Criteria {
        keywords: vec!["live music".into()],
        venue_types: vec!["bar".into()],
        location: Some("Brooklyn, NY".into()),
        latitude: None,
        longitude: None,
        radius_miles: 10.0,
        max_results: 3,
    };
    let mut tx = bench.tx().await;
    places::upsert_many(&mut tx, &(0..5).map(place).collect::<Vec<_>>()).await.unwrap();
    let job = engine::discovery::start_job(&mut tx, bench.account_id, None, &criteria, 0).await.unwrap();
    tx.commit().await.unwrap();
    let claimed = soon(bench.searches.next()).await.unwrap();
    for _ in 0..2 {
        let run = worker::jobs::discover::run(claimed.payload.clone(), claimed.job.clone(), bench.shared());
        assert_eq!(soon(run).await.unwrap(), Outcome::Done);
    }
    let mut tx = bench.tx().await;
    let done = discovery_jobs::find(&mut tx, bench.account_id, job.id).await.unwrap().unwrap();
    assert_eq!((done.status, done.found, done.new), (DiscoveryStatus::Completed, 3, 3));
    assert_eq!(done.by_source.get("places"), Some(&3));
    assert_eq!(bench.count("select count(*) from contacts where company like 'The Room %'").await, 3);
    assert_eq!(bench.count("select count(*) from outbox where type = 'discovery.completed'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_keeps_drafts_waiting_and_a_rejected_draft_ends_its_enrolment() {
    let (server, api) = (SmtpServer::start().await, Api::start().await);
    let mut bench = Bench::start_with(&server.url(), api.openai()).await;
    bench.campaign(&["alex@venue.example"]).await;
    for status in [400, 401, 403, 404] {
        api.says(status, &json!({"error": {"message": "Your credit balance is too low"}}));
        let outcome = bench.draft().await;
        assert!(
            matches!(outcome, Outcome::Snooze { after } if after >= Duration::from_secs(60)),
            "{outcome:?}"
        );
        until_waiting(&bench).await;
        let closed = "select reason from queue.lanes where queue = 'draft' and closed_until > now() + interval '1 minute'";
        assert_eq!(bench.text(closed).await.as_deref(), Some("provider_refused"), "nobody else in it asks");
        open_lanes(&bench).await;
        hurry(&bench.database, "draft").await;
    }
    api.says(400, &json!({"error": {"message": "this prompt cannot be answered"}}));
    assert!(matches!(bench.draft().await, Outcome::Retry { .. }));
    until_waiting(&bench).await;
    at_last_try(&bench).await;
    assert_eq!(bench.draft().await, Outcome::Done);
    assert_eq!(bench.text("select stop_reason from enrolments").await.as_deref(), Some("failed"));
    assert_eq!(bench.count("select count(*) from queue.dead").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_outlives_a_database_that_fails_time_and_again() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    bench.campaign(&["alex@venue.example"]).await;
    let claimed = soon(bench.drafts.next()).await.unwrap();
    claimed.finish(Outcome::retry("no database")).await;
    until_waiting(&bench).await;
    at_last_try(&bench).await;
    let claimed = soon(bench.drafts.next()).await.unwrap();
    sqlx::query("alter table messages rename to gone").execute(bench.database.pool()).await.unwrap();
    let run = worker::jobs::draft::run(claimed.payload.clone(), claimed.job.clone(), bench.shared());
    let error = soon(run).await.unwrap_err();
    claimed.finish(Outcome::retry(error)).await;
    until_waiting(&bench).await;
    sqlx::query("alter table gone rename to messages").execute(bench.database.pool()).await.unwrap();
    hurry(&bench.database, "draft").await;
    assert_eq!(bench.draft().await, Outcome::Done);
    assert_eq!(bench.count("select count(*) from messages").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_that_the_engine_does_not_take_ends_its_enrolment() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    let first = bench.ready_to_send("alex@venue.example").await;
    assert_eq!(bench.send(first).await, Outcome::Done);
    // The follow-up keeps the subject, which no subject may be.
    sqlx::query("update messages set subject = E'two\\nlines'").execute(bench.database.pool()).await.unwrap();
    at_last_try(&bench).await;
    assert_eq!(bench.draft().await, Outcome::Done);
    assert_eq!(bench.text("select stop_reason from enrolments").await.as_deref(), Some("failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follow_up_of_the_longest_subject_is_drafted() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    let first = bench.ready_to_send("alex@venue.example").await;
    sqlx::query("update messages set subject = repeat('s', 900)")
        .execute(bench.database.pool())
        .await
        .unwrap();
    assert_eq!(bench.send(first).await, Outcome::Done);
    hurry(&bench.database, "draft").await;
    assert_eq!(bench.draft().await, Outcome::Done);
    let subject = bench.text("select subject from messages where step = 1").await.unwrap();
    assert!(subject.starts_with("Re: sss") && subject.len() == 900, "{}", subject.len());
}

/// Looks until the outcome of a draft that waits is recorded, which the queue does in its own time.
async fn until_waiting(bench: &Bench) {
    soon(async {
        while bench.count("select count(*) from queue.deferred where queue = 'draft'").await != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Opens what was closed.
async fn open_lanes(bench: &Bench) {
    sqlx::query("update queue.lanes set closed_until = null, reason = null")
        .execute(bench.database.pool())
        .await
        .unwrap();
}

/// Makes the draft that waits due, for the last try of its provider.
async fn at_last_try(bench: &Bench) {
    sqlx::query("update queue.deferred set attempt = 7 where queue = 'draft'")
        .execute(bench.database.pool())
        .await
        .unwrap();
    hurry(&bench.database, "draft").await;
}
