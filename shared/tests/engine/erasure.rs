//! After an erasure nothing in the database says who it was, and everybody else is as before.

use chrono::DateTime;
use serde_json::{Value, json};
use shared::{
    clock::iso,
    db::{
        attempts::{self, NewAttempt},
        deliveries::{self, NewDelivery},
        erasure::Erased,
        outbox,
        suppressions::{self, SuppressionKind, SuppressionReason},
    },
    domain::{contact::NewContact, message::MessageStatus},
    engine::{self, inbound::InboundOutcome},
    events::{EventType, NewEvent, samples},
    ids::{event_id, new_id},
    jobs::EraseHistory,
};
use uuid::Uuid;

use crate::fixture::{Fixture, answer, campaign, contact};

/// What is known of the contact who is erased, and of the one who is not.
const WHO: [&str; 6] =
    ["alex@x.example", "Alexandra", "alexontheair", "+1 718 555", "the secret of alex", "Bell House of A."];
const OTHER: &str = "sam@x.example";

/// Both were written to and answered.
async fn written_to(fixture: &Fixture) -> Uuid {
    let stray = answer("Alexandra <alex@x.example>", "u@y.example", None, "who are you?");
    assert_eq!(fixture.receive(&stray).await, InboundOutcome::Unmatched);
    let active = fixture.active_campaign(&campaign(), &[WHO[0], OTHER]).await;
    let details = NewContact {
        first_name: Some(WHO[1].into()),
        instagram_handle: Some(WHO[2].into()),
        phone: Some(WHO[3].into()),
        company: Some(WHO[5].into()),
        custom: Some(json!({"note": WHO[4]})),
        ..contact(WHO[0])
    };
    let mut tx = fixture.tx().await;
    engine::contacts::upsert_many(&mut tx, fixture.account_id, &[details], None).await.unwrap();
    tx.commit().await.unwrap();
    for email in [WHO[0], OTHER] {
        let sent = fixture.sent(fixture.enrolment(active.id, email).await.id, 0).await;
        let said = if email == OTHER { "call me" } else { WHO[4] };
        let id = format!("{}@reply.example", sent.id.simple());
        fixture.receive(&answer(email, &id, sent.rfc_message_id.as_deref(), said)).await;
    }
    fixture.contact(WHO[0]).await.id
}

/// Relays what is in the outbox to one endpoint, with one failed attempt each, whose answer repeats the body.
async fn relay(fixture: &Fixture) -> Uuid {
    let endpoint_id = new_id();
    let subscribed: Vec<&str> = EventType::ALL.iter().map(|kind| kind.as_str()).collect();
    let mut tx = fixture.tx().await;
    sqlx::query("insert into endpoints (account_id, id, url, events, secret) values ($1, $2, '', $3, '')")
        .bind(fixture.account_id)
        .bind(endpoint_id)
        .bind(subscribed)
        .execute(&mut *tx)
        .await
        .unwrap();
    let shard = outbox::shard_of(fixture.account_id);
    assert_eq!(outbox::try_lock_shards(&mut tx, &[shard]).await.unwrap(), [shard]);
    let taken = outbox::take(&mut tx, &[(shard, 10_000)]).await.unwrap();
    let made: Vec<NewDelivery> = taken
        .iter()
        .map(|event| NewDelivery {
            account_id: event.account_id,
            id: new_id(),
            endpoint_id,
            event_id: event.event_id,
            kind: event.kind.clone(),
            job_id: None,
        })
        .collect();
    deliveries::create_many(&mut tx, &made).await.unwrap();
    answered(&mut tx, &made).await;
    tx.commit().await.unwrap();
    endpoint_id
}

/// What is not relayed yet is rewritten while no relay is at it.
async fn waits_for_the_relay(fixture: &Fixture, page: &EraseHistory) {
    let shard = outbox::shard_of(fixture.account_id);
    let mut relay = fixture.tx().await;
    assert_eq!(outbox::try_lock_shards(&mut relay, &[shard]).await.unwrap(), [shard]);
    let mut erasing = fixture.tx().await;
    sqlx::query("set local lock_timeout = '50ms'").execute(&mut *erasing).await.unwrap();
    let refused = engine::erasure::erase_page(&mut erasing, page).await.unwrap_err();
    assert!(format!("{refused:?}").contains("55P03"), "{refused:?}");
    erasing.rollback().await.unwrap();
    relay.rollback().await.unwrap();
}

