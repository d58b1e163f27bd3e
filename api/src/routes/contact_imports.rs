//! Contacts, many at once.

use std::{collections::BTreeSet, fmt};

use axum::extract::State;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, SeqAccess, Unexpected, Visitor},
};
use serde_json::{Value, json, value::RawValue};
use shared::{
    domain::{
        FieldError,
        contact::{Contact, NewContact},
    },
    engine::contacts as engine,
};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    app::App,
    auth::Caller,
    envelope::Data,
    error::ApiError,
    extract::{RowsBody, reason_of, unknown_name},
    request,
};

/// The most contacts of one import.
const IMPORT_ROWS_MAX: usize = 500;

/// Contacts to be imported.
#[derive(Debug, Deserialize, ToSchema)]
pub struct BulkImport {
    /// The contacts. A row that is wrong fails alone.
    #[schema(min_items = 1, max_items = 500, value_type = Vec<NewContact>)]
    contacts: Rows,
    /// The campaign that they join.
    campaign_id: Option<Uuid>,
}

/// The rows of an import, as they were sent: each is parsed alone, so that one that is wrong fails alone, and so that
/// they are not all in memory as values. Reading ends at the first one too many.
#[derive(Debug)]
struct Rows(Vec<Box<RawValue>>);

impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(RowsVisitor).map(Self)
    }
}

struct RowsVisitor;

impl<'de> Visitor<'de> for RowsVisitor {
    type Value = Vec<Box<RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of 1 to 500 rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut rows = Vec::new();
        while let Some(row) = seq.next_element()? {
            if rows.len() == IMPORT_ROWS_MAX {
                return Err(A::Error::invalid_value(Unexpected::Seq, &self));
            }
            rows.push(row);
        }
        if rows.is_empty() {
            return Err(A::Error::invalid_value(Unexpected::Seq, &self));
        }
        Ok(rows)
    }
}

/// A row of an import that failed.
#[derive(Debug, Serialize, ToSchema)]
pub struct RowError {
    /// Which row, from 0.
    index: usize,
    /// Which field of it.
    field: String,
    /// What is wrong with it.
    reason: String,
}

/// How an import went.
#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the names on the wire")]
pub struct Imported {
    /// Rows that were stored: those that were created and those that were merged into a known contact.
    imported: usize,
    /// Contacts that were not known.
    created: usize,
    /// Contacts that were known, and took over the fields of their rows.
    updated: usize,
    /// Rows that were wrong.
    failed: usize,
    /// What was wrong with them.
    errors: Vec<RowError>,
    /// The contacts, in the order of their rows.
    contacts: Vec<Contact>,
}

/// Import contacts
///
/// Up to 500 rows, stored together. Each is created or merged like a single one; a row that is wrong is named in
/// `errors` and does not keep the others from being stored.
#[utoipa::path(
    post, path = "/contacts/bulk-import", request_body = BulkImport,
    responses((status = 201, body = Data<Imported>))
)]
pub async fn bulk_import(
    State(app): State<App>,
    caller: Caller,
    RowsBody(import): RowsBody<BulkImport>,
) -> Result<Data<Imported>, ApiError> {
    let (rows, errors) = read_rows(&import.contacts);
    let mut tx = app.database.begin().await?;
    let stored = engine::upsert_many(&mut tx, caller.account_id, &rows, import.campaign_id).await?;
    let imported = Imported::new(stored, errors);
    let ids: Vec<Uuid> = imported.contacts.iter().map(|contact| contact.id).collect();
    let metadata = json!({"ids": ids, "campaign_id": import.campaign_id, "failed": imported.failed});
    caller.audit(&mut tx, "bulk_create_contacts", "contact", None, metadata).await?;
    tx.commit().await?;
    Ok(Data::created(imported))
}

impl Imported {
    fn new(stored: Vec<engine::Upserted>, errors: Vec<RowError>) -> Self {
        let failed: BTreeSet<usize> = errors.iter().map(|error| error.index).collect();
        let created = stored.iter().filter(|row| row.created).count();
        Self {
            imported: stored.len(),
            created,
            updated: stored.len() - created,
            failed: failed.len(),
            errors,
            contacts: stored.into_iter().map(|row| row.contact).collect(),
        }
    }
}

/// The rows that can be stored, and what is wrong with the others.
fn read_rows(Rows(sent): &Rows) -> (Vec<NewContact>, Vec<RowError>) {
    let mut rows = Vec::with_capacity(sent.len());
    let mut errors = Vec::new();
    let mut unknown = BTreeSet::new();
    for (index, row) in sent.iter().enumerate() {
        let wrong = match read_row(row, &mut unknown) {
            Ok(mut row) => {
                let wrong = row.normalise();
                if wrong.is_empty() {
                    rows.push(row);
                }
                wrong
            }
            Err(wrong) => vec![wrong],
        };
        errors.extend(wrong.into_iter().map(|FieldError { field, reason }| RowError {
            index,
            field,
            reason,
        }));
    }
    for field in unknown.into_iter().take(UNKNOWN_FIELDS_MAX) {
        request::warn(format!("unknown field ignored: contacts[].{field}"));
    }
    (rows, errors)
}

/// How many unknown fields of rows one answer names.
const UNKNOWN_FIELDS_MAX: usize = 20;

fn read_row(row: &RawValue, unknown: &mut BTreeSet<String>) -> Result<NewContact, FieldError> {
    if !row.get().starts_with('{') {
        return Err(FieldError::new("contact", "must be an object"));
    }
    let value: Value =
        serde_json::from_str(row.get()).map_err(|error| FieldError::new("contact", reason_of(error)))?;
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    serde_ignored::deserialize(tracked, |path| {
        if unknown.len() < UNKNOWN_FIELDS_MAX {
            unknown.insert(unknown_name(&path));
        }
    })
    .map_err(|error| FieldError::new(track.path().to_string(), reason_of(error)))
}
