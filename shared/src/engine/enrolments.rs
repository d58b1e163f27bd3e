//! How contacts get into a campaign and start their passage through it.

use queue::NewJob;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{EngineError, sequence};
use crate::{
    Tx,
    db::{self, enrolments::Listed, outbox},
    domain::{
        Channel,
        campaign::{Campaign, CampaignStatus},
        channel::{ChannelAccount, ChannelAccountStatus, Loads},
        enrolment::{Enrolment, EnrolmentStatus, StopReason},
    },
    events::{EventType, NewEvent},
    ids::new_id,
    jobs::{self, enrolment_group},
};

/// How many enrolments are started, events appended and jobs enqueued by one statement.
const CHUNK: i64 = 1000;

/// Adds contacts to a campaign whose row the caller holds, at least shared: listed while it is a draft or paused, started
/// at once while it is active. Contacts that are deleted or never to be written to are skipped, those that are in it
/// already stay as they are. Returns how many were added.
pub async fn add_to_campaign(
    tx: &mut Tx,
    campaign: &Campaign,
    contact_ids: &[Uuid],
) -> Result<u64, EngineError> {
    match campaign.status {
        CampaignStatus::Draft | CampaignStatus::Active | CampaignStatus::Paused => {}
        CampaignStatus::Completed | CampaignStatus::Deleted => {
            return Err(EngineError::Conflict(format!(
                "a campaign that is {} takes no contacts",
                campaign.status
            )));
        }
    }
    let ids: Vec<Uuid> = contact_ids.iter().map(|_| new_id()).collect();
    let added =
        db::enrolments::insert_listed(tx, campaign.account_id, campaign.id, &ids, contact_ids).await?;
    if campaign.status == CampaignStatus::Active && !added.is_empty() {
        start_listed(tx, campaign).await?;
    }
    Ok(u64::try_from(added.len()).unwrap_or(u64::MAX))
}

/// Starts the listed enrolments of a campaign whose row the caller holds: each gets its conversation, channel and
/// mailbox, and the job that drafts its first message; without any mailbox its messages wait for one with `no_account`.
/// One that cannot start is stopped: its contact was deleted, is suppressed, or has no address on a channel on which the
/// account can send. Returns how many started.
pub async fn start_listed(tx: &mut Tx, campaign: &Campaign) -> Result<u64, EngineError> {
    let mut loads = Loads::new(&db::channel_accounts::list_loads(tx, campaign.account_id).await?);
    let mut started = 0;
    loop {
        let listed = db::enrolments::lock_listed(tx, campaign.account_id, campaign.id, CHUNK).await?;
        if listed.is_empty() {
            return Ok(started);
        }
        started += start_chunk(tx, campaign, &mut loads, &listed).await?;
    }
}

async fn start_chunk(
    tx: &mut Tx,
    campaign: &Campaign,
    loads: &mut Loads,
    listed: &[Listed],
) -> Result<u64, EngineError> {
    let account_id = campaign.account_id;
    let mut starting: Vec<(&Listed, Channel, Option<Uuid>)> = Vec::with_capacity(listed.len());
    let (mut refused, mut reasons) = (Vec::new(), Vec::new());
    for enrolment in listed {
        let choice = match enrolment.refused {
            Some(reason) => Err(reason),
            None => {
                loads.choose(&campaign.outreach_channels, &enrolment.channels).ok_or(StopReason::NoChannel)
            }
        };
        match choice {
            Ok((channel, mailbox)) => starting.push((enrolment, channel, mailbox)),
            Err(reason) => {
                refused.push(enrolment.id);
                reasons.push(reason);
            }
        }
    }
    db::enrolments::record_stopped(tx, account_id, &refused, &reasons).await?;
    if starting.is_empty() {
        return Ok(0);
    }

    let ids: Vec<Uuid> = starting.iter().map(|(enrolment, ..)| enrolment.id).collect();
    let conversation_ids = converse(tx, campaign, &starting).await?;
    let channels: Vec<Channel> = starting.iter().map(|(_, channel, _)| *channel).collect();
    let mailboxes: Vec<Option<Uuid>> = starting.iter().map(|(.., mailbox)| *mailbox).collect();
    db::enrolments::record_started(tx, account_id, &ids, &conversation_ids, &channels, &mailboxes).await?;

    let drafts = ids
        .iter()
        .map(|id| {
            let payload = jobs::Draft { account_id, enrolment_id: *id, step: 0 };
            Ok(NewJob::new(&payload, account_id.to_string())?.group(enrolment_group(campaign.id, *id)))
        })
        .collect::<Result<Vec<_>, EngineError>>()?;
    tx.enqueue(&drafts).await?;
    Ok(u64::try_from(ids.len()).unwrap_or(u64::MAX))
}

