//! Webhook endpoints.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    time::Duration,
};

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::{
    db::{
        deliveries,
        endpoints::{self as db, Created, EndpointPatch, NewEndpoint},
        outbox,
    },
    domain::{
        FieldError,
        delivery::{Delivery, DeliveryStatus},
        endpoint::{Endpoint, new_secret, secret_place},
        endpoint_headers::{self, SealedHeaders},
        endpoint_url::{self, AllowList},
        field::Checks,
        patch::present,
    },
    events::{EventType, NewEvent, samples},
    ids::new_id,
};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    app::App,
    auth::Caller,
    envelope::{Data, List},
    error::{ApiError, Code},
    extract::{Body, NoFilter, PagingParams, Query, WebhookId},
    operation::Deadline,
    wait,
};

/// How long a test may keep its caller waiting: an attempt's own deadline, and some time to get there.
const TEST_DEADLINE: Duration = Duration::from_secs(45);
/// The longest description in characters.
const DESCRIPTION_CHARS_MAX: usize = 500;
/// How many deliveries a second an endpoint may be limited to.
const RATE_LIMITS: RangeInclusive<f64> = 0.01..=10_000.0;

/// An endpoint to be registered.
#[derive(Debug, Deserialize, ToSchema)]
pub struct CreateWebhook {
    /// Where its deliveries go; https.
    #[schema(max_length = 2048, example = "https://example.com/webhooks/iris")]
    url: String,
    /// The event types it hears of.
    #[schema(min_items = 1, max_items = 16, example = json!(["message.sent", "conversation.reply_received"]))]
    events: Vec<String>,
    /// What its owner says about it.
    #[schema(max_length = 500)]
    description: Option<String>,
    /// How many deliveries a second it wants at most; no limit unless given.
    #[schema(minimum = 0.01, maximum = 10_000)]
    rate_limit: Option<f64>,
    /// Whether its deliveries are made one after the other, in the order of their events: one that fails holds up those behind
    /// it until it succeeds or its attempts are used up.
    #[serde(default)]
    ordered: bool,
    /// Headers that its requests carry besides iris's own, which none of them may replace.
    #[serde(default)]
    #[schema(example = json!({"authorization": "Bearer ..."}))]
    headers: BTreeMap<String, String>,
}

/// What to change in an endpoint. Absent fields stay.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(clippy::option_option, reason = "absent and null are different things in a PATCH")]
pub struct UpdateWebhook {
    /// Where its deliveries go; https.
    #[schema(max_length = 2048)]
    url: Option<String>,
    /// The event types it hears of.
    #[schema(min_items = 1, max_items = 16)]
    events: Option<Vec<String>>,
    /// Whether deliveries are made. Enabling it forgets what failed before.
    enabled: Option<bool>,
    /// What its owner says about it; null for nothing.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 500)]
    description: Option<Option<String>>,
    /// How many deliveries a second it wants at most; null for no limit.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<f64>, minimum = 0.01, maximum = 10_000)]
    rate_limit: Option<Option<f64>>,
    /// Whether its deliveries are made one after the other, in the order of their events.
    ordered: Option<bool>,
    /// All headers that its requests carry besides iris's own. A value of `***` stays as it is stored.
    headers: Option<BTreeMap<String, String>>,
}

/// An endpoint with a new secret: the only answer that shows it.
#[derive(Debug, Serialize, ToSchema)]
pub struct CreatedWebhook {
    /// The endpoint.
    #[serde(flatten)]
    pub(super) endpoint: Endpoint,
    /// What signs its deliveries. It is not shown again.
    #[schema(example = "whsec_...")]
    pub(super) secret: String,
}

/// Which event to test with.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TestWebhook {
    /// An event type; the first one it is subscribed to, unless given.
    #[schema(example = "message.sent")]
    event: Option<String>,
}

/// How a test went.
#[derive(Debug, Serialize, ToSchema)]
pub struct TestOutcome {
    /// The delivery, with its attempt.
    delivery: Delivery,
}

