//! JSON bodies: every wrong field is named, unknown ones are ignored with a warning.

use std::collections::BTreeSet;

use axum::extract::{FromRequest, Request};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};
use shared::domain::FieldError;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use super::{DETAILS_MAX, NAME_BYTES_MAX, bytes, cut, json, reason_of, unknown_name};
use crate::{
    app::App,
    error::{ApiError, Code},
    request,
};

/// A warning for each of more unknown fields would be an answer larger than the question.
const WARNINGS_MAX: usize = 20;

/// A JSON body. An absent or empty one is `{}`. Any Content-Type will do: nobody sends another format on purpose, and
/// curl without `-H` claims a form.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned + ToSchema> FromRequest<App> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let bytes = bytes::read(request).await?;
        make_room(app, &bytes).await?;
        json::refuse_nul(&bytes)?;
        parse(&bytes).map(Self)
    }
}

/// A JSON body with rows that are read one by one, each with its own errors: a NUL in one of them is that row's.
#[derive(Debug)]
pub struct RowsBody<T>(pub T);

impl<T: DeserializeOwned + ToSchema> FromRequest<App> for RowsBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let bytes = bytes::read(request).await?;
        make_room(app, &bytes).await?;
        parse(&bytes).map(Self)
    }
}

/// Waits until there is memory for the values of a body, and keeps it until the request is answered. Who waits here has
/// sent its body, so nobody waits for a slow client.
async fn make_room(app: &App, bytes: &[u8]) -> Result<(), ApiError> {
    let Some(kibibytes) = json::value_kibibytes(bytes) else {
        let message = format!("request body too large: it may have at most {} values", json::VALUES_MAX);
        return Err(ApiError::new(Code::TooLarge).saying(message));
    };
    let share = app.value_memory.clone().acquire_many_owned(kibibytes).await;
    request::hold(share.map_err(|error| ApiError::new(Code::Unavailable).caused_by(error))?);
    Ok(())
}

/// Reads a body, and says all that is wrong with it.
fn parse<T: DeserializeOwned + ToSchema>(bytes: &[u8]) -> Result<T, ApiError> {
    let bytes = if bytes.trim_ascii().is_empty() { b"{}" } else { bytes };
    let mut unknown = BTreeSet::new();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_ignored::deserialize(&mut json, |path| {
        if unknown.len() < WARNINGS_MAX {
            unknown.insert(unknown_name(&path));
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
    let mut rest = match serde_json::from_slice(bytes) {
        Ok(fields @ Value::Object(_)) => fields,
        Ok(_) => return body("must be a JSON object".into()),
        Err(syntax) => return body(reason_of(format_args!("is not valid JSON: {syntax}"))),
    };
    let mut details: Vec<FieldError> = required_fields::<T>()
        .into_iter()
        .filter(|name| rest.get(name).is_none_or(Value::is_null))
        .map(|name| FieldError::new(name, "is required"))
        .collect();
    let mut only_values = details.is_empty();
    while details.len() < DETAILS_MAX {
        let Err(error) = serde_path_to_error::deserialize::<_, T>(&rest) else { break };
        if take_away(&mut rest, error.path()).is_none() {
            break;
        }
        let path = cut(error.path().to_string(), NAME_BYTES_MAX);
        // What lacks a field that was taken away is not wrong for that.
        let inside = format!("{path}.");
        if !details.iter().any(|detail| detail.field == path || detail.field.starts_with(&inside)) {
            let reason = reason_of(error.inner());
            only_values &= is_about_a_value(&reason);
            details.push(FieldError::new(path, reason));
        }
    }
    // One order, whatever the order of the fields in the body was.
    details.sort_by(|a, b| a.field.cmp(&b.field));
    match (details.is_empty(), only_values) {
        (true, _) => body(reason_of(error)),
        (false, true) => ApiError::input(details),
        (false, false) => ApiError::request(details),
    }
}

/// Takes the innermost field on a path out of a body, so that what else is wrong shows. None: there is no such field.
fn take_away(body: &mut Value, path: &Path) -> Option<Value> {
    let steps: Vec<&Segment> = path.iter().collect();
    let innermost = steps.iter().rposition(|step| matches!(step, Segment::Map { .. }))?;
    let mut holder = body;
    for step in &steps[..innermost] {
        holder = match step {
            Segment::Map { key } => holder.get_mut(key)?,
            Segment::Seq { index } => holder.get_mut(index)?,
            Segment::Enum { .. } | Segment::Unknown => return None,
        };
    }
    match steps[innermost] {
        Segment::Map { key } => holder.as_object_mut()?.remove(key),
        _ => None,
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
        place: Option<Place>,
    }

    #[derive(Debug, Deserialize, ToSchema)]
    #[expect(dead_code, reason = "only parsing is tested")]
    struct Place {
        street: String,
        number: Option<u8>,
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
        assert_eq!(
            fields(r#"{"name": 1, "kind": "b", "place": {"street": 2, "number": "x"}}"#),
            ["name", "place.number", "place.street"]
        );
        assert_eq!(fields(r#"{"name": "a", "kind": "b", "place": {}}"#), ["place"]);
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
        let nul = |body: &[u8]| json::refuse_nul(body);
        let error = nul(br#"{"name": "a\u0000", "kind": "b", "tags": ["\u0000"]}"#).unwrap_err();
        assert_eq!(error.code(), Code::InputInvalid);
        assert_eq!(error.details().iter().map(|d| d.field.as_str()).collect::<Vec<_>>(), ["name", "tags[0]"]);
        // An escaped backslash before u0000 is six harmless characters.
        assert!(nul(br#"{"name": "a\\u0000", "kind": "b"}"#).is_ok());
    }
}
