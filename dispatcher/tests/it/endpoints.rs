//! What the API reads and writes about endpoints and their deliveries.

use dispatcher::DispatcherConfig;
use serde_json::json;
use shared::{
    db::{
        deliveries,
        endpoints::{self, EndpointPatch},
        outbox,
        page::Page,
    },
    domain::delivery::DeliveryStatus,
    events::EventType::{ContactCreated, MessageSent},
    ids::new_id,
};
use uuid::Uuid;

use crate::support::{Receiver, Stage, test_event};

#[tokio::test]
async fn an_endpoint_is_listed_changed_and_deleted() {
    let stage = Stage::set().await;
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(stage.endpoint(&format!("https://example.com/{n}"), &[MessageSent]).await.0);
    }
    let account_id = stage.account_id;
    let mut tx = stage.database.begin().await.unwrap();
    let cap = "select cap from queue.lanes where queue = 'deliver' and lane = $1";
    let lane_cap: Option<i32> =
        sqlx::query_scalar(cap).bind(ids[0].to_string()).fetch_one(&mut *tx).await.unwrap();
    assert_eq!(lane_cap, Some(10));

    let first = endpoints::list(&mut tx, account_id, Page::first(2)).await.unwrap();
    assert_eq!(first.rows.iter().map(|endpoint| endpoint.id).collect::<Vec<_>>(), [ids[2], ids[1]]);
    let rest = endpoints::list(&mut tx, account_id, Page::after(first.next.unwrap(), 2)).await.unwrap();
    assert_eq!((rest.rows[0].id, rest.rows.len(), rest.next), (ids[0], 1, None));
    assert_eq!(endpoints::count(&mut tx, account_id).await.unwrap(), 3);
    assert_eq!(endpoints::find(&mut tx, new_id(), ids[0]).await.unwrap(), None, "another account's");

    let patch = EndpointPatch {
        url: Some("https://example.org/"),
        events: Some(&[ContactCreated]),
        description: Some(Some("ours")),
        enabled: Some(false),
        ..EndpointPatch::default()
    };
    let changed = endpoints::update(&mut tx, account_id, ids[0], &patch).await.unwrap().unwrap();
    assert_eq!((changed.url.as_str(), changed.enabled), ("https://example.org/", false));
    assert_eq!(
        (changed.events, changed.description.as_deref()),
        (vec!["contact.created".to_owned()], Some("ours"))
    );
    let patch = EndpointPatch { description: Some(None), ..EndpointPatch::default() };
    let changed = endpoints::update(&mut tx, account_id, ids[0], &patch).await.unwrap().unwrap();
    assert_eq!((changed.url.as_str(), changed.description), ("https://example.org/", None));
    assert_eq!(endpoints::update(&mut tx, new_id(), ids[0], &patch).await.unwrap(), None);

    let deleted = endpoints::delete(&mut tx, account_id, ids[0]).await.unwrap().unwrap();
    assert!(!deleted.enabled);
    assert_eq!(endpoints::find(&mut tx, account_id, ids[0]).await.unwrap(), None);
    assert_eq!(endpoints::update(&mut tx, account_id, ids[0], &patch).await.unwrap(), None);
    assert_eq!(endpoints::delete(&mut tx, account_id, ids[0]).await.unwrap(), None);
    assert_eq!(endpoints::count(&mut tx, account_id).await.unwrap(), 2);
}

#[tokio::test]
async fn the_public_form_is_the_contracts() {
    let stage = Stage::set().await;
    let (id, _) = stage.endpoint("https://example.com/hooks", &[MessageSent]).await;
    let mut conn = stage.pool().acquire().await.unwrap();
    let endpoint = endpoints::find(&mut conn, stage.account_id, id).await.unwrap().unwrap();
    let shown = serde_json::to_value(&endpoint).unwrap();
    assert_eq!(
        shown,
        json!({
            "id": id, "url": "https://example.com/hooks", "events": ["message.sent"], "enabled": true,
            "description": null, "rate_limit": null, "ordered": false, "headers": {},
            "created_at": shared::clock::iso(endpoint.created_at), "last_success_at": null, "failing_since": null,
            "disabled_reason": null,
        })
    );
}

#[tokio::test]
async fn enabling_forgets_why_it_was_disabled() {
    let stage = Stage::set().await;
    let receiver = Receiver::answering(&[410]).await;
    let (id, _) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    stage.append(MessageSent, new_id(), 1).await;
    let once = DispatcherConfig { webhook_retries: "none".parse().unwrap(), ..DispatcherConfig::default() };
    let dispatcher = stage.dispatch(once);
    stage.until_status(id, DeliveryStatus::Exhausted).await;
    dispatcher.stop().await;
    assert_eq!(stage.count("select count(*) from notifications where type = 'webhook.disabled'").await, 1);
    let mut tx = stage.database.begin().await.unwrap();
    let gone = endpoints::find(&mut tx, stage.account_id, id).await.unwrap().unwrap();
    assert!(!gone.enabled && gone.failing_since.is_some() && gone.disabled_reason.is_some());
    let on = EndpointPatch { enabled: Some(true), ..EndpointPatch::default() };
    let again = endpoints::update(&mut tx, stage.account_id, id, &on).await.unwrap().unwrap();
    assert!(again.enabled && again.failing_since.is_none() && again.disabled_reason.is_none());
}

#[tokio::test]
async fn deliveries_are_listed_in_pages_and_found_by_their_event() {
    let stage = Stage::set().await;
    let receiver = Receiver::answering(&[500, 500, 500, 200]).await;
    let (id, _) = stage.endpoint(&receiver.url, &[MessageSent]).await;
    let dispatcher = stage.dispatch(crate::support::hasty());
    stage.append(MessageSent, new_id(), 1).await;
    stage.until_status(id, DeliveryStatus::Succeeded).await;
    let test = test_event(stage.account_id, ContactCreated, id);
    let mut tx = stage.database.begin().await.unwrap();
    let event_id: Uuid = outbox::append(&mut tx, &[test]).await.unwrap()[0];
    tx.commit().await.unwrap();
    stage.until(id, |all| all.len() == 2 && all[1].status == DeliveryStatus::Succeeded).await;
    dispatcher.stop().await;

    let mut conn = stage.pool().acquire().await.unwrap();
    let account_id = stage.account_id;
    assert_eq!(deliveries::count(&mut conn, account_id, id).await.unwrap(), 2);
    let newest = deliveries::list(&mut conn, account_id, id, Page::first(1)).await.unwrap();
    let of_test = deliveries::find_of_event(&mut conn, account_id, id, event_id).await.unwrap().unwrap();
    assert_eq!(newest.rows, std::slice::from_ref(&of_test));
    assert_eq!((of_test.event.as_str(), of_test.attempts.len()), ("contact.created", 1));
    let oldest =
        deliveries::list(&mut conn, account_id, id, Page::after(newest.next.unwrap(), 1)).await.unwrap();
    assert_eq!((oldest.rows[0].attempts.len(), oldest.next), (4, None));
    assert_eq!(deliveries::find_of_event(&mut conn, new_id(), id, event_id).await.unwrap(), None);
    let shown = serde_json::to_value(&oldest.rows[0]).unwrap();
    assert_eq!(shown["status"], "succeeded");
    assert_eq!(shown["attempts"][0]["error_class"], "status");
    let names: Vec<&String> = shown.as_object().unwrap().keys().collect();
    assert_eq!(
        names,
        ["attempts", "created_at", "event", "event_id", "finished_at", "id", "next_attempt_at", "status"]
    );
}
