//! Creating, merging and deleting contacts, one or a thousand at once.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::{EngineError, enrolments, sequence};
use crate::{
    Tx,
    db::{self, contacts::Names, outbox},
    domain::{
        changes,
        contact::{Contact, ContactPatch, ContactStatus, Identity, Merge, NewContact},
        enrolment::StopReason,
    },
    events::{EventType, NewEvent},
    ids::new_id,
};

/// How many rows one call may have.
pub const ROWS_MAX: usize = 1000;
/// How often a row is looked up again after another transaction created it meanwhile.
const ROUNDS_MAX: usize = 3;

/// What became of one row of [`upsert_many`].
#[derive(Debug, Clone, PartialEq)]
pub struct Upserted {
    /// The row's place in the call.
    pub index: usize,
    /// The contact as it is now.
    pub contact: Contact,
    /// The contact is new, or came back to life.
    pub created: bool,
}

/// Creates contacts, or merges them into those known by the same address (or handle, for rows without one): fields
/// supplied overwrite, absent ones stay. Rows of one call that mean the same contact are merged in order. Raises
/// contact.created, also for one that comes back to life, and contact.updated for one that changed. With a campaign the
/// contacts are added to it, and start at once if it is active. At most [`ROWS_MAX`] rows, brought to their stored form by
/// [`NewContact::normalise`]; returned in their order.
pub async fn upsert_many(
    tx: &mut Tx,
    account_id: Uuid,
    new: &[NewContact],
    campaign_id: Option<Uuid>,
) -> Result<Vec<Upserted>, EngineError> {
    let campaign = match campaign_id {
        Some(id) => {
            Some(db::campaigns::lock_shared(tx, account_id, id).await?.ok_or(EngineError::CampaignNotFound)?)
        }
        None => None,
    };
    let upserted = merge_many(tx, account_id, new, Merge::Overwrite).await?;
    if let Some(campaign) = campaign {
        let mut ids: Vec<Uuid> = upserted.iter().map(|row| row.contact.id).collect();
        ids.sort_unstable();
        ids.dedup();
        enrolments::add_to_campaign(tx, &campaign, &ids).await?;
    }
    Ok(upserted)
}

/// Changes a contact and raises contact.updated, if it changes anything. An address that another contact has, be that one
/// deleted, is a conflict.
pub async fn update(
    tx: &mut Tx,
    account_id: Uuid,
    id: Uuid,
    patch: &ContactPatch,
) -> Result<Contact, EngineError> {
    EngineError::check(patch.check())?;
    let before = db::contacts::lock(tx, account_id, id).await?;
    let before = before.filter(|known| known.deleted_at.is_none()).ok_or(EngineError::ContactNotFound)?;
    let after = patch.apply(&before).map_err(EngineError::Invalid)?;
    if after == before {
        return Ok(before);
    }
    let saved = db::contacts::update_many(tx, account_id, &[&after]).await.map_err(|error| match &error {
        sqlx::Error::Database(cause) if cause.constraint() == Some("contacts_by_email") => {
            EngineError::Conflict("another contact has this email address".into())
        }
        _ => error.into(),
    })?;
    let mut saved = saved.into_iter().next().ok_or(EngineError::ContactNotFound)?;
    if saved.status == ContactStatus::Bounced && saved.email.is_some() && saved.email != before.email {
        // That the old address bounced says nothing of the new one.
        saved = db::contacts::record_status(tx, account_id, id, ContactStatus::Active).await?;
    }
    outbox::append(tx, &event_of(&before, &saved).into_iter().collect::<Vec<_>>()).await?;
    Ok(saved)
}

/// Soft-deletes contacts: their passages stop, what these have not sent is cancelled. Ids of contacts that do not exist
/// are passed over. Raises contact.deleted for each and returns them.
pub async fn delete_many(tx: &mut Tx, account_id: Uuid, ids: &[Uuid]) -> Result<Vec<Contact>, EngineError> {
    let enrolments = db::enrolments::lock_unfinished_of_contacts(tx, account_id, ids).await?;
    sequence::stop(tx, account_id, &enrolments, StopReason::ContactDeleted).await?;
    let deleted = db::contacts::delete_many(tx, account_id, ids).await?;
    let events: Vec<NewEvent> = deleted
        .iter()
        .map(|contact| NewEvent::new(account_id, EventType::ContactDeleted, contact.id, contact.public()))
        .collect();
    outbox::append(tx, &events).await?;
    Ok(deleted)
}

