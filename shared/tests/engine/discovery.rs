use std::collections::BTreeMap;

use serde_json::json;
use shared::{
    db,
    domain::{
        campaign::NewCampaign,
        contact::NewContact,
        discovery::{Criteria, DiscoveryStatus, Place},
        enrolment::EnrolmentStatus,
    },
    engine::{self, EngineError, discovery::Found},
    events::EventType,
};
use uuid::Uuid;

use crate::fixture::{Fixture, campaign, contact};

fn criteria(max_results: i32) -> Criteria {
    Criteria {
        keywords: vec!["bar".into()],
        venue_types: vec![],
        location: Some("Brooklyn, NY".into()),
        latitude: None,
        longitude: None,
        radius_miles: 10.0,
        max_results,
    }
}

fn found(source: &str, contact: NewContact) -> Found {
    Found { source: source.into(), contact }
}

async fn start(fixture: &Fixture, campaign_id: Option<Uuid>, max_results: i32) -> Uuid {
    let mut tx = fixture.tx().await;
    let criteria = criteria(max_results);
    let job =
        engine::discovery::start_job(&mut tx, fixture.account_id, campaign_id, &criteria, -5).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(job.status, DiscoveryStatus::Queued);
    job.id
}

#[tokio::test]
async fn a_search_counts_what_it_found_and_enrols_it() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["known@x.example"]).await;
    sqlx::query(
        "insert into suppressions (account_id, id, kind, value, reason)
         values ($1, gen_random_uuid(), 'domain', 'bad.example', 'manual')",
    )
    .bind(fixture.account_id)
    .execute(fixture.database.pool())
    .await
    .unwrap();
    let id = start(&fixture, Some(active.id), 50).await;
    let jobs = fixture.jobs("discover").await;
    assert_eq!(jobs[0].payload, json!({"account_id": fixture.account_id, "discovery_job_id": id}));

    let mut tx = fixture.tx().await;
    let begun = engine::discovery::begin_job(&mut tx, fixture.account_id, id).await.unwrap().unwrap();
    assert_eq!(begun.status, DiscoveryStatus::Running);
    let results = vec![
        found("places", NewContact { company: Some("New".into()), ..contact("New@x.example") }),
        found("places", NewContact { company: Some("Known".into()), ..contact("known@x.example") }),
        found("places", contact("x@bad.example")),
        found("other", contact("new@x.example")),
        found("other", contact("not an address")),
        found("other", contact("more@x.example")),
    ];
    let job = engine::discovery::finish_job(&mut tx, fixture.account_id, id, results.clone()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(job.status, DiscoveryStatus::Completed);
    assert_eq!((job.found, job.new, job.duplicates, job.suppressed), (4, 2, 1, 1));
    assert_eq!(job.by_source.0, BTreeMap::from([("places".into(), 3), ("other".into(), 1)]));
    assert_eq!(job.contact_ids.len(), 3);
    assert_eq!(fixture.events(EventType::DiscoveryCompleted).await, [job.public()]);
    let enrolment = fixture.enrolment(active.id, "new@x.example").await;
    assert_eq!(enrolment.status, EnrolmentStatus::Active);
    assert_eq!(fixture.contact("new@x.example").await.source, "places");
    let known = fixture.contact("known@x.example").await;
    assert_eq!((known.source.as_str(), known.company.as_deref()), ("api", Some("Known")), "a gap was filled");

    // Safe to run twice.
    let mut tx = fixture.tx().await;
    assert_eq!(engine::discovery::begin_job(&mut tx, fixture.account_id, id).await.unwrap(), None);
    let again = engine::discovery::finish_job(&mut tx, fixture.account_id, id, results).await.unwrap();
    assert_eq!(again, job);
    let failed = engine::discovery::fail_job(&mut tx, fixture.account_id, id, "late").await.unwrap();
    assert_eq!(failed, job);
    tx.commit().await.unwrap();
    assert_eq!(fixture.events(EventType::DiscoveryCompleted).await.len(), 1);
    assert_eq!(fixture.events(EventType::DiscoveryFailed).await.len(), 0);
}

