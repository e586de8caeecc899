//! Status page for operators, metrics for Prometheus, and a health check.
//!
//! All three show the data of `waypost status` and `waypost peers`. A public page on listeners of its own shows
//! verified peers only.

mod charts;
mod history;
mod http_server;
mod metrics;
mod page;
mod peer_page;
mod peer_query;
mod public_page;
mod response_headers;
mod status_cache;
mod svg;
mod time_text;

use std::collections::HashMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::time::interval;

use self::history::{History, SAMPLE_INTERVAL};
use self::http_server::HttpLimits;
use self::peer_query::PeerQuery;
use self::response_headers::{Caching, HEALTH, security_headers};
use self::status_cache::StatusCache;
use crate::book_handle::Inbox;
use crate::clock;
use crate::peer::Host;

pub use self::metrics::ProbeMetrics;
pub use self::public_page::{MAX_PUBLIC_CONNECTIONS, PublicPage, serve_public};

/// Limits of the page's listener.
const LIMITS: HttpLimits = HttpLimits {
    max_connections: 64,
    // Browsers send the cookies of all programs on localhost.
    max_buffer_bytes: 256 * 1024,
    header_timeout: Duration::from_secs(10),
    connection_timeout: Duration::from_secs(120),
    sends_date: true,
};

/// Configuration of the status page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusPageConfig {
    /// Accepted values of `Host` in lower case, besides localhost and addresses.
    pub hosts: Vec<String>,
    /// Whether the metrics include series of each peer; false by default.
    pub peer_metrics: bool,
}

/// State shared by all requests.
#[derive(Debug)]
struct AppState {
    config: StatusPageConfig,
    cache: StatusCache,
    probes: ProbeMetrics,
    history: Mutex<History>,
}

/// Serves the page until it is dropped.
pub async fn serve(listener: TcpListener, config: StatusPageConfig, probes: ProbeMetrics, inbox: Inbox) {
    let app = Arc::new(AppState { config, cache: StatusCache::new(inbox), probes, history: Mutex::default() });
    tokio::select! {
        () = http_server::serve(listener, "status page", LIMITS, router(Arc::clone(&app))) => {}
        () = app.sample_regularly() => {}
    }
}

fn router(app: Arc<AppState>) -> Router {
    Router::new()
        .route("/", get(show_page))
        .route("/style.css", get(style))
        .route("/icon.svg", get(icon))
        .route("/peer/{host}", get(show_peer))
        .route("/trends.json", get(show_trends))
        .route("/metrics", get(show_metrics))
        .route(HEALTH, get(show_health).options(show_health))
        .layer(from_fn_with_state(Arc::clone(&app), check_host))
        .layer(from_fn_with_state(Caching::Never, security_headers))
        .with_state(app)
}

async fn show_page(State(app): State<Arc<AppState>>, Query(query): Query<HashMap<String, String>>) -> Response {
    let sample = match app.cache.page().await {
        Ok(sample) => sample,
        Err(reason) => return unavailable(reason),
    };
    let peers = PeerQuery::parse(&query).apply(&sample.peers);
    let rows = match app.cache.peers_named(peers.names.clone()).await {
        Ok(rows) => rows,
        Err(reason) => return unavailable(reason),
    };
    let history = app.history.lock().unwrap_or_else(PoisonError::into_inner).clone();
    html(page::render(&sample, &history, peers, &rows))
}

/// Shows one peer. A text that is no host is never repeated in the response.
async fn show_peer(State(app): State<Arc<AppState>>, Path(host): Path<String>) -> Response {
    let unknown =
        || text(StatusCode::NOT_FOUND, &["no such peer; the status page lists those that are known".to_owned()]);
    let Ok(host) = host.parse::<Host>() else { return unknown() };
    match app.cache.peer(host).await {
        Ok(sides) if sides.is_empty() => unknown(),
        Ok(sides) => html(peer_page::render(&sides, clock::now())),
        Err(reason) => unavailable(reason),
    }
}

