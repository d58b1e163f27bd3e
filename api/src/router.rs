//! The operations: one line each. `cargo xtask gen` makes the specification from them.

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::from_fn,
    routing::get,
};
use url::Url;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    auth::Scope::{Admin, Generate, Read, Send, Write},
    error::{ApiError, Code},
    limits::RateClass,
    openapi,
    operation::{
        Access::{Key, Public, Scope},
        Operation, operation,
    },
    request,
    routes::{
        analytics, campaigns, channels, contact_imports, contacts, conversations, discovery, health, inbound,
        keys, messages, notifications, suppressions, target_profiles, webhook_deliveries, webhook_events,
        webhook_secrets, webhooks,
    },
};

/// Imports are larger than other requests.
const IMPORT_MIB: usize = 8;
/// So is mail, with its attachments.
const MAIL_MIB: usize = 30;

/// Every operation: its handler, who may call it, then what differs from the defaults.
pub fn operations() -> Vec<Operation> {
    [
        keys(),
        campaigns(),
        contacts(),
        conversations(),
        messages(),
        discovery(),
        analytics(),
        channels(),
        notices(),
        webhooks(),
        ours(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn keys() -> Vec<Operation> {
    vec![
        operation!(keys::me, Key),
        operation!(keys::list, Scope(Admin)),
        operation!(keys::create, Scope(Admin)).errors(&[Code::KeyLimitReached]).audit(&["create_key"]),
        operation!(keys::rename, Scope(Admin)).errors(&[Code::KeyNotFound]).mcp(&[]),
        operation!(keys::revoke, Scope(Admin)).errors(&[Code::KeyNotFound]).audit(&["revoke_key"]),
        operation!(keys::rotate, Scope(Admin))
            .errors(&[Code::KeyNotFound, Code::Conflict])
            .audit(&["create_key", "revoke_key"])
            .mcp(&[]),
    ]
}

fn campaigns() -> Vec<Operation> {
    vec![
        operation!(campaigns::list, Scope(Read)),
        operation!(campaigns::create, Scope(Write))
            .rate(RateClass::Campaign)
            .errors(CAMPAIGN_STATES)
            .audit(&["create_campaign"]),
        operation!(campaigns::get, Scope(Read)).errors(&[Code::CampaignNotFound]),
        operation!(campaigns::update, Scope(Write))
            .rate(RateClass::Campaign)
            .errors(CAMPAIGN_CHANGES)
            .audit(&["update_campaign"])
            .mcp(&["campaigns_update", "campaigns_set_status"]),
        operation!(campaigns::delete, Scope(Write))
            .rate(RateClass::Campaign)
            .errors(&[Code::CampaignNotFound])
            .audit(&["delete_campaign"]),
        operation!(campaigns::contacts, Scope(Read))
            .errors(&[Code::CampaignNotFound])
            .mcp(&["campaigns_list_contacts"]),
        operation!(campaigns::preflight, Scope(Read)).errors(&[Code::CampaignNotFound]).api_only(),
        operation!(campaigns::progress, Scope(Read)).errors(PROGRESS_ERRORS).api_only(),
        Operation::new("campaigns.list_target_profiles", routes!(target_profiles::list), Scope(Read))
            .errors(&[Code::CampaignNotFound])
            .cli(&[]),
        Operation::new("campaigns.create_target_profile", routes!(target_profiles::create), Scope(Write))
            .rate(RateClass::Campaign)
            .errors(&[Code::CampaignNotFound, Code::Conflict])
            .audit(&["update_campaign"])
            .cli(&[]),
        Operation::new("campaigns.delete_target_profile", routes!(target_profiles::delete), Scope(Write))
            .rate(RateClass::Campaign)
            .errors(&[Code::CampaignNotFound, Code::RouteNotFound])
            .audit(&["update_campaign"])
            .api_only(),
    ]
}

fn contacts() -> Vec<Operation> {
    let contact = |operation: Operation| operation.rate(RateClass::Contact);
    vec![
        operation!(contacts::list, Scope(Read)),
        contact(operation!(contacts::create, Scope(Write))).errors(CONTACT_ERRORS).audit(&["create_contact"]),
        operation!(contacts::get, Scope(Read)).errors(&[Code::ContactNotFound]),
        contact(operation!(contacts::update, Scope(Write)))
            .errors(CONTACT_CHANGES)
            .audit(&["update_contact"]),
        contact(operation!(contacts::delete, Scope(Write)))
            .errors(&[Code::ContactNotFound])
            .audit(&["delete_contact"]),
        contact(operation!(contacts::erase, Scope(Admin)))
            .errors(&[Code::ContactNotFound])
            .audit(&["delete_contact"])
            .api_only(),
        contact(Operation::new("contacts.bulk_import", routes!(contact_imports::bulk_import), Scope(Write)))
            .errors(&[Code::CampaignNotFound, Code::Conflict])
            .audit(&["bulk_create_contacts"])
            .body_limit(IMPORT_MIB)
            .long(),
        contact(operation!(contacts::bulk_delete, Scope(Write))).audit(&["bulk_delete_contacts"]),
        Operation::new("contacts.conversations", routes!(conversations::of_contact), Scope(Read))
            .errors(&[Code::ContactNotFound])
            .cli(&[]),
        contact(operation!(suppressions::create, Scope(Write))).api_only(),
        contact(operation!(suppressions::delete, Scope(Admin))).errors(&[Code::RouteNotFound]).api_only(),
        operation!(suppressions::list, Scope(Read)).api_only(),
    ]
}

fn conversations() -> Vec<Operation> {
    vec![
        operation!(conversations::list, Scope(Read)),
        operation!(conversations::get, Scope(Read)).errors(&[Code::ConversationNotFound]),
        operation!(conversations::messages, Scope(Read))
            .errors(&[Code::ConversationNotFound])
            .mcp(&["conversations_get_messages"]),
        operation!(conversations::mark_read, Scope(Write)).errors(&[Code::ConversationNotFound]),
        operation!(conversations::unmatched, Scope(Read)).api_only(),
    ]
}

fn messages() -> Vec<Operation> {
    vec![
        operation!(messages::pending, Scope(Read)).mcp(&["messages_list_pending"]),
        operation!(messages::approve, Scope(Send)).errors(MESSAGE_STATES).audit(&["approve_message"]),
        operation!(messages::reject, Scope(Send)).errors(MESSAGE_STATES).audit(&["reject_message"]),
        operation!(messages::bulk, Scope(Send))
            .audit(&["approve_message", "reject_message"])
            .cli(&["messages bulk-approve", "messages bulk-reject"]),
    ]
}

fn discovery() -> Vec<Operation> {
    vec![
        operation!(discovery::search, Scope(Generate))
            .rate(RateClass::Discovery)
            .errors(&[Code::CampaignNotFound, Code::DiscoveryFailed, Code::Conflict])
            .audit(&["discover_contacts"])
            .long(),
        operation!(discovery::search_campaign, Scope(Generate))
            .errors(&[Code::CampaignNotFound, Code::Conflict])
            .audit(&["discover_campaign_contacts"]),
        operation!(discovery::jobs, Scope(Read)).mcp(&[]),
        operation!(discovery::get_job, Scope(Read)).errors(&[Code::DiscoveryJobNotFound]),
        operation!(discovery::sources, Scope(Read)).mcp(&["discovery_list_sources"]),
    ]
}

fn analytics() -> Vec<Operation> {
    vec![
        operation!(analytics::overview, Scope(Read)),
        operation!(analytics::campaign, Scope(Read))
            .errors(&[Code::CampaignNotFound])
            .cli(&["analytics campaigns"])
            .mcp(&["analytics_campaigns"]),
        operation!(analytics::performance, Scope(Read)).errors(&[Code::CampaignNotFound]),
        operation!(analytics::response_time, Scope(Read)).errors(&[Code::CampaignNotFound]),
        operation!(analytics::contact_types, Scope(Read)).errors(&[Code::CampaignNotFound]),
        operation!(analytics::summary, Scope(Read)).mcp(&[]),
        operation!(conversations::engagement, Scope(Read)),
    ]
}

fn channels() -> Vec<Operation> {
    vec![
        operation!(channels::accounts, Scope(Read)).mcp(&["channels_list_accounts"]),
        operation!(channels::availability, Scope(Read)).cli(&["channels availability", "channels list"]),
        operation!(channels::send, Scope(Send)).errors(SEND_ERRORS).audit(&["send_channel_message"]),
    ]
}

fn notices() -> Vec<Operation> {
    vec![
        operation!(notifications::list, Scope(Read)),
        operation!(notifications::update, Scope(Write))
            .errors(&[Code::RouteNotFound])
            .cli(&["notifications update", "notifications mark-read"]),
        operation!(notifications::delete, Scope(Write)).errors(&[Code::RouteNotFound]),
        operation!(notifications::read_all, Scope(Write)),
    ]
}

fn webhooks() -> Vec<Operation> {
    vec![
        operation!(webhooks::list, Scope(Admin)),
        operation!(webhooks::create, Scope(Admin)).errors(&[Code::Conflict]).audit(&["create_webhook"]),
        operation!(webhooks::get, Scope(Admin)).errors(&[Code::WebhookNotFound]),
        operation!(webhooks::update, Scope(Admin))
            .errors(&[Code::WebhookNotFound])
            .audit(&["update_webhook"]),
        operation!(webhooks::delete, Scope(Admin))
            .errors(&[Code::WebhookNotFound])
            .audit(&["delete_webhook"]),
        operation!(webhooks::test, Scope(Admin))
            .errors(&[Code::WebhookNotFound])
            .audit(&["test_webhook"])
            .long(),
        operation!(webhooks::deliveries, Scope(Admin)).errors(&[Code::WebhookNotFound]),
        Operation::new("webhooks.redeliver", routes!(webhook_deliveries::redeliver), Scope(Admin))
            .errors(&[Code::WebhookNotFound, Code::DeliveryNotFound, Code::Conflict])
            .cli(&[]),
        Operation::new("webhooks.rotate_secret", routes!(webhook_secrets::rotate), Scope(Admin))
            .errors(&[Code::WebhookNotFound])
            .audit(&["update_webhook"]),
        Operation::new("webhooks.events", routes!(webhook_events::list), Scope(Admin)).api_only(),
        Operation::new("webhooks.replay", routes!(webhook_deliveries::replay), Scope(Admin))
            .errors(&[Code::WebhookNotFound, Code::Conflict])
            .api_only(),
        Operation::new("webhooks.get_replay", routes!(webhook_deliveries::get_replay), Scope(Admin))
            .errors(&[Code::ReplayNotFound])
            .api_only(),
    ]
}

/// What no client of the API calls.
fn ours() -> Vec<Operation> {
    vec![
        operation!(inbound::email, Public).errors(INBOUND_ERRORS).body_limit(MAIL_MIB).api_only(),
        operation!(health::live, Public).probe().api_only(),
        operation!(health::ready, Public).probe().api_only(),
    ]
}

const CAMPAIGN_STATES: &[Code] = &[Code::CampaignHasNoContacts, Code::CampaignTransitionInvalid];
const CAMPAIGN_CHANGES: &[Code] = &[
    Code::CampaignNotFound,
    Code::CampaignAlreadyActive,
    Code::CampaignHasNoContacts,
    Code::CampaignTransitionInvalid,
];
const MESSAGE_STATES: &[Code] = &[Code::MessageNotFound, Code::MessageAlreadyApproved, Code::Conflict];
const SEND_ERRORS: &[Code] = &[Code::ConversationNotFound, Code::ContactNotFound, Code::Conflict];
const PROGRESS_ERRORS: &[Code] = &[Code::CampaignNotFound, Code::Conflict];
const CONTACT_ERRORS: &[Code] = &[Code::EmailInvalid, Code::Conflict];
const CONTACT_CHANGES: &[Code] = &[Code::ContactNotFound, Code::EmailInvalid, Code::Conflict];
const INBOUND_ERRORS: &[Code] = &[Code::SignatureInvalid, Code::PayloadInvalid];

/// The service: every operation behind its rules, and what answers when there is none.
pub fn router(app: &App, public_url: Option<&Url>) -> Router {
    let document = openapi::served(public_url);
    let served = move || async move { (StatusCode::OK, [(CONTENT_TYPE, "application/json")], document) };
    operations()
        .into_iter()
        .fold(OpenApiRouter::default(), |router, operation| router.routes(operation.guarded(app)))
        .split_for_parts()
        .0
        .route("/openapi.json", get(served))
        .fallback(|| async { ApiError::new(Code::RouteNotFound) })
        .method_not_allowed_fallback(|| async { ApiError::new(Code::MethodNotAllowed) })
        .layer(from_fn(request::observe))
        .with_state(app.clone())
}
