use serde_json::json;
use shared::{
    db::{self, contacts::ContactFilter, page::Page},
    domain::{
        contact::NewContact,
        enrolment::{EnrolmentStatus, StopReason},
    },
    engine::{self, EngineError, contacts::Upserted},
    events::EventType,
};

use crate::fixture::{Fixture, campaign, contact};

async fn upsert(fixture: &Fixture, rows: &[NewContact]) -> Vec<Upserted> {
    let mut tx = fixture.tx().await;
    let upserted = engine::contacts::upsert_many(&mut tx, fixture.account_id, rows, None).await.unwrap();
    tx.commit().await.unwrap();
    upserted
}

#[tokio::test]
async fn creating_is_idempotent_on_the_address() {
    let fixture = Fixture::new().await;
    let first = upsert(&fixture, &[contact("alex@x.example")]).await;
    assert!(first[0].created);
    assert_eq!(first[0].contact.source, "api");
    let again = upsert(&fixture, &[contact("alex@x.example")]).await;
    assert!(!again[0].created);
    assert_eq!(again[0].contact, first[0].contact);
    assert_eq!(fixture.events(EventType::ContactUpdated).await, [json!(null); 0], "nothing changed");

    let more = NewContact {
        company: Some("The Bell House".into()),
        tags: Some(vec!["vip".into()]),
        custom: Some(json!({"venue": "Bell"})),
        ..contact("alex@x.example")
    };
    let merged = upsert(&fixture, &[more]).await;
    assert_eq!(merged[0].contact.id, first[0].contact.id);
    assert_eq!(merged[0].contact.first_name.as_deref(), Some("Alex"));
    assert_eq!(merged[0].contact.tags, ["vip"]);
    assert_eq!(fixture.events(EventType::ContactCreated).await, [first[0].contact.public()]);
    let updated = fixture.events(EventType::ContactUpdated).await;
    assert_eq!(updated.len(), 1);
    assert_eq!(updated[0]["previous"], json!({"company": null, "tags": [], "custom": {}}));
    assert_eq!(updated[0]["company"], "The Bell House");
}

#[tokio::test]
async fn rows_that_mean_the_same_contact_are_merged_in_order() {
    let fixture = Fixture::new().await;
    let rows = [
        NewContact { title: Some("Owner".into()), ..contact("alex@x.example") },
        contact("sam@x.example"),
        NewContact { first_name: Some("Alexa".into()), ..contact("alex@x.example") },
    ];
    let upserted = upsert(&fixture, &rows).await;
    assert_eq!(upserted.iter().map(|row| row.index).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(upserted.iter().map(|row| row.created).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(upserted[0].contact, upserted[2].contact);
    let alex = &upserted[0].contact;
    assert_eq!((alex.first_name.as_deref(), alex.title.as_deref()), (Some("Alexa"), Some("Owner")));
    assert_eq!(fixture.events(EventType::ContactCreated).await.len(), 2);

    // The same for a contact that is known: one event, against what it was before the call.
    let rows = [
        NewContact { title: Some("Booker".into()), ..contact("alex@x.example") },
        NewContact { phone: Some("1".into()), ..contact("alex@x.example") },
    ];
    upsert(&fixture, &rows).await;
    let updated = fixture.events(EventType::ContactUpdated).await;
    assert_eq!(updated.len(), 1);
    assert_eq!(updated[0]["previous"], json!({"first_name": "Alexa", "title": "Owner", "phone": null}));
}

#[tokio::test]
async fn a_deleted_contact_comes_back_to_life() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &["alex@x.example", "sam@x.example"]).await;
    let alex = fixture.contact("alex@x.example").await;
    let mut tx = fixture.tx().await;
    let ids = [alex.id, shared::ids::new_id()];
    let deleted = engine::contacts::delete_many(&mut tx, fixture.account_id, &ids).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(deleted.len(), 1);
    assert_eq!(fixture.events(EventType::ContactDeleted).await, [deleted[0].public()]);
    let enrolment = fixture.enrolment(active.id, "alex@x.example").await;
    assert_eq!(enrolment.stop_reason, Some(StopReason::ContactDeleted));
    assert_eq!(fixture.enrolment(active.id, "sam@x.example").await.status, EnrolmentStatus::Active);
    assert_eq!(fixture.jobs("draft").await.len(), 1);
    let mut tx = fixture.tx().await;
    assert_eq!(db::contacts::find(&mut tx, fixture.account_id, alex.id).await.unwrap(), None);
    assert_eq!(
        engine::contacts::delete_many(&mut tx, fixture.account_id, &ids).await.unwrap(),
        [],
        "once is enough"
    );
    drop(tx);

    let back = upsert(&fixture, &[contact("alex@x.example")]).await;
    assert!(back[0].created);
    assert_eq!(back[0].contact.id, alex.id);
    assert_eq!(fixture.events(EventType::ContactCreated).await.len(), 3);
}

