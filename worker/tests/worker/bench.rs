//! A migrated database, a mailbox at a scripted mail server, and the worker's handlers run one by one.

use std::{future::Future, sync::Arc, time::Duration};

use apalis_core::task::data::Data;
use queue::{Claimed, Job, Outcome, Runtime, RuntimeConfig, Source};
use shared::{
    Clock, Database, Tx,
    db::{self, accounts, channel_accounts},
    domain::{
        campaign::{Approval, Campaign, CampaignPatch, CampaignStatus, NewCampaign},
        channel::ChannelAccount,
        contact::NewContact,
        message::{Message, MessageStatus},
    },
    engine::{self, inbound::InboundOutcome},
    jobs,
    mailbox::{MailboxConfig, ensure_mailbox},
    secrets::SecretKey,
};
use sqlx::PgPool;
use testkit::TestDatabase;
use uuid::Uuid;
use worker::{
    Context,
    channels::{Channels, email::Email},
    drafting::Provider,
};

pub const MAILBOX: &str = "ana@sender.example";

/// Waits for what must come; a test that waits for ever says nothing.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("it comes within 30 s")
}

pub async fn migrated() -> TestDatabase {
    TestDatabase::create_from("iris_worker", async |pool: &PgPool| Ok(db::migrate(pool).await?))
        .await
        .judging_events()
}

/// The length of a day in these tests.
pub const DAY: Duration = Duration::from_secs(3600);

/// How long the history is kept in these tests.
pub const HISTORY_KEEP: Duration = Duration::from_secs(30 * 86_400);

/// An active campaign that needs no approval, with a contact per address.
pub async fn activate(database: &Database, account_id: Uuid, addresses: &[&str]) -> Campaign {
    let mut new = NewCampaign::new("April outreach", "venue_dj");
    new.approval = Approval::Auto;
    let mut tx = database.begin().await.unwrap();
    let campaign = engine::campaigns::create(&mut tx, account_id, &new).await.unwrap();
    let contacts: Vec<NewContact> = addresses
        .iter()
        .map(|address| NewContact {
            email: Some((*address).into()),
            first_name: Some("Alex".into()),
            company: Some("The Bell House".into()),
            ..NewContact::default()
        })
        .collect();
    let added = engine::contacts::upsert_many(&mut tx, account_id, &contacts, Some(campaign.id)).await;
    assert_eq!(added.unwrap().len(), addresses.len());
    let active = CampaignPatch { status: Some(CampaignStatus::Active), ..CampaignPatch::default() };
    let campaign = engine::campaigns::update(&mut tx, account_id, campaign.id, &active).await.unwrap();
    tx.commit().await.unwrap();
    campaign
}

/// The installation's account and its mailbox.
pub async fn connected(
    database: &Database,
    secret_key: &SecretKey,
    smtp_url: &str,
) -> (Uuid, ChannelAccount) {
    soon(ensure_mailbox(database, secret_key, &mailbox_config(smtp_url))).await;
    let mut tx = database.begin().await.unwrap();
    let account_id = accounts::ensure_first(&mut tx).await.unwrap().id;
    let mailbox = channel_accounts::list(&mut tx, account_id).await.unwrap().remove(0);
    tx.commit().await.unwrap();
    (account_id, mailbox)
}

/// A mail from `from` arrives at the mailbox.
pub async fn mail_from(database: &Database, mailbox: &ChannelAccount, from: &str) -> InboundOutcome {
    let raw = format!(
        "From: {from}\r\nTo: {MAILBOX}\r\nSubject: Re: hello\r\nMessage-ID: <{}@reply.example>\r\n\
         Date: Wed, 29 Apr 2026 12:00:00 +0000\r\n\r\nSounds good, call me.\r\n",
        Uuid::now_v7().simple()
    );
    let email = engine::mail::read_email(raw.as_bytes()).unwrap();
    let mut tx = database.begin().await.unwrap();
    let outcome = engine::inbound::record_email(&mut tx, mailbox, &email, raw.as_bytes()).await.unwrap();
    tx.commit().await.unwrap();
    outcome
}

/// Makes the one timer of a queue due.
pub async fn hurry(database: &Database, queue: &str) {
    let moved = sqlx::query("update queue.deferred set run_at = now() where queue = $1")
        .bind(queue)
        .execute(database.pool())
        .await
        .unwrap();
    assert_eq!(moved.rows_affected(), 1, "a {queue} waits");
}

pub struct Bench {
    pub database: Database,
    pub ctx: Arc<Context>,
    pub account_id: Uuid,
    pub mailbox: ChannelAccount,
    pub drafts: Source<jobs::Draft>,
    pub sends: Source<jobs::Send>,
    pub searches: Source<jobs::Discover>,
    pub settles: Source<jobs::SettleStranded>,
    pub replays: Source<jobs::Replay>,
    pub maintains: Source<jobs::MaintainPartitions>,
    _runtime: Runtime,
    _database: TestDatabase,
}

impl Bench {
    pub async fn start(smtp_url: &str) -> Self {
        Self::start_with(smtp_url, Provider::Template).await
    }

