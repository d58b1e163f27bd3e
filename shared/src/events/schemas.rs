//! What the body of a webhook is: a JSON Schema (draft 2020-12) for each event type, made from the types that are
//! serialised into it. Each stands alone, and each is closed: a body has every field that its schema names and no other.
//! `GET /webhooks/events` and docs/events.json show them, and the tests hold every body against them.

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::{
    ToSchema,
    openapi::{RefOr, Schema},
};

use super::{EventType, Reply};
use crate::domain::{
    campaign::Campaign, contact::Contact, conversation::Conversation, discovery::DiscoveryJob, erasure,
    message::Message,
};

/// The dialect of the schemas.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";
/// Where a schema of the OpenAPI document finds another one, and where a schema that stands alone has it.
const COMPONENTS: &str = "#/components/schemas/";
const DEFINITIONS: &str = "#/$defs/";
/// A time, as [`clock::iso`](crate::clock::iso) writes it.
const TIME: &str = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$";
/// An event's id, as [`ids::event_id`](crate::ids::event_id) writes it.
const EVENT_ID: &str = "^evt_[0-9a-f]{32}$";
/// What is never among the former values: two fields do not change, and one follows every change.
const NEVER_PREVIOUS: [&str; 3] = ["id", "created_at", "updated_at"];

/// An event type, when it is raised, and what the body of its webhooks is.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct EventTypeDescription {
    /// Its name, by which endpoints subscribe to it and bodies name it.
    #[schema(value_type = String, example = "message.sent")]
    pub event: EventType,
    /// When it is raised.
    pub description: &'static str,
    /// The JSON Schema (draft 2020-12) of the whole body.
    #[schema(value_type = Object)]
    pub schema: Value,
}

/// All event types, in the order of the documentation.
pub fn describe_all() -> Vec<EventTypeDescription> {
    let describe = |event: EventType| EventTypeDescription {
        event,
        description: event.description(),
        schema: body_schema(event),
    };
    EventType::ALL.map(describe).into()
}

/// The schema of the whole body of an event type.
pub fn body_schema(kind: EventType) -> Value {
    let Standalone { schema: mut data, mut definitions } = resource(kind);
    match kind {
        EventType::CampaignUpdated | EventType::ContactUpdated => {
            let previous = previous(&data);
            require(&mut data, "previous", previous);
        }
        EventType::ConversationReplyReceived => {
            let reply = Standalone::of::<Reply>();
            definitions.extend(reply.definitions);
            require(&mut data, "reply", reply.schema);
        }
        EventType::DiscoveryCompleted => remove(&mut data, "error"),
        EventType::DiscoveryFailed => data["properties"]["error"]["type"] = json!("string"),
        _ => {}
    }
    data["properties"]["test"] = json!({"description": "Only a test event has it.", "const": true});
    if erasure::is_about_contact(kind) {
        let description = "Its contact was erased: what said who it was or what was written is empty.";
        data["properties"][erasure::MARK] = json!({"description": description, "const": true});
    }
    let time =
        |description: &str| json!({"description": description, "type": "string", "format": "date-time"});
    let mut schema = json!({
        "$schema": DIALECT,
        "title": kind.as_str(),
        "description": kind.description(),
        "type": "object",
        "properties": {
            "id": {
                "description": "The event: the same on every attempt and at every endpoint.",
                "type": "string",
                "pattern": EVENT_ID,
            },
            "event": {"description": "Its type.", "const": kind.as_str()},
            "timestamp": time("When it happened."),
            "created_at": time("When it happened."),
        },
    });
    close(&mut schema);
    require(&mut schema, "data", data);
    schema["$defs"] = Value::Object(definitions);
    schema
}

/// What the data of an event type is, but for what comes with the resource.
fn resource(kind: EventType) -> Standalone {
    match kind {
        EventType::CampaignCreated | EventType::CampaignUpdated | EventType::CampaignDeleted => {
            Standalone::of::<Campaign>()
        }
        EventType::ContactCreated | EventType::ContactUpdated | EventType::ContactDeleted => {
            Standalone::of::<Contact>()
        }
        EventType::ConversationCreated | EventType::ConversationReplyReceived => {
            Standalone::of::<Conversation>()
        }
        EventType::MessageSent
        | EventType::MessageDelivered
        | EventType::MessageOpened
        | EventType::MessageBounced
        | EventType::MessageApproved
        | EventType::MessageRejected => Standalone::of::<Message>(),
        EventType::DiscoveryCompleted | EventType::DiscoveryFailed => Standalone::of::<DiscoveryJob>(),
    }
}

