//! Query strings: filters of an operation, and paging, which all lists share.

use std::{borrow::Cow, collections::BTreeSet};

use axum::{extract::FromRequestParts, http::request::Parts};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, de::DeserializeOwned};
use shared::{
    db::page::{Page, Rows},
    domain::FieldError,
};
use url::form_urlencoded;
use utoipa::{
    IntoParams,
    openapi::path::{Parameter, ParameterIn},
};
use uuid::Uuid;

use super::reason_of;
use crate::{
    envelope::{List, ListMeta},
    error::ApiError,
    request,
};

/// What a list returns when nobody says how many.
const LIMIT_DEFAULT: i64 = 20;
/// More than this is this.
const LIMIT_MAX: i64 = 100;
/// `page` reaches this far; beyond it only `cursor` does, whose cost does not grow.
const PAGED_ROWS_MAX: i64 = 10_000;
/// A longer query string is not read.
const QUERY_BYTES_MAX: usize = 8 * 1024;

/// The filters of an operation, and where its list begins.
#[derive(Debug)]
pub struct Query<F> {
    /// The operation's own parameters.
    pub filter: F,
    /// Where to begin and how much to return.
    pub paging: Paging,
}

/// The filters of a list that has none.
#[derive(Debug, Deserialize)]
pub struct NoFilter {}

/// Where a list begins and how much it returns.
#[derive(Debug, Clone, Copy)]
pub struct Paging {
    /// Which rows to return.
    pub page: Page,
    /// Whether to count them all.
    pub include_total: bool,
}

/// Where a list begins and how much it returns, as it is written in a URL.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct PagingParams {
    /// How many to return, at most 100.
    #[param(minimum = 1, default = 20)]
    limit: Option<i64>,
    /// Where to go on: the `next_cursor` of the previous answer.
    cursor: Option<String>,
    /// A page, from 1, of the first 10,000 rows; `cursor` goes further.
    #[param(minimum = 1)]
    page: Option<i64>,
    /// Adds `meta.total`.
    include_total: Option<bool>,
}

/// A place in a list, opaque outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor(Uuid);

impl Cursor {
    /// As it is sent.
    fn encode(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.as_bytes())
    }

    /// As it came back.
    fn decode(text: &str) -> Option<Self> {
        let bytes: [u8; 16] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        Some(Self(Uuid::from_bytes(bytes)))
    }
}

impl Paging {
    /// The total, when it was asked for.
    pub async fn total(
        &self,
        count: impl AsyncFnOnce() -> Result<i64, sqlx::Error>,
    ) -> Result<Option<i64>, sqlx::Error> {
        if self.include_total { count().await.map(Some) } else { Ok(None) }
    }

    /// The answer.
    pub fn list<T>(&self, rows: Rows<T>, total: Option<i64>) -> List<T> {
        let has_more = rows.next.is_some();
        let next_cursor = rows.next.map(|id| Cursor(id).encode());
        let meta = ListMeta { limit: self.page.limit, next_cursor, has_more, total, warnings: Vec::new() };
        List::new(rows.rows, meta)
    }
}

impl PagingParams {
    fn check(self) -> Result<Paging, Vec<FieldError>> {
        let mut details = Vec::new();
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
        if limit < 1 {
            details.push(FieldError::new("limit", "must be at least 1"));
        }
        let cursor = self.cursor.filter(|text| !text.is_empty()).map(|text| Cursor::decode(&text));
        if cursor == Some(None) {
            details.push(FieldError::new("cursor", "is not one that iris gave out"));
        }
        let page = self.page.unwrap_or(1);
        let offset = page.saturating_sub(1).saturating_mul(limit);
        if page < 1 {
            details.push(FieldError::new("page", "must be at least 1"));
        } else if offset.saturating_add(limit) > PAGED_ROWS_MAX.max(limit) {
            details.push(FieldError::new("page", "reaches only the first 10,000 rows; use cursor"));
        }
        if details.is_empty() && self.page.is_some() && cursor.is_some() {
            details.push(FieldError::new("page", "cannot be combined with cursor"));
        }
        if !details.is_empty() {
            return Err(details);
        }
        let after = cursor.flatten().map(|Cursor(id)| id);
        let page = Page { after, offset, limit };
        Ok(Paging { page, include_total: self.include_total.unwrap_or_default() })
    }
}

impl IntoParams for NoFilter {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        Vec::new()
    }
}

impl<S: Send + Sync, F: DeserializeOwned + IntoParams> FromRequestParts<S> for Query<F> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parse(parts.uri.query().unwrap_or_default())
    }
}

/// Parameters and their values.
type Pairs<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