#[tokio::test]
async fn a_contact_without_an_address_is_known_by_its_handle() {
    let fixture = Fixture::new().await;
    let by_handle =
        |handle: &str| NewContact { instagram_handle: Some(handle.into()), ..NewContact::default() };
    let first = upsert(&fixture, &[by_handle("bell"), by_handle("other"), by_handle("bell")]).await;
    assert_eq!(first.iter().map(|row| row.created).collect::<Vec<_>>(), [true, true, false]);
    let again = upsert(&fixture, &[NewContact { company: Some("Bell".into()), ..by_handle("bell") }]).await;
    assert_eq!((again[0].created, again[0].contact.id), (false, first[0].contact.id));
    let twitter = NewContact { twitter_handle: Some("bell".into()), ..NewContact::default() };
    assert!(upsert(&fixture, std::slice::from_ref(&twitter)).await[0].created, "another channel's handle");
    assert!(!upsert(&fixture, &[twitter]).await[0].created);
    let phone = NewContact { phone: Some("+1 718".into()), ..NewContact::default() };
    assert!(upsert(&fixture, std::slice::from_ref(&phone)).await[0].created);
    assert!(upsert(&fixture, &[phone]).await[0].created, "a number names nobody for certain");
}

#[tokio::test]
async fn a_thousand_rows_are_one_call_and_more_are_refused() {
    let fixture = Fixture::new().await;
    let rows: Vec<NewContact> = (0..1000)
        .map(|n| NewContact {
            company: Some(format!("Company {n}")),
            tags: Some(vec!["import".into()]),
            ..contact(&format!("p{n}@x.example"))
        })
        .collect();
    let upserted = upsert(&fixture, &rows).await;
    assert_eq!(upserted.len(), 1000);
    assert!(upserted.iter().enumerate().all(|(n, row)| row.index == n && row.created));
    let created = fixture.events(EventType::ContactCreated).await;
    assert!(created.iter().zip(&upserted).all(|(event, row)| event["id"] == json!(row.contact.id)));
    let again = upsert(&fixture, &rows).await;
    assert!(again.iter().zip(&upserted).all(|(again, row)| again.contact == row.contact));
    assert_eq!(fixture.events(EventType::ContactUpdated).await.len(), 0);

    let mut tx = fixture.tx().await;
    let many = vec![contact("a@x.example"); 1001];
    let error = engine::contacts::upsert_many(&mut tx, fixture.account_id, &many, None).await.unwrap_err();
    assert!(matches!(error, EngineError::Invalid(_)));
    let error = engine::contacts::upsert_many(&mut tx, fixture.account_id, &[contact("nobody")], None)
        .await
        .unwrap_err();
    assert!(matches!(error, EngineError::InvalidEmail { .. }));
}

#[tokio::test]
async fn accounts_do_not_see_each_others_contacts() {
    let (fixture, stranger) = (Fixture::new().await, shared::ids::new_id());
    let mine = upsert(&fixture, &[contact("alex@x.example")]).await;
    sqlx::query("insert into accounts (id, name) values ($1, 'other')")
        .bind(stranger)
        .execute(fixture.database.pool())
        .await
        .unwrap();
    let mut tx = fixture.tx().await;
    let theirs =
        engine::contacts::upsert_many(&mut tx, stranger, &[contact("alex@x.example")], None).await.unwrap();
    assert!(theirs[0].created);
    assert_ne!(theirs[0].contact.id, mine[0].contact.id);
    let filter = ContactFilter::default();
    assert_eq!(db::contacts::count(&mut tx, stranger, &filter).await.unwrap(), 1);
    assert_eq!(db::contacts::find(&mut tx, stranger, mine[0].contact.id).await.unwrap(), None);
    assert_eq!(engine::contacts::delete_many(&mut tx, stranger, &[mine[0].contact.id]).await.unwrap(), []);
}

#[tokio::test]
async fn lists_are_filtered() {
    let fixture = Fixture::new().await;
    let draft = fixture.draft_campaign(&campaign(), &["in@x.example"]).await;
    let rows = [
        NewContact {
            company: Some("100% Bar_".into()),
            contact_type: Some("bar".into()),
            tags: Some(vec!["vip".into()]),
            source: Some("import".into()),
            ..contact("bar@x.example")
        },
        contact("club@x.example"),
    ];
    upsert(&fixture, &rows).await;
    let mut tx = fixture.tx().await;
    let none = ContactFilter::default();
    for (filter, found) in [
        (none.clone(), vec!["club@x.example", "bar@x.example", "in@x.example"]),
        (ContactFilter { campaign_id: Some(draft.id), ..none.clone() }, vec!["in@x.example"]),
        (ContactFilter { contact_type: Some("bar".into()), ..none.clone() }, vec!["bar@x.example"]),
        (ContactFilter { tag: Some("vip".into()), ..none.clone() }, vec!["bar@x.example"]),
        (ContactFilter { source: Some("import".into()), ..none.clone() }, vec!["bar@x.example"]),
        (ContactFilter { search: Some("0% BAR_".into()), ..none.clone() }, vec!["bar@x.example"]),
        (ContactFilter { search: Some("%".into()), ..none.clone() }, vec!["bar@x.example"]),
        (ContactFilter { search: Some("CLUB@".into()), ..none }, vec!["club@x.example"]),
    ] {
        let rows = db::contacts::list(&mut tx, fixture.account_id, &filter, Page::first(10)).await.unwrap();
        let emails: Vec<_> = rows.rows.iter().filter_map(|contact| contact.email.as_deref()).collect();
        assert_eq!(emails, found, "{filter:?}");
        let count = db::contacts::count(&mut tx, fixture.account_id, &filter).await.unwrap();
        assert_eq!(usize::try_from(count).unwrap(), found.len(), "{filter:?}");
    }
}
