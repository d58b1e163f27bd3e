//! Whether the body of a webhook is what the documentation says: the schema of its event type in docs/events.json.

use std::{collections::BTreeMap, sync::LazyLock};

use jsonschema::Validator;
use serde_json::Value;

/// What `cargo xtask gen` writes, and `GET /webhooks/events` answers.
const DOCUMENTED: &str = include_str!("../../docs/events.json");

/// One for each event type.
static VALIDATORS: LazyLock<BTreeMap<String, Validator>> = LazyLock::new(|| {
    let documented: Value = serde_json::from_str(DOCUMENTED).expect("docs/events.json is JSON");
    let types = documented.as_array().expect("docs/events.json is a list");
    types
        .iter()
        .map(|described| {
            let name = described["event"].as_str().expect("an event type has a name");
            let validator = jsonschema::options().should_validate_formats(true).build(&described["schema"]);
            (name.to_owned(), validator.expect("docs/events.json has schemas"))
        })
        .collect()
});

/// Why a body is not what the documentation says.
pub fn check_payload(body: &str) -> Result<(), String> {
    let payload: Value = serde_json::from_str(body).map_err(|error| format!("{error} in {body}"))?;
    let kind = payload["event"].as_str().unwrap_or_default();
    let validator =
        VALIDATORS.get(kind).ok_or_else(|| format!("no event type is called {kind:?}: {body}"))?;
    let wrong: Vec<String> =
        validator.iter_errors(&payload).map(|error| format!("{}: {error}", error.instance_path())).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!("{kind} is not as docs/events.json says: {}; {body}", wrong.join("; ")))
}

/// Fails the test if a body is not what the documentation says.
///
/// # Panics
///
/// Panics with the reasons.
#[track_caller]
pub fn assert_payload(body: &str) {
    if let Err(wrong) = check_payload(body) {
        panic!("{wrong}");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body() -> Value {
        let id = "01900000-0000-7000-8000-000000000001";
        let at = "2026-04-29T12:00:00.000Z";
        json!({
            "id": "evt_019dd8f1c6b27cc0a3d4f3c1f0a1b2c3", "event": "conversation.created", "timestamp": at, "created_at": at,
            "data": {
                "id": id, "campaign_id": id, "contact_id": id, "status": "open", "last_channel": null,
                "last_direction": null, "last_message_at": null, "unread_count": 0, "created_at": at, "updated_at": at,
            },
        })
    }

    #[test]
    fn a_body_is_held_against_the_schema_of_its_type() {
        assert_eq!(check_payload(&body().to_string()), Ok(()));
        let mut wrong = body();
        wrong["data"]["status"] = json!("ajar");
        wrong["data"]["last_message_at"] = json!("yesterday");
        wrong["shoe"] = json!(9);
        let reasons = check_payload(&wrong.to_string()).unwrap_err();
        for reason in ["/data/status", "/data/last_message_at", "'shoe' was unexpected"] {
            assert!(reasons.contains(reason), "{reasons}");
        }
        let mut unknown = body();
        unknown["event"] = json!("conversation.burnt");
        assert!(check_payload(&unknown.to_string()).unwrap_err().contains("conversation.burnt"));
        assert!(check_payload("{").is_err());
    }
}
