//! The page: what was read, put into words and pictures.

use std::time::Duration;

use askama::Template;

use super::history::History;
use super::peer_query::{PeerPage, PeerQuery, week};
use super::status_cache::StatusSample;
use super::svg;
use crate::clock::{self, Time};
use crate::control::{ClearnetStatus, OnionStatus, PeerInfo, Status};
use crate::server::CallCount;
use crate::tor_state::TorState;

#[derive(Template)]
#[template(path = "page.html", config = "src/status_page/askama.toml")]
struct Page<'a> {
    status: &'a Status,
    uptime: String,
    problems: Vec<String>,
    tor: Tor,
    onion: Option<Onion<'a>>,
    clearnet: Option<Clearnet<'a>>,
    /// What we stand in front of, as the configuration has it.
    behind: Option<String>,
    calls: Vec<CallRow>,
    trend: Option<String>,
    rows: Vec<Row<'a>>,
    choice: PeerPage<'a>,
}

/// The state with a class for its colour, and what there is to say of it.
struct Tor {
    class: &'static str,
    state: &'static str,
    more: String,
}

struct Onion<'a> {
    status: &'a OnionStatus,
    reachability: String,
    qr: Option<String>,
}

/// The own clearnet name, and what its tests showed.
struct Clearnet<'a> {
    status: &'a ClearnetStatus,
    ports: String,
    reachability: String,
}

/// What was told callers who asked for one thing.
struct CallRow {
    method: &'static str,
    clearnet: u64,
    onion: u64,
    /// Of both: refused, passed on, and answered with an error.
    not_answered: [u64; 3],
}

struct Row<'a> {
    row: &'a PeerInfo,
    ports: String,
    latency: String,
    week: String,
    uptimes: String,
    sparkline: String,
    verified: String,
    error: String,
}

pub fn render(reading: &StatusSample, history: &History, query: &PeerQuery) -> Result<String, askama::Error> {
    let StatusSample { status, rows, .. } = reading;
    let now = clock::now();
    let choice = query.apply(rows);
    let page = Page {
        status,
        uptime: span(Duration::from_secs(status.uptime_secs)),
        problems: reading.problems(),
        tor: tor(&status.tor, now),
        onion: status.onion.as_ref().map(|onion| self::onion(onion, now)),
        clearnet: status.clearnet.as_ref().map(|name| clearnet(name, now)),
        behind: status.backend.as_ref().map(|backend| backend.electrum.clone().into()),
        calls: told(&status.clients.calls),
        trend: svg::trend(history),
        rows: choice.rows.iter().map(|row| self::row(row, now)).collect(),
        choice,
    };
    page.render()
}

fn tor(state: &TorState, now: Time) -> Tor {
    let (class, state, more) = match state {
        TorState::Off => ("off", "off", "No onion server is called.".to_owned()),
        TorState::Starting { percent: None, waiting_for } => ("wait", "starting", waiting_for.clone()),
        TorState::Starting { percent: Some(percent), waiting_for } => {
            ("wait", "starting", format!("{percent} %: {waiting_for}"))
        }
        TorState::Ready => ("good", "ready", String::new()),
        TorState::Down { since, reason } => ("wrong", "down", format!("For {}: {reason}", span(now.since(*since)))),
    };
    Tor { class, state, more }
}

fn onion(status: &OnionStatus, now: Time) -> Onion<'_> {
    let mut reachability = reached(status.last_reached, now);
    if let Some(reason) = &status.error {
        reachability.push_str(&format!("; missed {} times since: {reason}", status.failures));
    }
    // A server as the Electrum wallet has it: name, port, and t for plain TCP.
    Onion { status, reachability, qr: svg::qr(&format!("{}:{}:t", status.host, status.port)) }
}

fn clearnet(status: &ClearnetStatus, now: Time) -> Clearnet<'_> {
    let reachability = match (status.last_reached, status.via) {
        (Some(reached), Some(via)) => format!("reached {via} {} ago", span(now.since(reached))),
        _ if status.address.is_some() => "not tested".to_owned(),
        _ => "not reached yet and not advertised".to_owned(),
    };
    let at = status.address.as_ref().filter(|address| **address != status.host);
    let at = at.map(|address| format!(" at {address}")).unwrap_or_default();
    Clearnet { status, ports: format!("{}{at}", ports(status.ssl_port, status.tcp_port)), reachability }
}

fn reached(at: Option<Time>, now: Time) -> String {
    at.map_or("not reached yet, so not advertised".to_owned(), |at| format!("reached {} ago", span(now.since(at))))
}

fn told(calls: &[CallCount]) -> Vec<CallRow> {
    use crate::book::Ingress;
    use crate::electrum::responder::CallOutcome;
    use crate::jsonrpc::Method;

    let sum = |method: Method, caller: Option<Ingress>, result: CallOutcome| {
        let fits = |call: &&CallCount| {
            call.method == method && call.result == result && caller.is_none_or(|caller| caller == call.ingress)
        };
        calls.iter().filter(fits).map(|call| call.count).sum::<u64>()
    };
    let all = Method::ALL.into_iter().map(|method| CallRow {
        method: method.name(),
        clearnet: sum(method, Some(Ingress::Clearnet), CallOutcome::Ok),
        onion: sum(method, Some(Ingress::Onion), CallOutcome::Ok),
        not_answered: [CallOutcome::Refused, CallOutcome::Forwarded, CallOutcome::Error]
            .map(|result| sum(method, None, result)),
    });
    all.filter(|told| told.clearnet + told.onion + told.not_answered.iter().sum::<u64>() > 0).collect()
}

fn row(row: &PeerInfo, now: Time) -> Row<'_> {
    let per_cent = |share: f64| format!("{:.0} %", share * 100.0);
    let windows = ["2h", "1d", "1w", "1m"]
        .into_iter()
        .filter_map(|window| row.uptime.get(window).map(|share| format!("{window} {}", per_cent(*share))));
    Row {
        row,
        ports: ports(row.ssl_port, row.tcp_port),
        latency: row.latency_ms.map(|ms| format!("{ms} ms")).unwrap_or_default(),
        week: week(row).map(per_cent).unwrap_or_default(),
        uptimes: windows.collect::<Vec<_>>().join(", "),
        sparkline: svg::sparkline(&row.history),
        error: error(row, now),
        verified: row.last_success.map(|at| format!("{} ago", span(now.since(at)))).unwrap_or_default(),
    }
}

/// What went wrong last, and what the peer waits for.
fn error(row: &PeerInfo, now: Time) -> String {
    let next = span(row.next_try.since(now));
    let waiting = row.waiting_for.as_ref().map(|what| format!("waiting for {what}, next try in {next}"));
    row.error.iter().cloned().chain(waiting).collect::<Vec<_>>().join("; ")
}

fn ports(tls: Option<u16>, tcp: Option<u16>) -> String {
    let port = |letter: char, port: Option<u16>| port.map(|port| format!("{letter}{port}"));
    [port('s', tls), port('t', tcp)].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// The largest unit or two are precise enough.
fn span(time: Duration) -> String {
    match time.as_secs() {
        secs @ 0..60 => format!("{secs} s"),
        secs @ 60..3600 => format!("{} min", secs / 60),
        secs @ 3600..172_800 => format!("{} h", secs / 3600),
        secs => format!("{} days", secs / 86_400),
    }
}
