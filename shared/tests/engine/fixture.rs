//! A database with one account and one mailbox, and short names for what the tests do with them.

use std::time::Duration;

use serde_json::Value;
use shared::{
    Clock, Database, Tx,
    db::{
        self, campaigns, channel_accounts, messages,
        notifications::{self, NotificationType, Resource},
        page::Page,
    },
    domain::{
        Channel,
        campaign::{Campaign, CampaignPatch, CampaignStatus, NewCampaign, Progress},
        channel::ChannelAccount,
        contact::{Contact, NewContact},
        enrolment::Enrolment,
        message::Message,
    },
    engine::{
        self,
        inbound::InboundOutcome,
        messages::{Draft, Edits, RecordedDraft},
        sending::Marked,
    },
    events::EventType,
    ids::new_id,
};
use sqlx::{Postgres, Row, pool::PoolConnection};
use testkit::TestDatabase;
use uuid::Uuid;

/// A day of the tests.
pub const DAY: Duration = Duration::from_secs(1);

/// A job that waits.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    pub queue: String,
    pub lane: String,
    pub group: Option<String>,
    pub payload: Value,
    /// Seconds from now, by the database's clock; 0 when it is ready.
    pub in_seconds: f64,
}

/// One account on a database of its own.
pub struct Fixture {
    pub database: Database,
    pub account_id: Uuid,
    pub mailbox: ChannelAccount,
    pub clock: Clock,
    _test: TestDatabase,
}

impl Fixture {
    pub async fn new() -> Self {
        let test = TestDatabase::create_from("iris", async |pool| Ok(db::migrate(pool).await?)).await;
        let test = test.judging_events();
        let database = Database::connect(test.url(), "test", 10).unwrap();
        let account_id = new_id();
        sqlx::query("insert into accounts (id, name) values ($1, 'test')")
            .bind(account_id)
            .execute(database.pool())
            .await
            .unwrap();
        let mut conn = database.pool().acquire().await.unwrap();
        let mailbox =
            channel_accounts::ensure(&mut conn, account_id, Channel::Email, "dj@iris.test", Some("DJ"))
                .await
                .unwrap();
        drop(conn);
        Self { database, account_id, mailbox, clock: Clock::system(DAY), _test: test }
    }

    pub async fn tx(&self) -> Tx {
        self.database.begin().await.unwrap()
    }

    /// A connection for reading.
    pub async fn conn(&self) -> PoolConnection<Postgres> {
        self.database.pool().acquire().await.unwrap()
    }

    /// A draft with these addresses listed.
    pub async fn draft_campaign(&self, new: &NewCampaign, emails: &[&str]) -> Campaign {
        let mut tx = self.tx().await;
        let campaign = engine::campaigns::create(&mut tx, self.account_id, new).await.unwrap();
        let rows: Vec<NewContact> = emails.iter().map(|email| contact(email)).collect();
        engine::contacts::upsert_many(&mut tx, self.account_id, &rows, Some(campaign.id)).await.unwrap();
        tx.commit().await.unwrap();
        campaign
    }

    /// An active campaign with these addresses enrolled.
    pub async fn active_campaign(&self, new: &NewCampaign, emails: &[&str]) -> Campaign {
        let campaign = self.draft_campaign(new, emails).await;
        self.set_status(campaign.id, CampaignStatus::Active).await
    }

    pub async fn set_status(&self, campaign_id: Uuid, status: CampaignStatus) -> Campaign {
        let mut tx = self.tx().await;
        let patch = CampaignPatch::status(status);
        let campaign =
            engine::campaigns::update(&mut tx, self.account_id, campaign_id, &patch).await.unwrap();
        tx.commit().await.unwrap();
        campaign
    }

    pub async fn campaign(&self, id: Uuid) -> Option<Campaign> {
        campaigns::find(&mut *self.conn().await, self.account_id, id).await.unwrap()
    }

    pub async fn progress(&self, id: Uuid) -> Progress {
        campaigns::progress(&mut *self.conn().await, self.account_id, id).await.unwrap()
    }