async fn show_trends(State(app): State<Arc<AppState>>) -> Response {
    let samples = app.cache.trends().await;
    match samples.map(|trends| serde_json::to_string(&serde_json::json!({ "samples": trends }))) {
        Ok(Ok(json)) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Ok(Err(error)) => unavailable(error),
        Err(reason) => unavailable(reason),
    }
}

fn html(page: Result<String, askama::Error>) -> Response {
    match page {
        Ok(page) => ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response(),
        Err(error) => unavailable(error),
    }
}

async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("style.css"))
}

async fn icon() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "image/svg+xml")], include_str!("icon.svg"))
}

async fn show_metrics(State(app): State<Arc<AppState>>) -> Response {
    let sample = if app.config.peer_metrics { app.cache.with_rows().await } else { app.cache.status().await };
    match sample.map(|sample| metrics::encode_metrics(&sample, &app.probes)) {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Ok(Err(error)) => unavailable(error),
        Err(reason) => unavailable(reason),
    }
}

/// Returns 200 while clients are served, with a line per problem.
///
/// Orchestrators restart a container after 503, which helps only if no client is served. Without
/// any listener, clients can connect through the onion service only.
async fn show_health(State(app): State<Arc<AppState>>) -> Response {
    let sample = match app.cache.status().await {
        Ok(sample) => sample,
        Err(reason) => return unavailable(reason),
    };
    if let Some(error) = sample.status.onion_error.as_ref().filter(|_| sample.status.listeners.is_empty()) {
        return unavailable(format!("the onion service, the only way in, does not run: {error}"));
    }
    let backend = sample.status.backend.as_ref();
    match backend.and_then(|backend| backend.error.as_ref()) {
        Some(problem) => unavailable(format!("the backend server failed: {problem}")),
        None => text(StatusCode::OK, &["ok".to_owned()].into_iter().chain(sample.problems()).collect::<Vec<_>>()),
    }
}

fn unavailable(reason: impl Display) -> Response {
    text(StatusCode::SERVICE_UNAVAILABLE, &[reason.to_string()])
}

fn text(status: StatusCode, lines: &[String]) -> Response {
    let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

/// Rejects requests with a foreign `Host`, which prevents DNS rebinding.
///
/// Browsers always send `Host`. HAProxy's check omits it by default, so the health check does not
/// require it.
async fn check_host(State(app): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    let is_allowed = match request.headers().get(header::HOST) {
        None => request.uri().path() == HEALTH,
        Some(host) => host.to_str().is_ok_and(|host| is_allowed_host(host, &app.config.hosts)),
    };
    if is_allowed {
        return next.run(request).await;
    }
    let reason = "unknown Host: use an IP address, localhost, or a name listed in status.allowed_hosts";
    text(StatusCode::MISDIRECTED_REQUEST, &[reason.to_owned()])
}

/// Returns whether a `Host` is localhost, an address, or one of `names`.
///
/// A port is ignored. Addresses are safe, because DNS rebinding requires a name.
fn is_allowed_host(host: &str, names: &[String]) -> bool {
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = without_port.to_ascii_lowercase();
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&name);
    name == "localhost" || names.contains(&name) || bare.parse::<IpAddr>().is_ok()
}

impl AppState {
    async fn sample_regularly(&self) {
        let mut ticks = interval(SAMPLE_INTERVAL);
        loop {
            ticks.tick().await;
            self.sample().await;
        }
    }

    async fn sample(&self) {
        if let Ok(sample) = self.cache.status().await {
            self.history.lock().unwrap_or_else(PoisonError::into_inner).record(&sample.status);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_host_is_rejected() {
        let names = ["status.example.org".to_owned()];
        for allowed in [
            "localhost",
            "LOCALHOST:4280",
            "127.0.0.1:4280",
            "[::1]:4280",
            "[::1]",
            "10.0.0.1",
            "status.example.org:80",
        ] {
            assert!(is_allowed_host(allowed, &names), "{allowed}");
        }
        for foreign in
            ["", "evil.example", "127.0.0.1.evil.example:4280", "localhost.evil.example", "a:b", "x.status.example.org"]
        {
            assert!(!is_allowed_host(foreign, &names), "{foreign}");
        }
    }
}
