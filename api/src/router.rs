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
    openapi,
    operation::{
        Access::{Key, Public, Scope},
        Operation, operation,
    },
    request,
    routes::{
        campaigns, channels, contacts, conversations, discovery, health, inbound, keys, messages,
        webhook_deliveries, webhook_events, webhook_secrets, webhooks,
    },
};

/// Imports are larger than other requests.
const IMPORT_MIB: usize = 8;
/// So is mail, with its attachments.
const MAIL_MIB: usize = 30;

/// Every operation: its handler, who may call it, then what differs from the defaults.
pub fn operations() -> Vec<Operation> {
    vec![
        operation!(keys::me, Key),
        operation!(keys::list, Scope(Admin)),
        operation!(keys::create, Scope(Admin)).errors(&[Code::KeyLimitReached]).audit(&["create_key"]),
        operation!(keys::revoke, Scope(Admin)).errors(&[Code::KeyNotFound]).audit(&["revoke_key"]),
        operation!(campaigns::list, Scope(Read)),
        operation!(campaigns::create, Scope(Write)).errors(CAMPAIGN_STATES).audit(&["create_campaign"]),
        operation!(campaigns::get, Scope(Read)).errors(&[Code::CampaignNotFound]),
        operation!(campaigns::update, Scope(Write)).errors(CAMPAIGN_CHANGES).audit(&["update_campaign"]),
        operation!(campaigns::delete, Scope(Write))
            .errors(&[Code::CampaignNotFound])
            .audit(&["delete_campaign"]),
        operation!(campaigns::progress, Scope(Read)).errors(PROGRESS_ERRORS),
        operation!(contacts::list, Scope(Read)),
        operation!(contacts::create, Scope(Write)).errors(CONTACT_ERRORS).audit(&["create_contact"]),
        operation!(contacts::get, Scope(Read)).errors(&[Code::ContactNotFound]),
        operation!(contacts::erase, Scope(Admin)).errors(&[Code::ContactNotFound]).audit(&["delete_contact"]),
        operation!(contacts::bulk_import, Scope(Write))
            .errors(&[Code::CampaignNotFound, Code::Conflict])
            .audit(&["bulk_create_contacts"])
            .body_limit(IMPORT_MIB)
            .long(),
        operation!(conversations::list, Scope(Read)),
        operation!(conversations::get, Scope(Read)).errors(&[Code::ConversationNotFound]),
        operation!(conversations::messages, Scope(Read)).errors(&[Code::ConversationNotFound]),
        operation!(messages::pending, Scope(Read)),
        operation!(messages::approve, Scope(Send)).errors(MESSAGE_STATES).audit(&["approve_message"]),
        operation!(messages::reject, Scope(Send)).errors(MESSAGE_STATES).audit(&["reject_message"]),
        operation!(messages::bulk, Scope(Send)).audit(&["approve_message", "reject_message"]),
        operation!(discovery::search, Scope(Generate))
            .errors(&[Code::CampaignNotFound, Code::DiscoveryFailed, Code::Conflict])
            .audit(&["discover_contacts"])
            .long(),
        operation!(discovery::jobs, Scope(Read)),
        operation!(discovery::get_job, Scope(Read)).errors(&[Code::DiscoveryJobNotFound]),
        operation!(channels::availability, Scope(Read)),
        operation!(channels::send, Scope(Send)).errors(SEND_ERRORS).audit(&["send_channel_message"]),
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
        Operation::new("webhooks.redeliver", routes!(webhook_deliveries::redeliver), Scope(Admin)).errors(&[
            Code::WebhookNotFound,
            Code::DeliveryNotFound,
            Code::Conflict,
        ]),
        Operation::new("webhooks.rotate_secret", routes!(webhook_secrets::rotate), Scope(Admin))
            .errors(&[Code::WebhookNotFound])
            .audit(&["update_webhook"]),
        Operation::new("webhooks.events", routes!(webhook_events::list), Scope(Admin)),
        Operation::new("webhooks.replay", routes!(webhook_deliveries::replay), Scope(Admin))
            .errors(&[Code::WebhookNotFound, Code::Conflict]),
        Operation::new("webhooks.get_replay", routes!(webhook_deliveries::get_replay), Scope(Admin))
            .errors(&[Code::ReplayNotFound]),
        operation!(inbound::email, Public).errors(INBOUND_ERRORS).body_limit(MAIL_MIB),
        operation!(health::live, Public).probe(),
        operation!(health::ready, Public).probe(),
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
