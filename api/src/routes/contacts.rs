//! Contacts.

use std::collections::BTreeSet;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::{
    db::{contacts as db, erasure::Erased},
    domain::{
        FieldError,
        contact::{Contact, ContactPatch, ContactStatus, NewContact},
        field::Checks,
    },
    engine::{contacts as engine, erasure},
};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    app::App,
    auth::Caller,
    envelope::{Data, List},
    error::{ApiError, Code},
    extract::{Body, ContactId, PagingParams, Query},
};

/// The most contacts that one request deletes.
const DELETED_MAX: usize = 500;

/// Which contacts to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ContactParams {
    /// Only those in this campaign.
    campaign_id: Option<Uuid>,
    /// Only those with this status.
    status: Option<ContactStatus>,
    /// Only those of this kind.
    contact_type: Option<String>,
    /// Only those with this tag.
    tag: Option<String>,
    /// Only those from this source.
    source: Option<String>,
    /// Only those with this text in the name, company or address.
    search: Option<String>,
}

impl From<ContactParams> for db::ContactFilter {
    fn from(params: ContactParams) -> Self {
        let ContactParams { campaign_id, status, contact_type, tag, source, search } = params;
        Self { campaign_id, status, contact_type, tag, source, search }
    }
}

/// Contacts to be deleted.
#[derive(Debug, Deserialize, ToSchema)]
pub struct BulkDelete {
    /// Their ids.
    #[schema(min_items = 1, max_items = 500)]
    ids: Vec<Uuid>,
}

impl BulkDelete {
    /// Each id once.
    fn distinct(&self) -> Result<Vec<Uuid>, ApiError> {
        let mut checks = Checks::new();
        checks.require((1..=DELETED_MAX).contains(&self.ids.len()), "ids", "must have 1 to 500 items");
        ApiError::unless_empty(checks.finish())?;
        Ok(self.ids.iter().copied().collect::<BTreeSet<_>>().into_iter().collect())
    }
}

/// What became of contacts that were to be deleted.
#[derive(Debug, Serialize, ToSchema)]
pub struct BulkDeleted {
    /// How many were deleted.
    deleted: usize,
    /// The ids that name no contact, or one that was deleted before.
    not_found: Vec<Uuid>,
}

/// List contacts
///
/// The newest first; deleted ones are hidden.
#[utoipa::path(
    get, path = "/contacts", params(ContactParams, PagingParams), responses((status = 200, body = List<Contact>))
)]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Query { filter, paging }: Query<ContactParams>,
) -> Result<List<Contact>, ApiError> {
    let filter = filter.into();
    let mut conn = app.connection().await?;
    let rows = db::list(&mut conn, caller.account_id, &filter, paging.page).await?;
    let total = paging.total(async || db::count(&mut conn, caller.account_id, &filter).await).await?;
    Ok(paging.list(rows, total))
}

/// Create a contact
///
/// Idempotent on the email address: a known contact takes over the fields that are there, keeps the others, and is
/// returned with 201 too.
#[utoipa::path(
    post, path = "/contacts", request_body = NewContact, responses((status = 201, body = Data<Contact>))
)]
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Body(mut new): Body<NewContact>,
) -> Result<Data<Contact>, ApiError> {
    refuse(new.normalise())?;
    let mut tx = app.database.begin().await?;
    let mut upserted = engine::upsert_many(&mut tx, caller.account_id, &[new], None).await?;
    let upserted = upserted.pop().ok_or_else(|| ApiError::new(Code::Internal))?;
    let (contact, metadata) = (upserted.contact, json!({"created": upserted.created}));
    caller.audit(&mut tx, "create_contact", "contact", Some(contact.id), metadata).await?;
    tx.commit().await?;
    Ok(Data::created(contact))
}

/// Get a contact
#[utoipa::path(
    get, path = "/contacts/{id}", params(("id" = Uuid, Path, description = "The contact")),
    responses((status = 200, body = Data<Contact>))
)]
pub async fn get(
    State(app): State<App>,
    caller: Caller,
    ContactId(id): ContactId,
) -> Result<Data<Contact>, ApiError> {
    let mut conn = app.connection().await?;
    let contact = db::find(&mut conn, caller.account_id, id).await?;
    contact.map(Data::ok).ok_or_else(|| ApiError::new(Code::ContactNotFound))
}