/// A type's schema outside of the OpenAPI document, and those that it points to.
struct Standalone {
    schema: Value,
    definitions: Map<String, Value>,
}

impl Standalone {
    fn of<T: ToSchema>() -> Self {
        let mut pointed_to = Vec::new();
        T::schemas(&mut pointed_to);
        let definitions = pointed_to.iter().map(|(name, schema)| (name.clone(), closed(schema))).collect();
        Self { schema: closed(&T::schema()), definitions }
    }
}

fn closed(schema: &RefOr<Schema>) -> Value {
    let mut schema = serde_json::to_value(schema).unwrap_or_default();
    close(&mut schema);
    schema
}

/// Makes a schema of the OpenAPI document say all that is known of what we send: objects have each of their fields, null
/// where there is nothing, and no other; times have one form; nothing is left to defaults.
fn close(schema: &mut Value) {
    let Value::Object(keywords) = schema else { return };
    keywords.remove("default");
    if let Some(Value::String(target)) = keywords.get_mut("$ref") {
        *target = target.replace(COMPONENTS, DEFINITIONS);
    }
    if keywords.get("format").is_some_and(|format| format == "date-time") {
        keywords.insert("pattern".into(), TIME.into());
    }
    for keyword in ["items", "additionalProperties", "propertyNames"] {
        keywords.get_mut(keyword).into_iter().for_each(close);
    }
    for keyword in ["oneOf", "anyOf", "allOf"] {
        keywords.get_mut(keyword).and_then(Value::as_array_mut).into_iter().flatten().for_each(close);
    }
    if let Some(Value::Object(fields)) = keywords.get_mut("properties") {
        fields.values_mut().for_each(close);
        let names: Vec<Value> = fields.keys().cloned().map(Value::String).collect();
        keywords.insert("required".into(), names.into());
        keywords.insert("additionalProperties".into(), false.into());
    }
}

/// The former values of what changed in a resource, by its own schema.
fn previous(resource: &Value) -> Value {
    let mut fields = resource["properties"].clone();
    if let Some(fields) = fields.as_object_mut() {
        fields.retain(|name, _| !NEVER_PREVIOUS.contains(&name.as_str()));
    }
    json!({
        "description": "The former values of the fields that changed, and of no others.",
        "type": "object",
        "properties": fields,
        "minProperties": 1,
        "additionalProperties": false,
    })
}

/// Adds a field that is always there.
fn require(object: &mut Value, name: &str, schema: Value) {
    object["properties"][name] = schema;
    if let Some(required) = object["required"].as_array_mut() {
        required.push(name.into());
    }
}

