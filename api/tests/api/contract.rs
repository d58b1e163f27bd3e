//! The contract: the table of operations, and the document that every answer of these tests is held against.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use jsonschema::Validator;
use serde_json::{Map, Value, json};
use sqlx::PgPool;

/// One operation a line: what it is called, who may call it, what it counts as and what it leaves in the audit log.
const TABLE: &str = include_str!("../../../tests/iris-operations.tsv");

/// Those of the table that are not there yet.
const ABSENT: &[&str] = &[
    "ai.analyze",
    "ai.generate",
    "ai.generate_campaign",
    "ai.usage",
    "billing.current",
    "billing.plans",
    "campaigns.analyze",
    "campaigns.usage",
    "campaigns.usage_total",
    "contacts.export",
    "contacts.import_csv",
    "contacts.usage",
    "credits.balance",
    "credits.history",
    "credits.purchase",
    "messages.feedback",
    "messages.mark_sent",
    "messages.retry",
];

/// What is there beside the table: what no client calls.
const BESIDE: &[&str] = &["health.live", "health.ready", "inbound.email"];

/// The document, and what is made of it for each answer.
struct Contract {
    document: Value,
    validators: Mutex<Validators>,
}

/// By operation and status; none for an answer without a JSON body.
type Validators = HashMap<(String, u16), Option<Arc<Validator>>>;

static CONTRACT: LazyLock<Contract> = LazyLock::new(|| {
    let document = serde_json::to_value(api::openapi()).unwrap();
    Contract { document, validators: Mutex::default() }
});

/// The databases of the servers that run, by their ports.
static SERVERS: LazyLock<Mutex<HashMap<u16, PgPool>>> = LazyLock::new(Mutex::default);

/// Judges what the server at this port answers, until [`forget`].
pub fn watch(port: u16, pool: PgPool) {
    SERVERS.lock().unwrap_or_else(PoisonError::into_inner).insert(port, pool);
}

/// The server at this port has ended.
pub fn forget(port: u16) {
    SERVERS.lock().unwrap_or_else(PoisonError::into_inner).remove(&port);
}

/// An answer, and what it answers.
pub struct Answer<'a> {
    pub port: u16,
    pub method: &'a str,
    pub path: &'a str,
    pub status: u16,
    pub request_id: &'a str,
    pub body: &'a Value,
}

/// Fails the test if an answer is not what the document says of its operation: its status, its body, and the audit log
/// after it.
pub async fn judge(answer: Answer<'_>) {
    let Some(operation) = CONTRACT.operation(answer.method, answer.path) else { return };
    let id = operation["operationId"].as_str().unwrap();
    let Answer { status, body, .. } = answer;
    assert!(
        operation["responses"].get(status.to_string()).is_some(),
        "{id} says nothing of {status}: {body}"
    );
    if status >= 400 {
        let code = body["error"]["code"].as_str().unwrap();
        let documented = operation["responses"][status.to_string()]["description"].as_str().unwrap();
        assert!(documented.contains(&format!("`{code}`")), "{id} says nothing of {code}: {body}");
    }
    if let Some(validator) = CONTRACT.validator(operation, id, status) {
        let wrong: Vec<String> =
            validator.iter_errors(body).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(wrong.is_empty(), "{id} {status} is not as documented: {}; {body}", wrong.join("; "));
    }
    let server = SERVERS.lock().unwrap_or_else(PoisonError::into_inner).get(&answer.port).cloned();
    // Only what the server made up names one request.
    if let Some(pool) = server
        && answer.request_id.starts_with("req_")
    {
        let audited: Vec<String> =
            sqlx::query_scalar("select action from api_audit_log where request_id = $1")
                .bind(answer.request_id)
                .fetch_all(&pool)
                .await
                .unwrap();
        let documented: BTreeSet<&str> =
            operation["x-audit"].as_array().unwrap().iter().map(|action| action.as_str().unwrap()).collect();
        assert!(audited.iter().all(|action| documented.contains(action.as_str())), "{id} audits {audited:?}");
        match status {
            // It does one of two things.
            200..300 if id == "messages.bulk" => assert_eq!(audited.len(), 1, "{id} audits {audited:?}"),
            200..300 => {
                let mut audited: Vec<&str> = audited.iter().map(String::as_str).collect();
                audited.sort_unstable();
                assert_eq!(audited, documented.into_iter().collect::<Vec<_>>(), "{id}");
            }
            400..500 => assert_eq!(audited, [""; 0], "{id} {status}: nothing was done"),
            // A search that failed was begun.
            _ => {}
        }
    }
}

