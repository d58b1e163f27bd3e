//! The OpenAPI document, generated from the handlers.

use url::Url;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        self, Server,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    app::App,
    error::{ErrorBody, ErrorInfo},
    operation::SECURITY_SCHEME,
    router::operations,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "iris API",
        description = "Discover contacts, draft messages, approve and send them, follow up until the contact replies; \
                       every change reaches your systems as a signed webhook.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    components(schemas(ErrorBody, ErrorInfo)),
    modifiers(&Security)
)]
struct Document;

struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("is_live_...")
            .description(Some("An API key. The operation's `x-scope` says which scope it needs."))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(SECURITY_SCHEME, SecurityScheme::Http(scheme));
    }
}

/// The document, with every operation of [`operations`].
pub fn openapi() -> openapi::OpenApi {
    let router = OpenApiRouter::<App>::with_openapi(Document::openapi());
    operations()
        .into_iter()
        .fold(router, |router, operation| router.routes(operation.documented()))
        .into_openapi()
}

/// The document as it is served: with the base URL that clients use.
pub fn served(public_url: Option<&Url>) -> String {
    let url = public_url.map_or("/", Url::as_str);
    let mut document = openapi();
    document.servers = Some(vec![Server::new(url)]);
    document.to_json().unwrap_or_default()
}