    /// The passage of an address through a campaign.
    pub async fn enrolment(&self, campaign_id: Uuid, email: &str) -> Enrolment {
        let contact = self.contact(email).await;
        db::enrolments::find_of_contact(&mut *self.conn().await, self.account_id, campaign_id, contact.id)
            .await
            .unwrap()
            .unwrap()
    }

    pub async fn contact(&self, email: &str) -> Contact {
        let id: Uuid = sqlx::query_scalar("select id from contacts where account_id = $1 and email = $2")
            .bind(self.account_id)
            .bind(email)
            .fetch_one(self.database.pool())
            .await
            .unwrap();
        db::contacts::lock(&mut *self.conn().await, self.account_id, id).await.unwrap().unwrap()
    }

    /// Records a plain draft for a step.
    pub async fn record_draft(&self, enrolment_id: Uuid, step: i32) -> RecordedDraft {
        let mut tx = self.tx().await;
        let draft = draft(&format!("step {step}"), "Hello");
        let recorded =
            engine::messages::record_draft(&mut tx, &self.clock, self.account_id, enrolment_id, step, &draft)
                .await
                .unwrap();
        tx.commit().await.unwrap();
        recorded
    }

    /// A step drafted and approved.
    pub async fn approved(&self, enrolment_id: Uuid, step: i32) -> Message {
        match self.record_draft(enrolment_id, step).await {
            RecordedDraft::Approved(message) => message,
            RecordedDraft::Pending(message) => {
                let mut tx = self.tx().await;
                let message =
                    engine::messages::approve(&mut tx, self.account_id, message.id, &Edits::default())
                        .await
                        .unwrap();
                tx.commit().await.unwrap();
                message
            }
            other => panic!("{other:?}"),
        }
    }

    pub async fn mark(&self, message_id: Uuid) -> Marked {
        let mut tx = self.tx().await;
        let to: String = sqlx::query_scalar(
            "select coalesce(c.email, '') from messages m join contacts c on c.account_id = m.account_id and c.id = m.contact_id
             where m.id = $1",
        )
        .bind(message_id)
        .fetch_one(&mut *tx)
        .await
        .unwrap();
        let marked = engine::sending::mark_sending(&mut tx, &self.clock, self.account_id, message_id, &to);
        let marked = marked.await.unwrap();
        match marked {
            Marked::Yes { .. } => tx.commit().await.unwrap(),
            Marked::No => tx.rollback().await.unwrap(),
        }
        marked
    }

    pub async fn record_sent(&self, message_id: Uuid) -> Message {
        let mut tx = self.tx().await;
        let message =
            engine::sending::record_sent(&mut tx, &self.clock, self.account_id, message_id).await.unwrap();
        tx.commit().await.unwrap();
        message
    }

    /// A step drafted, approved and sent.
    pub async fn sent(&self, enrolment_id: Uuid, step: i32) -> Message {
        let message = self.approved(enrolment_id, step).await;
        assert!(matches!(self.mark(message.id).await, Marked::Yes { .. }));
        self.record_sent(message.id).await
    }

    pub async fn message(&self, id: Uuid) -> Message {
        messages::find(&mut *self.conn().await, self.account_id, id).await.unwrap().unwrap()
    }

    pub async fn receive(&self, raw: &str) -> InboundOutcome {
        let email = engine::mail::read_email(raw.as_bytes()).unwrap();
        let mut tx = self.tx().await;
        let outcome =
            engine::inbound::record_email(&mut tx, &self.mailbox, &email, raw.as_bytes()).await.unwrap();
        tx.commit().await.unwrap();
        outcome
    }

    /// The data of the events of a type, in the order of the outbox.
    pub async fn events(&self, kind: EventType) -> Vec<Value> {
        let bodies: Vec<String> =
            sqlx::query_scalar("select body from outbox where account_id = $1 and type = $2 order by number")
                .bind(self.account_id)
                .bind(kind.as_str())
                .fetch_all(self.database.pool())
                .await
                .unwrap();
        bodies.iter().map(|body| serde_json::from_str::<Value>(body).unwrap()["data"].take()).collect()
    }

