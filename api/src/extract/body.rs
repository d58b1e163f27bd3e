//! JSON bodies: every wrong field is named, unknown ones are ignored with a warning.

use std::collections::BTreeSet;

use axum::{
    body::to_bytes,
    extract::{FromRequest, Request},
};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;
use shared::domain::FieldError;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use super::{DETAILS_MAX, cut, field_name};
use crate::{error::ApiError, operation::BodyLimit, request};

/// A warning for each of more unknown fields would be an answer larger than the question.
const WARNINGS_MAX: usize = 20;

/// The bytes of a body, at most as many as the operation takes.
#[derive(Debug)]
pub struct Raw(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let BodyLimit(limit) = request.extensions().get().copied().unwrap_or_default();
        match to_bytes(request.into_body(), limit).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(error) if is_length_limit(&error) => Err(ApiError::too_large(limit)),
            Err(error) => {
                Err(ApiError::request(vec![FieldError::new("body", "ended early")]).caused_by(error))
            }
        }
    }
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// A JSON body. An absent or empty one is `{}`. Any Content-Type will do: nobody sends another format on purpose, and
/// curl without `-H` claims a form.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + ToSchema> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Raw(bytes) = Raw::from_request(request, state).await?;
        parse(&bytes).map(Self)
    }
}

/// Reads a body, and says all that is wrong with it.
fn parse<T: DeserializeOwned + ToSchema>(bytes: &[u8]) -> Result<T, ApiError> {
    let bytes = if bytes.trim_ascii().is_empty() { b"{}" } else { bytes };
    if has_nul_escape(bytes) {
        refuse_nul(bytes)?;
    }
    let mut unknown = BTreeSet::new();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_ignored::deserialize(&mut json, |path| {
        if unknown.len() < WARNINGS_MAX {
            unknown.insert(field_name(&path));
        }
    });
    match parsed.and_then(|value| json.end().map(|()| value)) {
        Ok(value) => {
            for field in unknown {
                request::warn(format!("unknown field ignored: {field}"));
            }
            Ok(value)
        }
        Err(error) => Err(explain::<T>(bytes, &error)),
    }
}

/// Every wrong field of a body that does not parse: the missing ones by the schema, the mistyped ones by taking each
/// away and parsing what is left. When every field has its type and only values are impossible, the failure is another.
fn explain<T: DeserializeOwned + ToSchema>(bytes: &[u8], error: &serde_json::Error) -> ApiError {
    let body = |reason: String| ApiError::request(vec![FieldError::new("body", reason)]);
    let fields = match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return body("must be a JSON object".into()),
        Err(syntax) => return body(cut(format!("is not valid JSON: {syntax}"))),
    };
    let mut details: Vec<FieldError> = required_fields::<T>()
        .into_iter()
        .filter(|name| fields.get(name).is_none_or(Value::is_null))
        .map(|name| FieldError::new(name, "is required"))
        .collect();
    let mut only_values = details.is_empty();
    let mut rest = fields;
    while details.len() < DETAILS_MAX {
        let Err(error) = serde_path_to_error::deserialize::<_, T>(Value::Object(rest.clone())) else { break };
        let path = error.path().to_string();
        let top = path.split(['.', '[']).next().unwrap_or_default().to_owned();
        if rest.remove(&top).is_none() {
            break;
        }
        if !details.iter().any(|detail| detail.field == path) {
            let reason = cut(error.inner().to_string());
            only_values &= is_about_a_value(&reason);
            details.push(FieldError::new(path, reason));
        }
    }
    // One order, whatever the order of the fields in the body was.
    details.sort_by(|a, b| a.field.cmp(&b.field));
    match (details.is_empty(), only_values) {
        (true, _) => body(cut(error.to_string())),
        (false, true) => ApiError::input(details),
        (false, false) => ApiError::request(details),
    }
}

/// Whether serde took the type of a field and refused its value: a number out of range, a word that is none of a few.
/// Its messages are all that tells the two apart.
fn is_about_a_value(reason: &str) -> bool {
    reason.starts_with("invalid value") || reason.starts_with("unknown variant")
}

/// What the documented schema of a body requires.
fn required_fields<T: PartialSchema>() -> Vec<String> {
    match T::schema() {
        RefOr::T(Schema::Object(object)) => object.required,
        _ => Vec::new(),
    }
}

/// Whether the bytes may contain a string with the character NUL, which PostgreSQL does not store.
fn has_nul_escape(bytes: &[u8]) -> bool {
    bytes.windows(6).any(|window| window == br"\u0000")
}

