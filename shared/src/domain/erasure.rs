//! What is left in the events about a contact once it is erased: which event it was, of which resource, what became of that
//! and when; every field is still there, and those that say who it was or what was written are empty.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::events::EventType;

/// The `source` of a contact that was erased.
pub const ERASED_SOURCE: &str = "erased";
/// The field of an event's data that says that it was erased.
pub const MARK: &str = "erased";

/// What stays of a contact; its source is [`ERASED_SOURCE`] from then on.
const OF_CONTACT: &[&str] = &["id", "status", "created_at", "updated_at"];
/// What stays of a conversation.
const OF_CONVERSATION: &[&str] = &[
    "id",
    "campaign_id",
    "contact_id",
    "status",
    "last_channel",
    "last_direction",
    "last_message_at",
    "unread_count",
    "created_at",
    "updated_at",
];
/// What stays of a message.
const OF_MESSAGE: &[&str] = &[
    "id",
    "conversation_id",
    "campaign_id",
    "contact_id",
    "enrolment_id",
    "step",
    "direction",
    "channel",
    "channel_account_id",
    "status",
    "crossed",
    "blocked_reason",
    "next_attempt_at",
    "due_at",
    "model",
    "intent",
    "sentiment",
    "created_at",
    "updated_at",
    "approved_at",
    "sent_at",
];

/// The body of an event, as the outbox writes it.
#[derive(Serialize, Deserialize)]
struct Body {
    id: String,
    event: String,
    timestamp: String,
    created_at: String,
    data: Value,
}

/// The body of an event about a contact without what was about that person; `None` if there is nothing of it in there.
pub fn redact_body(kind: EventType, body: &str) -> Result<Option<String>, serde_json::Error> {
    let mut redacted: Body = serde_json::from_str(body)?;
    redact(kind, &mut redacted.data);
    let redacted = serde_json::to_string(&redacted)?;
    Ok((redacted != body).then_some(redacted))
}

/// Whether the events of a type may tell of a contact. Campaigns and searches are about nobody.
pub const fn is_about_contact(kind: EventType) -> bool {
    use EventType as E;
    match kind {
        E::CampaignCreated
        | E::CampaignUpdated
        | E::CampaignDeleted
        | E::DiscoveryCompleted
        | E::DiscoveryFailed => false,
        E::ContactCreated
        | E::ContactUpdated
        | E::ContactDeleted
        | E::ConversationCreated
        | E::ConversationReplyReceived
        | E::MessageSent
        | E::MessageDelivered
        | E::MessageOpened
        | E::MessageBounced
        | E::MessageApproved
        | E::MessageRejected => true,
    }
}

/// Empties an event's data of what was about a person, and marks it.
pub fn redact(kind: EventType, data: &mut Value) {
    let Value::Object(fields) = data else { return };
    match kind {
        kind if !is_about_contact(kind) => return,
        EventType::ContactCreated | EventType::ContactUpdated | EventType::ContactDeleted => {
            redact_contact(fields);
        }
        EventType::ConversationCreated | EventType::ConversationReplyReceived => redact_conversation(fields),
        _ => empty(fields, OF_MESSAGE),
    }
    fields.insert(MARK.into(), true.into());
}

/// What was answered is empty, what it was taken for stays.
fn redact_conversation(fields: &mut Map<String, Value>) {
    let reply = fields.remove("reply");
    empty(fields, OF_CONVERSATION);
    if let Some(Value::Object(mut reply)) = reply {
        if let Some(Value::Object(message)) = reply.get_mut("message") {
            empty(message, OF_MESSAGE);
        }
        empty(&mut reply, &["message", "intent", "sentiment"]);
        fields.insert("reply".into(), Value::Object(reply));
    }
}

/// Former values are the same fields: which ones changed stays.
fn redact_contact(fields: &mut Map<String, Value>) {
    let previous = fields.remove("previous");
    empty(fields, OF_CONTACT);
    if let Some(Value::Object(mut previous)) = previous {
        empty(&mut previous, OF_CONTACT);
        fields.insert("previous".into(), Value::Object(previous));
    }
}