/// Takes a field away.
fn remove(object: &mut Value, name: &str) {
    if let Some(fields) = object["properties"].as_object_mut() {
        fields.remove(name);
    }
    if let Some(required) = object["required"].as_array_mut() {
        required.retain(|required| required != name);
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use jsonschema::Validator;

    use super::*;
    use crate::{
        clock::iso,
        events::samples,
        ids::{event_id, new_id},
    };

    /// Fields whose own fields are the account's, or a source's.
    const FREE: [&str; 4] = ["custom", "provenance", "variables", "by_source"];

    fn validator(kind: EventType) -> Validator {
        // It refuses what is no schema, and one that points to what it does not have.
        let validator = jsonschema::options().should_validate_formats(true).build(&body_schema(kind));
        validator.unwrap_or_else(|error| panic!("{}: {error}", kind.as_str()))
    }

    fn body(kind: EventType, data: &Value) -> Value {
        let now = iso(DateTime::<Utc>::UNIX_EPOCH);
        let id = event_id(new_id());
        json!({"id": id, "event": kind, "timestamp": now, "created_at": now, "data": data})
    }

    fn sample(kind: EventType) -> Value {
        body(kind, &samples::event(kind, DateTime::UNIX_EPOCH).1)
    }

    /// The places of everything in a value that a schema describes.
    fn places(value: &Value, at: &str) -> Vec<String> {
        let free = FREE.iter().any(|name| at.ends_with(&format!("/{name}")));
        let fields = value.as_object().filter(|_| !free).into_iter().flatten();
        let inner = fields.flat_map(|(name, value)| places(value, &format!("{at}/{name}")));
        std::iter::once(at.to_owned()).chain(inner).collect()
    }

    #[test]
    fn samples_are_valid_as_events_and_as_tests() {
        for kind in EventType::ALL {
            let validator = validator(kind);
            for data in
                [samples::event, samples::test_event].map(|sample| sample(kind, DateTime::UNIX_EPOCH).1)
            {
                let body = body(kind, &data);
                let wrong: Vec<String> = validator
                    .iter_errors(&body)
                    .map(|error| format!("{}: {error}", error.instance_path()))
                    .collect();
                assert!(wrong.is_empty(), "{}: {wrong:#?}", kind.as_str());
            }
        }
    }

    #[test]
    fn no_field_may_be_missing_unknown_or_of_another_type() {
        for kind in EventType::ALL {
            let (validator, body) = (validator(kind), sample(kind));
            let refused = |at: &str, what: &str, change: &dyn Fn(&mut Value)| {
                let mut wrong = body.clone();
                change(wrong.pointer_mut(at).unwrap());
                assert!(!validator.is_valid(&wrong), "{}{at}: {what} is allowed", kind.as_str());
            };
            let mut missing = 0;
            for place in places(&body, "") {
                let other = if body.pointer(&place).unwrap().is_array() { json!({}) } else { json!([{}]) };
                refused(&place, "another type", &|value| *value = other.clone());
                if FREE.iter().any(|name| place.ends_with(&format!("/{name}"))) {
                    continue;
                }
                let fields = body.pointer(&place).and_then(Value::as_object).cloned().unwrap_or_default();
                for name in fields.keys() {
                    missing += 1;
                    refused(&place, &format!("the absence of {name}"), &|value| {
                        value.as_object_mut().unwrap().remove(name);
                    });
                }
                if !fields.is_empty() {
                    refused(&place, "an unknown field", &|value| value["shoe"] = json!(null));
                }
            }
            assert!(missing >= 15, "{}: {missing} fields were looked at", kind.as_str());
        }
    }

    #[test]
    fn values_that_are_not_sent_are_refused() {
        use EventType::{
            CampaignCreated, CampaignUpdated, ContactUpdated, ConversationReplyReceived, DiscoveryCompleted,
            DiscoveryFailed, MessageSent,
        };
        for (kind, at, value) in [
            (MessageSent, "/event", json!("message.delivered")),
            (MessageSent, "/id", json!(new_id())),
            (MessageSent, "/timestamp", json!("1970-01-01T00:00:00Z")),
            (MessageSent, "/created_at", json!("1970-01-01T00:00:00.000+00:00")),
            (MessageSent, "/data/created_at", json!("1970-01-01T00:00:00.000000Z")),
            (MessageSent, "/data/id", json!("a message")),
            (MessageSent, "/data/status", json!("Sent")),
            (MessageSent, "/data/channel", json!("fax")),
            (MessageSent, "/data/test", json!(false)),
            (MessageSent, "/data/previous", json!({"status": "approved"})),
            (CampaignCreated, "/data/status", json!("gone")),
            (CampaignCreated, "/data/outreach_channels", json!(["email", "fax"])),
            (CampaignUpdated, "/data/previous/id", json!(new_id())),
            (CampaignUpdated, "/data/previous/updated_at", json!("1970-01-01T00:00:00.000Z")),
            (CampaignUpdated, "/data/previous/status", json!("gone")),
            (ContactUpdated, "/data/previous/test", json!(true)),
            (ConversationReplyReceived, "/data/reply/intent", json!(null)),
            (ConversationReplyReceived, "/data/reply/message/direction", json!("in")),
            (DiscoveryCompleted, "/data/error", json!("no source answered")),
            (DiscoveryFailed, "/data/error", json!(null)),
        ] {
            let validator = validator(kind);
            let mut body = sample(kind);
            assert!(validator.is_valid(&body));
            let (parent, name) = at.rsplit_once('/').unwrap();
            body.pointer_mut(parent).unwrap()[name] = value;
            assert!(!validator.is_valid(&body), "{}: {at} is allowed to be {body:#}", kind.as_str());
        }
    }

    #[test]
    fn what_is_left_of_an_erased_contact_is_valid() {
        for kind in EventType::ALL {
            let mut body = sample(kind);
            erasure::redact(kind, &mut body["data"]);
            assert!(validator(kind).is_valid(&body), "{}: {body:#}", kind.as_str());
            assert_eq!(body["data"]["erased"] == true, erasure::is_about_contact(kind));
        }
    }

    #[test]
    fn each_schema_stands_alone() {
        for EventTypeDescription { event, description, schema } in describe_all() {
            assert_eq!(schema["title"], event.as_str());
            assert_eq!(schema["description"], description);
            assert!(!schema.to_string().contains("#/components"), "{}", event.as_str());
        }
    }
}
