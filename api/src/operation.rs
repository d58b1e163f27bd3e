//! One operation: its handler, and what holds for it before the handler runs.

use std::time::Duration;

use axum::{
    body::HttpBody,
    extract::{FromRequestParts, Request, State},
    http::request::Parts,
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use serde_json::json;
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, timeout_at},
};
use utoipa::openapi::{
    self, Content, Ref, RefOr, ResponseBuilder,
    extensions::ExtensionsBuilder,
    path::{ParameterIn, PathItem},
    security::SecurityRequirement,
};
use utoipa_axum::router::{UtoipaMethodRouter, UtoipaMethodRouterExt};

use crate::{
    app::App,
    auth::{Caller, Scope, authenticate},
    error::{ApiError, Code},
    limits::RateClass,
};

/// What most operations may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// What an operation may take that waits for a worker or stores an import.
const LONG_DEADLINE: Duration = Duration::from_secs(120);
/// What is kept of a deadline for the answer after a wait.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// The name of the security scheme in the OpenAPI document.
pub const SECURITY_SCHEME: &str = "api_key";

/// The largest body of an operation, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimit(pub usize);

impl Default for BodyLimit {
    fn default() -> Self {
        Self(1024 * 1024)
    }
}

/// When a request must have its answer. A stream has begun by then.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// The end of a wait that may take as long as `longest`, early enough to answer in any case.
    pub fn wait_end(self, longest: Duration) -> Instant {
        let latest = self.0.checked_sub(ANSWER_TIME).unwrap_or(self.0);
        (Instant::now() + longest).min(latest)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Deadline {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        // The guard puts it there; only probes have none, and they do not wait.
        parts.extensions.get().copied().ok_or_else(|| ApiError::new(Code::Internal))
    }
}

/// Who may call an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody; the handler checks what it must.
    Public,
    /// Every live key.
    Key,
    /// A key with this scope.
    Scope(Scope),
}

impl Access {
    /// As the OpenAPI document names it.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Key => "none",
            Self::Scope(scope) => scope.as_str(),
        }
    }

    /// Fails unless the caller has the scope that the operation needs.
    fn check(self, caller: &Caller) -> Result<(), ApiError> {
        match self {
            Self::Public | Self::Key => Ok(()),
            Self::Scope(scope) => caller.require(scope),
        }
    }
}

/// What holds for an operation before its handler runs.
#[derive(Debug, Clone, Copy)]
struct Rules {
    access: Access,
    rate_class: Option<RateClass>,
    body_limit: BodyLimit,
    deadline: Duration,
}

/// One operation of the API.
#[must_use]
pub struct Operation {
    id: &'static str,
    routes: UtoipaMethodRouter<App>,
    rules: Rules,
    is_probe: bool,
    errors: &'static [Code],
    audit: &'static [&'static str],
    cli: Vec<String>,
    mcp: Vec<String>,
}

/// An operation by its handler, such as `campaigns::create`, whose path is the operation's id.
macro_rules! operation {
    ($resource:ident :: $verb:ident, $access:expr) => {
        $crate::operation::Operation::new(
            concat!(stringify!($resource), ".", stringify!($verb)),
            utoipa_axum::routes!($resource::$verb),
            $access,
        )
    };
}
pub(crate) use operation;

impl Operation {
    /// An operation with the limits that most have.
    pub fn new(id: &'static str, routes: UtoipaMethodRouter<App>, access: Access) -> Self {
        let rules = Rules { access, rate_class: None, body_limit: BodyLimit::default(), deadline: DEADLINE };
        let (cli, mcp) = (vec![id.replacen('.', " ", 1).replace('_', "-")], vec![id.replacen('.', "_", 1)]);
        Self { id, routes, rules, is_probe: false, errors: &[], audit: &[], cli, mcp }
    }

    /// Counts in a class of its own, beside the two of all requests.
    pub fn rate(mut self, class: RateClass) -> Self {
        self.rules.rate_class = Some(class);
        self
    }

    /// The commands of the command line that call it, where they are not named like the operation.
    pub fn cli(self, commands: &[&str]) -> Self {
        Self { cli: commands.iter().map(|&command| command.to_owned()).collect(), ..self }
    }

    /// The tools of the MCP server that call it, where they are not named like the operation.
    pub fn mcp(self, tools: &[&str]) -> Self {
        Self { mcp: tools.iter().map(|&tool| tool.to_owned()).collect(), ..self }
    }

    /// Neither the command line nor the MCP server has it.
    pub fn api_only(self) -> Self {
        self.cli(&[]).mcp(&[])
    }

    /// The codes that only some operations have; those that come with a key, a body or a query are added to all.
    pub fn errors(self, errors: &'static [Code]) -> Self {
        Self { errors, ..self }
    }

    /// What the handler writes to the audit log.
    pub fn audit(self, audit: &'static [&'static str]) -> Self {
        Self { audit, ..self }
    }

    /// Takes larger bodies.
    pub fn body_limit(mut self, mebibytes: usize) -> Self {
        self.rules.body_limit = BodyLimit(mebibytes * 1024 * 1024);
        self
    }

    /// May take 120 s.
    pub fn long(mut self) -> Self {
        self.rules.deadline = LONG_DEADLINE;
        self
    }

    /// Answers however busy the server is, and while it shuts down.
    pub fn probe(self) -> Self {
        Self { is_probe: true, ..self }
    }

    /// The handler behind its rules.
    pub fn guarded(self, app: &App) -> UtoipaMethodRouter<App> {
        if self.is_probe {
            return self.routes;
        }
        let guard = from_fn_with_state((app.clone(), self.rules), guard);
        self.routes.map(|router| router.route_layer(guard))
    }

    /// The handler with its documentation complete.
    pub fn documented(mut self) -> UtoipaMethodRouter<App> {
        let extensions = ExtensionsBuilder::new()
            .add("x-scope", self.rules.access.as_str())
            .add("x-rate-class", self.rules.rate_class.map_or("none", RateClass::as_str))
            .add("x-audit", json!(self.audit))
            .add("x-cli", json!(self.cli))
            .add("x-mcp", json!(self.mcp))
            .build();
        for item in self.routes.1.paths.values_mut() {
            for operation in operations_of(item) {
                operation.extensions = Some(extensions.clone());
                document(operation, self.id, self.rules, self.errors);
            }
        }
        self.routes
    }
}

