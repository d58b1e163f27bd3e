//! The mailbox of the settings, and what becomes of the one before.

use shared::{
    db::channel_accounts,
    domain::channel::{ChannelAccount, ChannelAccountStatus},
    mailbox::{MailboxConfig, MailboxSecrets, ensure_mailbox},
    secrets::SecretKey,
};

use crate::fixture::{Fixture, campaign};

fn settings(address: &str, inbound_secret: Option<&str>) -> MailboxConfig {
    MailboxConfig {
        smtp_url: Some("smtp://127.0.0.1:2525".parse().unwrap()),
        smtp_from: Some(address.parse().unwrap()),
        inbound_secret: inbound_secret.map(Into::into),
    }
}

async fn mailboxes(fixture: &Fixture) -> Vec<ChannelAccount> {
    channel_accounts::list(&mut *fixture.conn().await, fixture.account_id).await.unwrap()
}

/// A fixture whose only mailbox comes from the settings.
async fn set_up(key: &SecretKey) -> Fixture {
    let fixture = Fixture::new().await;
    sqlx::query("delete from channel_accounts").execute(fixture.database.pool()).await.unwrap();
    ensure_mailbox(&fixture.database, key, &settings("old@iris.test", Some("0123456789abcdef"))).await;
    fixture
}

#[tokio::test]
async fn another_mailbox_in_the_settings_takes_the_place_of_the_one_before() {
    let key: SecretKey = SecretKey::generate().parse().unwrap();
    let fixture = set_up(&key).await;
    let old = mailboxes(&fixture).await.remove(0);
    let campaign = fixture.active_campaign(&campaign(), &["a@x.example", "b@x.example", "c@x.example"]).await;
    let enrolments = [
        fixture.enrolment(campaign.id, "a@x.example").await,
        fixture.enrolment(campaign.id, "b@x.example").await,
        fixture.enrolment(campaign.id, "c@x.example").await,
    ];
    let sent = fixture.sent(enrolments[0].id, 0).await;
    let approved = fixture.approved(enrolments[1].id, 0).await;
    let due_later = fixture.approved(enrolments[2].id, 0).await;
    // The send jobs of both wait: one is ready, one has a timer.
    sqlx::query(
        "with moved as (delete from queue.ready where payload like '%' || $1 || '%' returning *)
         insert into queue.deferred select *, now() + interval '1 hour' from moved",
    )
    .bind(due_later.id.to_string())
    .execute(fixture.database.pool())
    .await
    .unwrap();
    fixture.record_draft(enrolments[0].id, 1).await;

    for _ in 0..2 {
        ensure_mailbox(&fixture.database, &key, &settings("new@iris.test", None)).await;
    }
    let new =
        mailboxes(&fixture).await.into_iter().find(|mailbox| mailbox.address == "new@iris.test").unwrap();
    assert_eq!(new.status, ChannelAccountStatus::Connected);
    let status = async |id| {
        let mut conn = fixture.conn().await;
        channel_accounts::find(&mut conn, fixture.account_id, id).await.unwrap().unwrap().status
    };
    assert_eq!(status(old.id).await, ChannelAccountStatus::Disconnected);
    assert_eq!(
        fixture.message(sent.id).await.channel_account_id,
        Some(old.id),
        "what left, left from the old one"
    );
    for id in [approved.id, due_later.id] {
        assert_eq!(fixture.message(id).await.channel_account_id, Some(new.id));
    }
    // The job of the one that was sent waits too, for nobody ran it here.
    let lanes: Vec<_> = fixture.jobs("send").await.into_iter().map(|job| job.lane).collect();
    assert_eq!(lanes, vec![new.id.to_string(); 3]);
    let added = fixture.active_campaign(&crate::fixture::campaign(), &["d@x.example"]).await;
    assert_eq!(fixture.enrolment(added.id, "d@x.example").await.channel_account_id, Some(new.id));
    assert_eq!(fixture.enrolment(campaign.id, "b@x.example").await.channel_account_id, Some(new.id));

    // The settings may go back, too.
    ensure_mailbox(&fixture.database, &key, &settings("old@iris.test", None)).await;
    assert_eq!(status(old.id).await, ChannelAccountStatus::Connected);
    assert_eq!(status(new.id).await, ChannelAccountStatus::Disconnected);
    assert_eq!(fixture.message(approved.id).await.channel_account_id, Some(old.id));
}

#[tokio::test]
async fn a_mailbox_connected_otherwise_is_left_alone() {
    let key: SecretKey = SecretKey::generate().parse().unwrap();
    let fixture = Fixture::new().await;
    ensure_mailbox(&fixture.database, &key, &settings("new@iris.test", None)).await;
    let connected = mailboxes(&fixture).await;
    assert!(
        connected.iter().all(|mailbox| mailbox.status == ChannelAccountStatus::Connected),
        "{connected:?}"
    );
    assert_eq!(connected.len(), 2);
}

#[tokio::test]
async fn a_role_without_the_inbound_secret_keeps_the_stored_one() {
    let key: SecretKey = SecretKey::generate().parse().unwrap();
    let fixture = set_up(&key).await;
    ensure_mailbox(&fixture.database, &key, &settings("old@iris.test", None)).await;
    let stored = MailboxSecrets::open(&key, &mailboxes(&fixture).await[0]).unwrap();
    assert_eq!(stored.inbound_secret.as_deref(), Some("0123456789abcdef"));
    ensure_mailbox(&fixture.database, &key, &settings("old@iris.test", Some("another secret 16"))).await;
    let stored = MailboxSecrets::open(&key, &mailboxes(&fixture).await[0]).unwrap();
    assert_eq!(stored.inbound_secret.as_deref(), Some("another secret 16"));

    // The one given last stays with another address, and back.
    for (address, told, stays) in [
        ("new@iris.test", None, "another secret 16"),
        ("new@iris.test", Some("the third one of 16"), "the third one of 16"),
        ("old@iris.test", None, "the third one of 16"),
    ] {
        ensure_mailbox(&fixture.database, &key, &settings(address, told)).await;
        let mailboxes = mailboxes(&fixture).await;
        let mailbox = mailboxes.iter().find(|mailbox| mailbox.address == address).unwrap();
        let stored = MailboxSecrets::open(&key, mailbox).unwrap();
        assert_eq!(stored.inbound_secret.as_deref(), Some(stays), "{address}");
    }
}