/// A known contact before and after the rows that mean it.
struct Touched {
    before: Contact,
    after: Contact,
}

/// Stores the rows and appends their events; see [`upsert_many`].
pub(super) async fn merge_many(
    tx: &mut Tx,
    account_id: Uuid,
    new: &[NewContact],
    merge: Merge,
) -> Result<Vec<Upserted>, EngineError> {
    if new.len() > ROWS_MAX {
        return Err(EngineError::invalid("contacts", format!("must have at most {ROWS_MAX} rows")));
    }
    let (rows, places) = merge_rows(new)?;
    let mut stored: Vec<Option<(Contact, bool)>> = vec![None; rows.len()];
    let mut events = BTreeMap::new();
    for _ in 0..ROUNDS_MAX {
        let waiting: Vec<usize> = (0..rows.len()).filter(|row| stored[*row].is_none()).collect();
        if waiting.is_empty() {
            break;
        }
        let round = Round { account_id, rows: &rows, waiting: &waiting, merge };
        store_known(tx, &round, &mut stored, &mut events).await?;
        store_new(tx, &round, &mut stored, &mut events).await?;
    }
    outbox::append(tx, &events.into_values().collect::<Vec<_>>()).await?;

    let mut upserted = Vec::with_capacity(new.len());
    let mut seen = vec![false; rows.len()];
    for (index, row) in places.into_iter().enumerate() {
        let Some((contact, created)) = stored[row].clone() else {
            return Err(EngineError::Conflict("a contact keeps changing under this call".into()));
        };
        upserted.push(Upserted { index, contact, created: created && !seen[row] });
        seen[row] = true;
    }
    Ok(upserted)
}

/// The distinct contacts that the rows of a call mean, and for each row which one.
fn merge_rows(new: &[NewContact]) -> Result<(Vec<NewContact>, Vec<usize>), EngineError> {
    let mut rows: Vec<NewContact> = Vec::with_capacity(new.len());
    let mut places = Vec::with_capacity(new.len());
    let mut known: HashMap<Identity<'_>, usize> = HashMap::new();
    for contact in new {
        EngineError::check(contact.clone().normalise())?;
        let next = rows.len();
        let place = contact.identity().map_or(next, |identity| *known.entry(identity).or_insert(next));
        if place == next {
            rows.push(contact.clone());
        } else {
            rows[place] = std::mem::take(&mut rows[place]).merged_with(contact.clone());
        }
        places.push(place);
    }
    Ok((rows, places))
}

/// The rows still to be stored.
struct Round<'a> {
    account_id: Uuid,
    rows: &'a [NewContact],
    waiting: &'a [usize],
    merge: Merge,
}