fn parse<F: DeserializeOwned + IntoParams>(query: &str) -> Result<Query<F>, ApiError> {
    if query.len() > QUERY_BYTES_MAX {
        return Err(ApiError::request(vec![FieldError::new("query", "is longer than 8 KiB")]));
    }
    let (paging_names, filter_names) = (names::<PagingParams>(), names::<F>());
    let (mut paging, mut filter) = (Pairs::new(), Pairs::new());
    let mut details = Vec::new();
    let mut unknown = BTreeSet::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let part = if paging_names.contains(&*name) {
            &mut paging
        } else if filter_names.contains(&*name) {
            &mut filter
        } else {
            unknown.insert(name);
            continue;
        };
        if value.contains('\0') {
            details.push(FieldError::new(name, "must not contain the character U+0000"));
        } else if part.iter().any(|(known, _)| *known == name) {
            details.push(FieldError::new(name, "must be given once"));
        } else {
            part.push((name, value));
        }
    }
    let paging = read::<PagingParams>(paging, &mut details)
        .and_then(|params| params.check().map_err(|wrong| details.extend(wrong)).ok());
    let filter = read::<F>(filter, &mut details);
    match (paging, filter) {
        (Some(paging), Some(filter)) if details.is_empty() => {
            for name in unknown {
                request::warn(format!("unknown parameter ignored: {name}"));
            }
            Ok(Query { filter, paging })
        }
        _ => Err(ApiError::request(details)),
    }
}

/// The names of the parameters of a struct, as they are documented.
fn names<T: IntoParams>() -> BTreeSet<String> {
    T::into_params(|| None).into_iter().map(|parameter| parameter.name).collect()
}

/// Reads the parameters of one struct; `None` when some are wrong, which are then in `details`: each is taken away and
/// the others are read again.
fn read<T: DeserializeOwned>(mut pairs: Pairs<'_>, details: &mut Vec<FieldError>) -> Option<T> {
    let mut all_right = true;
    loop {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(&pairs).finish();
        let read = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
        let error = match serde_path_to_error::deserialize(read) {
            Ok(value) => return all_right.then_some(value),
            Err(error) => error,
        };
        all_right = false;
        let name = error.path().to_string();
        details.push(FieldError::new(&name, reason_of(error.inner())));
        let before = pairs.len();
        pairs.retain(|(known, _)| *known != name);
        if pairs.len() == before {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[derive(Debug, Deserialize, IntoParams)]
    struct Filter {
        /// An id.
        campaign_id: Option<Uuid>,
        /// A word.
        status: Option<String>,
        /// A number.
        count: Option<u8>,
    }

    fn wrong(query: &str) -> Vec<String> {
        let error = parse::<Filter>(query).unwrap_err();
        assert_eq!(error.code(), Code::RequestInvalid);
        error.details().iter().map(|detail| detail.field.clone()).collect()
    }

    #[test]
    fn limits_and_places() {
        let paging = |query: &str| parse::<Filter>(query).unwrap().paging;
        let page = |query: &str| paging(query).page;
        assert_eq!((page("").limit, page("").offset, page("").after), (20, 0, None));
        assert_eq!((page("limit=5000&page=3").limit, page("limit=5000&page=3").offset), (100, 200));
        assert!(paging("include_total=true&page=1&limit=1").include_total);
        let id = Uuid::now_v7();
        assert_eq!(page(&format!("cursor={}", Cursor(id).encode())).after, Some(id));
        assert_eq!(page("limit=100&page=100").offset, 9_900);
    }

    #[test]
    fn every_wrong_parameter_is_named() {
        assert_eq!(wrong("limit=0"), ["limit"]);
        assert_eq!(wrong("limit=ten"), ["limit"]);
        assert_eq!(wrong("cursor=abc&page=0"), ["cursor", "page"]);
        assert_eq!(wrong("limit=100&page=101"), ["page"]);
        assert_eq!(wrong("page=9223372036854775807"), ["page"]);
        assert_eq!(wrong("limit=x&campaign_id=7"), ["limit", "campaign_id"]);
        assert_eq!(wrong("status=a%00b"), ["status"]);
        assert_eq!(wrong("status=a&status=b"), ["status"]);
        assert_eq!(wrong("limit=1&limit=2"), ["limit"]);
        assert_eq!(wrong("limit=x&page=y&include_total=z"), ["limit", "page", "include_total"]);
        assert_eq!(wrong("campaign_id=7&count=300&status=a"), ["campaign_id", "count"]);
        assert_eq!(wrong(&format!("status={}", "a".repeat(9000))), ["query"]);
    }

    #[test]
    fn a_filter_is_read_and_the_unknown_is_ignored() {
        let query = parse::<Filter>("status=active&colour=red&limit=3").unwrap();
        assert_eq!(query.filter.status.as_deref(), Some("active"));
        assert_eq!((query.filter.campaign_id, query.filter.count), (None, None));
        assert!(parse::<Filter>("colour=red&colour=blue&colour=%00").is_ok(), "also twice");
    }
}