impl Contract {
    fn operations(&self) -> impl Iterator<Item = (&str, &str, &Value)> {
        self.document["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
            let operations = item.as_object().unwrap().iter();
            operations.map(move |(method, operation)| (method.as_str(), path.as_str(), operation))
        })
    }

    /// The operation of a path; of two paths that fit, the one with fewer parameters is meant.
    fn operation(&self, method: &str, path: &str) -> Option<&Value> {
        let parts: Vec<&str> = path.split('/').collect();
        let parameters = |template: &str| {
            let pattern: Vec<&str> = template.split('/').collect();
            let fits = pattern.len() == parts.len()
                && pattern
                    .iter()
                    .zip(&parts)
                    .all(|(pattern, part)| pattern.starts_with('{') || pattern == part);
            fits.then(|| pattern.iter().filter(|pattern| pattern.starts_with('{')).count())
        };
        let paths = self.document["paths"].as_object().unwrap();
        let fitting = paths.iter().filter_map(|(template, item)| Some((parameters(template)?, item)));
        let (_, item) = fitting.min_by_key(|(parameters, _)| *parameters)?;
        item.get(method.to_lowercase())
    }

    /// What judges the JSON body of an answer; none if it has none.
    fn validator(&self, operation: &Value, id: &str, status: u16) -> Option<Arc<Validator>> {
        let mut validators = self.validators.lock().unwrap_or_else(PoisonError::into_inner);
        let known = validators.entry((id.to_owned(), status)).or_insert_with(|| {
            let content = &operation["responses"][status.to_string()]["content"]["application/json"];
            let schema = content.get("schema")?;
            let mut root = json!({
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "allOf": [schema],
            });
            close(&mut root, false);
            let mut schemas = Map::new();
            for (name, schema) in self.document["components"]["schemas"].as_object().unwrap() {
                for (name, is_part) in [(name.clone(), false), (open(name), true)] {
                    let mut schema = schema.clone();
                    close(&mut schema, is_part);
                    schemas.insert(name, schema);
                }
            }
            root["components"] = json!({ "schemas": schemas });
            let validator = jsonschema::options().should_validate_formats(true).build(&root);
            Some(Arc::new(validator.unwrap()))
        });
        known.clone()
    }
}

/// What a schema is called where it is a part of another one, which has more fields.
fn open(name: &str) -> String {
    format!("{name}_open")
}

/// Forbids fields that are not documented; a part of another schema is closed by that one.
fn close(schema: &mut Value, is_part: bool) {
    match schema {
        Value::Object(fields) => {
            for (name, inner) in fields.iter_mut() {
                match inner {
                    Value::Array(parts) if name == "allOf" => {
                        for part in parts {
                            match part["$ref"].as_str().map(open) {
                                Some(name) => part["$ref"] = name.into(),
                                None => close(part, true),
                            }
                        }
                    }
                    inner => close(inner, false),
                }
            }
            let has_fields =
                fields.get("properties").is_some_and(Value::is_object) || fields.contains_key("allOf");
            if has_fields && !is_part && !fields.contains_key("additionalProperties") {
                fields.insert("unevaluatedProperties".into(), false.into());
            }
        }
        Value::Array(items) => {
            for item in items {
                close(item, false);
            }
        }
        _ => {}
    }
}

