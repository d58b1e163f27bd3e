//! What every part is played on: a database of its own with accounts and endpoints, and their receivers.

use std::{sync::Arc, time::Duration};

use shared::{
    Database,
    db::endpoints::{self, Created, NewEndpoint},
    domain::{
        endpoint::{new_secret, secret_place},
        endpoint_headers::SealedHeaders,
    },
    events::EventType,
    ids::new_id,
    secrets::SecretKey,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    ledger::{Receipt, Receivers, Requests},
    load::Producer,
    statements,
};
use crate::server::Server;

/// How many connections a stage has.
const CONNECTIONS: u32 = 8;
/// How often one looks whether all has come, or all is quiet.
const LOOK: Duration = Duration::from_millis(10);
/// After how long without any receipt the rest is given up.
const STALLED: Duration = Duration::from_secs(60);
/// How long the rest may take at all.
const PATIENCE: Duration = Duration::from_secs(400);
/// How long the database may take to be quiet once all has come.
const QUIET: Duration = Duration::from_secs(60);

/// How many accounts and endpoints there are, and who hears of what.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// How many accounts there are.
    pub accounts: usize,
    /// How many endpoints each has.
    pub endpoints: usize,
    /// How many types of events there are: an account's endpoint `n` hears of type `n` modulo these.
    pub types: usize,
    /// How many endpoints of each account never answer: its first ones.
    pub hanging: usize,
    /// Whether deliveries to an endpoint are made one after the other.
    pub ordered: bool,
}

impl Shape {
    /// The endpoints that hear of an account's event and answer.
    pub fn who_hears(&self, account: usize, kind: usize) -> impl Iterator<Item = usize> {
        let (endpoints, hanging) = (self.endpoints, self.hanging);
        (kind..endpoints)
            .step_by(self.types)
            .filter(move |n| *n >= hanging)
            .map(move |n| account * endpoints + n)
    }

    /// How many endpoints hear of an event.
    pub fn fanout(&self) -> usize {
        self.endpoints / self.types
    }
}

/// A database with accounts and endpoints, and the receivers of these.
pub struct Stage {
    /// Its connections.
    pub database: Database,
    /// The address of the database.
    pub url: String,
    /// What seals its secrets.
    pub secret_key: String,
    /// What there is.
    pub shape: Shape,
    /// Where its deliveries go.
    pub receivers: Receivers,
    accounts: Arc<[Uuid]>,
}

impl Stage {
    /// Makes a new database in place of that of the part before, and all that is in it.
    pub async fn set(server: &Server, shape: Shape) -> anyhow::Result<Self> {
        let url = server.create_database().await?;
        let database = Database::connect(&url, "bench", CONNECTIONS)?;
        shared::db::migrate(database.pool()).await?;
        let secret_key = SecretKey::generate();
        let mut stage = Self {
            accounts: (0..shape.accounts).map(account_id).collect(),
            receivers: Receivers::start().await?,
            database,
            url,
            secret_key,
            shape,
        };
        for account in 0..shape.accounts {
            stage.add_account(account).await?;
        }
        statements::prepare(server, &stage.database).await?;
        // Writing all that leaves work behind which is nobody's here.
        sqlx::query("checkpoint").execute(&server.pool).await?;
        Ok(stage)
    }

    async fn add_account(&mut self, account: usize) -> anyhow::Result<()> {
        let account_id = self.accounts[account];
        let key: SecretKey = self.secret_key.parse().map_err(anyhow::Error::msg)?;
        let mut tx = self.database.begin().await?;
        sqlx::query("insert into accounts (id, name) values ($1, 'bench')")
            .bind(account_id)
            .execute(&mut *tx)
            .await?;
        for n in 0..self.shape.endpoints {
            let (id, secret) = (new_id(), new_secret());
            let port = self.receivers.listen(&secret, n < self.shape.hanging).await?;
            let new = NewEndpoint {
                id,
                url: &format!("http://127.0.0.1:{port}/webhooks"),
                events: &[EventType::ALL[n % self.shape.types]],
                description: None,
                sealed_secret: &key.seal(&secret_place(id), &secret)?,
                rate_limit: None,
                ordered: self.shape.ordered,
                headers: &SealedHeaders::default(),
            };
            let created = endpoints::create(&mut tx, account_id, &new).await?;
            anyhow::ensure!(
                matches!(created, Created::Endpoint(_)),
                "an account cannot have so many endpoints"
            );
        }
        Ok(tx.commit().await?)
    }

    /// Who commits its events.
    pub fn producer(&self) -> Producer {
        Producer { database: self.database.clone(), accounts: self.accounts.clone(), types: self.shape.types }
    }

    /// Waits until so many requests were answered, as long as there is hope. What has come is returned.
    pub async fn until_answered(&mut self, count: usize) -> anyhow::Result<Requests> {
        let began = Instant::now();
        let (mut seen, mut last) = (0, began);
        loop {
            let requests = self.receivers.count().await?;
            if requests.answered > seen {
                (seen, last) = (requests.answered, Instant::now());
            }
            if seen >= u64::try_from(count)? || last.elapsed() > STALLED || began.elapsed() > PATIENCE {
                return Ok(requests);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until nothing is left to be relayed, claimed or recorded. False: something still is, after a minute.
    pub async fn until_quiet(&self) -> anyhow::Result<bool> {
        let began = Instant::now();
        loop {
            let quiet: bool = sqlx::query_scalar(
                "select not exists (select from outbox) and not exists (select from queue.ready)
                    and not exists (select from queue.running) and not exists (select from queue.deferred)",
            )
            .fetch_one(self.database.pool())
            .await?;
            if quiet || began.elapsed() > QUIET {
                return Ok(quiet);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends the receivers and closes the database; what the receivers wrote down.
    pub async fn clear(mut self) -> anyhow::Result<Vec<Receipt>> {
        let receipts = self.receivers.ledger().await?;
        self.receivers.stop().await;
        self.database.close().await;
        Ok(receipts)
    }
}

/// The id of an account. Its last bits say in which shard its events are: one account after the other is in another one.
fn account_id(number: usize) -> Uuid {
    let mut bytes = *new_id().as_bytes();
    bytes[15] = u8::try_from(number % 256).unwrap_or_default();
    Uuid::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_is_heard_of_by_those_who_asked_for_its_type() {
        let heard = |shape: Shape, account, kind| shape.who_hears(account, kind).collect::<Vec<_>>();
        let apart = Shape { accounts: 10, endpoints: 10, types: 10, hanging: 0, ordered: false };
        assert_eq!((heard(apart, 3, 7), apart.fanout()), (vec![37], 1));
        let fanned = Shape { types: 1, ..apart };
        assert_eq!((heard(fanned, 1, 0), fanned.fanout()), ((10..20).collect(), 10));
        let hanging = Shape { hanging: 3, ..apart };
        assert_eq!((heard(hanging, 0, 2), heard(hanging, 0, 3)), (vec![], vec![3]));
    }

    #[test]
    fn accounts_are_spread_over_the_shards() {
        let shards: Vec<_> = (0..17).map(|n| shared::db::outbox::shard_of(account_id(n))).collect();
        assert_eq!(shards, (0..16).chain([0]).collect::<Vec<_>>());
    }
}