/// Erase a contact
///
/// For good, whether it was deleted before or not: what is stored of it and of what was written is emptied, its passages stop, and of its
/// addresses only hashes are kept, so that nobody writes to them again. It raises contact.deleted with `erased: true`; payloads
/// of webhooks that told of it are emptied by a job within minutes. Erasing it again changes nothing.
#[utoipa::path(
    post, path = "/contacts/{id}/erase", params(("id" = Uuid, Path, description = "The contact")),
    responses((status = 200, body = Data<Erased>))
)]
pub async fn erase(
    State(app): State<App>,
    caller: Caller,
    ContactId(id): ContactId,
) -> Result<Data<Erased>, ApiError> {
    let mut tx = app.database.begin().await?;
    let erased = erasure::erase_many(&mut tx, caller.account_id, &[id]).await?.pop();
    let erased = erased.ok_or_else(|| ApiError::new(Code::ContactNotFound))?;
    caller.audit(&mut tx, "delete_contact", "contact", Some(id), json!({"erased": true})).await?;
    tx.commit().await?;
    Ok(Data::ok(erased))
}

/// Update a contact
///
/// An absent field stays, null empties it. An address that another contact has is a conflict.
#[utoipa::path(
    patch, path = "/contacts/{id}", params(("id" = Uuid, Path, description = "The contact")),
    request_body = ContactPatch, responses((status = 200, body = Data<Contact>))
)]
pub async fn update(
    State(app): State<App>,
    caller: Caller,
    ContactId(id): ContactId,
    Body(patch): Body<ContactPatch>,
) -> Result<Data<Contact>, ApiError> {
    refuse(patch.check())?;
    let mut tx = app.database.begin().await?;
    let contact = engine::update(&mut tx, caller.account_id, id, &patch).await?;
    caller.audit(&mut tx, "update_contact", "contact", Some(id), json!({})).await?;
    tx.commit().await?;
    Ok(Data::ok(contact))
}

/// Delete a contact
///
/// It is hidden, its passages stop, and what they have not sent is cancelled. Creating a contact with its address brings it
/// back. `POST /contacts/{id}/erase` empties it for good.
#[utoipa::path(
    delete, path = "/contacts/{id}", params(("id" = Uuid, Path, description = "The contact")),
    responses((status = 200, body = Data<Contact>))
)]
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    ContactId(id): ContactId,
) -> Result<Data<Contact>, ApiError> {
    let mut tx = app.database.begin().await?;
    let deleted = engine::delete_many(&mut tx, caller.account_id, &[id]).await?.pop();
    let deleted = deleted.ok_or_else(|| ApiError::new(Code::ContactNotFound))?;
    caller.audit(&mut tx, "delete_contact", "contact", Some(id), json!({})).await?;
    tx.commit().await?;
    Ok(Data::ok(deleted))
}

/// Delete contacts
///
/// Up to 500, together, each as a single one is deleted. Ids that name no contact are told in `not_found` and do not keep the
/// others from being deleted.
#[utoipa::path(
    post, path = "/contacts/bulk-delete", request_body = BulkDelete,
    responses((status = 200, body = Data<BulkDeleted>))
)]
pub async fn bulk_delete(
    State(app): State<App>,
    caller: Caller,
    Body(bulk): Body<BulkDelete>,
) -> Result<Data<BulkDeleted>, ApiError> {
    let ids = bulk.distinct()?;
    let mut tx = app.database.begin().await?;
    let deleted = engine::delete_many(&mut tx, caller.account_id, &ids).await?;
    let deleted: BTreeSet<Uuid> = deleted.into_iter().map(|contact| contact.id).collect();
    caller.audit(&mut tx, "bulk_delete_contacts", "contact", None, json!({"ids": deleted})).await?;
    tx.commit().await?;
    let not_found = ids.into_iter().filter(|id| !deleted.contains(id)).collect();
    Ok(Data::ok(BulkDeleted { deleted: deleted.len(), not_found }))
}

/// An address that no mail can reach has a code of its own, which wins over what else is wrong.
fn refuse(wrong: Vec<FieldError>) -> Result<(), ApiError> {
    if wrong.iter().any(|error| error.field == "email") {
        return Err(ApiError::new(Code::EmailInvalid).with_details(wrong));
    }
    ApiError::unless_empty(wrong)
}
