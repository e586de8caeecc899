//! Content of the HTML page, computed from a status sample.

use std::time::Duration;

use askama::Template;

use super::charts::{self, Chart};
use super::history::History;
use super::peer_query::PeerPage;
use super::status_cache::{PageSample, StatusSample};
use super::svg;
use super::time_text::span;
use crate::api::{BanListStatus, ChainStatus, ClearnetStatus, OnionStatus, PeerInfo, Status};
use crate::client_counters::CallCount;
use crate::clock::{self, Time};
use crate::tor_state::TorState;

/// Values of the template `page.html`.
#[derive(Template)]
#[template(path = "page.html", config = "src/status_page/askama.toml")]
struct Page<'a> {
    status: &'a Status,
    uptime: String,
    problems: Vec<String>,
    tor: Tor,
    onion: Option<Onion<'a>>,
    clearnet_names: Vec<Clearnet<'a>>,
    /// Backend as configured; `None` without a backend.
    backend: Option<&'a str>,
    /// Age and positions of the known chain; `None` if no block is known.
    chain: Option<String>,
    ban_lists: Vec<&'a BanListStatus>,
    calls: Vec<CallRow>,
    trend: Option<String>,
    /// Verified peers over thirty days, and peers that list the own names; each `None` without enough samples.
    month: [Option<Chart>; 2],
    rows: Vec<Row<'a>>,
    peers: PeerPage,
}

/// State of Tor, the CSS class of its colour, and a detail.
struct Tor {
    class: &'static str,
    state: &'static str,
    detail: String,
}

/// Onion service, with its reachability and QR code.
struct Onion<'a> {
    status: &'a OnionStatus,
    reachability: String,
    qr: Option<String>,
}

/// Clearnet name of this node, and its reachability.
struct Clearnet<'a> {
    status: &'a ClearnetStatus,
    ports: String,
    reachability: String,
}

/// Number of requests of one method, by result.
struct CallRow {
    method: &'static str,
    clearnet: u64,
    onion: u64,
    /// Requests of both ingresses: refused, forwarded, and answered with an error.
    not_answered: [u64; 3],
}

/// Row of the table of peers.
struct Row<'a> {
    peer: &'a PeerInfo,
    ports: String,
    latency: String,
    week: String,
    uptimes: String,
    sparkline: String,
    verified: String,
    error: String,
}

/// Renders the page with these peers, whose rows are in the same order.
pub(crate) fn render(
    sample: &PageSample,
    history: &History,
    peers: PeerPage,
    rows: &[PeerInfo],
) -> Result<String, askama::Error> {
    let PageSample { sample, trends, .. } = sample;
    let StatusSample { status, .. } = &**sample;
    let now = clock::now();
    let page = Page {
        status,
        uptime: span(Duration::from_secs(status.uptime_secs)),
        problems: sample.problems(),
        tor: tor(&status.tor, now),
        onion: status.onion.as_ref().map(|onion| self::onion(onion, now)),
        clearnet_names: status.clearnet_names().map(|status| clearnet(status, now)).collect(),
        backend: status.backend.as_ref().map(|backend| backend.electrum.as_str()),
        chain: status.chain.as_ref().and_then(|chain| self::chain(chain, now)),
        ban_lists: status.ban_lists.iter().filter(|list| list.is_notable()).collect(),
        calls: call_rows(&status.clients.calls),
        trend: svg::trend(history),
        month: [charts::verified(trends), charts::listings(trends)],
        rows: rows.iter().map(|row| self::row(row, now)).collect(),
        peers,
    };
    page.render()
}

fn tor(state: &TorState, now: Time) -> Tor {
    let (class, state, detail) = match state {
        TorState::Off => ("off", "off", "Onion peers are not dialled.".to_owned()),
        TorState::Starting { percent: None, waiting_for } => ("wait", "starting", waiting_for.clone()),
        TorState::Starting { percent: Some(percent), waiting_for } => {
            ("wait", "starting", format!("{percent} %: {waiting_for}"))
        }
        TorState::Ready => ("good", "ready", String::new()),
        TorState::Down { since, reason } => ("wrong", "down", format!("For {}: {reason}", span(now.since(*since)))),
    };
    Tor { class, state, detail }
}