/// List webhook endpoints
///
/// The newest first, never with their secrets.
#[utoipa::path(get, path = "/webhooks", params(PagingParams), responses((status = 200, body = List<Endpoint>)))]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Query { paging, .. }: Query<NoFilter>,
) -> Result<List<Endpoint>, ApiError> {
    let mut conn = app.connection().await?;
    let rows = db::list(&mut conn, caller.account_id, paging.page).await?;
    let total = paging.total(async || db::count(&mut conn, caller.account_id).await).await?;
    Ok(paging.list(rows, total))
}

/// Register a webhook endpoint
///
/// The secret that signs its deliveries is returned once.
#[utoipa::path(
    post, path = "/webhooks", request_body = CreateWebhook, responses((status = 201, body = Data<CreatedWebhook>))
)]
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Body(new): Body<CreateWebhook>,
) -> Result<Data<CreatedWebhook>, ApiError> {
    let given = Given {
        url: Some(&new.url),
        events: Some(&new.events),
        description: new.description.as_deref(),
        rate_limit: new.rate_limit,
        headers: Some(&new.headers),
    };
    let checked = given.check(&app.webhook_allow)?;
    let (id, secret) = (new_id(), new_secret());
    let sealed_secret = app.secret_key.seal(&secret_place(id), &secret)?;
    let headers = sealed_headers(&app, id, checked.headers.unwrap_or_default(), None)?;
    let mut tx = app.database.begin().await?;
    let new = NewEndpoint {
        id,
        url: &checked.url.unwrap_or(new.url),
        events: &checked.events.unwrap_or_default(),
        description: new.description.as_deref(),
        sealed_secret: &sealed_secret,
        rate_limit: new.rate_limit,
        ordered: new.ordered,
        headers: &headers,
    };
    let Created::Endpoint(endpoint) = db::create(&mut tx, caller.account_id, &new).await? else {
        return Err(ApiError::new(Code::Conflict).saying("the account has as many webhooks as it may have"));
    };
    let metadata = json!({"url": endpoint.url, "events": endpoint.events});
    caller.audit(&mut tx, "create_webhook", "webhook", Some(id), metadata).await?;
    tx.commit().await?;
    Ok(Data::created(CreatedWebhook { endpoint: *endpoint, secret }))
}

/// Get a webhook endpoint
#[utoipa::path(
    get, path = "/webhooks/{id}", params(("id" = Uuid, Path, description = "The endpoint")),
    responses((status = 200, body = Data<Endpoint>))
)]
pub async fn get(
    State(app): State<App>,
    caller: Caller,
    WebhookId(id): WebhookId,
) -> Result<Data<Endpoint>, ApiError> {
    let mut conn = app.connection().await?;
    let endpoint = db::find(&mut conn, caller.account_id, id).await?;
    endpoint.map(Data::ok).ok_or_else(|| ApiError::new(Code::WebhookNotFound))
}

/// Update a webhook endpoint
#[utoipa::path(
    patch, path = "/webhooks/{id}", params(("id" = Uuid, Path, description = "The endpoint")),
    request_body = UpdateWebhook, responses((status = 200, body = Data<Endpoint>))
)]
pub async fn update(
    State(app): State<App>,
    caller: Caller,
    WebhookId(id): WebhookId,
    Body(patch): Body<UpdateWebhook>,
) -> Result<Data<Endpoint>, ApiError> {
    let description = patch.description.as_ref().map(Option::as_deref);
    let given = Given {
        url: patch.url.as_deref(),
        events: patch.events.as_deref(),
        description: description.flatten(),
        rate_limit: patch.rate_limit.flatten(),
        headers: patch.headers.as_ref(),
    };
    let checked = given.check(&app.webhook_allow)?;
    let mut tx = app.database.begin().await?;
    let headers = match checked.headers {
        Some(headers) => {
            let stored = db::sealed_headers(&mut tx, caller.account_id, id).await?;
            Some(sealed_headers(&app, id, headers, stored.as_deref())?)
        }
        None => None,
    };
    let change = EndpointPatch {
        url: checked.url.as_deref(),
        events: checked.events.as_deref(),
        enabled: patch.enabled,
        description,
        rate_limit: patch.rate_limit,
        ordered: patch.ordered,
        headers: headers.as_ref(),
    };
    let endpoint = db::update(&mut tx, caller.account_id, id, &change).await?;
    let endpoint = endpoint.ok_or_else(|| ApiError::new(Code::WebhookNotFound))?;
    let headers: Vec<&String> =
        endpoint.headers.as_object().into_iter().flat_map(|headers| headers.keys()).collect();
    let metadata = json!({
        "url": endpoint.url, "events": endpoint.events, "enabled": endpoint.enabled, "rate_limit": endpoint.rate_limit,
        "ordered": endpoint.ordered, "headers": headers,
    });
    caller.audit(&mut tx, "update_webhook", "webhook", Some(id), metadata).await?;
    tx.commit().await?;
    Ok(Data::ok(endpoint))
}

