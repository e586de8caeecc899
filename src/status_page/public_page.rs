//! Public page: the verified peers, and nothing about the operator.
//!
//! Its content is a part of the list that clients receive from the same snapshot, without own names. Other data
//! would tell more than that: software, latency and sources of peers depend on where and how this node looks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use super::http_server::{self, HttpLimits};
use super::response_headers::{Caching, security_headers};
use crate::api::PortNumbers;
use crate::book::{Ingress, Snapshot};
use crate::chain::{Chain, ChainName};
use crate::clock;
use crate::peer::{PeerList, PeerListEntry};

/// Maximum number of concurrent connections of a public listener.
pub const MAX_PUBLIC_CONNECTIONS: usize = 128;

/// Limits of a public listener, which hostile clients can reach.
///
/// The time of this machine is left out: a precise clock would link the names of a node.
const LIMITS: HttpLimits = HttpLimits {
    max_connections: MAX_PUBLIC_CONNECTIONS,
    max_buffer_bytes: 16 * 1024,
    header_timeout: Duration::from_secs(10),
    connection_timeout: Duration::from_secs(60),
    sends_date: false,
};

/// Minimum interval between two renderings, however many clients ask.
const RENDER_INTERVAL: Duration = Duration::from_secs(10);

/// Content of a public page.
#[derive(Debug)]
pub struct PublicPage {
    /// Ingress whose list is shown.
    pub ingress: Ingress,
    /// Chain of the peers.
    pub chain: Chain,
    /// Lists for clients.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
}

/// State shared by all requests.
#[derive(Debug)]
struct PublicState {
    page: PublicPage,
    /// Last rendering with its time; `None` before the first request.
    rendered: Mutex<Option<(Instant, Rendered)>>,
}

/// Page and list, each as sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Rendered {
    html: Bytes,
    json: Bytes,
}

/// Content of `/peers.json`.
#[derive(Debug, Serialize)]
struct PublicList {
    network: ChainName,
    peers: Vec<PublicPeer>,
}

/// One verified peer.
#[derive(Debug, Serialize)]
struct PublicPeer {
    host: String,
    ip: Option<String>,
    #[serde(flatten)]
    ports: PortNumbers,
    protocol: Option<String>,
    pruning: Option<u32>,
}

/// Values of the template `public.html`.
#[derive(Template)]
#[template(path = "public.html", config = "src/status_page/askama.toml")]
struct PublicTemplate<'a> {
    list: &'a PublicList,
}

/// Serves a public page until the future is dropped.
pub async fn serve_public(listener: TcpListener, page: PublicPage) {
    http_server::serve(listener, "public status page", LIMITS, router(page)).await;
}

fn router(page: PublicPage) -> Router {
    let state = Arc::new(PublicState { page, rendered: Mutex::default() });
    // Behind a reverse proxy the page has any name, and it has nothing to protect from DNS rebinding.
    Router::new()
        .route("/", get(show_page))
        .route("/peers.json", get(show_list))
        .route("/style.css", get(super::style))
        .route("/icon.svg", get(super::icon))
        .layer(from_fn_with_state(Caching::Public, security_headers))
        .with_state(state)
}

async fn show_page(State(state): State<Arc<PublicState>>) -> Response {
    respond("text/html; charset=utf-8", state.rendered().map(|rendered| rendered.html))
}

async fn show_list(State(state): State<Arc<PublicState>>) -> Response {
    respond("application/json", state.rendered().map(|rendered| rendered.json))
}

fn respond(content_type: &'static str, body: Option<Bytes>) -> Response {
    match body {
        Some(body) => ([(header::CONTENT_TYPE, content_type)], body).into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

impl PublicState {
    /// Returns the rendering of the last seconds, or a new one; `None` if it fails.
    fn rendered(&self) -> Option<Rendered> {
        let mut last = self.rendered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, rendered)) = last.as_ref()
            && at.elapsed() < RENDER_INTERVAL
        {
            return Some(rendered.clone());
        }
        let PublicPage { ingress, chain, snapshot } = &self.page;
        let snapshot = Arc::clone(&snapshot.borrow());
        let rendered = render(chain, &snapshot.verified_peers(*ingress, clock::now()))?;
        *last = Some((Instant::now(), rendered.clone()));
        Some(rendered)
    }
}

/// Renders a list of `server.peers.subscribe`; `None` if it is no list.
fn render(chain: &Chain, list: &[u8]) -> Option<Rendered> {
    let list = PeerList::parse(std::str::from_utf8(list).ok()?, chain.default_ports).ok()?;
    let mut entries = list.0;
    // The order of the snapshot tells which peers are long-standing.
    entries.sort_by_cached_key(|entry| (entry.name.host.is_onion(), entry.name.host.to_string()));
    let list = PublicList { network: chain.name.clone(), peers: entries.into_iter().map(PublicPeer::from).collect() };
    let html = PublicTemplate { list: &list }.render().ok()?;
    let json = serde_json::to_vec(&list).ok()?;
    Some(Rendered { html: html.into(), json: json.into() })
}

impl From<PeerListEntry> for PublicPeer {
    fn from(PeerListEntry { ip, name }: PeerListEntry) -> PublicPeer {
        PublicPeer {
            host: name.host.to_string(),
            ip: ip.map(|ip| ip.to_string()),
            ports: name.ports.into(),
            protocol: name.version.map(|version| version.to_string()),
            pruning: name.pruning,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONION: &str = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";

    #[test]
    fn rendered_list_is_sorted_and_has_all_ports() {
        let list = format!(
            r#"[["{ONION}","{ONION}",["v1.4","t50001"]],["5.9.0.2","b.example",["v1.4.2","s50002","wss50004"]],
                ["5.9.0.1","a.example",["v1.4","p1000","s50002","t50001"]]]"#
        );
        let Rendered { html, json } = render(&Chain::BITCOIN, list.as_bytes()).unwrap();
        let html = String::from_utf8(html.to_vec()).unwrap();
        insta::assert_snapshot!("page", html);
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let peer = |host: &str, ip: Option<&str>, ports: [Option<u16>; 4], protocol: &str, pruning: Option<u32>| {
            let [tcp_port, ssl_port, ws_port, wss_port] = ports;
            serde_json::json!({
                "host": host, "ip": ip, "tcp_port": tcp_port, "ssl_port": ssl_port, "ws_port": ws_port,
                "wss_port": wss_port, "protocol": protocol, "pruning": pruning,
            })
        };
        let peers = [
            peer("a.example", Some("5.9.0.1"), [Some(50001), Some(50002), None, None], "1.4", Some(1000)),
            peer("b.example", Some("5.9.0.2"), [None, Some(50002), None, Some(50004)], "1.4.2", None),
            peer(ONION, None, [Some(50001), None, None, None], "1.4", None),
        ];
        assert_eq!(json, serde_json::json!({ "network": "bitcoin", "peers": peers }));
    }

    #[test]
    fn empty_list_is_rendered() {
        let Rendered { html, json } = render(&Chain::SIGNET, b"[]").unwrap();
        assert!(String::from_utf8(html.to_vec()).unwrap().contains("No server"));
        assert_eq!(json, &br#"{"network":"signet","peers":[]}"#[..]);
        assert_eq!(render(&Chain::SIGNET, b"{}"), None);
    }
}
