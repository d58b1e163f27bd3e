//! Checks of single fields, so that every wrong field is named at once.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// A field whose value is well typed but impossible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// The path of the field, such as `send_window.days`.
    pub field: String,
    /// What is wrong, to be read after the field's name.
    pub reason: String,
}

impl FieldError {
    /// A field and what is wrong with it.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

/// The wrong fields found so far.
#[derive(Debug, Default)]
pub struct Checks {
    errors: Vec<FieldError>,
}

impl Checks {
    /// Nothing found yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything found.
    pub fn finish(self) -> Vec<FieldError> {
        self.errors
    }

    /// Names a field as wrong.
    pub fn fail(&mut self, field: &str, reason: impl Into<String>) {
        self.errors.push(FieldError::new(field, reason));
    }

    /// Names a field as wrong unless `holds`.
    pub fn require(&mut self, holds: bool, field: &str, reason: &str) {
        if !holds {
            self.fail(field, reason);
        }
    }

    /// A text of `min` to `max` characters, none of them NUL, which PostgreSQL cannot store.
    pub fn text(&mut self, field: &str, value: &str, min: usize, max: usize) {
        let length = value.chars().count();
        if length < min || length > max {
            self.fail(field, format!("must have {min} to {max} characters"));
        } else if value.contains('\0') {
            self.fail(field, "must not contain NUL");
        } else if min > 0 && value.trim().is_empty() {
            self.fail(field, "must not be blank");
        }
    }

    /// An optional text of at most `max` characters.
    pub fn optional_text(&mut self, field: &str, value: Option<&str>, max: usize) {
        if let Some(value) = value {
            self.text(field, value, 0, max);
        }
    }

    /// A list of at most `items_max` texts of 1 to `chars_max` characters each.
    pub fn texts(&mut self, field: &str, values: &[String], items_max: usize, chars_max: usize) {
        if values.len() > items_max {
            self.fail(field, format!("must have at most {items_max} items"));
            return;
        }
        for (index, value) in values.iter().enumerate() {
            self.text(&format!("{field}[{index}]"), value, 1, chars_max);
        }
    }

    /// A latitude and a longitude in degrees, each where it is given: a change may carry one of them alone.
    pub fn position(&mut self, latitude: Option<f64>, longitude: Option<f64>) {
        if let Some(latitude) = latitude {
            self.require((-90.0..=90.0).contains(&latitude), "latitude", "must be between -90 and 90");
        }
        if let Some(longitude) = longitude {
            self.require((-180.0..=180.0).contains(&longitude), "longitude", "must be between -180 and 180");
        }
    }

    /// An object of at most `bytes_max` bytes as JSON, without NUL.
    pub fn object(&mut self, field: &str, value: &Value, bytes_max: usize) {
        if !value.is_object() {
            self.fail(field, "must be an object");
        } else if value.to_string().len() > bytes_max {
            self.fail(field, format!("must have at most {bytes_max} bytes"));
        } else if has_nul(value) {
            self.fail(field, "must not contain NUL");
        }
    }
}

/// Whether a text or key inside the value has a NUL, which PostgreSQL cannot store. The parser of the value bounds the
/// depth.
pub fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let mut checks = Checks::new();
        checks.text("name", "", 1, 3);
        checks.text("tone", "a\0b", 0, 9);
        checks.texts("tags", &["ok".into(), " ".into()], 2, 5);
        checks.position(Some(f64::NAN), Some(181.0));
        checks.object("custom", &json!({"a": [{"b\0": 1}]}), 100);
        let fields: Vec<_> = checks.finish().into_iter().map(|error| error.field).collect();
        assert_eq!(fields, ["name", "tone", "tags[1]", "latitude", "longitude", "custom"]);
    }
}