/// Merges the rows whose contacts exist. Events are kept by the first row that raises one, to be appended in order.
async fn store_known(
    tx: &mut Tx,
    round: &Round<'_>,
    stored: &mut [Option<(Contact, bool)>],
    events: &mut BTreeMap<usize, NewEvent>,
) -> Result<(), EngineError> {
    let mut names = Names::default();
    for row in round.waiting {
        match round.rows[*row].identity() {
            Some(Identity::Email(email)) => names.emails.push(email.to_owned()),
            Some(Identity::Instagram(handle)) => names.instagram_handles.push(handle.to_owned()),
            Some(Identity::TwitterUser(id)) => names.twitter_user_ids.push(id.to_owned()),
            Some(Identity::Twitter(handle)) => names.twitter_handles.push(handle.to_owned()),
            Some(Identity::Entry(source, id)) => {
                names.entry_sources.push(source.to_owned());
                names.entry_ids.push(id.to_owned());
            }
            None => {}
        }
    }
    let known = db::contacts::lock_known(tx, round.account_id, &names).await?;
    let by_name = index(&known);
    let mut touched: BTreeMap<Uuid, Touched> = BTreeMap::new();
    let mut meant: Vec<(usize, Uuid)> = Vec::new();
    for row in round.waiting {
        let new = &round.rows[*row];
        let Some(contact) = new.identity().and_then(|identity| by_name.get(&identity)) else { continue };
        let entry = touched
            .entry(contact.id)
            .or_insert_with(|| Touched { before: (*contact).clone(), after: (*contact).clone() });
        entry.after = new.apply(&entry.after, round.merge);
        meant.push((*row, contact.id));
    }
    let changed: Vec<&Contact> =
        touched.values().filter(|entry| entry.after != entry.before).map(|entry| &entry.after).collect();
    let mut saved: HashMap<Uuid, Contact> = HashMap::new();
    if !changed.is_empty() {
        let rows = db::contacts::update_many(tx, round.account_id, &changed).await?;
        saved.extend(rows.into_iter().map(|contact| (contact.id, contact)));
    }
    let mut raised = HashSet::new();
    for (row, id) in meant {
        let entry = &touched[&id];
        let contact = saved.get(&id).unwrap_or(&entry.before).clone();
        let revived = entry.before.deleted_at.is_some() && contact.deleted_at.is_none();
        if let Some(event) = event_of(&entry.before, &contact)
            && raised.insert(id)
        {
            events.insert(row, event);
        }
        stored[row] = Some((contact, revived));
    }
    Ok(())
}

/// Writes the rows whose contacts do not exist; one that another transaction has just created is left for the next
/// round.
async fn store_new(
    tx: &mut Tx,
    round: &Round<'_>,
    stored: &mut [Option<(Contact, bool)>],
    events: &mut BTreeMap<usize, NewEvent>,
) -> Result<(), EngineError> {
    let new: Vec<(usize, Contact)> = round
        .waiting
        .iter()
        .filter(|row| stored[**row].is_none())
        .map(|row| (*row, round.rows[*row].to_contact(round.account_id, new_id())))
        .collect();
    if new.is_empty() {
        return Ok(());
    }
    let contacts: Vec<&Contact> = new.iter().map(|(_, contact)| contact).collect();
    let inserted = db::contacts::insert_many(tx, round.account_id, &contacts).await?;
    let mut inserted: HashMap<Uuid, Contact> =
        inserted.into_iter().map(|contact| (contact.id, contact)).collect();
    for (row, contact) in new {
        let Some(contact) = inserted.remove(&contact.id) else { continue };
        let event = NewEvent::new(round.account_id, EventType::ContactCreated, contact.id, contact.public());
        events.insert(row, event);
        stored[row] = Some((contact, true));
    }
    Ok(())
}

/// The known contacts by everything that names them; of two with one handle the one that is not deleted, or the older.
fn index(known: &[Contact]) -> HashMap<Identity<'_>, &Contact> {
    let mut by_name = HashMap::new();
    let (deleted, alive): (Vec<_>, Vec<_>) = known.iter().partition(|contact| contact.deleted_at.is_some());
    for contact in alive.into_iter().chain(deleted) {
        let names = [
            contact.email.as_deref().map(Identity::Email),
            contact.instagram_handle.as_deref().map(Identity::Instagram),
            contact.twitter_user_id.as_deref().map(Identity::TwitterUser),
            contact.twitter_handle.as_deref().map(Identity::Twitter),
            Identity::of_provenance(&contact.provenance),
        ];
        for name in names.into_iter().flatten() {
            by_name.entry(name).or_insert(contact);
        }
    }
    by_name
}

/// The event that a merge raises, if it changed anything.
fn event_of(before: &Contact, after: &Contact) -> Option<NewEvent> {
    let public = after.public();
    if before.deleted_at.is_some() && after.deleted_at.is_none() {
        return Some(NewEvent::new(after.account_id, EventType::ContactCreated, after.id, public));
    }
    let previous = changes::previous(&before.public(), &public)?;
    let data = changes::with_previous(&public, previous);
    Some(NewEvent::new(after.account_id, EventType::ContactUpdated, after.id, data))
}
