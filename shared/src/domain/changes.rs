//! What changed between two public forms of a resource.

use serde_json::{Map, Value};

/// The fields of `before` whose values are others in `after`: the `previous` of a *.updated event. `updated_at` follows
/// every change and is none itself. None if nothing changed.
pub fn previous(before: &Value, after: &Value) -> Option<Value> {
    let changed: Map<String, Value> = before
        .as_object()?
        .iter()
        .filter(|(field, old)| *field != "updated_at" && after.get(field.as_str()) != Some(old))
        .map(|(field, old)| (field.clone(), old.clone()))
        .collect();
    (!changed.is_empty()).then_some(Value::Object(changed))
}

/// The data of a *.updated event: the public form with `previous`.
pub fn with_previous(after: &Value, previous: Value) -> Value {
    let mut data = after.clone();
    if let Some(fields) = data.as_object_mut() {
        fields.insert("previous".into(), previous);
    }
    data
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_changed_fields_are_previous() {
        let before = json!({"name": "a", "tags": ["x"], "updated_at": 1, "phone": null});
        let after = json!({"name": "b", "tags": ["x"], "updated_at": 2, "phone": "1"});
        let previous = previous(&before, &after).unwrap();
        assert_eq!(previous, json!({"name": "a", "phone": null}));
        assert_eq!(with_previous(&after, previous)["previous"]["name"], "a");
        assert_eq!(super::previous(&before, &before), None);
    }
}
