//! Page of one peer.

use askama::Template;

use super::charts;
use super::time_text::{ago, date, span};
use crate::api::{DayVisits, PeerDetails, PeerInfo, ReachedEndpoint, Visit};
use crate::book::Side;
use crate::clock::Time;
use crate::peer::Transport;

/// Values of the template `peer.html`.
#[derive(Template)]
#[template(path = "peer.html", config = "src/status_page/askama.toml")]
struct PeerPage<'a> {
    host: &'a str,
    sides: Vec<SideView<'a>>,
}

/// Peer as one side of the node knows it.
struct SideView<'a> {
    peer: &'a PeerInfo,
    /// Heading; `None` if the node has one book.
    heading: Option<&'static str>,
    /// Names and values, in cards with a title each.
    cards: Vec<(&'static str, Vec<(&'static str, String)>)>,
    sparkline: String,
    days: Option<Days>,
    visits: Vec<VisitRow>,
}

/// Plots and table of the days.
struct Days {
    visits: String,
    /// Plot of the latency, and its description.
    latency: Option<(String, String)>,
    /// Date, successful visits, failed visits and mean latency, newest first.
    rows: Vec<(String, u8, u8, String)>,
}

/// Row of the last visits.
struct VisitRow {
    at: String,
    result: String,
    has_failed: bool,
}

/// Renders the page of a peer as each side knows it. There is at least one.
pub(crate) fn render(sides: &[PeerDetails], now: Time) -> Result<String, askama::Error> {
    let host = sides.first().map(|side| side.info.host.as_str()).unwrap_or_default();
    let page = PeerPage { host, sides: sides.iter().map(|side| view(side, now)).collect() };
    page.render()
}

fn view(details: &PeerDetails, now: Time) -> SideView<'_> {
    let PeerDetails { info, days, visits, .. } = details;
    let heading = match info.side {
        Side::Both => None,
        Side::Clearnet => Some("As the clearnet side knows it"),
        Side::Onion => Some("As the onion side knows it"),
    };
    SideView {
        peer: info,
        heading,
        cards: vec![
            ("Visits", schedule(info, now)),
            ("Endpoints", endpoints(details, now)),
            ("Identity", identity(info, now)),
            ("Source and lists", lists(info, now)),
        ],
        sparkline: super::svg::sparkline(&info.history),
        days: (!days.is_empty()).then(|| self::days(days)),
        visits: visits.iter().rev().map(|visit| visit_row(visit, now)).collect(),
    }
}

fn schedule(peer: &PeerInfo, now: Time) -> Vec<(&'static str, String)> {
    let next = if peer.next_try > now { format!("in {}", span(peer.next_try.since(now))) } else { "due".to_owned() };
    let waiting = peer.waiting_for.as_ref().map(|what| format!(", waiting for {what}")).unwrap_or_default();
    let mut rows = vec![
        ("Last success", ago_or_never(peer.last_success, now)),
        ("Last visit", ago_or_never(peer.last_try, now)),
        ("Next visit", format!("{next}{waiting}")),
    ];
    if peer.failures > 0 {
        rows.push(("Failures since", peer.failures.to_string()));
    }
    rows.extend(peer.error.iter().map(|error| ("Error", error.clone())));
    rows.extend(peer.latency_ms.map(|ms| ("Median latency", format!("{ms} ms"))));
    let uptimes: Vec<String> =
        peer.uptimes().map(|(window, share)| format!("{window} {:.0} %", share * 100.0)).collect();
    if !uptimes.is_empty() {
        rows.push(("Uptime", uptimes.join(", ")));
    }
    rows
}

fn endpoints(details: &PeerDetails, now: Time) -> Vec<(&'static str, String)> {
    let mut rows: Vec<(&'static str, String)> =
        details.endpoints.iter().map(|endpoint| reached(endpoint, now)).collect();
    if rows.is_empty() {
        rows.push(("Verified", "none yet".to_owned()));
    }
    rows.push(("Claimed ports", details.claimed_ports.to_string()));
    rows.extend(details.info.ip.iter().map(|ip| ("Address", ip.clone())));
    rows
}

fn reached(endpoint: &ReachedEndpoint, now: Time) -> (&'static str, String) {
    let transport = match (endpoint.is_web_socket, endpoint.transport) {
        (false, Transport::Tls) => "TLS",
        (false, Transport::Tcp) => "TCP",
        (true, Transport::Tls) => "WebSocket over TLS",
        (true, Transport::Tcp) => "WebSocket",
    };
    (transport, format!("port {}, verified {}", endpoint.port, ago(endpoint.at, now)))
}

fn identity(peer: &PeerInfo, now: Time) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    rows.extend(peer.software.iter().map(|software| ("Software", software.clone())));
    rows.extend(peer.protocol.iter().map(|protocol| ("Protocol", protocol.clone())));
    rows.extend(peer.pruning.map(|limit| ("Pruning", limit.to_string())));
    rows.extend(peer.tip.map(|tip| ("Tip", tip.to_string())));
    if let (Some(key), Some(since)) = (&peer.key, peer.key_since) {
        rows.push(("TLS key", key.clone()));
        rows.push(("Key known since", format!("{}; number of changes: {}", ago(since, now), peer.key_changes)));
    }
    let features = if peer.self_reported { "reported by the peer" } else { "not reported" };
    rows.push(("Features", features.to_owned()));
    rows
}