async fn answered(tx: &mut shared::Tx, made: &[NewDelivery]) {
    let bodies: Vec<(Uuid, String)> =
        sqlx::query_as("select id, body from events").fetch_all(&mut **tx).await.unwrap();
    let body = |id| bodies.iter().find(|(event, _)| *event == id).map(|(_, body)| body.clone());
    let attempts: Vec<NewAttempt> = made
        .iter()
        .map(|delivery| NewAttempt {
            account_id: delivery.account_id,
            delivery_id: delivery.id,
            number: 1,
            started_at: chrono::DateTime::UNIX_EPOCH,
            duration_ms: 1,
            status_code: Some(500),
            error_class: Some(shared::domain::delivery::ErrorClass::Status),
            response_excerpt: body(delivery.event_id),
        })
        .collect();
    attempts::insert_many(tx, &attempts.iter().collect::<Vec<_>>()).await.unwrap();
}

async fn erase(fixture: &Fixture, ids: &[Uuid]) -> Vec<Erased> {
    let mut tx = fixture.tx().await;
    let erased = engine::erasure::erase_many(&mut tx, fixture.account_id, ids).await.unwrap();
    tx.commit().await.unwrap();
    erased
}

/// Runs the erasure's jobs that are due, each twice, until there is none; returns how many there were and forgets them.
async fn run_due(fixture: &Fixture) -> usize {
    let mut ran = 0;
    loop {
        let due: Vec<String> =
            sqlx::query_scalar("delete from queue.ready where queue = 'erase_history' returning payload")
                .fetch_all(fixture.database.pool())
                .await
                .unwrap();
        if due.is_empty() {
            return ran;
        }
        for payload in due {
            let page: EraseHistory = serde_json::from_str(&payload).unwrap();
            if page.after.is_none() {
                waits_for_the_relay(fixture, &page).await;
            }
            let mut lost = fixture.tx().await;
            engine::erasure::erase_page(&mut lost, &page).await.unwrap();
            lost.rollback().await.unwrap();
            let mut tx = fixture.tx().await;
            engine::erasure::erase_page(&mut tx, &page).await.unwrap();
            tx.commit().await.unwrap();
            ran += 1;
        }
    }
}

/// Makes the second look at the history due.
async fn hurry(fixture: &Fixture) {
    let moved = sqlx::query(
        "with moved as (delete from queue.deferred where queue = 'erase_history' returning *)
         insert into queue.ready (shard, id, queue, tenant, lane, priority, max_attempts, payload)
         select shard, id, queue, tenant, lane, priority, max_attempts, payload from moved",
    )
    .execute(fixture.database.pool())
    .await
    .unwrap();
    assert_eq!(moved.rows_affected(), 1);
}