#[tokio::test]
async fn a_search_brings_nobody_back_whom_a_person_deleted() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["gone@x.example"]).await;
    let gone = fixture.contact("gone@x.example").await;
    let mut tx = fixture.tx().await;
    engine::contacts::delete_many(&mut tx, fixture.account_id, &[gone.id]).await.unwrap();
    tx.commit().await.unwrap();
    let deleted = fixture.contact("gone@x.example").await;
    let next = fixture.active_campaign(&campaign(), &["b@x.example"]).await;
    let created = fixture.events(EventType::ContactCreated).await.len();

    let id = start(&fixture, Some(next.id), 50).await;
    let mut tx = fixture.tx().await;
    let results = vec![found("places", NewContact { phone: Some("1".into()), ..contact("gone@x.example") })];
    let job = engine::discovery::finish_job(&mut tx, fixture.account_id, id, results).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!((job.found, job.new, job.duplicates), (1, 0, 1));
    assert!(job.contact_ids.is_empty());
    assert_eq!(fixture.contact("gone@x.example").await, deleted);
    assert_eq!(fixture.events(EventType::ContactCreated).await.len(), created);
    assert_eq!(
        (fixture.progress(active.id).await.discovered, fixture.progress(next.id).await.discovered),
        (1, 1)
    );
}

#[tokio::test]
async fn what_has_no_address_is_known_by_its_entry() {
    let fixture = Fixture::new().await;
    let entry = |id: &str, website: Option<&str>| NewContact {
        phone: Some("+1 718 555 0100".into()),
        website: website.map(Into::into),
        provenance: Some(json!({"source": "places", "place_id": id})),
        ..NewContact::default()
    };
    let mut tallies = Vec::new();
    for website in [None, Some("https://x.example")] {
        let id = start(&fixture, None, 50).await;
        let mut tx = fixture.tx().await;
        let results = vec![
            found("places", entry("one", website)),
            found("places", entry("two", None)),
            found("places", entry("two", None)),
        ];
        let job = engine::discovery::finish_job(&mut tx, fixture.account_id, id, results).await.unwrap();
        tx.commit().await.unwrap();
        tallies.push((job.found, job.new, job.duplicates, job.contact_ids));
    }
    assert_eq!((tallies[0].0, tallies[0].1, tallies[0].2), (2, 2, 0));
    assert_eq!((tallies[1].0, tallies[1].1, tallies[1].2), (2, 0, 2));
    assert_eq!(tallies[0].3, tallies[1].3, "the same contacts");
    let websites: Vec<Option<String>> = sqlx::query_scalar("select website from contacts order by id")
        .fetch_all(fixture.database.pool())
        .await
        .unwrap();
    assert_eq!(websites, [Some("https://x.example".to_owned()), None]);
}