/// Delete a webhook endpoint
///
/// What was still to be delivered to it is cancelled.
#[utoipa::path(
    delete, path = "/webhooks/{id}", params(("id" = Uuid, Path, description = "The endpoint")),
    responses((status = 200, body = Data<Endpoint>))
)]
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    WebhookId(id): WebhookId,
) -> Result<Data<Endpoint>, ApiError> {
    let mut tx = app.database.begin().await?;
    let endpoint = db::delete(&mut tx, caller.account_id, id).await?;
    let endpoint = endpoint.ok_or_else(|| ApiError::new(Code::WebhookNotFound))?;
    caller.audit(&mut tx, "delete_webhook", "webhook", Some(id), json!({"url": endpoint.url})).await?;
    tx.commit().await?;
    Ok(Data::ok(endpoint))
}

/// Test a webhook endpoint
///
/// Sends it an event whose data has `test: true`, to it alone, signed like every other, and answers with the delivery
/// once it was attempted.
#[utoipa::path(
    post, path = "/webhooks/{id}/test", params(("id" = Uuid, Path, description = "The endpoint")),
    request_body = Option<TestWebhook>, responses((status = 200, body = Data<TestOutcome>))
)]
pub async fn test(
    State(app): State<App>,
    caller: Caller,
    WebhookId(id): WebhookId,
    deadline: Deadline,
    Body(test): Body<TestWebhook>,
) -> Result<Data<TestOutcome>, ApiError> {
    let asked = test.kind()?;
    let mut tx = app.database.begin().await?;
    let endpoint = db::find(&mut tx, caller.account_id, id).await?;
    let endpoint = endpoint.ok_or_else(|| ApiError::new(Code::WebhookNotFound))?;
    let kind = asked.unwrap_or_else(|| first_event(&endpoint));
    let (resource_id, data) = samples::test_event(kind, app.clock.now());
    let event =
        NewEvent { only_endpoint: Some(id), ..NewEvent::new(caller.account_id, kind, resource_id, data) };
    let event_id = outbox::append(&mut tx, &[event]).await?.pop().unwrap_or_default();
    caller.audit(&mut tx, "test_webhook", "webhook", Some(id), json!({"event": kind})).await?;
    tx.commit().await?;
    let look = || find_attempted(&app, caller.account_id, id, event_id);
    let attempted = wait::until(&app.shutdown, deadline.wait_end(TEST_DEADLINE), look).await;
    let delivery = attempted.ok_or_else(|| {
        ApiError::new(Code::Timeout)
            .saying("the delivery was not attempted in time; GET its deliveries later")
    })?;
    Ok(Data::ok(TestOutcome { delivery }))
}

/// List deliveries
///
/// Those to the endpoint, the newest first, with their attempts.
#[utoipa::path(
    get, path = "/webhooks/{id}/deliveries",
    params(("id" = Uuid, Path, description = "The endpoint"), PagingParams),
    responses((status = 200, body = List<Delivery>))
)]
pub async fn deliveries(
    State(app): State<App>,
    caller: Caller,
    WebhookId(id): WebhookId,
    Query { paging, .. }: Query<NoFilter>,
) -> Result<List<Delivery>, ApiError> {
    let mut conn = app.connection().await?;
    let endpoint = db::find(&mut conn, caller.account_id, id).await?;
    endpoint.ok_or_else(|| ApiError::new(Code::WebhookNotFound))?;
    let rows = deliveries::list(&mut conn, caller.account_id, id, paging.page).await?;
    let total = paging.total(async || deliveries::count(&mut conn, caller.account_id, id).await).await?;
    Ok(paging.list(rows, total))
}

