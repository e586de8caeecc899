//! Headers of all responses, and the methods that are allowed.

use std::convert::Infallible;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Path of the health check.
pub(super) const HEALTH: &str = "/healthz";

/// Caches that may store successful responses. Others are never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caching {
    /// None.
    Never,
    /// Any cache, for a minute.
    Public,
}

/// Forbids scripts, foreign resources, frames, most caches, and methods that write.
pub(super) async fn security_headers(
    State(caching): State<Caching>,
    request: Request,
    next: Next,
) -> Result<Response, Infallible> {
    const HEADERS: [(HeaderName, &str); 4] = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    let mut response =
        if is_read_only(&request) { next.run(request).await } else { StatusCode::METHOD_NOT_ALLOWED.into_response() };
    let may_cache = caching == Caching::Public && response.status().is_success();
    let cache_control = if may_cache { "public, max-age=60" } else { "no-store" };
    for (name, value) in HEADERS.into_iter().chain([(header::CACHE_CONTROL, cache_control)]) {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Returns whether a request only reads. HAProxy's check uses OPTIONS by default.
fn is_read_only(request: &Request) -> bool {
    match *request.method() {
        Method::GET | Method::HEAD => true,
        Method::OPTIONS => request.uri().path() == HEALTH,
        _ => false,
    }
}
