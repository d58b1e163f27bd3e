//! Contacts: one, or five hundred at once.

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{TestApp, answer, created, failed, ok, scrubbed};

#[tokio::test]
async fn a_known_address_is_merged_into_its_contact() {
    let app = TestApp::start().await;
    let new = json!({"email": " Alex@Example.com ", "first_name": "Alex", "tags": ["bar"]});
    let (status, body) = app.post("/contacts", new).await;
    insta::assert_json_snapshot!("contacts.create", scrubbed(&body));
    let first = created((status, body));
    let second =
        created(app.post("/contacts", json!({"email": "alex@example.com", "title": "Booking"})).await);
    assert_eq!(second["id"], first["id"]);
    assert_eq!((&second["first_name"], &second["title"]), (&json!("Alex"), &json!("Booking")));
    assert_eq!(app.events().await, ["contact.created", "contact.updated"]);
    assert_eq!(app.audited().await, ["create_contact", "create_contact"]);
    let path = format!("/contacts/{}", first["id"].as_str().unwrap());
    assert_eq!(ok(app.get(&path).await), second);
    failed(app.get("/contacts/nobody").await, 404, "CONTACT_001");
}

#[tokio::test]
async fn a_wrong_address_has_its_own_code() {
    let app = TestApp::start().await;
    let (status, body) = app.post("/contacts", json!({"email": "nobody", "latitude": 100})).await;
    insta::assert_json_snapshot!("contacts.create.invalid", scrubbed(&body));
    assert_eq!(failed((status, body), 400, "CONTACT_003"), ["email", "latitude"]);
    let blank = json!({"email": " ", "instagram_handle": "alex"});
    assert_eq!(failed(app.post("/contacts", blank).await, 400, "CONTACT_003"), ["email"]);
    failed(app.post("/contacts", json!({"first_name": "Alex"})).await, 422, "SERVER_005");
    failed(app.post("/contacts", json!({"email": 5})).await, 400, "SERVER_002");
    assert_eq!(app.count("select count(*) from contacts").await, 0);
}

#[tokio::test]
async fn lists_are_filtered_and_wildcards_are_literal() {
    let app = TestApp::start().await;
    created(app.post("/contacts", json!({"email": "a@example.com", "company": "100% Vinyl"})).await);
    created(
        app.post("/contacts", json!({"email": "b@example.com", "company": "Vinyl", "tags": ["bar"]})).await,
    );
    let found = async |query: &str| -> Vec<String> {
        let rows = ok(app.get(&format!("/contacts?{query}")).await);
        rows.as_array().unwrap().iter().map(|row| row["email"].as_str().unwrap()[..1].to_owned()).collect()
    };
    assert_eq!(found("").await, ["b", "a"]);
    assert_eq!(found("search=vinyl").await, ["b", "a"]);
    assert_eq!(found("search=100%25").await, ["a"]);
    assert_eq!(found("search=%25").await, ["a"]);
    assert_eq!(found("tag=bar").await, ["b"]);
    assert_eq!(found("status=bounced").await, [""; 0]);
}

#[tokio::test]
async fn an_import_stores_the_good_rows_and_names_the_others() {
    let app = TestApp::start().await;
    let campaign = app.campaign().await;
    created(app.post("/contacts", json!({"email": "c7@example.com"})).await);
    let mut contacts: Vec<Value> =
        (0..500).map(|n| json!({"email": format!("c{n}@example.com"), "first_name": "C"})).collect();
    contacts[3] = json!({"email": "nobody"});
    contacts[4] = json!({"email": "d@example.com", "tags": "bar"});
    contacts[5] = json!("e@example.com");
    contacts[6] = json!({"email": "c8@example.com", "first_name": "Again", "shoe": 9});
    let (status, body) =
        app.post("/contacts/bulk-import", json!({"contacts": contacts, "campaign_id": campaign["id"]})).await;
    let imported = created((status, body.clone()));
    assert_eq!((&imported["imported"], &imported["failed"]), (&json!(497), &json!(3)));
    assert_eq!((&imported["created"], &imported["updated"]), (&json!(495), &json!(2)));
    insta::assert_json_snapshot!("contacts.bulk_import.errors", imported["errors"]);
    assert!(body["meta"]["warnings"].to_string().contains("shoe"));
    assert_eq!(imported["contacts"].as_array().unwrap().len(), 497);

    let listed =
        ok(app.get(&format!("/contacts?campaign_id={}&limit=1", campaign["id"].as_str().unwrap())).await);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(app.count("select count(*) from contacts").await, 496);
    assert_eq!(app.count("select count(*) from enrolments where status = 'listed'").await, 496);
    assert_eq!(app.audited().await.last().unwrap(), "bulk_create_contacts");
}

