//! SIGKILL of the worker in the middle of a replay.

use serde_json::json;
use tests::{Stack, until};

const EVENTS: i64 = 40_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_survives_the_deaths_of_its_worker_and_makes_each_delivery_once() {
    let mut stack = Stack::start().await;
    // What is made stays to be counted.
    stack.kill("dispatcher");
    let body = json!({"url": "https://example.com/", "events": ["contact.created"]});
    let hook = stack.api.post("/webhooks", &body).await;
    sqlx::query(
        "insert into events (account_id, id, type, resource_id, body, created_at)
         select a.id, overlay(gen_random_uuid()::text placing left(uuid_v7_floor(at)::text, 13) from 1 for 13)::uuid,
            'contact.created', a.id, '{}', at
         from accounts a, generate_series(1, $1) n, lateral (select now() - n * interval '10 ms' as at) t",
    )
    .bind(EVENTS)
    .execute(stack.database.pool())
    .await
    .unwrap();
    let since: String = sqlx::query_scalar(
        "select to_char(now() at time zone 'utc' - interval '1 hour', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')",
    )
    .fetch_one(stack.database.pool())
    .await
    .unwrap();
    let path = format!("/webhooks/{}/replay", hook.text("id"));
    let replay = stack.api.post(&path, &json!({"since": since})).await;
    let path = format!("{path}/{}", replay.text("id"));
    let (mut seen, mut kills) = (0, 0);
    let ended = loop {
        let now = until("the replay goes on", async || {
            let replay = stack.api.get(&path).await.data().clone();
            let moved = replay["scanned"].as_i64() > Some(seen) || replay["finished_at"].is_string();
            moved.then_some(replay)
        })
        .await;
        if now["finished_at"].is_string() {
            break now;
        }
        seen = now["scanned"].as_i64().unwrap();
        if kills < 4 {
            kills += 1;
            stack.kill("worker");
            stack.restart("worker");
        }
    };
    assert!(kills >= 2, "it was killed in the middle");
    assert_eq!(ended["status"], "succeeded");
    assert_eq!((ended["scanned"].as_i64(), ended["created"].as_i64()), (Some(EVENTS), Some(EVENTS)));
    let made: (i64, i64, i64) = sqlx::query_as(
        "select count(*), count(distinct event_id), (select count(*) from queue.ready where queue = 'deliver')
         from deliveries",
    )
    .fetch_one(stack.database.pool())
    .await
    .unwrap();
    assert_eq!(made, (EVENTS, EVENTS, EVENTS));
    // They are not what is sent, so nobody judges their bodies.
    sqlx::query("delete from events").execute(stack.database.pool()).await.unwrap();
}
