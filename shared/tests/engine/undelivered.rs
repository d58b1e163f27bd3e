//! What waits to be delivered is told by what it waits for.

use std::time::Duration;

use queue::{JobKind, NewJob, lanes};
use shared::{
    db::{
        endpoint_health::{CIRCUIT_REASON, RETRY_REASON},
        undelivered::{self, STATES},
    },
    ids::new_id,
    jobs::Deliver,
};

use crate::fixture::Fixture;

#[tokio::test]
async fn the_oldest_of_every_state_is_shown() {
    let fixture = Fixture::new().await;
    let mut tx = fixture.tx().await;
    let shown = undelivered::measure(&mut tx).await.unwrap();
    let states: Vec<_> =
        shown.iter().map(|waiting| (waiting.state, waiting.endpoints, waiting.oldest)).collect();
    assert_eq!(states, STATES.map(|state| (state, 0, Duration::ZERO)), "nothing waits");

    let minute = Duration::from_secs(60);
    lanes::close(&mut tx, Deliver::QUEUE, "circuit", minute, CIRCUIT_REASON).await.unwrap();
    lanes::close(&mut tx, Deliver::QUEUE, "asked", minute, "something else").await.unwrap();
    lanes::close(&mut tx, Deliver::QUEUE, "ordered", minute, RETRY_REASON).await.unwrap();
    let wake = lanes::pause(&mut tx, Deliver::QUEUE, "paused", true).await.unwrap();
    tx.wake(wake);
    let account_id = fixture.account_id;
    // Another kind's jobs wait for something of their own.
    let other =
        NewJob::new(&shared::jobs::Send { account_id, message_id: new_id() }, "t").unwrap().lane("first");
    let mut jobs = vec![other];
    for lane in ["first", "second", "circuit", "asked", "ordered", "paused"] {
        let payload = Deliver { account_id, delivery_id: new_id() };
        jobs.push(NewJob::new(&payload, "t").unwrap().lane(lane));
    }
    tx.enqueue(&jobs).await.unwrap();
    for (lane, hours) in
        [("first", 1), ("second", 2), ("asked", 3), ("circuit", 4), ("paused", 5), ("ordered", 6)]
    {
        sqlx::query("update queue.ready set created_at = now() - make_interval(hours => $2) where lane = $1")
            .bind(lane)
            .bind(hours)
            .execute(&mut *tx)
            .await
            .unwrap();
    }
    let shown = undelivered::measure(&mut tx).await.unwrap();
    let hours = |waiting: &undelivered::Undelivered| waiting.oldest.as_secs() / 3600;
    let states: Vec<_> =
        shown.iter().map(|waiting| (waiting.state, waiting.endpoints, hours(waiting))).collect();
    assert_eq!(
        states,
        [("ready", 2, 2), ("retrying", 1, 6), ("throttled", 1, 3), ("circuit", 1, 4), ("paused", 1, 5)]
    );
    sqlx::query("update queue.ready set run = 1 where lane = 'second'").execute(&mut *tx).await.unwrap();
    lanes::remove(&mut tx, Deliver::QUEUE, "ordered").await.unwrap();
    let shown = undelivered::measure(&mut tx).await.unwrap();
    let ages = [&shown[0], &shown[1]].map(hours);
    assert_eq!(ages, [6, 2], "one that was attempted is a retry");
}