/// Seals an endpoint's headers; the values that are masked are those of the stored ones.
fn sealed_headers(
    app: &App,
    id: Uuid,
    headers: BTreeMap<String, String>,
    stored: Option<&[u8]>,
) -> Result<SealedHeaders, ApiError> {
    let stored = endpoint_headers::open(&app.secret_key, id, stored)?;
    let headers = endpoint_headers::keep_stored(headers, &stored).map_err(ApiError::input)?;
    Ok(SealedHeaders::seal(&app.secret_key, id, &headers)?)
}

impl TestWebhook {
    fn kind(&self) -> Result<Option<EventType>, ApiError> {
        let kind = self.event.as_deref().map(|name| parse_event("event", name)).transpose();
        kind.map_err(|wrong| ApiError::input(vec![wrong]))
    }
}

/// The first type that an endpoint is subscribed to.
fn first_event(endpoint: &Endpoint) -> EventType {
    let first = endpoint.events.first().and_then(|name| EventType::parse(name));
    first.unwrap_or(EventType::CampaignCreated)
}

/// The delivery of a test event, once it was attempted or given up.
async fn find_attempted(
    app: &App,
    account_id: Uuid,
    endpoint_id: Uuid,
    event_id: Uuid,
) -> Result<Option<Delivery>, sqlx::Error> {
    let mut conn = app.connection().await?;
    let delivery = deliveries::find_of_event(&mut conn, account_id, endpoint_id, event_id).await?;
    Ok(delivery
        .filter(|delivery| delivery.status != DeliveryStatus::Pending || !delivery.attempts.is_empty()))
}

/// What a caller gave to be checked.
struct Given<'a> {
    url: Option<&'a str>,
    events: Option<&'a [String]>,
    description: Option<&'a str>,
    rate_limit: Option<f64>,
    headers: Option<&'a BTreeMap<String, String>>,
}

/// The same in the form in which it is stored.
struct Checked {
    url: Option<String>,
    events: Option<Vec<EventType>>,
    headers: Option<BTreeMap<String, String>>,
}

impl Given<'_> {
    /// What is wrong with any of it, or its stored form.
    fn check(&self, allow: &AllowList) -> Result<Checked, ApiError> {
        let mut checks = Checks::new();
        checks.optional_text("description", self.description, DESCRIPTION_CHARS_MAX);
        let rated = self.rate_limit.is_none_or(|limit| RATE_LIMITS.contains(&limit));
        checks.require(rated, "rate_limit", "must be between 0.01 and 10000");
        let mut wrong = checks.finish();
        let url = self.url.map(|url| endpoint_url::parse(url, allow)).transpose();
        let url = url.map_err(|error| wrong.push(FieldError::new("url", error.to_string())));
        let events = self.events.map(|names| parse_events(names, &mut wrong));
        let headers = self.headers.map(endpoint_headers::check).transpose();
        let headers = headers.map_err(|errors| wrong.extend(errors));
        ApiError::unless_empty(wrong)?;
        Ok(Checked { url: url.ok().flatten().map(String::from), events, headers: headers.ok().flatten() })
    }
}

/// The types of those names, and what is wrong with them.
pub(super) fn parse_events(names: &[String], wrong: &mut Vec<FieldError>) -> Vec<EventType> {
    if !(1..=EventType::ALL.len()).contains(&names.len()) {
        wrong.push(FieldError::new("events", "must name 1 to 16 event types"));
        return Vec::new();
    }
    let mut events = BTreeSet::new();
    for (index, name) in names.iter().enumerate() {
        match parse_event(&format!("events[{index}]"), name) {
            Ok(kind) => drop(events.insert(kind)),
            Err(error) => wrong.push(error),
        }
    }
    events.into_iter().collect()
}

fn parse_event(field: &str, name: &str) -> Result<EventType, FieldError> {
    EventType::parse(name).ok_or_else(|| {
        let names: Vec<_> = EventType::ALL.iter().map(|kind| kind.as_str()).collect();
        FieldError::new(field, format!("must be one of {}", names.join(", ")))
    })
}