/// The tables that still say one of these things, in clear or as bytes.
async fn tables_with(fixture: &Fixture, words: &[&str]) -> Vec<String> {
    sqlx::raw_sql(
        "create or replace function tables_with(words text[]) returns setof text language plpgsql as $$
         declare
            place record;
            found bigint;
         begin
            for place in select format('%I.%I', n.nspname, c.relname) as name from pg_class c
                join pg_namespace n on n.oid = c.relnamespace
                where n.nspname in ('public', 'queue') and c.relkind in ('r', 'p') and not c.relispartition order by 1
            loop
                execute format('select count(*) from (select t::text as line from %s t) l, unnest($1) w
                    where strpos(line, w) > 0 or strpos(line, encode(convert_to(w, ''utf8''), ''hex'')) > 0', place.name)
                into found using words;
                if found > 0 then return next place.name; end if;
            end loop;
         end $$",
    )
    .execute(fixture.database.pool())
    .await
    .unwrap();
    sqlx::query_scalar("select * from tables_with($1)")
        .bind(words)
        .fetch_all(fixture.database.pool())
        .await
        .unwrap()
}

/// The bodies of a contact's events, in the history and the outbox.
async fn told(fixture: &Fixture) -> Vec<Value> {
    let bodies: Vec<String> = sqlx::query_scalar(
        "select body from (select id, body from events union all select event_id, body from outbox) e order by id",
    )
    .fetch_all(fixture.database.pool())
    .await
    .unwrap();
    bodies.iter().map(|body| serde_json::from_str(body).unwrap()).collect()
}

#[tokio::test]
async fn nothing_says_who_it_was_and_the_others_are_as_before() {
    let fixture = Fixture::new().await;
    let alex = written_to(&fixture).await;
    relay(&fixture).await;
    // Some of it is not relayed yet.
    let mut tx = fixture.tx().await;
    let change = NewContact { title: Some("Alexandra the Owner".into()), ..contact(WHO[0]) };
    engine::contacts::upsert_many(&mut tx, fixture.account_id, &[change], None).await.unwrap();
    tx.commit().await.unwrap();
    let everywhere = ["attempts", "contacts", "events", "inbound_emails", "messages", "outbox"];
    assert_eq!(tables_with(&fixture, &WHO).await, everywhere.map(|table| format!("public.{table}")));
    let before = told(&fixture).await;
    let of_sam = |bodies: &[Value]| {
        bodies.iter().filter(|body| body["data"]["erased"].is_null()).cloned().collect::<Vec<_>>()
    };

    let erased = erase(&fixture, &[alex, new_id()]).await;
    assert_eq!(erased.iter().map(|erased| erased.id).collect::<Vec<_>>(), [alex]);
    let at_once = ["attempts", "events", "outbox"].map(|table| format!("public.{table}"));
    assert_eq!(tables_with(&fixture, &WHO).await, at_once, "the history is gone through by a job");
    assert_eq!(run_due(&fixture).await, 1);
    assert_eq!(tables_with(&fixture, &WHO).await, [""; 0]);

    let after = told(&fixture).await;
    assert_eq!(after.len(), before.len() + 1, "no event is gone, and there is one more");
    let envelope = |body: &Value| {
        ["id", "event", "timestamp", "created_at"].map(|name| body[name].as_str().unwrap().to_owned())
    };
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(envelope(before), envelope(after));
        assert_eq!(before["data"]["id"], after["data"]["id"]);
        let about_alex = WHO.iter().any(|word| before.to_string().contains(word));
        assert!(!about_alex || after["data"]["erased"] == true, "{after}");
    }
    let mut erased: Vec<&str> = after
        .iter()
        .filter(|body| body["data"]["erased"] == true)
        .filter_map(|body| body["event"].as_str())
        .collect();
    erased.sort_unstable();
    assert_eq!(erased, OF_ALEX);
    let last = after.last().unwrap();
    assert_eq!((&last["event"], &last["data"]["id"]), (&json!("contact.deleted"), &json!(alex)));
    assert_eq!(
        of_sam(&after),
        of_sam(&before).into_iter().filter(|body| !about(body, alex)).collect::<Vec<_>>()
    );
    assert_eq!(
        tables_with(&fixture, &[OTHER, "call me"]).await,
        ["attempts", "contacts", "events", "inbound_emails", "messages"]
            .map(|table| format!("public.{table}"))
    );
}

/// The events of the one who is erased.
const OF_ALEX: [&str; 8] = [
    "contact.created",
    "contact.deleted",
    "contact.updated",
    "contact.updated",
    "conversation.created",
    "conversation.reply_received",
    "message.approved",
    "message.sent",
];

/// Whether an event before the erasure was about the contact.
fn about(body: &Value, contact_id: Uuid) -> bool {
    body.to_string().contains(&contact_id.to_string())
}

/// What contact.updated says of the contact.
fn told_of(contact_id: Uuid) -> Value {
    let (_, mut data) = samples::event(EventType::ContactUpdated, DateTime::UNIX_EPOCH);
    data["id"] = json!(contact_id);
    data["email"] = json!(WHO[0]);
    data
}