/// A line of the table.
fn rows() -> impl Iterator<Item = BTreeMap<&'static str, &'static str>> {
    let mut lines = TABLE.lines().map(|line| line.split('\t'));
    let header: Vec<&str> = lines.next().unwrap().collect();
    lines.map(move |line| header.iter().copied().zip(line).collect())
}

/// A cell with many values, `-` with none.
fn values(cell: &str) -> Value {
    cell.split("; ").filter(|value| *value != "-").collect::<Vec<_>>().into()
}

#[test]
fn the_api_is_what_the_table_says() {
    let mut there: BTreeMap<&str, (&str, &str, &Value)> = CONTRACT
        .operations()
        .map(|(method, path, operation)| {
            (operation["operationId"].as_str().unwrap(), (method, path, operation))
        })
        .collect();
    assert_eq!(rows().count(), 87);
    for row in rows() {
        let id = row["id"];
        let Some((method, path, operation)) = there.remove(id) else {
            assert!(ABSENT.contains(&id), "{id} is not there");
            continue;
        };
        assert!(!ABSENT.contains(&id), "{id} is there by now");
        assert_eq!((method.to_uppercase().as_str(), path), (row["method"], row["path"]), "{id}");
        assert_eq!(operation["x-scope"], row["scope"], "{id}");
        let class = if row["rate_class"] == "-" { "none" } else { row["rate_class"] };
        assert_eq!(operation["x-rate-class"], class, "{id}");
        assert_eq!(operation["x-audit"], values(row["audit_action"]), "{id}");
        assert_eq!(operation["x-cli"], values(row["cli"]), "{id}");
        assert_eq!(operation["x-mcp"], values(row["mcp_tool"]), "{id}");
    }
    assert_eq!(there.into_keys().collect::<Vec<_>>(), BESIDE);
}

#[test]
fn every_operation_has_the_body_of_a_success_on_record() {
    let snapshots: Vec<String> =
        std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/snapshots"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
    let missing: Vec<&str> = CONTRACT
        .operations()
        .map(|(_, _, operation)| operation["operationId"].as_str().unwrap())
        // Its answer is a stream of events.
        .filter(|id| *id != "campaigns.progress")
        .filter(|id| !snapshots.iter().any(|name| name.ends_with(&format!("__{id}.snap"))))
        .collect();
    assert_eq!(missing, Vec::<&str>::new());
}

#[test]
fn an_undocumented_field_is_no_answer() {
    let operation = CONTRACT.operation("GET", "/campaigns/1/contacts").unwrap();
    assert_eq!(operation["operationId"], "campaigns.contacts");
    let suppressions = CONTRACT.operation("GET", "/suppressions").unwrap();
    let validator = CONTRACT.validator(suppressions, "y", 200).unwrap();
    let listed = |row: Value| json!({"success": true, "data": [row], "meta": {"limit": 1, "next_cursor": null, "has_more": false}});
    let mut row = json!({"id": uuid::Uuid::nil(), "kind": "email", "value": "a@b.example", "reason": "manual",
        "created_at": "2026-04-29T12:00:00.000Z"});
    assert!(validator.is_valid(&listed(row.clone())));
    row["hash"] = "secret".into();
    assert!(!validator.is_valid(&listed(row)));
    let validator =
        CONTRACT.validator(CONTRACT.operation("POST", "/notifications/read-all").unwrap(), "x", 200).unwrap();
    assert!(validator.is_valid(&json!({"success": true, "data": {"updated": 1}})));
    assert!(!validator.is_valid(&json!({"success": true, "data": {"updated": 1, "more": 2}})));
    assert!(!validator.is_valid(&json!({"success": true, "data": {"updated": "1"}})));
    assert!(!validator.is_valid(&json!({"success": true, "data": {"updated": 1}, "extra": {}})));
}
