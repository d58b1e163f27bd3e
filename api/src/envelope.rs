//! The shape of every successful answer: `{success, data, meta?}`.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::request;

/// An answer about one thing.
#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the names on the wire")]
pub struct Data<T> {
    /// Always true.
    #[schema(example = true)]
    success: bool,
    /// The thing.
    data: T,
    /// What else there is to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<Meta>,
    #[serde(skip)]
    #[schema(ignore)]
    status: StatusCode,
}

/// What else there is to know of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct Meta {
    /// Fields and parameters that were not understood, and so ignored.
    warnings: Vec<String>,
}

impl<T> Data<T> {
    /// 200.
    pub fn ok(data: T) -> Self {
        Self { success: true, data, meta: None, status: StatusCode::OK }
    }

    /// 201.
    pub fn created(data: T) -> Self {
        Self { status: StatusCode::CREATED, ..Self::ok(data) }
    }

    /// 202: it has begun.
    pub fn accepted(data: T) -> Self {
        Self { status: StatusCode::ACCEPTED, ..Self::ok(data) }
    }
}

impl<T: Serialize> IntoResponse for Data<T> {
    fn into_response(mut self) -> Response {
        let warnings = request::take_warnings();
        self.meta = (!warnings.is_empty()).then_some(Meta { warnings });
        (self.status, Json(self)).into_response()
    }
}

/// An answer with some of many things.
#[derive(Debug, Serialize, ToSchema)]
pub struct List<T> {
    /// Always true.
    #[schema(example = true)]
    success: bool,
    /// The things, newest first.
    data: Vec<T>,
    /// How to get the rest.
    meta: ListMeta,
}

/// Where a list goes on.
#[derive(Debug, Serialize, ToSchema)]
pub struct ListMeta {
    /// How many were asked for.
    pub limit: i64,
    /// What to pass as `cursor` for the next ones; null at the end.
    pub next_cursor: Option<String>,
    /// Whether there are more.
    pub has_more: bool,
    /// How many there are in all, with `include_total=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<i64>,
    /// Parameters that were not understood, and so ignored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl<T> List<T> {
    /// Some of many things.
    pub fn new(data: Vec<T>, meta: ListMeta) -> Self {
        Self { success: true, data, meta }
    }
}

impl<T: Serialize> IntoResponse for List<T> {
    fn into_response(mut self) -> Response {
        self.meta.warnings = request::take_warnings();
        Json(self).into_response()
    }
}
