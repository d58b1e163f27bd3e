//! Erasing contacts: for good, and from everything that was told of them.

use std::time::Duration;

use queue::{NewJob, RunAt};
use uuid::Uuid;

use super::{EngineError, contacts::ROWS_MAX, sequence};
use crate::{
    Tx,
    db::{
        self,
        erasure::{self, Erased, Told},
        outbox,
    },
    domain::{
        enrolment::StopReason,
        erasure::{redact, redact_body},
    },
    events::{EventType, NewEvent},
    jobs::EraseHistory,
};

/// How many contacts one job takes out of the history.
const CONTACTS_PER_JOB: usize = 100;
/// How many events of the outbox are in memory at once.
const UNRELAYED_MAX: i64 = 200;
/// When what was under way at the erasure is over: longer than any transaction, request or draft may take.
const SETTLED: Duration = Duration::from_secs(900);

/// Erases contacts, deleted ones too: their rows are emptied and stay deleted, their passages stop, what was written to them
/// and by them is gone, and of their addresses only hashes are kept, so that nobody writes to them again. Raises
/// contact.deleted, which says that it is about an erasure, and enqueues the job that goes through the history. Ids of
/// contacts that do not exist are passed over, erased ones stay as they are. Returns when each was erased, by their ids.
pub async fn erase_many(tx: &mut Tx, account_id: Uuid, ids: &[Uuid]) -> Result<Vec<Erased>, EngineError> {
    if ids.len() > ROWS_MAX {
        return Err(EngineError::invalid("ids", format!("must have at most {ROWS_MAX} contacts")));
    }
    let enrolments = db::enrolments::lock_unfinished_of_contacts(tx, account_id, ids).await?;
    sequence::stop(tx, account_id, &enrolments, StopReason::ContactDeleted).await?;
    erasure::erase_texts(tx, account_id, ids).await?;
    let known = erasure::lock_known(tx, account_id, ids).await?;
    let emails: Vec<&str> = known.iter().flat_map(erasure::Known::emails).collect();
    erasure::erase_unmatched(tx, account_id, &emails).await?;
    erasure::suppress_hashed(tx, account_id, &known).await?;
    let emptied = db::contacts::erase_many(tx, account_id, ids).await?;
    let events: Vec<NewEvent> = emptied
        .iter()
        .map(|contact| {
            // Once more for those that were deleted before: receivers have copies.
            let mut data = contact.public();
            redact(EventType::ContactDeleted, &mut data);
            NewEvent::new(account_id, EventType::ContactDeleted, contact.id, data)
        })
        .collect();
    outbox::append(tx, &events).await?;
    let new: Vec<Uuid> = emptied.iter().map(|contact| contact.id).collect();
    let jobs = new
        .chunks(CONTACTS_PER_JOB)
        .map(|ids| job(&EraseHistory { account_id, contact_ids: ids.to_vec(), after: None, again: false }))
        .collect::<Result<Vec<_>, _>>()?;
    tx.enqueue(&jobs).await?;
    Ok(erasure::list_erased(tx, account_id, ids).await?)
}

/// Takes erased contacts out of a page of their account's history, and out of what is not relayed yet; enqueues the job that
/// goes on. What a dispatcher has read by then is sent as it was. Safe to run twice.
pub async fn erase_page(tx: &mut Tx, page: &EraseHistory) -> Result<(), EngineError> {
    let EraseHistory { account_id, contact_ids, after, again } = page;
    let account_id = *account_id;
    db::deliveries::look_up_by_key(tx).await?;
    let resources = erasure::list_resources(tx, account_id, contact_ids).await?;
    let after = if let Some(after) = after {
        *after
    } else {
        erasure::erase_texts(tx, account_id, contact_ids).await?;
        outbox::lock_shard(tx, outbox::shard_of(account_id)).await?;
        erase_unrelayed(tx, account_id, &resources).await?;
        erasure::find_beginning(tx, account_id, contact_ids).await?
    };
    let erasure::Page { found, next } = erasure::find_page(tx, account_id, &resources, after).await?;
    let bodies: Vec<(Uuid, String)> =
        redacted(&found)?.into_iter().map(|(event, body)| (event.id, body)).collect();
    erasure::rewrite(tx, account_id, &bodies).await?;
    let ids: Vec<Uuid> = found.iter().map(|event| event.id).collect();
    erasure::erase_excerpts(tx, account_id, &ids).await?;
    let rest = EraseHistory { account_id, contact_ids: contact_ids.clone(), after: next, again: *again };
    let following = match (next, again) {
        (Some(_), _) => Some(job(&rest)?),
        (None, false) => Some(job(&EraseHistory { again: true, ..rest })?.run_at(RunAt::After(SETTLED))),
        (None, true) => None,
    };
    tx.enqueue(following.as_slice()).await?;
    Ok(())
}

async fn erase_unrelayed(tx: &mut Tx, account_id: Uuid, resources: &[Uuid]) -> Result<(), EngineError> {
    let mut after = 0;
    loop {
        let found = erasure::lock_unrelayed(tx, account_id, resources, after, UNRELAYED_MAX).await?;
        let Some(last) = found.last() else { return Ok(()) };
        after = last.number;
        let bodies: Vec<(i64, String)> =
            redacted(&found)?.into_iter().map(|(event, body)| (event.number, body)).collect();
        erasure::rewrite_unrelayed(tx, account_id, &bodies).await?;
    }
}

/// The events that still tell of a person, with what is to be told instead.
fn redacted(found: &[Told]) -> Result<Vec<(&Told, String)>, EngineError> {
    let mut bodies = Vec::with_capacity(found.len());
    for event in found {
        let unreadable = |what: String| EngineError::Conflict(format!("the event {} {what}", event.id));
        let kind = EventType::parse(&event.kind)
            .ok_or_else(|| unreadable(format!("has the unknown type {:?}", event.kind)))?;
        let body = redact_body(kind, &event.body)
            .map_err(|error| unreadable(format!("has a body of another form: {error}")))?;
        if let Some(body) = body {
            bodies.push((event, body));
        }
    }
    Ok(bodies)
}

fn job(page: &EraseHistory) -> Result<NewJob, EngineError> {
    Ok(NewJob::new(page, page.account_id.to_string())?)
}