fn onion(status: &OnionStatus, now: Time) -> Onion<'_> {
    let mut reachability = reached(status.last_reached, now);
    if let Some(reason) = &status.error {
        reachability.push_str(&format!("; {} failed probes since: {reason}", status.failures));
    }
    // Format of the Electrum wallet: host, port, and `t` for plain TCP.
    Onion { status, reachability, qr: svg::qr(&format!("{}:{}:t", status.host, status.port)) }
}

fn clearnet(status: &ClearnetStatus, now: Time) -> Clearnet<'_> {
    let reachability = match (status.last_reached, status.via) {
        (Some(reached), Some(via)) => format!("reached {via} {} ago", span(now.since(reached))),
        _ if status.address.is_some() => "not tested".to_owned(),
        _ => "not reached yet, not advertised".to_owned(),
    };
    let at = status.address.as_ref().filter(|address| **address != status.host);
    let at = at.map(|address| format!(" at {address}")).unwrap_or_default();
    Clearnet { status, ports: format!("{}{at}", status.ports), reachability }
}

fn chain(status: &ChainStatus, now: Time) -> Option<String> {
    let ChainStatus { height, log2_work, level, ahead, behind, less_work, .. } = status;
    let age = span(now.since(status.tip_time?));
    Some(format!(
        "Block {height}, {age} old, 2^{log2_work:.1} hashes since the pinned block. \
         Peers at the tip: {level}. Ahead: {ahead}. Behind: {behind}. With less work: {less_work}."
    ))
}

fn reached(at: Option<Time>, now: Time) -> String {
    at.map_or("not reached yet, not advertised".to_owned(), |at| format!("reached {} ago", span(now.since(at))))
}

fn call_rows(calls: &[CallCount]) -> Vec<CallRow> {
    use crate::book::Ingress;
    use crate::electrum::responder::CallOutcome;
    use crate::jsonrpc::Method;

    let sum = |method: Method, ingress: Option<Ingress>, result: CallOutcome| {
        let matches = |call: &&CallCount| {
            call.method == method && call.result == result && ingress.is_none_or(|ingress| ingress == call.ingress)
        };
        calls.iter().filter(matches).map(|call| call.count).sum::<u64>()
    };
    let all = Method::ALL.into_iter().map(|method| CallRow {
        method: method.name(),
        clearnet: sum(method, Some(Ingress::Clearnet), CallOutcome::Ok),
        onion: sum(method, Some(Ingress::Onion), CallOutcome::Ok),
        not_answered: [CallOutcome::Refused, CallOutcome::Forwarded, CallOutcome::Error]
            .map(|result| sum(method, None, result)),
    });
    all.filter(|row| row.clearnet + row.onion + row.not_answered.iter().sum::<u64>() > 0).collect()
}

fn row(row: &PeerInfo, now: Time) -> Row<'_> {
    let percent_text = |share: f64| format!("{:.0} %", share * 100.0);
    let uptimes: Vec<String> =
        row.uptimes().map(|(window, share)| format!("{window} {}", percent_text(share))).collect();
    Row {
        peer: row,
        ports: row.ports.to_string(),
        latency: row.latency_ms.map(|ms| format!("{ms} ms")).unwrap_or_default(),
        week: row.weekly_uptime().map(percent_text).unwrap_or_default(),
        uptimes: uptimes.join(", "),
        sparkline: svg::sparkline(&row.history),
        error: error(row, now),
        verified: row.last_success.map(|at| format!("{} ago", span(now.since(at)))).unwrap_or_default(),
    }
}

/// Joins the last error and what the next probe waits for.
fn error(row: &PeerInfo, now: Time) -> String {
    let next = span(row.next_try.since(now));
    let waiting = row.waiting_for.as_ref().map(|what| format!("waiting for {what}, next probe in {next}"));
    row.error.iter().cloned().chain(waiting).collect::<Vec<_>>().join("; ")
}
