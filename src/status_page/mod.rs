//! A page on which an operator sees how we do, with numbers for Prometheus and a word for orchestrators.
//!
//! It asks the book's task as `waypost status` does, and shows what that is told, nothing more.

mod history;
mod metrics;
mod page;
mod peer_query;
mod status_cache;
mod svg;

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use self::history::History;
use self::peer_query::PeerQuery;
use self::status_cache::StatusCache;
use crate::book_handle::Inbox;
use crate::server::AcceptLoop;

pub use self::metrics::ProbeMetrics;

/// Connections of browsers, scrapers and probes at once. Further ones are rejected.
const CONNECTIONS: usize = 64;

/// A request's head must have come within this, and a connection is over after that.
const HEAD: Duration = Duration::from_secs(10);
const CONNECTION: Duration = Duration::from_secs(120);

/// Path of the health check.
const HEALTH: &str = "/healthz";

/// Between two samples for the plot.
const SAMPLE: Duration = Duration::from_mins(5);

/// How the page is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Names by which browsers may ask for it, in lower case.
    pub hosts: Vec<String>,
    /// Whether there are metrics of each peer.
    pub peer_metrics: bool,
}

/// What is shown, and how.
#[derive(Debug)]
struct AppState {
    settings: Settings,
    reader: StatusCache,
    probes: ProbeMetrics,
    history: Mutex<History>,
}

/// Serves the page until it is dropped.
pub async fn serve(listener: TcpListener, settings: Settings, probes: ProbeMetrics, inbox: Inbox) {
    let board = Arc::new(AppState { settings, reader: StatusCache::new(inbox), probes, history: Mutex::default() });
    let router = router(Arc::clone(&board));
    let mut listener = AcceptLoop::new(listener, "status page");
    let mut connections = JoinSet::new();
    let mut samples = interval(SAMPLE);
    loop {
        while connections.try_join_next().is_some() {}
        tokio::select! {
            _ = samples.tick() => {
                let board = Arc::clone(&board);
                connections.spawn(async move { board.sample().await });
            }
            (stream, _) = listener.next() => {
                if connections.len() < CONNECTIONS {
                    connections.spawn(serve_connection(stream, router.clone()));
                }
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, router: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A client that breaks off is no error.
    let _ = timeout(CONNECTION, connection).await;
}

fn router(board: Arc<AppState>) -> Router {
    Router::new()
        .route("/", get(show_page))
        .route("/style.css", get(style))
        .route("/icon.svg", get(icon))
        .route("/metrics", get(show_metrics))
        .route(HEALTH, get(show_health).options(show_health))
        .layer(from_fn_with_state(Arc::clone(&board), check_host))
        .layer(from_fn(security_headers))
        .with_state(board)
}

async fn show_page(State(board): State<Arc<AppState>>, Query(wish): Query<HashMap<String, String>>) -> Response {
    let reading = match board.reader.all().await {
        Ok(reading) => reading,
        Err(reason) => return unavailable(reason),
    };
    let history = board.history.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match page::render(&reading, &history, &PeerQuery::read(&wish)) {
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

async fn show_metrics(State(board): State<Arc<AppState>>) -> Response {
    let reading = if board.settings.peer_metrics { board.reader.all().await } else { board.reader.status().await };
    match reading.map(|reading| metrics::text(&reading, &board.probes)) {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Ok(Err(error)) => unavailable(error),
        Err(reason) => unavailable(reason),
    }
}

/// Returns 200 while clients are served, with a line for whatever else is wrong.
///
/// A restart, which an orchestrator answers to 503, helps only where no client is served. Without any listener the onion
/// service is the only way in.
async fn show_health(State(board): State<Arc<AppState>>) -> Response {
    let reading = match board.reader.status().await {
        Ok(reading) => reading,
        Err(reason) => return unavailable(reason),
    };
    if let Some(error) = reading.status.onion_error.as_ref().filter(|_| reading.status.listeners.is_empty()) {
        return unavailable(format!("the onion service, the only way in, does not run: {error}"));
    }
    let backend = reading.status.backend.as_ref();
    match backend.and_then(|backend| backend.error.as_ref()) {
        Some(problem) => unavailable(format!("the backend server failed: {problem}")),
        None => text(StatusCode::OK, &["ok".to_owned()].into_iter().chain(reading.problems()).collect::<Vec<_>>()),
    }
}

fn unavailable(reason: impl Display) -> Response {
    text(StatusCode::SERVICE_UNAVAILABLE, &[reason.to_string()])
}

fn text(status: StatusCode, lines: &[String]) -> Response {
    let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

/// Rejects requests by foreign names, which DNS rebinding would send.
///
/// Browsers always send `Host`. HAProxy's check doesn't by default, so the health check alone works without it.
async fn check_host(State(board): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    let is_allowed = match request.headers().get(header::HOST) {
        None => request.uri().path() == HEALTH,
        Some(host) => host.to_str().is_ok_and(|host| is_allowed_host(host, &board.settings.hosts)),
    };
    if is_allowed {
        return next.run(request).await;
    }
    let reason = "ask for this page by an address, as localhost, or by a name that status.allowed_hosts allows";
    text(StatusCode::MISDIRECTED_REQUEST, &[reason.to_owned()])
}

/// Whether a request only reads. HAProxy's check uses OPTIONS unless it is given another method.
fn only_reads(request: &Request) -> bool {
    match *request.method() {
        Method::GET | Method::HEAD => true,
        Method::OPTIONS => request.uri().path() == HEALTH,
        _ => false,
    }
}

/// Nothing from elsewhere, no scripts, in nobody's frame, in no cache; and nothing but questions.
async fn security_headers(request: Request, next: Next) -> Result<Response, Infallible> {
    const HEADERS: [(HeaderName, &str); 5] = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    let mut response =
        if only_reads(&request) { next.run(request).await } else { StatusCode::METHOD_NOT_ALLOWED.into_response() };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// An address, with or without a port, is no name that somebody else could have chosen.
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
    async fn sample(&self) {
        if let Ok(reading) = self.reader.status().await {
            self.history.lock().unwrap_or_else(PoisonError::into_inner).take(&reading.status);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_name_is_not_ours() {
        let names = ["status.example.org".to_owned()];
        for ours in [
            "localhost",
            "LOCALHOST:4280",
            "127.0.0.1:4280",
            "[::1]:4280",
            "[::1]",
            "10.0.0.1",
            "status.example.org:80",
        ] {
            assert!(is_allowed_host(ours, &names), "{ours}");
        }
        for foreign in
            ["", "evil.example", "127.0.0.1.evil.example:4280", "localhost.evil.example", "a:b", "x.status.example.org"]
        {
            assert!(!is_allowed_host(foreign, &names), "{foreign}");
        }
    }
}