    pub async fn start_with(smtp_url: &str, provider: Provider) -> Self {
        let test = migrated().await;
        let database = Database::connect(test.url(), "iris-test", 10).unwrap();
        let secret_key: SecretKey = SecretKey::generate().parse().unwrap();
        let (account_id, mailbox) = connected(&database, &secret_key, smtp_url).await;
        let runtime = Runtime::start(RuntimeConfig {
            name: "test".into(),
            connect: db::connect_options(test.url(), "iris-test").unwrap(),
            notifier: database.notifier().clone(),
            seen_by_neighbours: true,
            listen: true,
            schedules: vec![],
        })
        .unwrap();
        let ctx = Arc::new(Context {
            database: database.clone(),
            clock: Clock::system(DAY),
            history_keep: HISTORY_KEEP,
            secret_key,
            channels: Channels { email: Email::new(Duration::from_secs(10)) },
            provider,
        });
        Self {
            database,
            ctx,
            account_id,
            mailbox,
            drafts: runtime.source(4),
            sends: runtime.source(4),
            searches: runtime.source(1),
            settles: runtime.source(1),
            replays: runtime.source(2),
            maintains: runtime.source(1),
            _runtime: runtime,
            _database: test,
        }
    }

    pub fn shared(&self) -> Data<Arc<Context>> {
        Data::new(self.ctx.clone())
    }

    pub async fn tx(&self) -> Tx {
        self.database.begin().await.unwrap()
    }

    /// An active campaign that needs no approval, with a contact per address.
    pub async fn campaign(&self, addresses: &[&str]) -> Campaign {
        activate(&self.database, self.account_id, addresses).await
    }

    /// A campaign whose first message is drafted and approved, and the job that sends it.
    pub async fn ready_to_send(&mut self, address: &str) -> Claimed<jobs::Send> {
        self.campaign(&[address]).await;
        self.draft().await;
        soon(self.sends.next()).await.unwrap()
    }

    /// The same for the follow-up of a first message that was sent.
    pub async fn ready_to_follow_up(&mut self, address: &str) -> Claimed<jobs::Send> {
        let first = self.ready_to_send(address).await;
        assert_eq!(self.send(first).await, Outcome::Done);
        hurry(&self.database, "draft").await;
        self.draft().await;
        hurry(&self.database, "send").await;
        soon(self.sends.next()).await.unwrap()
    }

    pub async fn draft(&mut self) -> Outcome {
        let claimed = soon(self.drafts.next()).await.unwrap();
        let handled =
            worker::jobs::draft::run(claimed.payload.clone(), claimed.job.clone(), self.shared()).await;
        let outcome = handled.unwrap();
        claimed.finish(outcome.clone()).await;
        outcome
    }

    /// Runs the handler as a task of its own, so that the test can meddle meanwhile.
    pub fn sending(&self, payload: &jobs::Send, job: &Job) -> tokio::task::JoinHandle<Outcome> {
        let (payload, job, shared) = (payload.clone(), job.clone(), self.shared());
        tokio::spawn(async move { worker::jobs::send::run(payload, job, shared).await.unwrap() })
    }

    pub async fn send(&self, claimed: Claimed<jobs::Send>) -> Outcome {
        let outcome = soon(self.sending(&claimed.payload, &claimed.job)).await.unwrap();
        claimed.finish(outcome.clone()).await;
        outcome
    }

    /// Makes the retry of a send due and takes it.
    pub async fn retried(&mut self) -> Claimed<jobs::Send> {
        hurry(&self.database, "send").await;
        soon(self.sends.next()).await.unwrap()
    }

    pub async fn message(&self, id: Uuid) -> Message {
        let mut conn = self.database.pool().acquire().await.unwrap();
        db::messages::find(&mut conn, self.account_id, id).await.unwrap().unwrap()
    }

    pub async fn status(&self, id: Uuid) -> MessageStatus {
        self.message(id).await.status
    }

    /// One text of the database.
    pub async fn text(&self, sql: &'static str) -> Option<String> {
        sqlx::query_scalar(sql).fetch_optional(self.database.pool()).await.unwrap().flatten()
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.database.pool()).await.unwrap()
    }

    pub async fn mail_from(&self, from: &str) -> InboundOutcome {
        mail_from(&self.database, &self.mailbox, from).await
    }

    /// What a rescue does to a job whose process lost its lease, and the run that follows it.
    pub async fn rescued(&mut self) -> Claimed<jobs::Send> {
        sqlx::query(
            "with moved as (delete from queue.running where queue = 'send' returning *)
             insert into queue.ready (shard, id, queue, tenant, lane, priority, grp, epoch, run, max_attempts, payload)
             select shard, id, queue, tenant, lane, priority, grp, epoch, run, max_attempts, payload from moved",
        )
        .execute(self.database.pool())
        .await
        .unwrap();
        soon(self.sends.next()).await.unwrap()
    }
}

pub fn mailbox_config(smtp_url: &str) -> MailboxConfig {
    MailboxConfig {
        smtp_url: Some(smtp_url.parse().unwrap()),
        smtp_from: Some(format!("Ana <{MAILBOX}>").parse().unwrap()),
        inbound_secret: Some("0123456789abcdef".into()),
    }
}
