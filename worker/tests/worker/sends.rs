//! The send job: everything that a mail server, a rescue or a reply can do to it, and never two texts.

use queue::Outcome;
use shared::{
    domain::message::MessageStatus,
    engine::{
        inbound::InboundOutcome,
        sending::{Marked, mark_sending},
    },
};

use crate::{
    bench::{Bench, MAILBOX, soon},
    smtp::{Answer, Gate, Script, SmtpServer},
};

const CONTACT: &str = "alex@venue.example";

fn retry(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Retry { .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_message_is_sent_and_the_next_step_planned() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    let claimed = bench.ready_to_send(CONTACT).await;
    let id = claimed.payload.message_id;
    assert_eq!(bench.send(claimed).await, Outcome::Done);
    let message = bench.message(id).await;
    assert_eq!(message.status, MessageStatus::Sent);
    assert!(message.sent_at.is_some() && message.order_number == Some(1));
    let seen = server.seen();
    assert_eq!(
        (seen.texts.len(), seen.recipients.as_slice()),
        (1, [format!("RCPT TO:<{CONTACT}>")].as_slice())
    );
    let rfc_id = message.rfc_message_id.unwrap();
    assert!(rfc_id.ends_with("@sender.example>") && rfc_id.contains(&id.simple().to_string()));
    for expected in [
        format!("Message-ID: {rfc_id}\r\n"),
        format!("From: Ana <{MAILBOX}>\r\n"),
        format!("List-Unsubscribe: <mailto:{MAILBOX}?subject=unsubscribe>\r\n"),
        "Subject: A DJ night at The Bell House?\r\n".into(),
        "\r\n\r\nHi Alex,\r\n".into(),
    ] {
        assert!(seen.texts[0].contains(&expected), "{expected:?} is not in\n{}", seen.texts[0]);
    }
    assert_eq!(bench.count("select count(*) from queue.running where queue = 'send'").await, 0);
    assert_eq!(bench.count("select count(*) from outbox where type = 'message.sent'").await, 1);
    let next = bench.text("select payload from queue.deferred where queue = 'draft'").await.unwrap();
    assert!(next.contains("\"step\":1"), "{next}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follow_up_names_the_message_it_follows() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    let claimed = bench.ready_to_follow_up(CONTACT).await;
    assert_eq!(bench.send(claimed).await, Outcome::Done);
    let first = bench.text("select rfc_message_id from messages where step = 0").await.unwrap();
    let text = &server.seen().texts[1];
    for expected in [
        format!("In-Reply-To: {first}\r\n"),
        format!("References: {first}\r\n"),
        "Subject: Re: A DJ night at The Bell House?\r\n".into(),
    ] {
        assert!(text.contains(&expected), "{expected:?} is not in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_run_twice_sends_one_text() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    let claimed = bench.ready_to_send(CONTACT).await;
    for _ in 0..2 {
        let handled = soon(bench.sending(&claimed.payload, &claimed.job)).await.unwrap();
        assert_eq!(handled, Outcome::Done);
    }
    assert_eq!(server.seen().texts.len(), 1);
    assert_eq!(bench.count("select count(*) from outbox where type = 'message.sent'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_at_once_send_one_text() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    let gates = [Gate::new(), Gate::new()];
    for gate in &gates {
        server.next(Script { data: Answer::Gate(gate.clone(), "354 go ahead"), ..Script::default() });
    }
    let first = bench.ready_to_send(CONTACT).await;
    let id = first.payload.message_id;
    let first_run = bench.sending(&first.payload, &first.job);
    soon(gates[0].reached()).await;
    // The first run is believed dead while it waits for the answer to DATA; a second one comes as far.
    let second = bench.rescued().await;
    let second_run = bench.sending(&second.payload, &second.job);
    soon(gates[1].reached()).await;
    gates[0].open();
    soon(first_run).await.unwrap();
    gates[1].open();
    soon(second_run).await.unwrap();
    let seen = soon(server.wait(|seen| seen.withdrawn == 1)).await;
    assert_eq!(seen.texts.len(), 1);
    assert_eq!(bench.status(id).await, MessageStatus::Sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deferred_recipient_is_tried_again() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    server.next(Script { rcpt: Answer::Say("450 4.2.0 greylisted"), ..Script::default() });
    let claimed = bench.ready_to_send(CONTACT).await;
    let id = claimed.payload.message_id;
    let outcome = bench.send(claimed).await;
    assert!(
        matches!(&outcome, Outcome::Retry { error, after: Some(_) } if error.contains("greylisted")),
        "{outcome:?}"
    );
    let message = bench.message(id).await;
    assert_eq!((message.status, message.blocked_reason), (MessageStatus::Approved, None));
    assert!(message.next_attempt_at.is_some());
    assert_eq!(message.error.as_deref(), Some("450 4.2.0 greylisted"), "it says what it waits for");
    let again = bench.retried().await;
    assert_eq!(again.job.attempt(), 1);
    assert_eq!(bench.send(again).await, Outcome::Done);
    let message = bench.message(id).await;
    assert_eq!((message.status, message.next_attempt_at, message.error), (MessageStatus::Sent, None, None));
    let seen = server.seen();
    assert_eq!(
        (seen.texts.len(), seen.connections, seen.resets),
        (1, 1, 1),
        "the connection was in step and served again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_recipient_bounces_and_is_never_written_to_again() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    server.next(Script { rcpt: Answer::Say("550 5.1.1 no such user here"), ..Script::default() });
    let claimed = bench.ready_to_send(CONTACT).await;
    let id = claimed.payload.message_id;
    assert_eq!(bench.send(claimed).await, Outcome::Done);
    let message = bench.message(id).await;
    assert_eq!(message.status, MessageStatus::Bounced);
    assert_eq!(message.error.as_deref(), Some("550 5.1.1 no such user here"));
    assert_eq!(bench.text("select value from suppressions").await.as_deref(), Some(CONTACT));
    assert_eq!(bench.text("select stop_reason from enrolments").await.as_deref(), Some("bounced"));
    assert_eq!(bench.count("select count(*) from outbox where type = 'message.bounced'").await, 1);
    assert_eq!(server.seen().texts.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_text_fails_the_message() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    server.next(Script { text: Answer::Say("554 5.7.1 looks like spam"), ..Script::default() });
    let claimed = bench.ready_to_send(CONTACT).await;
    let id = claimed.payload.message_id;
    assert_eq!(bench.send(claimed).await, Outcome::Done);
    let message = bench.message(id).await;
    assert_eq!(
        (message.status, message.error.as_deref()),
        (MessageStatus::Failed, Some("554 5.7.1 looks like spam"))
    );
    assert_eq!(bench.text("select stop_reason from enrolments").await.as_deref(), Some("failed"));
    assert_eq!(bench.count("select count(*) from suppressions").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_after_the_text_leaves_it_unknown_for_ever() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    server.next(Script { text: Answer::Close, ..Script::default() });
    let claimed = bench.ready_to_send(CONTACT).await;
    let (payload, job) = (claimed.payload.clone(), claimed.job.clone());
    assert_eq!(bench.send(claimed).await, Outcome::Done);
    assert_eq!(bench.status(payload.message_id).await, MessageStatus::Unknown);
    assert_eq!(soon(bench.sending(&payload, &job)).await.unwrap(), Outcome::Done);
    assert_eq!(server.seen().texts.len(), 1, "it is never sent again");
    assert_eq!(
        bench.count("select count(*) from queue.deferred where queue = 'draft'").await,
        1,
        "the sequence goes on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_refused_for_now_is_put_back() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    server.next(Script { text: Answer::Say("451 4.3.0 try again later"), ..Script::default() });
    let claimed = bench.ready_to_send(CONTACT).await;
    let id = claimed.payload.message_id;
    assert!(retry(&bench.send(claimed).await));
    let message = bench.message(id).await;
    assert_eq!(message.status, MessageStatus::Approved);
    assert!(message.next_attempt_at.is_some());
    assert_eq!(message.error.as_deref(), Some("451 4.3.0 try again later"));
    let again = bench.retried().await;
    assert_eq!(bench.send(again).await, Outcome::Done);
    assert_eq!(bench.status(id).await, MessageStatus::Sent);
    assert_eq!(bench.count("select count(*) from outbox where type = 'message.sent'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_before_the_mark_keeps_the_text_back() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    let gate = Gate::new();
    server.next(Script::default());
    server.next(Script { data: Answer::Gate(gate.clone(), "354 go ahead"), ..Script::default() });
    let claimed = bench.ready_to_follow_up(CONTACT).await;
    let id = claimed.payload.message_id;
    let run = bench.sending(&claimed.payload, &claimed.job);
    soon(gate.reached()).await;
    assert!(matches!(bench.mail_from(CONTACT).await, InboundOutcome::Reply { .. }));
    gate.open();
    soon(run).await.unwrap();
    let seen = soon(server.wait(|seen| seen.withdrawn == 1)).await;
    assert_eq!(seen.texts.len(), 1, "only the first message was sent");
    assert_eq!(bench.status(id).await, MessageStatus::Cancelled);
    assert_eq!(bench.text("select stop_reason from enrolments").await.as_deref(), Some("replied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_after_the_mark_lets_it_cross() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    let gate = Gate::new();
    server.next(Script { text: Answer::Gate(gate.clone(), "250 ok"), ..Script::default() });
    let claimed = bench.ready_to_send(CONTACT).await;
    let id = claimed.payload.message_id;
    let run = bench.sending(&claimed.payload, &claimed.job);
    soon(gate.reached()).await;
    assert!(matches!(bench.mail_from(CONTACT).await, InboundOutcome::Reply { .. }));
    gate.open();
    soon(run).await.unwrap();
    let message = bench.message(id).await;
    assert!(message.crossed && message.sent_at.is_some(), "{message:?}");
    assert_eq!(bench.count("select count(*) from queue.deferred where queue = 'draft'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_finds_the_mark_does_not_send() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    let claimed = bench.ready_to_send(CONTACT).await;
    let payload = claimed.payload.clone();
    // The process before this one died between its mark and the final answer.
    let mut tx = bench.tx().await;
    let marked = mark_sending(&mut tx, &bench.ctx.clock, payload.account_id, payload.message_id, CONTACT)
        .await
        .unwrap();
    assert!(matches!(marked, Marked::Yes { .. }));
    tx.commit().await.unwrap();
    assert_eq!(bench.send(claimed).await, Outcome::Done);
    assert_eq!(bench.status(payload.message_id).await, MessageStatus::Unknown);
    assert_eq!(server.seen().texts.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_resolves_what_another_run_called_unknown() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    let gate = Gate::new();
    server.next(Script { text: Answer::Gate(gate.clone(), "250 2.0.0 queued"), ..Script::default() });
    let first = bench.ready_to_send(CONTACT).await;
    let id = first.payload.message_id;
    let run = bench.sending(&first.payload, &first.job);
    soon(gate.reached()).await;
    let second = bench.rescued().await;
    assert_eq!(bench.send(second).await, Outcome::Done);
    assert_eq!(bench.status(id).await, MessageStatus::Unknown);
    gate.open();
    assert_eq!(soon(run).await.unwrap(), Outcome::Cancelled);
    assert_eq!(bench.status(id).await, MessageStatus::Sent);
    assert_eq!(server.seen().texts.len(), 1);
    assert_eq!(
        bench.count("select count(*) from queue.deferred where queue = 'draft'").await,
        1,
        "planned once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_recorded_although_the_database_went_away() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    let gate = Gate::new();
    server.next(Script { text: Answer::Gate(gate.clone(), "250 2.0.0 queued"), ..Script::default() });
    let claimed = bench.ready_to_send(CONTACT).await;
    let id = claimed.payload.message_id;
    let run = bench.sending(&claimed.payload, &claimed.job);
    soon(gate.reached()).await;
    sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database()")
        .execute(bench.database.pool())
        .await
        .unwrap();
    gate.open();
    soon(run).await.unwrap();
    assert_eq!(bench.status(id).await, MessageStatus::Sent);
    assert_eq!(server.seen().texts.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_sign_in_is_the_mailboxs_trouble_and_not_the_contacts() {
    let server = SmtpServer::start_with(Answer::Say("220 hi"), "250-hi\r\n250 AUTH PLAIN LOGIN").await;
    server.refuse_credentials();
    let url = format!("smtp://ana:secret@{}?tls=none", server.address);
    let mut bench = Bench::start(&url).await;
    let claimed = bench.ready_to_send(CONTACT).await;
    let id = claimed.payload.message_id;
    assert!(matches!(bench.send(claimed).await, Outcome::Snooze { .. }));
    assert_eq!(bench.status(id).await, MessageStatus::Approved);
    assert_eq!(server.seen().credentials, ["AUTH PLAIN AGFuYQBzZWNyZXQ="]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_does_not_travel_in_the_clear() {
    let server = SmtpServer::start_with(Answer::Say("220 hi"), "250-hi\r\n250 AUTH PLAIN LOGIN").await;
    let mut bench = Bench::start(&format!("smtp://ana:secret@{}", server.address)).await;
    let claimed = bench.ready_to_send(CONTACT).await;
    assert!(matches!(bench.send(claimed).await, Outcome::Snooze { .. }));
    assert_eq!(server.seen().credentials.len(), 0, "the server offers no STARTTLS");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_used_again_and_replaced_when_it_is_gone() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    bench.campaign(&["a@venue.example", "b@venue.example", "c@venue.example"]).await;
    for _ in 0..3 {
        bench.draft().await;
    }
    server.next(Script::default());
    server.next(Script::default());
    server.next(Script { mail: Answer::Close, ..Script::default() });
    for _ in 0..3 {
        let claimed = soon(bench.sends.next()).await.unwrap();
        assert_eq!(bench.send(claimed).await, Outcome::Done);
    }
    let seen = server.seen();
    assert_eq!((seen.texts.len(), seen.connections, seen.resets), (3, 2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_gets_its_mailbox_late_leaves_in_its_lane() {
    let server = SmtpServer::start().await;
    let mut bench = Bench::start(&server.url()).await;
    let claimed = bench.ready_to_send(CONTACT).await;
    let id = claimed.payload.message_id;
    for table in ["enrolments", "messages"] {
        let forget = format!("update {table} set channel_account_id = null");
        sqlx::query(sqlx::AssertSqlSafe(forget)).execute(bench.database.pool()).await.unwrap();
    }
    // As if it had been approved while there was no mailbox.
    sqlx::query("update queue.running set lane = tenant").execute(bench.database.pool()).await.unwrap();
    assert_eq!(bench.send(claimed).await, Outcome::Done);
    let again = soon(bench.sends.next()).await.unwrap();
    assert_eq!((again.payload.message_id, again.job.lane()), (id, bench.mailbox.id.to_string().as_str()));
    assert_eq!(bench.send(again).await, Outcome::Done);
    assert_eq!(bench.status(id).await, MessageStatus::Sent);
    assert_eq!(server.seen().texts.len(), 1);
}