fn lists(peer: &PeerInfo, now: Time) -> Vec<(&'static str, String)> {
    let mut rows = vec![("Source", peer.source.clone()), ("First seen", ago(peer.first_seen, now))];
    rows.extend(
        peer.lists.iter().map(|own| ("Lists", format!("{} {}, since {}", own.host, own.ports, date(own.since)))),
    );
    if peer.lists.is_empty() && peer.last_success.is_some() {
        rows.push(("Lists", "not this node".to_owned()));
    }
    let answer = match peer.announcement_accepted {
        Some(true) => "accepted",
        Some(false) => "rejected",
        None => "never sent",
    };
    rows.push(("Announcement", answer.to_owned()));
    rows
}

fn days(days: &[DayVisits]) -> Days {
    let rows = days.iter().rev().map(|day| {
        let latency = day.mean_ms.map(|ms| format!("{ms} ms")).unwrap_or_default();
        (date(day.start), day.successes, day.failures, latency)
    });
    Days { visits: charts::visits(days), latency: charts::latency(days), rows: rows.collect() }
}

fn visit_row(visit: &Visit, now: Time) -> VisitRow {
    VisitRow {
        at: ago(visit.at, now),
        result: visit.error.clone().unwrap_or_else(|| format!("verified in {} ms", visit.duration_ms)),
        has_failed: visit.error.is_some(),
    }
}

fn ago_or_never(at: Option<Time>, now: Time) -> String {
    at.map_or("never".to_owned(), |at| ago(at, now))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::api::PortNumbers;

    const NOW: Time = Time::from_secs(1_700_000_000);

    fn details(software: &str) -> PeerDetails {
        let hour = |hours| NOW - Duration::from_hours(hours);
        let info = serde_json::json!({
            "host": "a.example", "side": "both", "state": "verified", "ip": "5.9.0.1", "tcp_port": null, "ssl_port": 50002,
            "ws_port": null, "wss_port": 50004, "protocol": "1.4.2", "software": software, "key": "07".repeat(32),
            "key_since": hour(900), "key_changes": 1, "tip": 800_000,
            "lists": [{ "host": "wp.example.org", "tcp_port": 50001, "ssl_port": null, "ws_port": null, "wss_port": null, "since": hour(500) }],
            "announcement_accepted": true, "source": "a peer: <i>b.example</i>", "self_reported": true,
            "first_seen": hour(1000), "last_try": hour(2), "last_success": hour(2), "next_try": NOW + Duration::from_hours(14),
            "waiting_for": "Tor", "failures": 0, "error": null, "latency_ms": 87, "uptime": { "1w": 0.987 }, "history": [true, false],
        });
        PeerDetails {
            info: serde_json::from_value(info).unwrap(),
            claimed_ports: PortNumbers { ssl_port: Some(50002), tcp_port: Some(50001), ..PortNumbers::default() },
            endpoints: vec![ReachedEndpoint {
                transport: Transport::Tls,
                port: "50002".parse().unwrap(),
                is_web_socket: false,
                at: hour(2),
            }],
            days: vec![
                DayVisits { start: hour(48), successes: 1, failures: 2, mean_ms: Some(90) },
                DayVisits { start: hour(24), successes: 2, failures: 0, mean_ms: Some(80) },
            ],
            visits: vec![
                Visit { at: hour(30), error: Some("timed out <b>".to_owned()), duration_ms: 0 },
                Visit { at: hour(2), error: None, duration_ms: 87 },
            ],
        }
    }

    #[test]
    fn page_shows_everything_about_a_peer() {
        insta::assert_snapshot!(render(&[details("ElectrumX 1.16.0")], NOW).unwrap());
    }

    #[test]
    fn html_in_texts_of_a_peer_is_escaped() {
        let page = render(&[details("<script>alert(1)</script>\"'")], NOW).unwrap();
        for tag in ["<script", "<i>", "<b>", "alert(1)</"] {
            assert!(!page.contains(tag), "{tag}: {page}");
        }
        assert!(page.contains("alert(1)") && page.contains("timed out"));
    }

    #[test]
    fn candidate_without_visits_has_no_plots() {
        let mut candidate = details("x");
        candidate.info.last_success = None;
        candidate.info.lists.clear();
        candidate.info.side = Side::Onion;
        (candidate.endpoints, candidate.days, candidate.visits) = Default::default();
        let page = render(&[candidate], NOW).unwrap();
        assert!(page.contains("As the onion side knows it") && page.contains("none yet") && page.contains("never"));
        assert!(!page.contains("class=\"days\"") && !page.contains("not this node"));
    }
}