#[tokio::test]
async fn an_import_of_nothing_of_too_much_or_for_nobody_is_refused() {
    let app = TestApp::start().await;
    let import = |contacts: Vec<Value>| json!({"contacts": contacts});
    assert_eq!(failed(app.post("/contacts/bulk-import", json!({})).await, 400, "SERVER_002"), ["contacts"]);
    failed(app.post("/contacts/bulk-import", import(vec![])).await, 422, "SERVER_005");
    let many = (0..501).map(|n| json!({"email": format!("c{n}@example.com")})).collect();
    failed(app.post("/contacts/bulk-import", import(many)).await, 422, "SERVER_005");
    let mut body = import(vec![json!({"email": "a@example.com"})]);
    body["campaign_id"] = json!(uuid::Uuid::now_v7());
    failed(app.post("/contacts/bulk-import", body).await, 404, "CAMP_001");
    assert_eq!(app.count("select count(*) from contacts").await, 0);
}

#[tokio::test]
async fn a_row_with_nul_fails_alone() {
    let app = TestApp::start().await;
    let rows = json!({"contacts": [
        {"email": "a@example.com", "first_name": "A\u{0}"},
        {"email": "b@example.com", "custom": {"k\u{0}": 1}},
        {"email": "c@example.com"},
    ]});
    let imported = created(app.post("/contacts/bulk-import", rows).await);
    assert_eq!((&imported["imported"], &imported["failed"]), (&json!(1), &json!(2)));
    let wrong: Vec<_> = imported["errors"].as_array().unwrap().iter().map(|error| &error["field"]).collect();
    assert_eq!(wrong, [&json!("first_name"), &json!("custom")]);
}

#[tokio::test]
async fn a_directory_entry_too_long_for_its_index_fails_alone() {
    let app = TestApp::start().await;
    // Random, since the index would take a long text that compresses well.
    let id: String = (0..200).map(|_| uuid::Uuid::new_v4().simple().to_string()).collect();
    let wrong = json!({"phone": "555", "provenance": {"source": "places", "place_id": id}});
    assert_eq!(
        failed(app.post("/contacts", wrong.clone()).await, 422, "SERVER_005"),
        ["provenance.place_id"]
    );
    let rows = json!({"contacts": [wrong, {"email": "b@example.com"}]});
    let imported = created(app.post("/contacts/bulk-import", rows).await);
    assert_eq!((&imported["imported"], &imported["failed"]), (&json!(1), &json!(1)));
    assert_eq!(imported["errors"][0]["field"], "provenance.place_id");
}