#[tokio::test]
async fn what_was_under_way_is_taken_by_the_second_look() {
    let fixture = Fixture::new().await;
    let alex = written_to(&fixture).await;
    erase(&fixture, &[alex]).await;
    assert_eq!(run_due(&fixture).await, 1);
    // As a transaction that had read the contact before, a relay, and an attempt that was being made.
    let mut tx = fixture.tx().await;
    let late = |kind| NewEvent::new(fixture.account_id, kind, alex, told_of(alex));
    outbox::append(&mut tx, &[late(EventType::ContactUpdated)]).await.unwrap();
    tx.commit().await.unwrap();
    relay(&fixture).await;
    let mut tx = fixture.tx().await;
    outbox::append(&mut tx, &[late(EventType::ContactUpdated)]).await.unwrap();
    tx.commit().await.unwrap();
    sqlx::query("update messages set content = $1 where contact_id = $2 and direction = 'inbound'")
        .bind(WHO[4])
        .bind(alex)
        .execute(fixture.database.pool())
        .await
        .unwrap();
    let late = ["attempts", "events", "messages", "outbox"].map(|table| format!("public.{table}"));
    assert_eq!(tables_with(&fixture, &WHO).await, late);
    assert_eq!(run_due(&fixture).await, 0, "it waits until that is over");
    hurry(&fixture).await;
    assert_eq!(run_due(&fixture).await, 1);
    assert_eq!(tables_with(&fixture, &WHO).await, [""; 0]);
    assert_eq!(fixture.jobs("erase_history").await, [], "twice is enough");
}

#[tokio::test]
async fn a_long_history_is_gone_through_page_by_page() {
    let fixture = Fixture::new().await;
    let alex = written_to(&fixture).await;
    relay(&fixture).await;
    let at = iso(DateTime::UNIX_EPOCH);
    let body = json!({"id": event_id(new_id()), "event": EventType::ContactUpdated, "timestamp": at, "created_at": at,
        "data": told_of(alex)});
    // More of an account's events than a page has, with many of the contact's at its ends.
    sqlx::query(
        "insert into events (account_id, id, type, resource_id, body, created_at)
         select $1, uuid_v7_floor(now() + make_interval(secs => n * 0.01)), 'contact.updated',
            case when n <= 250 or n > 20400 then $2 else $1 end,
            case when n <= 250 or n > 20400 then $3 else '{}' end, now()
         from generate_series(1, 20500) n",
    )
    .bind(fixture.account_id)
    .bind(alex)
    .bind(body.to_string())
    .execute(fixture.database.pool())
    .await
    .unwrap();
    erase(&fixture, &[alex]).await;
    // 200 and the rest of the first page; what is found on the second.
    assert_eq!(run_due(&fixture).await, 3);
    assert_eq!(tables_with(&fixture, &WHO).await, [""; 0]);
    let left: i64 = sqlx::query_scalar("select count(*) from events where body = '{}'")
        .fetch_one(fixture.database.pool())
        .await
        .unwrap();
    assert_eq!(left, 20_150);
}

#[tokio::test]
async fn what_waits_to_be_sent_is_not() {
    let fixture = Fixture::new().await;
    let active = fixture.active_campaign(&campaign(), &[WHO[0]]).await;
    let approved = fixture.approved(fixture.enrolment(active.id, WHO[0]).await.id, 0).await;
    let conversation = approved.conversation_id;
    let alex = fixture.contact(WHO[0]).await.id;
    // A direct send belongs to no passage.
    sqlx::query("update messages set enrolment_id = null, step = null where id = $1")
        .bind(approved.id)
        .execute(fixture.database.pool())
        .await
        .unwrap();
    erase(&fixture, &[alex]).await;
    let message = fixture.message(approved.id).await;
    assert_eq!((message.status, message.content.as_str()), (MessageStatus::Cancelled, ""));
    assert_eq!((message.contact_id, message.conversation_id), (alex, conversation), "it still counts");
    let marked = fixture.mark(approved.id).await;
    assert!(matches!(marked, shared::engine::sending::Marked::No));
}

