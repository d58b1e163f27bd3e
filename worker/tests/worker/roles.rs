//! The whole worker: started with its settings, with nothing there yet, and stopped.

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

#[tokio::test(flavor = "multi_thread")]
async fn zz_choose() {
    let server = SmtpServer::start().await;
    let test = migrated().await;
    let program = settings(test.url(), &server.url());
    let key = program.base.secret_key.clone();
    let database = Database::connect(test.url(), "iris-test", 4).unwrap();
    let (account_id, _) = connected(&database, &key, &server.url()).await;
    let mut tx = database.begin().await.unwrap();
    let campaign = shared::engine::campaigns::create(&mut tx, account_id, &shared::domain::campaign::NewCampaign::new("x", "sales")).await.unwrap();
    for part in 0..5 {
    let contacts: Vec<_> = (0..1000).map(|n| shared::domain::contact::NewContact { email: Some(format!("c{part}-{n}@venue.example")), ..Default::default() }).collect();
    let t = std::time::Instant::now();
    shared::engine::contacts::upsert_many(&mut tx, account_id, &contacts, Some(campaign.id)).await.unwrap();
    eprintln!("upsert {:?}", t.elapsed());
    }
    let t = std::time::Instant::now();
    let plan: Vec<(String,)> = sqlx::query_as(sqlx::AssertSqlSafe(format!("explain (analyze, timing off) {NEW}"))).bind(account_id).bind(campaign.id).bind(vec!["email"]).bind(5000_i64).fetch_all(&mut *tx).await.unwrap();
    eprintln!("new {:?}", t.elapsed());
    for (line,) in plan { eprintln!("{line}"); }
}
const NEW: &str = "with listed as materialized (
            select id, contact_id from enrolments
            where account_id = $1 and campaign_id = $2 and status = 'listed'
            order by id limit $4 for no key update
        ), accounts as materialized (
            select a.id, a.channel, (select count(*) from enrolments e
                where e.account_id = $1 and e.channel_account_id = a.id and e.status = 'active') as load
            from channel_accounts a
            where a.account_id = $1 and (a.status = 'connected' or (a.status = 'paused' and not exists (
                select 1 from channel_accounts o
                where o.account_id = $1 and o.channel = a.channel and o.status = 'connected')))
        ), judged as (
            select l.id, l.contact_id,
                case when c.deleted_at is not null then 'contact_deleted'
                    when c.status = 'unsubscribed' or is_suppressed($1, c.email, c.instagram_handle,
                        c.twitter_user_id, c.twitter_handle) then 'suppressed' end as refused,
                (select u.channel from unnest($3::text[]) with ordinality as u(channel, n)
                 where case u.channel when 'email' then c.email is not null
                        when 'instagram' then c.instagram_handle is not null
                        else coalesce(c.twitter_user_id, c.twitter_handle) is not null end
                    and u.channel in (select a.channel from accounts a)
                 order by u.n limit 1) as channel
            from listed l cross join lateral (
                select * from contacts c where c.account_id = $1 and c.id = l.contact_id limit 1) c
        ), numbered as materialized (
            select id, contact_id, refused, channel,
                row_number() over (partition by refused is null, channel order by id) as n
            from judged
        ), slots as materialized (
            select channel, array_agg(id order by load + k, id) as ids
            from accounts a, generate_series(0, (select count(*) from listed) - 1) as k
            group by channel
        )
        select n.id, n.contact_id, case when n.refused is null then n.channel end as channel,
            case when n.refused is null then s.ids[n.n] end as channel_account_id,
            coalesce(n.refused, case when n.channel is null then 'no_channel' end) as stop_reason
        from numbered n left join slots s on s.channel = n.channel
        order by n.id";

#[tokio::test(flavor = "multi_thread")]
async fn zz_speed() {
    let server = SmtpServer::start().await;
    let test = migrated().await;
    let url = format!("{}&options=-c%20plan_cache_mode%3D{}", test.url(), std::env::var("PLAN").unwrap());
    let program = settings(&url, &server.url());
    let key = program.base.secret_key.clone();
    let database = Database::connect(test.url(), "iris-test", 4).unwrap();
    let (account_id, _) = connected(&database, &key, &server.url()).await;
    for part in 0..20 {
        let addresses: Vec<String> = (0..50).map(|n| format!("c{part}-{n}@venue.example")).collect();
        activate(&database, account_id, &addresses.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    let begun = std::time::Instant::now();
    let spy = database.clone();
    let (shutdown, running) = start(program);
    let srv = server.clone();
    tokio::spawn(async move { loop {
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        let rows: (i64,i64,i64,i64) = sqlx::query_as("select (select count(*) from messages), (select count(*) from queue.running), (select count(*) from queue.ready), (select count(*) from queue.deferred)").fetch_one(spy.pool()).await.unwrap();
        let act: Vec<(String, Option<String>, Option<String>)> = sqlx::query_as("select (now() - query_start)::text, wait_event, left(query, 60) from pg_stat_activity where state = 'active' and pid <> pg_backend_pid()").fetch_all(spy.pool()).await.unwrap();
        eprintln!("{:?} messages running ready deferred {rows:?} texts {} conns {} {act:?}", begun.elapsed(), srv.seen().texts.len(), srv.seen().connections);
    }});
    let seen = soon(server.wait(|seen| seen.texts.len() == 1000)).await;
    eprintln!("sent {:?} connections {}", begun.elapsed(), seen.connections);
    shutdown.cancel();
    soon(running).await.unwrap().unwrap();
    eprintln!("stopped {:?}", begun.elapsed());
}
