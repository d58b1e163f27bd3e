//! What surrounds every request: its id, its trace, its log line, the security headers, and the answer to a panic.

use std::{any::Any, cell::RefCell, panic::AssertUnwindSafe, time::Instant};

use axum::{
    extract::{MatchedPath, Request},
    http::{
        HeaderMap, HeaderName, HeaderValue,
        header::{REFERRER_POLICY, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use queue::TraceContext;
use shared::ids::request_id;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{Instrument, field::Empty};

use crate::error::{ApiError, Code};

/// The header with the request's id, in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header with the caller's step of a trace (W3C Trace Context); the request is the next one, and the jobs that it
/// enqueues come of it.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A longer id from outside is replaced.
const REQUEST_ID_CHARS_MAX: usize = 128;

/// What is known of a request wherever its answer is made.
struct Context {
    id: String,
    warnings: RefCell<Vec<String>>,
    held: RefCell<Vec<OwnedSemaphorePermit>>,
}

tokio::task_local! {
    static CONTEXT: Context;
}

/// The id of the request that runs; empty outside one.
pub fn id() -> String {
    CONTEXT.try_with(|context| context.id.clone()).unwrap_or_default()
}

/// Adds to the `meta.warnings` of the answer.
pub fn warn(warning: String) {
    // Outside a request there is no answer to add to.
    let _ = CONTEXT.try_with(|context| context.warnings.borrow_mut().push(warning));
}

/// The warnings so far, which are then the caller's to show.
pub fn take_warnings() -> Vec<String> {
    CONTEXT.try_with(|context| context.warnings.take()).unwrap_or_default()
}

/// Keeps a share of something until the request is answered.
pub fn hold(share: OwnedSemaphorePermit) {
    // Outside a request there is nothing that lasts longer.
    let _ = CONTEXT.try_with(|context| context.held.borrow_mut().push(share));
}

/// The outermost layer: runs the request under its id and writes its one log line.
pub async fn observe(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = sane_id(request.headers()).unwrap_or_else(request_id);
    let route = request.extensions().get::<MatchedPath>().map_or("-", |path| path.as_str()).to_owned();
    let trace = TraceContext::continued(traceparent(request.headers()));
    let span = tracing::info_span!(
        "request",
        id = %id,
        trace = trace.trace_id(),
        method = %request.method(),
        route,
        key_id = Empty
    );
    let context = Context { id: id.clone(), warnings: RefCell::default(), held: RefCell::default() };
    let answer = CONTEXT.scope(context, async {
        match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => response,
            Err(panic) => ApiError::new(Code::Internal).caused_by(panic_message(&*panic)).into_response(),
        }
    });
    let mut response = trace.scope(answer).instrument(span.clone()).await;
    let latency = started.elapsed();
    span.in_scope(|| {
        tracing::info!(status = response.status().as_u16(), latency_ms = latency.as_millis(), "answered");
    });
    let status = response.status().as_u16().to_string();
    metrics::histogram!("iris_api_request_seconds", "route" => route, "status" => status).record(latency);
    add_headers(response.headers_mut(), &id);
    response
}

/// The caller's id, when it can be logged and sent back as it is.
fn sane_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let sane = (1..=REQUEST_ID_CHARS_MAX).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    sane.then(|| id.to_owned())
}

/// What the caller says of its trace; two say nothing.
fn traceparent(headers: &HeaderMap) -> Option<&str> {
    let mut given = headers.get_all(TRACEPARENT).iter();
    let first = given.next()?;
    if given.next().is_some() { None } else { first.to_str().ok() }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    format!("panic: {}", text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default())
}

fn add_headers(headers: &mut HeaderMap, id: &str) {
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers
        .insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000; includeSubDomains"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sane_id_is_taken() {
        let id_of = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
            sane_id(&headers)
        };
        assert_eq!(id_of(b"order-17.b_2"), Some("order-17.b_2".to_owned()));
        for bad in [&b""[..], b"a b", b"a\"b", b"\xc3\xa9", b"a;b", &[b'a'; 129]] {
            assert_eq!(id_of(bad), None);
        }
        assert_eq!(sane_id(&HeaderMap::new()), None);
    }

    #[test]
    fn of_two_traces_none_is_taken() {
        let given = HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let mut headers = HeaderMap::new();
        assert_eq!(traceparent(&headers), None);
        headers.append(TRACEPARENT, given.clone());
        assert_eq!(traceparent(&headers), given.to_str().ok());
        headers.append(TRACEPARENT, given);
        assert_eq!(traceparent(&headers), None);
    }
}