/// Empties all fields but those that stay. A text that is never null is an empty one, so that whoever reads the field
/// finds what they expect.
fn empty(fields: &mut Map<String, Value>, stay: &[&str]) {
    for (name, value) in fields.iter_mut().filter(|(name, _)| !stay.contains(&name.as_str())) {
        *value = match name.as_str() {
            "content" => json!(""),
            "source" => json!(ERASED_SOURCE),
            "tags" => json!([]),
            "custom" | "provenance" | "variables" => json!({}),
            _ => Value::Null,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: &str = "Alex";

    /// A value of every type that a field of a resource has, each with a name in it.
    fn filled(names: &[&str]) -> Value {
        let value = |name: &str| match name {
            "tags" => json!([WHO]),
            "custom" | "provenance" | "variables" => json!({ WHO: WHO }),
            "latitude" => json!(40.7),
            _ => json!(WHO),
        };
        Value::Object(names.iter().map(|name| ((*name).to_owned(), value(name))).collect())
    }

    const CONTACT: [&str; 10] = [
        "email",
        "first_name",
        "phone",
        "latitude",
        "tags",
        "custom",
        "provenance",
        "source",
        "company",
        "new_field",
    ];
    const MESSAGE: [&str; 7] =
        ["subject", "content", "variables", "rfc_message_id", "in_reply_to", "error", "new_field"];

    fn with(mut data: Value, more: &Value) -> Value {
        for (name, value) in more.as_object().unwrap() {
            data[name] = value.clone();
        }
        data
    }

    #[test]
    fn nothing_of_the_person_stays_and_no_field_goes() {
        let contact = with(filled(&CONTACT), &json!({"id": "c", "status": "active", "created_at": "t"}));
        let updated = with(contact.clone(), &json!({"previous": filled(&CONTACT)}));
        let message = with(filled(&MESSAGE), &json!({"id": "m", "status": "sent", "step": 0}));
        let conversation = json!({"id": "v", "status": "replied", "unread_count": 1, "new_field": WHO});
        let reply =
            json!({"message": message, "intent": "interested", "sentiment": "positive", "new_field": WHO});
        let replied = with(conversation.clone(), &json!({ "reply": reply }));
        for (kind, data) in [
            (EventType::ContactCreated, contact.clone()),
            (EventType::ContactDeleted, contact),
            (EventType::ContactUpdated, updated),
            (EventType::ConversationCreated, conversation),
            (EventType::ConversationReplyReceived, replied),
            (EventType::MessageSent, message.clone()),
            (EventType::MessageBounced, message),
        ] {
            let mut redacted = data.clone();
            redact(kind, &mut redacted);
            let text = redacted.to_string();
            assert!(!text.contains(WHO) && !text.contains("40.7"), "{} {text}", kind.as_str());
            for (field, stays) in [("id", true), ("status", true), ("new_field", false)] {
                let same = redacted[field] == data[field] && !data[field].is_null();
                assert!(same == stays || data[field].is_null(), "{} {field} {text}", kind.as_str());
            }
            assert_eq!(redacted.as_object_mut().unwrap().remove(MARK), Some(json!(true)));
            let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&redacted), names(&data), "{}", kind.as_str());
            let mut again = redacted.clone();
            redact(kind, &mut again);
            again.as_object_mut().unwrap().remove(MARK);
            assert_eq!(again, redacted);
        }
    }

    #[test]
    fn former_values_and_replies_keep_their_shape() {
        let mut data = json!({"id": "c", "previous": {"email": "a", "tags": ["b"], "status": "active"}});
        redact(EventType::ContactUpdated, &mut data);
        assert_eq!(data["previous"], json!({"email": null, "tags": [], "status": "active"}));
        let mut data =
            json!({"id": "v", "reply": {"message": {"id": "m", "content": "Hi"}, "intent": "opt_out"}});
        redact(EventType::ConversationReplyReceived, &mut data);
        assert_eq!(data["reply"], json!({"message": {"id": "m", "content": ""}, "intent": "opt_out"}));
    }

    #[test]
    fn a_body_keeps_its_envelope_and_changes_once() {
        let body = r#"{"id":"evt_1","event":"contact.created","timestamp":"t","created_at":"t","data":{"email":"a@b.c","id":"c"}}"#;
        let redacted = redact_body(EventType::ContactCreated, body).unwrap().unwrap();
        assert_eq!(
            redacted,
            r#"{"id":"evt_1","event":"contact.created","timestamp":"t","created_at":"t","data":{"email":null,"erased":true,"id":"c"}}"#
        );
        assert_eq!(redact_body(EventType::ContactCreated, &redacted).unwrap(), None);
        assert!(redact_body(EventType::ContactCreated, "{}").is_err());
        let search =
            r#"{"id":"evt_1","event":"discovery.failed","timestamp":"t","created_at":"t","data":{"id":"d"}}"#;
        assert_eq!(redact_body(EventType::DiscoveryFailed, search).unwrap(), None);
    }
}