#[tokio::test]
async fn a_body_of_too_many_values_is_too_large() {
    let app = TestApp::start().await;
    let rows = format!(r#"{{"contacts": [{}{{}}]}}"#, r#"{"":0},"#.repeat(60_000));
    for path in ["/contacts/bulk-import", "/campaigns"] {
        let request = app.request(reqwest::Method::POST, path).body(rows.clone());
        failed(crate::app::answer(request).await, 413, "SERVER_010");
    }
    let rows = format!(r#"{{"contacts": [{}{{}}]}}"#, r#"{"":0},"#.repeat(600));
    let request = app.request(reqwest::Method::POST, "/contacts/bulk-import").body(rows);
    assert_eq!(failed(crate::app::answer(request).await, 422, "SERVER_005"), ["contacts"]);
}

#[tokio::test]
async fn a_campaign_that_has_ended_takes_no_contacts() {
    let app = TestApp::start().await;
    let campaign = app.campaign().await;
    sqlx::query("update campaigns set status = 'completed', completed_at = now()")
        .execute(app.database.pool())
        .await
        .unwrap();
    let import = json!({"contacts": [{"email": "a@example.com"}], "campaign_id": campaign["id"]});
    failed(app.post("/contacts/bulk-import", import).await, 409, "SERVER_016");
    let search = json!({"keywords": ["bar"], "location": "Brooklyn, NY", "campaign_id": campaign["id"]});
    failed(app.post("/discovery/search", search).await, 409, "SERVER_016");
    assert_eq!(app.count("select count(*) from discovery_jobs").await, 0);
}

#[tokio::test]
async fn an_erased_contact_is_gone_for_good() {
    let app = TestApp::start().await;
    let new = json!({"email": "alex@example.com", "first_name": "Alex"});
    let contact = created(app.post("/contacts", new.clone()).await);
    let path = format!("/contacts/{}/erase", contact["id"].as_str().unwrap());
    let writer = app.key_with(&["read", "write"]).await;
    let refused = answer(app.request_as(&writer, Method::POST, &path)).await;
    failed(refused, 403, "APIKEY_004");
    let stranger = app.stranger().await;
    let unknown = answer(app.request_as(&stranger, Method::POST, &path)).await;
    failed(unknown, 404, "CONTACT_001");
    failed(app.post("/contacts/nobody/erase", json!({})).await, 404, "CONTACT_001");
    assert_eq!(app.events().await, ["contact.created"]);

    let (status, body) = app.post(&path, json!({})).await;
    insta::assert_json_snapshot!("contacts.erase", scrubbed(&body));
    let erased = ok((status, body));
    assert_eq!(erased["id"], contact["id"]);
    assert_eq!(ok(app.post(&path, json!({})).await), erased, "again is the same");
    failed(app.get(&path.replace("/erase", "")).await, 404, "CONTACT_001");
    assert_eq!(app.events().await, ["contact.created", "contact.deleted"]);
    assert_eq!(app.audited().await, ["create_contact", "delete_contact", "delete_contact"]);
    assert_eq!(app.count("select count(*) from queue.ready where queue = 'erase_history'").await, 1);
    let again = created(app.post("/contacts", new).await);
    assert_ne!(again["id"], contact["id"]);
}

#[tokio::test]
async fn a_contact_is_changed_field_by_field() {
    let app = TestApp::start().await;
    let new =
        json!({"email": "alex@example.com", "company": "The Bell", "tags": ["bar"], "custom": {"a": 1}});
    let path = format!("/contacts/{}", created(app.post("/contacts", new).await)["id"].as_str().unwrap());
    let change = json!({"email": " Sam@Example.com", "company": null, "tags": [], "colour": "red"});
    let (status, body) = app.patch(&path, change).await;
    assert!(body["meta"]["warnings"][0].as_str().unwrap().contains("colour"));
    let changed = ok((status, body));
    assert_eq!((&changed["email"], &changed["company"]), (&json!("sam@example.com"), &Value::Null));
    assert_eq!((&changed["tags"], &changed["custom"]), (&json!([]), &json!({"a": 1})));
    assert_eq!(ok(app.get(&path).await), changed);
    // What changes nothing is no event.
    assert_eq!(ok(app.patch(&path, json!({})).await), changed);
    assert_eq!(ok(app.patch(&path, json!({"email": "sam@example.com"})).await), changed);
    assert_eq!(app.events().await, ["contact.created", "contact.updated"]);

    created(app.post("/contacts", json!({"email": "taken@example.com"})).await);
    failed(app.patch(&path, json!({"email": "taken@example.com"})).await, 409, "SERVER_016");
    assert_eq!(failed(app.patch(&path, json!({"email": "nobody"})).await, 400, "CONTACT_003"), ["email"]);
    assert_eq!(failed(app.patch(&path, json!({"email": null})).await, 422, "SERVER_005"), ["contact"]);
    assert_eq!(failed(app.patch(&path, json!({"latitude": 91})).await, 422, "SERVER_005"), ["latitude"]);
    assert_eq!(failed(app.patch(&path, json!({"tags": "bar"})).await, 400, "SERVER_002"), ["tags"]);
    assert_eq!(ok(app.get(&path).await), changed);
    failed(app.patch("/contacts/nobody", json!({})).await, 404, "CONTACT_001");
}

#[tokio::test]
async fn a_new_address_of_a_bounced_contact_is_not_known_to_bounce() {
    let app = TestApp::start().await;
    let contact = created(app.post("/contacts", json!({"email": "old@example.com"})).await);
    let path = format!("/contacts/{}", contact["id"].as_str().unwrap());
    sqlx::query("update contacts set status = 'bounced'").execute(app.database.pool()).await.unwrap();
    assert_eq!(ok(app.patch(&path, json!({"company": "The Bell"})).await)["status"], "bounced");
    assert_eq!(ok(app.patch(&path, json!({"email": "new@example.com"})).await)["status"], "active");
}

#[tokio::test]
async fn deleted_contacts_are_hidden_and_come_back_by_their_address() {
    let app = TestApp::start().await;
    let mut ids = Vec::new();
    for n in 0..3 {
        let contact = created(app.post("/contacts", json!({"email": format!("c{n}@example.com")})).await);
        ids.push(contact["id"].as_str().unwrap().to_owned());
    }
    let path = format!("/contacts/{}", ids[0]);
    assert_eq!(ok(app.delete(&path).await)["id"], ids[0]);
    for answered in [app.get(&path).await, app.delete(&path).await, app.patch(&path, json!({})).await] {
        failed(answered, 404, "CONTACT_001");
    }
    let unknown = uuid::Uuid::now_v7().to_string();
    let bulk = json!({"ids": [ids[1], ids[1], ids[0], unknown]});
    let outcome = ok(app.post("/contacts/bulk-delete", bulk).await);
    assert_eq!((&outcome["deleted"], outcome["not_found"].as_array().unwrap().len()), (&json!(1), 2));
    assert_eq!(ok(app.get("/contacts").await)[0]["id"], ids[2]);
    assert_eq!(
        failed(app.post("/contacts/bulk-delete", json!({"ids": []})).await, 422, "SERVER_005"),
        ["ids"]
    );
    let many = json!({"ids": vec![&unknown; 501]});
    assert_eq!(failed(app.post("/contacts/bulk-delete", many).await, 422, "SERVER_005"), ["ids"]);

    let back = created(app.post("/contacts", json!({"email": "c0@example.com"})).await);
    assert_eq!(back["id"], ids[0]);
    let events = app.events().await;
    assert_eq!(events[3..], ["contact.deleted", "contact.deleted", "contact.created"]);
}
