//! What receivers get of a contact that was erased.

use dispatcher::DispatcherConfig;
use serde_json::{Value, json};
use shared::{
    domain::contact::NewContact,
    engine,
    events::EventType::{ContactCreated, ContactDeleted},
    jobs::EraseHistory,
};

use crate::support::{Receiver, SOON, Stage};

#[tokio::test]
async fn what_waits_is_delivered_without_the_person_and_the_erasure_is_told() {
    let stage = Stage::set().await;
    let mut receiver = Receiver::answering(&[200]).await;
    let (_, secret) = stage.endpoint(&receiver.url, &[ContactCreated, ContactDeleted]).await;
    let new = NewContact {
        email: Some("alex@example.com".into()),
        first_name: Some("Alex".into()),
        ..NewContact::default()
    };
    let mut tx = stage.database.begin().await.unwrap();
    let contact =
        engine::contacts::upsert_many(&mut tx, stage.account_id, &[new], None).await.unwrap().remove(0);
    tx.commit().await.unwrap();
    let ids = [contact.contact.id];
    let mut tx = stage.database.begin().await.unwrap();
    engine::erasure::erase_many(&mut tx, stage.account_id, &ids).await.unwrap();
    tx.commit().await.unwrap();
    let page =
        EraseHistory { account_id: stage.account_id, contact_ids: ids.into(), after: None, again: false };
    let mut tx = stage.database.begin().await.unwrap();
    engine::erasure::erase_page(&mut tx, &page).await.unwrap();
    tx.commit().await.unwrap();

    let dispatcher = stage.dispatch(DispatcherConfig::default());
    let mut told = Vec::new();
    for _ in 0..2 {
        let request = tokio::time::timeout(SOON, receiver.next()).await.unwrap();
        request.verify(&secret);
        assert!(!request.body.to_lowercase().contains("alex"), "{}", request.body);
        let body: Value = serde_json::from_str(&request.body).unwrap();
        assert_eq!((&body["data"]["id"], &body["data"]["erased"]), (&json!(ids[0]), &json!(true)));
        told.push(body["event"].as_str().unwrap().to_owned());
    }
    told.sort();
    assert_eq!(told, ["contact.created", "contact.deleted"]);
    dispatcher.stop().await;
}