fn refuse_nul(bytes: &[u8]) -> Result<(), ApiError> {
    // What does not parse is explained by the caller.
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return Ok(()) };
    let mut details = Vec::new();
    find_nul(&value, String::new(), &mut details);
    if details.is_empty() { Ok(()) } else { Err(ApiError::input(details)) }
}

/// The recursion ends, since the parser takes at most 128 levels.
fn find_nul(value: &Value, path: String, details: &mut Vec<FieldError>) {
    if details.len() >= DETAILS_MAX {
        return;
    }
    match value {
        Value::String(text) if text.contains('\0') => details.push(nul_at(path)),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                find_nul(item, format!("{path}[{index}]"), details);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                if name.contains('\0') {
                    details.push(nul_at(path.clone()));
                }
                let separator = if path.is_empty() { "" } else { "." };
                find_nul(field, format!("{path}{separator}{}", name.replace('\0', "")), details);
            }
        }
        _ => {}
    }
}

fn nul_at(path: String) -> FieldError {
    let field = if path.is_empty() { "body".to_owned() } else { path };
    FieldError::new(field, "must not contain the character U+0000")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::error::Code;

    #[derive(Debug, Deserialize, ToSchema)]
    #[expect(dead_code, reason = "only parsing is tested")]
    struct New {
        name: String,
        kind: String,
        count: Option<u8>,
        #[serde(default)]
        tags: Vec<String>,
    }

    #[derive(Debug, Deserialize, ToSchema)]
    struct Nothing {
        reason: Option<String>,
    }

    fn details(body: &str) -> Vec<(String, String)> {
        let error = parse::<New>(body.as_bytes()).unwrap_err();
        assert_eq!(error.code(), Code::RequestInvalid);
        error.details().iter().map(|detail| (detail.field.clone(), detail.reason.clone())).collect()
    }

    fn fields(body: &str) -> Vec<String> {
        details(body).into_iter().map(|(field, _)| field).collect()
    }

    #[test]
    fn an_empty_body_is_an_empty_object() {
        for body in ["", "  \n", "{}", r#"{"unknown": 1}"#] {
            assert_eq!(parse::<Nothing>(body.as_bytes()).unwrap().reason, None);
        }
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        assert_eq!(fields("{}"), ["kind", "name"]);
        assert_eq!(fields(r#"{"name": 5, "kind": "x", "count": "many"}"#), ["count", "name"]);
        assert_eq!(
            fields(r#"{"name": null, "tags": ["a", 7], "count": -1}"#),
            ["count", "kind", "name", "tags[1]"]
        );
        assert_eq!(fields(r#"{"name": "a", "kind": "b", "count": 1.5}"#), ["count"]);
    }

    #[test]
    fn a_value_out_of_range_has_its_type() {
        for body in
            [r#"{"name": "a", "kind": "b", "count": 256}"#, r#"{"name": "a", "kind": "b", "count": -1}"#]
        {
            let error = parse::<New>(body.as_bytes()).unwrap_err();
            assert_eq!(error.code(), Code::InputInvalid);
            assert_eq!(error.details()[0].field, "count");
        }
    }

    #[test]
    fn a_reason_does_not_repeat_a_long_value() {
        let body = format!(r#"{{"name": "a", "kind": "b", "tags": "{}"}}"#, "é".repeat(10_000));
        let wrong = details(&body);
        assert_eq!(wrong[0].0, "tags");
        assert!(wrong[0].1.len() < 300, "{}", wrong[0].1);
    }

    #[test]
    fn what_is_not_an_object_is_said_to_be_so() {
        for body in ["[]", "7", "\"text\"", "null"] {
            assert_eq!(details(body), [("body".into(), "must be a JSON object".into())], "{body}");
        }
        for body in ["{", "{\"name\": }", "{} {}", "\u{1}", r#"{"name": "\ud800", "kind": "a"}"#] {
            assert_eq!(fields(body), ["body"], "{body}");
        }
        let deep = format!("{}{}", r#"{"name":"a","kind":"b","x":"#, "[".repeat(200));
        assert_eq!(fields(&deep), ["body"]);
    }

    #[test]
    fn nul_is_refused_wherever_it_hides() {
        let error = parse::<New>(br#"{"name": "a\u0000", "kind": "b", "tags": ["\u0000"]}"#).unwrap_err();
        assert_eq!(error.code(), Code::InputInvalid);
        assert_eq!(error.details().iter().map(|d| d.field.as_str()).collect::<Vec<_>>(), ["name", "tags[0]"]);
        // An escaped backslash before u0000 is six harmless characters.
        assert!(parse::<New>(br#"{"name": "a\\u0000", "kind": "b"}"#).is_ok());
    }
}