#[tokio::test]
async fn a_completed_campaign_is_not_searched_for() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["a@x.example"]).await;
    fixture.set_status(active.id, shared::domain::campaign::CampaignStatus::Completed).await;
    let mut tx = fixture.tx().await;
    for (campaign_id, expected) in [
        (active.id, "a campaign that is completed takes no contacts"),
        (shared::ids::new_id(), "campaign not found"),
    ] {
        let error =
            engine::discovery::start_job(&mut tx, fixture.account_id, Some(campaign_id), &criteria(1), 0)
                .await
                .unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[tokio::test]
async fn a_search_stops_at_what_was_wanted_and_survives_its_campaign() {
    let fixture = Fixture::new().await;
    let draft = fixture.draft_campaign(&campaign(), &[]).await;
    let id = start(&fixture, Some(draft.id), 2).await;
    let mut tx = fixture.tx().await;
    engine::campaigns::delete(&mut tx, fixture.account_id, draft.id).await.unwrap();
    let results = (0..5).map(|n| found("places", contact(&format!("p{n}@x.example")))).collect();
    let job = engine::discovery::finish_job(&mut tx, fixture.account_id, id, results).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!((job.found, job.new), (2, 2));
    assert_eq!(fixture.progress(draft.id).await.discovered, 0);
}

#[tokio::test]
async fn a_failed_search_says_why() {
    let fixture = Fixture::new().await;
    let id = start(&fixture, None, 2).await;
    let mut tx = fixture.tx().await;
    let job =
        engine::discovery::fail_job(&mut tx, fixture.account_id, id, "no source\0 answered").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(job.status, DiscoveryStatus::Failed);
    assert_eq!(job.error.as_deref(), Some("no source answered"));
    let events = fixture.events(EventType::DiscoveryFailed).await;
    assert_eq!(events, [job.public()]);
    let mut tx = fixture.tx().await;
    let missing = shared::ids::new_id();
    let error = engine::discovery::fail_job(&mut tx, fixture.account_id, missing, "x").await.unwrap_err();
    assert!(matches!(error, EngineError::DiscoveryJobNotFound));
    let wrong = Criteria { keywords: vec![], location: None, ..criteria(0) };
    let error = engine::discovery::start_job(&mut tx, fixture.account_id, None, &wrong, 0).await.unwrap_err();
    let EngineError::Invalid(fields) = error else { panic!("{error}") };
    assert_eq!(
        fields.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(),
        ["max_results", "keywords", "location"]
    );
}

fn place(id: &str, venue_type: &str, keywords: &[&str], latitude: f64) -> Place {
    Place {
        id: id.into(),
        name: format!("The {id}"),
        venue_type: venue_type.into(),
        email: Some(format!("{id}@x.example")),
        phone: None,
        website: None,
        instagram_handle: None,
        twitter_handle: None,
        street: None,
        location: "Brooklyn, NY".into(),
        latitude,
        longitude: -73.95,
        keywords: keywords.iter().map(|word| (*word).into()).collect(),
        description: String::new(),
    }
}

#[tokio::test]
async fn the_directory_is_searched_by_kind_word_and_distance() {
    let fixture = Fixture::new().await;
    let mut tx = fixture.tx().await;
    let places = [
        place("both", "bar", &["live music", "dj nights"], 40.66),
        place("near", "bar", &["live music"], 40.65),
        place("plain", "bar", &[], 40.65),
        place("club", "club", &["live music"], 40.65),
        place("far", "bar", &["live music"], 41.50),
    ];
    assert_eq!(db::places::upsert_many(&mut tx, &places).await.unwrap(), 5);
    assert_eq!(db::places::upsert_many(&mut tx, &places).await.unwrap(), 5, "again");
    assert_eq!(db::places::count(&mut tx).await.unwrap(), 5);
    let base = Criteria {
        latitude: Some(40.65),
        longitude: Some(-73.95),
        location: None,
        keywords: vec![],
        ..criteria(50)
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    for (criteria, expected) in [
        (
            Criteria {
                venue_types: words(&["Bar"]),
                keywords: words(&["live music", "dj nights"]),
                ..base.clone()
            },
            vec!["both", "near", "plain"],
        ),
        (
            Criteria { keywords: words(&["bar", "club"]), ..base.clone() },
            vec!["club", "near", "plain", "both"],
        ),
        (Criteria { keywords: words(&["the near"]), ..base.clone() }, vec!["near"]),
        (Criteria { venue_types: words(&["bar"]), max_results: 1, ..base.clone() }, vec!["near"]),
        (
            Criteria { venue_types: words(&["bar"]), radius_miles: 100.0, ..base.clone() },
            vec!["near", "plain", "both", "far"],
        ),
        (Criteria { venue_types: words(&["church"]), ..base.clone() }, vec![]),
        (
            Criteria {
                latitude: None,
                location: Some("brooklyn".into()),
                venue_types: words(&["club"]),
                radius_miles: 30.0,
                ..base.clone()
            },
            vec!["club"],
        ),
        (
            Criteria {
                latitude: None,
                location: Some("Paris".into()),
                venue_types: words(&["club"]),
                ..base
            },
            vec![],
        ),
    ] {
        let found = db::places::search(&mut tx, &criteria, 100).await.unwrap();
        let ids: Vec<_> = found.iter().map(|place| place.id.as_str()).collect();
        assert_eq!(ids, expected, "{criteria:?}");
    }
}

#[tokio::test]
async fn a_draft_campaign_lists_what_was_found_and_does_not_search_again() {
    let fixture = Fixture::new().await;
    let new = NewCampaign {
        max_results: 1,
        keywords: vec!["bar".into()],
        location: Some("Brooklyn".into()),
        ..campaign()
    };
    let draft = fixture.draft_campaign(&new, &[]).await;
    let id = start(&fixture, Some(draft.id), 1).await;
    let mut tx = fixture.tx().await;
    let results = vec![found("places", contact("a@x.example"))];
    engine::discovery::finish_job(&mut tx, fixture.account_id, id, results).await.unwrap();
    tx.commit().await.unwrap();
    fixture.clear_jobs().await;
    assert_eq!(fixture.enrolment(draft.id, "a@x.example").await.status, EnrolmentStatus::Listed);
    fixture.set_status(draft.id, shared::domain::campaign::CampaignStatus::Active).await;
    assert_eq!(fixture.jobs("discover").await, []);
    assert_eq!(fixture.jobs("draft").await.len(), 1);
}
