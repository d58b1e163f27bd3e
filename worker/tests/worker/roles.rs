//! The whole worker: started with its settings, with nothing there yet, and stopped.

use std::time::{Duration, Instant};

use clap::Parser;
use shared::{Database, config::BaseConfig, domain::channel::ChannelAccount, secrets::SecretKey};
use testkit::TestDatabase;
use tokio_util::sync::CancellationToken;
use worker::WorkerConfig;

use crate::{
    bench::{activate, connected, hurry, mail_from, mailbox_config, migrated, soon},
    smtp::{Answer, Gate, Script, SmtpServer},
};

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    worker: WorkerConfig,
    #[command(flatten)]
    base: BaseConfig,
}

fn settings(database_url: &str, smtp_url: &str) -> Program {
    let key = SecretKey::generate();
    let arguments =
        ["worker", "--database-url", database_url, "--secret-key", &key, "--day", "1h", "--shutdown", "10s"];
    let mut program = Program::try_parse_from(arguments).unwrap();
    program.base.mailbox = mailbox_config(smtp_url);
    program
}

fn start(program: Program) -> (CancellationToken, tokio::task::JoinHandle<anyhow::Result<()>>) {
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(worker::run(program.worker, program.base, shutdown.clone()));
    (shutdown, running)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_carries_a_campaign_and_stops() {
    let server = SmtpServer::start().await;
    let test = migrated().await;
    let program = settings(test.url(), &server.url());
    let key = program.base.secret_key.clone();
    let (shutdown, running) = start(program);
    let database = Database::connect(test.url(), "iris-test", 4).unwrap();
    let (account_id, _) = connected(&database, &key, &server.url()).await;
    let addresses: Vec<String> = (0..40).map(|n| format!("c{n}@venue.example")).collect();
    activate(&database, account_id, &addresses.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let seen = soon(server.wait(|seen| seen.texts.len() == 40)).await;
    assert!(seen.connections <= 16, "the mailbox's limit holds: {}", seen.connections);
    shutdown.cancel();
    soon(running).await.unwrap().unwrap();
    assert_eq!(statuses(&database).await, [("sent".to_owned(), 40)]);
    assert_eq!(count(&database, "select count(*) from queue.running").await, 0);
    assert_eq!(count(&database, "select count(*) from queue.leases").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_worker_waits_for_the_final_answer() {
    let server = SmtpServer::start().await;
    let gate = Gate::new();
    server.next(Script { text: Answer::Gate(gate.clone(), "250 ok"), ..Script::default() });
    let (database, shutdown, running) = one_message(&server).await;
    soon(gate.reached()).await;
    shutdown.cancel();
    gate.open();
    soon(running).await.unwrap().unwrap();
    assert_eq!(statuses(&database.0).await, [("sent".to_owned(), 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_worker_ends_in_time_whatever_still_runs() {
    let server = SmtpServer::start().await;
    let gate = Gate::new();
    server.next(Script { text: Answer::Gate(gate.clone(), "250 ok"), ..Script::default() });
    let test = migrated().await;
    let mut program = settings(test.url(), &server.url());
    program.base.shutdown = Duration::from_secs(2);
    let key = program.base.secret_key.clone();
    let (shutdown, running) = start(program);
    let database = Database::connect(test.url(), "iris-test", 4).unwrap();
    let (account_id, _) = connected(&database, &key, &server.url()).await;
    activate(&database, account_id, &["alex@venue.example"]).await;
    soon(gate.reached()).await;
    let begun = Instant::now();
    shutdown.cancel();
    soon(running).await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(
        statuses(&database).await,
        [("sending".to_owned(), 1)],
        "the next run says what is known of it"
    );
}

#[tokio::test]
async fn a_worker_whose_address_is_taken_claims_nothing() {
    let server = SmtpServer::start().await;
    let test = migrated().await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut program = settings(test.url(), &server.url());
    program.base.admin_addr = taken.local_addr().unwrap();
    let (_shutdown, running) = start(program);
    let error = soon(running).await.unwrap().unwrap_err();
    assert!(format!("{error:#}").contains("IRIS_ADMIN_ADDR"), "{error:#}");
    let database = Database::connect(test.url(), "iris-test", 4).unwrap();
    assert_eq!(count(&database, "select count(*) from queue.leases").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_cancels_a_send_before_its_mark() {
    let server = SmtpServer::start().await;
    let gate = Gate::new();
    server.next(Script::default());
    server.next(Script { data: Answer::Gate(gate.clone(), "354 go ahead"), ..Script::default() });
    let (database, shutdown, running) = one_message(&server).await;
    until(&database.0, "select count(*) from queue.deferred where queue = 'draft'", 1).await;
    hurry(&database.0, "draft").await;
    until(&database.0, "select count(*) from queue.deferred where queue = 'send'", 1).await;
    hurry(&database.0, "send").await;
    soon(gate.reached()).await;
    mail_from(&database.0, &database.1, "alex@venue.example").await;
    // The handler is dropped, and with it the connection, while the server still thinks about DATA.
    until(&database.0, "select count(*) from queue.running where queue = 'send'", 0).await;
    gate.open();
    let seen = soon(server.wait(|seen| seen.withdrawn == 1)).await;
    assert_eq!(seen.texts.len(), 1, "only the first message was sent");
    shutdown.cancel();
    soon(running).await.unwrap().unwrap();
    assert_eq!(statuses(&database.0).await, [("cancelled".to_owned(), 1), ("replied".to_owned(), 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_does_not_cancel_a_send_after_its_mark() {
    let server = SmtpServer::start().await;
    let gate = Gate::new();
    server.next(Script { text: Answer::Gate(gate.clone(), "250 ok"), ..Script::default() });
    let (database, shutdown, running) = one_message(&server).await;
    soon(gate.reached()).await;
    mail_from(&database.0, &database.1, "alex@venue.example").await;
    gate.open();
    until(&database.0, "select count(*) from queue.running where queue = 'send'", 0).await;
    shutdown.cancel();
    soon(running).await.unwrap().unwrap();
    assert_eq!(
        count(&database.0, "select count(*) from messages where crossed and sent_at is not null").await,
        1
    );
}

#[tokio::test]
async fn a_setting_that_does_not_serve_is_named() {
    let program = settings("postgres://nobody@127.0.0.1:1/none", "smtp://mail.example.com?tls=maybe");
    let (_shutdown, running) = start(program);
    let error = soon(running).await.unwrap().unwrap_err();
    assert!(format!("{error:#}").contains("IRIS_SMTP_URL"), "{error:#}");
}

/// A worker that has one message to send.
async fn one_message(
    server: &SmtpServer,
) -> ((Database, ChannelAccount, TestDatabase), CancellationToken, tokio::task::JoinHandle<anyhow::Result<()>>)
{
    let test = migrated().await;
    let program = settings(test.url(), &server.url());
    let key = program.base.secret_key.clone();
    let (shutdown, running) = start(program);
    let database = Database::connect(test.url(), "iris-test", 4).unwrap();
    let (account_id, mailbox) = connected(&database, &key, &server.url()).await;
    activate(&database, account_id, &["alex@venue.example"]).await;
    ((database, mailbox, test), shutdown, running)
}

async fn statuses(database: &Database) -> Vec<(String, i64)> {
    sqlx::query_as(
        "select status, count(*) from messages where direction = 'outbound' group by status order by status",
    )
    .fetch_all(database.pool())
    .await
    .unwrap()
}

async fn count(database: &Database, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(database.pool()).await.unwrap()
}

/// Looks until a count is as expected: for what happens in another task and sends no signal.
async fn until(database: &Database, sql: &'static str, expected: i64) {
    soon(async {
        while count(database, sql).await != expected {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
