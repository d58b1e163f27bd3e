//! What the worker does when its surroundings fail: the database inside an enqueue, a mailbox, a recipient's server, a
//! job that died for good.

use std::time::Duration;

use queue::{NewJob, Outcome};
use shared::{
    domain::{
        discovery::{Criteria, DiscoveryStatus},
        message::{BlockedReason, MessageStatus},
    },
    engine::{self, sending::mark_sending},
    jobs::{SYSTEM_TENANT, SettleStranded},
};

use crate::{
    bench::{Bench, soon},
    smtp::{Answer, Script, SmtpServer},
};

const CONTACT: &str = "alex@venue.example";

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_recorded_although_the_database_dies_inside_the_enqueue() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    let claimed = bench.ready_to_send(CONTACT).await;
    let id = claimed.payload.message_id;
    // The first timer that is set, the next step's draft, takes its backend along.
    for statement in [
        "create sequence deaths_seen",
        "create function die_once() returns trigger language plpgsql as $$
         begin
            if nextval('deaths_seen') = 1 then
                perform pg_terminate_backend(pg_backend_pid());
                perform pg_sleep(10);
            end if;
            return new;
         end $$",
        "create trigger die_once before insert on queue.deferred for each row execute function die_once()",
    ] {
        sqlx::query(statement).execute(bench.database.pool()).await.unwrap();
    }
    assert_eq!(bench.send(claimed).await, Outcome::Done);
    assert_eq!(bench.count("select last_value from deaths_seen").await, 2, "it died, and was asked again");
    assert_eq!(bench.status(id).await, MessageStatus::Sent);
    assert_eq!(server.seen().texts.len(), 1);
    assert_eq!(bench.count("select count(*) from queue.deferred where queue = 'draft'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_without_its_server_closes_its_lane_and_its_messages_say_so() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut bench = Bench::start(&format!("smtp://{closed}?tls=none")).await;
    bench.campaign(&[CONTACT, "bo@venue.example"]).await;
    bench.draft().await;
    bench.draft().await;
    let claimed = soon(bench.sends.next()).await.unwrap();
    let other = soon(bench.sends.next()).await.unwrap();
    let (id, other_id) = (claimed.payload.message_id, other.payload.message_id);
    // The other one is claimed by nobody while its lane is closed.
    other.finish(Outcome::snooze(Duration::ZERO)).await;
    let outcome = bench.send(claimed).await;
    assert!(matches!(outcome, Outcome::Snooze { after } if after <= Duration::from_secs(1)), "{outcome:?}");
    let reason = bench.text(
        "select reason from queue.lanes where queue = 'send' and closed_until > now() - interval '1 minute'",
    );
    assert_eq!(reason.await.as_deref(), Some("mailbox_paused"));
    let message = bench.message(id).await;
    assert_eq!(
        (message.status, message.blocked_reason),
        (MessageStatus::Approved, Some(BlockedReason::MailboxPaused))
    );
    assert!(message.next_attempt_at.is_some() && message.error.is_some(), "{message:?}");
    sqlx::query("update queue.lanes set closed_until = now() + interval '1 hour'")
        .execute(bench.database.pool())
        .await
        .unwrap();
    let waiting = bench.message(other_id).await;
    assert_eq!(waiting.blocked_reason, Some(BlockedReason::MailboxPaused), "it waits in the closed lane");
    assert!(waiting.next_attempt_at > message.next_attempt_at);
    sqlx::query("update queue.lanes set closed_until = null, reason = null")
        .execute(bench.database.pool())
        .await
        .unwrap();
    let free = bench.message(other_id).await;
    assert_eq!((free.blocked_reason, free.next_attempt_at), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipient_over_whom_the_connection_breaks_is_counted_and_leaves_the_mailbox_alone() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    let mut claimed = bench.ready_to_send(CONTACT).await;
    let id = claimed.payload.message_id;
    for script in [
        Script { rcpt: Answer::Close, ..Script::default() },
        Script { data: Answer::Close, ..Script::default() },
        Script { data: Answer::Say("250 what?"), ..Script::default() },
    ] {
        server.next(script);
        let outcome = bench.send(claimed).await;
        assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
        let message = bench.message(id).await;
        assert_eq!(message.status, MessageStatus::Approved);
        assert!(message.next_attempt_at.is_some() && message.error.is_some(), "{message:?}");
        claimed = bench.retried().await;
    }
    assert_eq!(claimed.job.attempt(), 3);
    assert_eq!(bench.count("select count(*) from queue.lanes where closed_until is not null").await, 0);
    assert_eq!(bench.send(claimed).await, Outcome::Done);
    assert_eq!(server.seen().texts.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_job_left_behind_is_settled_once() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    let claimed = bench.ready_to_send(CONTACT).await;
    let payload = claimed.payload.clone();
    let mut tx = bench.tx().await;
    mark_sending(&mut tx, &bench.ctx.clock, payload.account_id, payload.message_id, CONTACT).await.unwrap();
    let criteria = Criteria {
        keywords: vec!["jazz".into()],
        venue_types: vec![],
        location: Some("Brooklyn, NY".into()),
        latitude: None,
        longitude: None,
        radius_miles: 10.0,
        max_results: 3,
    };
    let search = engine::discovery::start_job(&mut tx, bench.account_id, None, &criteria, 0).await.unwrap();
    tx.commit().await.unwrap();
    let begun = soon(bench.searches.next()).await.unwrap();
    for statement in [
        "update messages set sending_at = now() - interval '1 hour'",
        "update discovery_jobs set status = 'running', created_at = now() - interval '1 hour'",
    ] {
        sqlx::query(statement).execute(bench.database.pool()).await.unwrap();
    }
    settle(&mut bench).await;
    assert_eq!(bench.status(payload.message_id).await, MessageStatus::Sending, "its job runs");
    // Both jobs die for good, as the third crash makes them.
    claimed.finish(Outcome::Dead { error: "crashed".into() }).await;
    begun.finish(Outcome::Dead { error: "crashed".into() }).await;
    let dead = async {
        while bench.count("select count(*) from queue.dead").await < 2 {
            tokio::task::yield_now().await;
        }
    };
    soon(dead).await;
    for _ in 0..2 {
        settle(&mut bench).await;
        assert_eq!(bench.status(payload.message_id).await, MessageStatus::Unknown);
        let mut tx = bench.tx().await;
        let found = shared::db::discovery_jobs::find(&mut tx, bench.account_id, search.id).await.unwrap();
        assert_eq!(found.unwrap().status, DiscoveryStatus::Failed);
    }
    assert_eq!(bench.count("select count(*) from outbox where type = 'discovery.failed'").await, 1);
    assert_eq!(
        bench.count("select count(*) from queue.deferred where queue = 'draft'").await,
        1,
        "the sequence goes on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn enrolments_whose_jobs_died_before_they_did_anything_are_settled() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    let send = bench.ready_to_send(CONTACT).await;
    let id = send.payload.message_id;
    bench.campaign(&["bo@venue.example"]).await;
    let draft = soon(bench.drafts.next()).await.unwrap();
    settle(&mut bench).await;
    send.finish(Outcome::Dead { error: "crashed".into() }).await;
    draft.finish(Outcome::Dead { error: "crashed".into() }).await;
    soon(async {
        while bench.count("select count(*) from queue.dead").await < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    settle(&mut bench).await;
    assert_eq!(bench.status(id).await, MessageStatus::Approved, "its job may still be retried by hand");
    assert_eq!(bench.count("select count(*) from enrolments where status = 'active'").await, 2);
    sqlx::query("update queue.dead set died_at = now() - interval '1 hour'")
        .execute(bench.database.pool())
        .await
        .unwrap();
    for _ in 0..2 {
        settle(&mut bench).await;
        assert_eq!(bench.status(id).await, MessageStatus::Failed);
        assert_eq!(bench.count("select count(*) from enrolments where stop_reason = 'failed'").await, 2);
    }
}

/// Runs the periodic job.
async fn settle(bench: &mut Bench) {
    let mut tx = bench.tx().await;
    tx.enqueue(&[NewJob::new(&SettleStranded {}, SYSTEM_TENANT).unwrap()]).await.unwrap();
    tx.commit().await.unwrap();
    let claimed = soon(bench.settles.next()).await.unwrap();
    let run =
        worker::jobs::settle_stranded::run(claimed.payload.clone(), claimed.job.clone(), bench.shared());
    assert_eq!(soon(run).await.unwrap(), Outcome::Done);
    claimed.finish(Outcome::Done).await;
}
