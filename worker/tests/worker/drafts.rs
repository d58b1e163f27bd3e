//! The draft and discover jobs.

use queue::Outcome;
use shared::{
    db::{discovery_jobs, places},
    domain::discovery::{Criteria, DiscoveryStatus, Place},
    engine,
};

use crate::{
    bench::{Bench, soon},
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