fn operations_of(item: &mut PathItem) -> impl Iterator<Item = &mut openapi::path::Operation> {
    [&mut item.get, &mut item.post, &mut item.patch, &mut item.delete, &mut item.put].into_iter().flatten()
}

fn document(operation: &mut openapi::path::Operation, id: &str, rules: Rules, errors: &[Code]) {
    let access = rules.access;
    operation.operation_id = Some(id.to_owned());
    operation.tags = Some(vec![id.split('.').next().unwrap_or_default().to_owned()]);
    let security = match access {
        Access::Public => SecurityRequirement::default(),
        Access::Key | Access::Scope(_) => SecurityRequirement::new::<_, [&str; 0], _>(SECURITY_SCHEME, []),
    };
    operation.security = Some(vec![security]);
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && response.description.is_empty()
        {
            response.description.push_str(match status.as_str() {
                "201" => "Created",
                "202" => "Accepted",
                _ => "OK",
            });
        }
    }
    let mut codes: Vec<Code> =
        implied_codes(operation, rules).into_iter().chain(errors.iter().copied()).collect();
    codes.sort_unstable_by_key(|code| (code.status(), *code));
    codes.dedup();
    for same in codes.chunk_by(|a, b| a.status() == b.status()) {
        let lines: Vec<_> =
            same.iter().map(|code| format!("`{}` {}", code.as_str(), code.message())).collect();
        let content = Content::new(Some(Ref::from_schema_name("ErrorBody")));
        let response =
            ResponseBuilder::new().description(lines.join("; ")).content("application/json", content).build();
        operation.responses.responses.insert(same[0].status().to_string(), RefOr::T(response));
    }
}

/// The codes that follow from what an operation takes.
fn implied_codes(operation: &openapi::path::Operation, rules: Rules) -> Vec<Code> {
    let access = rules.access;
    let mut codes = vec![Code::Internal, Code::Database, Code::Unavailable, Code::Timeout];
    if access != Access::Public {
        codes.extend([Code::Unauthorized, Code::KeyInvalid, Code::KeyExpired, Code::KeyRevoked]);
        let classes = [RateClass::Global, RateClass::Burst].into_iter().chain(rules.rate_class);
        codes.extend(classes.map(RateClass::code));
    }
    if matches!(access, Access::Scope(_)) {
        codes.push(Code::ScopeMissing);
    }
    let has_query =
        operation.parameters.iter().flatten().any(
            |parameter| matches!(parameter, RefOr::T(it) if matches!(it.parameter_in, ParameterIn::Query)),
        );
    if has_query || operation.request_body.is_some() {
        codes.push(Code::RequestInvalid);
    }
    if let Some(RefOr::T(body)) = &operation.request_body {
        codes.push(Code::TooLarge);
        if body.content.contains_key("application/json") {
            codes.push(Code::InputInvalid);
        }
    }
    codes
}

/// Waits until there is room for the request's body: as long as it says it is, or as it may be when it does not say.
async fn reserve_memory(
    app: &App,
    announced: Option<u64>,
    BodyLimit(limit): BodyLimit,
) -> Result<SemaphorePermit<'_>, ApiError> {
    let bytes = announced.unwrap_or(limit as u64);
    if bytes > limit as u64 {
        return Err(ApiError::too_large(limit));
    }
    let kibibytes = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
    let reserved = app.body_memory.acquire_many(kibibytes).await;
    reserved.map_err(|error| ApiError::new(Code::Unavailable).caused_by(error))
}

/// Runs before every handler: is there room, who calls, may they, and for how long. Who has no key takes no place from
/// those who have one, and no memory: the handler of a public operation reads the body, once it knows who sends it.
async fn guard(
    State((app, rules)): State<(App, Rules)>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if app.shutdown.is_cancelled() {
        return Err(ApiError::new(Code::Unavailable).saying("the server is shutting down"));
    }
    let is_public = rules.access == Access::Public;
    let places = if is_public { &app.public_requests } else { &app.requests };
    let Ok(_place) = places.try_acquire() else {
        return Err(ApiError::new(Code::Unavailable).saying("the server is busy"));
    };
    let end = Instant::now() + rules.deadline;
    request.extensions_mut().insert(Deadline(end));
    request.extensions_mut().insert(rules.body_limit);
    let answer = async {
        if is_public {
            return Ok(next.run(request).await);
        }
        let caller = authenticate(&app, request.headers(), request.extensions(), rules.rate_class).await?;
        rules.access.check(&caller)?;
        request.extensions_mut().insert(caller);
        let announced = request.body().size_hint().upper();
        let _memory = reserve_memory(&app, announced, rules.body_limit).await?;
        Ok(next.run(request).await)
    };
    timeout_at(end, answer).await.unwrap_or_else(|_| Err(ApiError::new(Code::Timeout)))
}