#[tokio::test]
async fn an_erased_contact_stays_erased_and_is_not_written_to_again() {
    let fixture = Fixture::new().await;
    let draft = fixture.draft_campaign(&campaign(), &[WHO[0], "bob@x.example", OTHER]).await;
    let [alex, bob, sam] = [
        fixture.contact(WHO[0]).await.id,
        fixture.contact("bob@x.example").await.id,
        fixture.contact(OTHER).await.id,
    ];
    let mut tx = fixture.tx().await;
    suppressions::insert(
        &mut tx,
        fixture.account_id,
        SuppressionKind::Email,
        "bob@x.example",
        SuppressionReason::OptedOut,
    )
    .await
    .unwrap();
    engine::contacts::delete_many(&mut tx, fixture.account_id, &[bob]).await.unwrap();
    tx.commit().await.unwrap();
    let first = erase(&fixture, &[alex, bob]).await;
    assert_eq!(first.len(), 2, "one that was deleted too");
    let deleted = fixture.events(EventType::ContactDeleted).await;
    assert_eq!(deleted.iter().filter(|data| data["erased"] == true).count(), 2);
    assert_eq!(erase(&fixture, &[bob, alex]).await, first, "once is for ever");
    assert_eq!(fixture.events(EventType::ContactDeleted).await.len(), deleted.len());
    assert_eq!(fixture.jobs("erase_history").await.len(), 1);
    let mut tx = fixture.tx().await;
    assert_eq!(
        engine::erasure::erase_many(&mut tx, new_id(), &[sam]).await.unwrap(),
        [],
        "another account's"
    );
    drop(tx);

    let kept: Vec<(String, String)> =
        sqlx::query_as("select value, reason from suppressions where account_id = $1 order by reason")
            .bind(fixture.account_id)
            .fetch_all(fixture.database.pool())
            .await
            .unwrap();
    assert_eq!(kept.iter().map(|(_, reason)| reason.as_str()).collect::<Vec<_>>(), ["erased", "opted_out"]);
    assert!(kept.iter().all(|(value, _)| value.starts_with("sha256:") && value.len() == 71), "{kept:?}");

    // Somebody imports the addresses again: they are other contacts, and nobody writes to them.
    let mut tx = fixture.tx().await;
    let rows = [contact(WHO[0]), contact("bob@x.example"), contact("carl@x.example")];
    let again =
        engine::contacts::upsert_many(&mut tx, fixture.account_id, &rows, Some(draft.id)).await.unwrap();
    tx.commit().await.unwrap();
    assert!(again.iter().all(|row| row.created && ![alex, bob].contains(&row.contact.id)));
    let listed: Vec<String> = sqlx::query_scalar(
        "select c.email from enrolments e join contacts c on c.id = e.contact_id where e.status = 'listed' order by 1",
    )
    .fetch_all(fixture.database.pool())
    .await
    .unwrap();
    assert_eq!(listed, ["carl@x.example", OTHER]);
    let elsewhere: bool = sqlx::query_scalar("select is_suppressed($1, $2, null, null, null)")
        .bind(new_id())
        .bind(WHO[0])
        .fetch_one(fixture.database.pool())
        .await
        .unwrap();
    assert!(!elsewhere, "a hash means nothing in another account");
}

#[tokio::test]
async fn deliveries_keep_their_record() {
    let fixture = Fixture::new().await;
    let alex = written_to(&fixture).await;
    let endpoint = relay(&fixture).await;
    let page = shared::db::page::Page::first(100);
    let mut conn = fixture.conn().await;
    let list = async |conn: &mut sqlx::PgConnection| {
        deliveries::list(conn, fixture.account_id, endpoint, page).await.unwrap().rows
    };
    // After the attempt that failed one was acknowledged.
    let acknowledged = "update deliveries d set status = 'succeeded', attempts = 2, acknowledged_at = now(),
            acknowledged_ms = 1, response_excerpt = v.body
        from events v where v.account_id = d.account_id and v.id = d.event_id";
    sqlx::query(acknowledged).execute(&mut *conn).await.unwrap();
    let before = list(&mut conn).await;
    erase(&fixture, &[alex]).await;
    run_due(&fixture).await;
    let after = list(&mut conn).await;
    assert_eq!(after.len(), before.len());
    let mut emptied = 0;
    for (mut before, after) in before.into_iter().zip(after) {
        assert_eq!(after.attempts.len(), 2);
        for (before, after) in before.attempts.iter_mut().zip(&after.attempts) {
            if after.response_excerpt.is_none() {
                before.response_excerpt = None;
                emptied += 1;
            }
        }
        assert_eq!(before, after);
    }
    assert_eq!(emptied, 2 * 6, "created, updated; a conversation and its reply; approved and sent");
}