    /// What the account was told of, the newest first.
    pub async fn told(&self) -> Vec<(NotificationType, Resource)> {
        let mut conn = self.conn().await;
        let listed = notifications::list(&mut conn, self.account_id, None, Page::first(100)).await.unwrap();
        listed.rows.into_iter().map(|told| (told.kind, told.resource.0)).collect()
    }

    /// The jobs of a queue that wait, oldest first.
    pub async fn jobs(&self, queue: &str) -> Vec<Waiting> {
        let rows = sqlx::query(
            "select queue, lane, grp, payload, in_seconds from (
                select id, queue, lane, grp, payload, 0::float8 as in_seconds from queue.ready
                union all
                select id, queue, lane, grp, payload,
                    case when run_at = 'infinity' then 'infinity' else extract(epoch from run_at - now())::float8 end
                from queue.deferred) j
             where queue = $1 order by id",
        )
        .bind(queue)
        .fetch_all(self.database.pool())
        .await
        .unwrap();
        rows.iter()
            .map(|row| Waiting {
                queue: row.get("queue"),
                lane: row.get("lane"),
                group: row.get("grp"),
                payload: serde_json::from_str(row.get("payload")).unwrap(),
                in_seconds: row.get("in_seconds"),
            })
            .collect()
    }

    /// Forgets the jobs that wait, as if workers had run them.
    pub async fn clear_jobs(&self) {
        for table in ["delete from queue.ready", "delete from queue.deferred", "delete from queue.keys"] {
            sqlx::query(table).execute(self.database.pool()).await.unwrap();
        }
    }

    /// Moves what a passage remembers into the past, as if the days had gone by.
    pub async fn age(&self, enrolment_id: Uuid, seconds: f64) {
        for statement in [
            "update enrolments set started_at = started_at - make_interval(secs => $3),
                last_sent_at = last_sent_at - make_interval(secs => $3) where account_id = $1 and id = $2",
            "update messages set due_at = due_at - make_interval(secs => $3)
             where account_id = $1 and enrolment_id = $2",
        ] {
            sqlx::query(statement)
                .bind(self.account_id)
                .bind(enrolment_id)
                .bind(seconds)
                .execute(self.database.pool())
                .await
                .unwrap();
        }
    }
}

pub fn contact(email: &str) -> NewContact {
    NewContact { email: Some(email.into()), first_name: Some("Alex".into()), ..NewContact::default() }
}

pub fn draft(subject: &str, content: &str) -> Draft {
    Draft {
        subject: Some(subject.into()),
        content: content.into(),
        model: Some("template".into()),
        variables: serde_json::json!({}),
    }
}

/// A campaign like the one of the documentation, without criteria.
pub fn campaign() -> NewCampaign {
    NewCampaign::new("April DJ outreach", "venue_dj")
}

/// A raw answer.
pub fn answer(from: &str, message_id: &str, in_reply_to: Option<&str>, text: &str) -> String {
    let reference = in_reply_to.map(|id| format!("In-Reply-To: {id}\r\n")).unwrap_or_default();
    format!(
        "From: {from}\r\nTo: dj@iris.test\r\nMessage-ID: <{message_id}>\r\n{reference}Subject: Re: hello\r\n\r\n{text}\r\n"
    )
}

/// A raw report that a message came back.
pub fn report(recipient: &str, message_id: &str, original: &str, action: &str, status: &str) -> String {
    format!(
        "From: mailer-daemon@venue.example.com\r\nMessage-ID: <{message_id}>\r\nAuto-Submitted: auto-replied\r\n\
         Subject: Undelivered\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=\"b\"\r\n\r\n\
         --b\r\nContent-Type: text/plain\r\n\r\nSorry.\r\n\
         --b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx\r\n\r\n\
         Final-Recipient: rfc822; {recipient}\r\nAction: {action}\r\nStatus: {status}\r\n\
         --b\r\nContent-Type: text/rfc822-headers\r\n\r\nMessage-ID: {original}\r\n--b--\r\n"
    )
}