/// Makes the conversations of starting enrolments and returns their ids in the same order.
async fn converse(
    tx: &mut Tx,
    campaign: &Campaign,
    starting: &[(&Listed, Channel, Option<Uuid>)],
) -> Result<Vec<Uuid>, EngineError> {
    let new_ids: Vec<Uuid> = starting.iter().map(|_| new_id()).collect();
    let contact_ids: Vec<Uuid> = starting.iter().map(|(enrolment, ..)| enrolment.contact_id).collect();
    let conversations =
        db::conversations::insert_many(tx, campaign.account_id, campaign.id, &new_ids, &contact_ids).await?;
    let by_contact: std::collections::HashMap<Uuid, Uuid> =
        conversations.iter().map(|conversation| (conversation.contact_id, conversation.id)).collect();
    let new: std::collections::HashSet<&Uuid> = new_ids.iter().collect();
    let events: Vec<NewEvent> = conversations
        .iter()
        .filter(|conversation| new.contains(&conversation.id))
        .map(|conversation| {
            NewEvent::new(
                campaign.account_id,
                EventType::ConversationCreated,
                conversation.id,
                conversation.public(),
            )
        })
        .collect();
    outbox::append(tx, &events).await?;
    Ok(contact_ids.iter().filter_map(|contact_id| by_contact.get(contact_id).copied()).collect())
}

/// The mailbox of a locked enrolment; one that has none, or one that is disconnected, is given another if there is one.
pub(super) async fn find_mailbox(
    conn: &mut PgConnection,
    enrolment: &Enrolment,
) -> Result<Option<ChannelAccount>, EngineError> {
    let account_id = enrolment.account_id;
    if let Some(id) = enrolment.channel_account_id {
        let mailbox = db::channel_accounts::find(conn, account_id, id).await?;
        if mailbox.as_ref().is_some_and(|mailbox| mailbox.status != ChannelAccountStatus::Disconnected) {
            return Ok(mailbox);
        }
    }
    let Some(channel) = enrolment.channel else { return Ok(None) };
    let chosen = choose_mailbox(conn, account_id, channel).await?;
    if let Some(mailbox) = &chosen {
        db::enrolments::record_mailbox(conn, account_id, enrolment.id, mailbox.id).await?;
    }
    Ok(chosen)
}

/// The least loaded mailbox of a channel.
pub(super) async fn choose_mailbox(
    conn: &mut PgConnection,
    account_id: Uuid,
    channel: Channel,
) -> Result<Option<ChannelAccount>, EngineError> {
    let mut loads = Loads::new(&db::channel_accounts::list_loads(conn, account_id).await?);
    match loads.choose(&[channel], &[channel]) {
        Some((_, Some(id))) => Ok(db::channel_accounts::find(conn, account_id, id).await?),
        _ => Ok(None),
    }
}

/// Records that a step of an enrolment could not be drafted for good: the passage stops with `failed`. `error` goes to
/// the log only; the job that gave up keeps it too.
pub async fn record_failed(
    tx: &mut Tx,
    account_id: Uuid,
    enrolment_id: Uuid,
    error: &str,
) -> Result<(), EngineError> {
    let Some(enrolment) = db::enrolments::lock(tx, account_id, enrolment_id).await? else { return Ok(()) };
    if enrolment.status == EnrolmentStatus::Active {
        tracing::warn!(%enrolment_id, error, "a step could not be drafted; the enrolment stops");
        sequence::stop(tx, account_id, &[enrolment], StopReason::Failed).await?;
    }
    Ok(())
}
