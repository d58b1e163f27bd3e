//! What customers do all the while: they import contacts and change campaigns, and each call makes events. What the API
//! answers with 2xx has to arrive; of the rest nobody knows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{Rng, seq::IndexedRandom};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::api::Client;
use crate::control::Control;

/// How often a customer does something.
const PAUSE: Duration = Duration::from_secs(1);
/// Every so many calls are about a campaign, the others about contacts.
const CAMPAIGN_EVERY: u32 = 3;
/// How many contacts a call has.
const CONTACTS: usize = 6;
/// How many of them, in a hundred, are known already.
const KNOWN_PERCENT: u32 = 30;
/// How many known contacts a customer remembers.
const REMEMBERED_MAX: usize = 1000;

/// Customers at work.
#[derive(Debug)]
pub struct Traffic {
    stop: CancellationToken,
    customers: JoinSet<anyhow::Result<()>>,
}

impl Traffic {
    /// Starts a customer for every key.
    pub fn start(client: &Client, control: &Arc<Control>, keys: &[String]) -> Self {
        let (stop, marks) = (CancellationToken::new(), Arc::new(AtomicU64::new(1)));
        let mut customers = JoinSet::new();
        for key in keys {
            let customer = Customer {
                client: client.clone(),
                control: control.clone(),
                key: key.clone(),
                marks: marks.clone(),
                campaign: None,
                contacts: Vec::new(),
            };
            customers.spawn(customer.run(stop.clone()));
        }
        Self { stop, customers }
    }

    /// Ends it: nothing more is asked for when this returns.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.customers.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// One customer: a key and what was made with it.
struct Customer {
    client: Client,
    control: Arc<Control>,
    key: String,
    marks: Arc<AtomicU64>,
    campaign: Option<String>,
    contacts: Vec<String>,
}

impl Customer {
    async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(PAUSE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        // They do not all come at once.
        let late = PAUSE.mul_f64(rand::rng().random_range(0.0..1.0));
        tokio::time::sleep(late).await;
        let mut n = 0_u32;
        while !stop.is_cancelled() {
            ticks.tick().await;
            if n.is_multiple_of(CAMPAIGN_EVERY) {
                self.change_campaign().await?;
            } else {
                self.import_contacts().await?;
            }
            n += 1;
        }
        Ok(())
    }

    /// Creates the customer's campaign, or gives it another name.
    async fn change_campaign(&mut self) -> anyhow::Result<()> {
        let mark = self.mark();
        let name = named(mark);
        let answer = if let Some(id) = &self.campaign {
            self.ask(&Method::PATCH, &format!("/campaigns/{id}"), &json!({ "name": name })).await
        } else {
            let campaign = json!({"name": name, "objective_type": "venue_dj"});
            self.ask(&Method::POST, "/campaigns", &campaign).await
        };
        if let (None, Some(created)) = (&self.campaign, &answer) {
            self.campaign = created["data"]["id"].as_str().map(ToOwned::to_owned);
        }
        self.tell("campaign", &[mark], answer.is_some()).await
    }

    /// Imports new contacts and changes known ones.
    async fn import_contacts(&mut self) -> anyhow::Result<()> {
        let marks: Vec<u64> = (0..CONTACTS).map(|_| self.mark()).collect();
        let (emails, fresh) = self.choose(&marks);
        let contacts = emails.iter().zip(&marks);
        let contacts: Vec<Value> =
            contacts.map(|(email, mark)| json!({"email": email, "company": named(*mark)})).collect();
        let answer = self.ask(&Method::POST, "/contacts/bulk-import", &json!({ "contacts": contacts })).await;
        let imported = answer.is_some_and(|answer| answer["data"]["imported"] == CONTACTS);
        if imported {
            let room = REMEMBERED_MAX.saturating_sub(self.contacts.len());
            self.contacts.extend(fresh.into_iter().take(room));
        }
        self.tell("contact", &marks, imported).await
    }

    /// An address for each mark, none twice, and which of them are new.
    fn choose(&self, marks: &[u64]) -> (Vec<String>, Vec<String>) {
        let mut rng = rand::rng();
        let known = marks.iter().filter(|_| rng.random_ratio(KNOWN_PERCENT, 100)).count();
        let known: Vec<String> = self.contacts.choose_multiple(&mut rand::rng(), known).cloned().collect();
        let fresh: Vec<String> =
            marks[known.len()..].iter().map(|mark| format!("contact-{mark}@chaos.example")).collect();
        ([known, fresh.clone()].concat(), fresh)
    }

    fn mark(&self) -> u64 {
        self.marks.fetch_add(1, Ordering::Relaxed)
    }

    /// One call; none if it is not certain that it was carried out.
    async fn ask(&self, method: &Method, path: &str, body: &Value) -> Option<Value> {
        let answer = self.client.call(&self.key, method, path, Some(body)).await.ok()?;
        answer.status.is_success().then_some(answer.body)
    }

    async fn tell(&self, subject: &str, marks: &[u64], acknowledged: bool) -> anyhow::Result<()> {
        let line = |mark: &u64| {
            if acknowledged { format!("acknowledged {subject} {mark}\n") } else { format!("unsure {mark}\n") }
        };
        self.control.tell(&marks.iter().map(line).collect::<String>()).await
    }
}

/// What an event carries of its mark.
fn named(mark: u64) -> String {
    format!("chaos-{mark}")
}
