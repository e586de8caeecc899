//! What the client commands show.

use std::time::Duration;

use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};

use crate::book::PeerState;
use crate::clock::{self, Time};
use crate::control::{BackendStatus, ClearnetStatus, OnionStatus, PeerRow, Status};
use crate::irc::Visits;

#[derive(Debug, Args)]
pub struct PeersArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Only onion services.
    #[arg(long, conflicts_with = "clearnet")]
    onion: bool,
    /// Only clearnet servers.
    #[arg(long)]
    clearnet: bool,
    /// Only peers in this state.
    #[arg(long, value_enum)]
    state: Option<StateArg>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StateArg {
    Verified,
    Stale,
    Candidate,
    Bad,
}

impl StateArg {
    fn state(self) -> PeerState {
        match self {
            StateArg::Verified => PeerState::Verified,
            StateArg::Stale => PeerState::Stale,
            StateArg::Candidate => PeerState::Candidate,
            StateArg::Bad => PeerState::Bad,
        }
    }
}

/// The peers that were asked for: verified ones first, those seen alive last before the others.
pub fn peers(mut rows: Vec<PeerRow>, args: &PeersArgs) -> anyhow::Result<String> {
    rows.retain(|row| {
        let onion = row.host.ends_with(".onion");
        (!args.onion || onion)
            && (!args.clearnet || !onion)
            && args.state.is_none_or(|state| state.state() == row.state)
    });
    rows.sort_by(|a, b| (a.state, b.last_success, &a.host).cmp(&(b.state, a.last_success, &b.host)));
    if args.json {
        return Ok(serde_json::to_string_pretty(&rows)?);
    }
    if rows.is_empty() {
        return Ok("no such peers".to_owned());
    }
    let now = clock::now();
    let mut table =
        table(&["HOST", "STATE", "PORTS", "PROTOCOL", "SOFTWARE", "LATENCY", "UPTIME", "VERIFIED", "FROM", "TROUBLE"]);
    for row in &rows {
        table.add_row(cells(row, now));
    }
    Ok(table.to_string())
}

/// A daemon's state in a few lines.
pub fn status(status: &Status) -> String {
    let Status { peers, callers, .. } = status;
    let mut table = table(&[]);
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime_secs)).to_string();
    let mut line = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    line("waypost", format!("{} on {}, up {uptime}", status.version, status.network));
    line("tor", status.tor.to_string());
    if status.network_down {
        line("network", "seems to be down: nobody answers directly".to_owned());
    }
    if let Some(onion) = &status.onion {
        line("onion", self::onion(onion));
    }
    if let Some(name) = &status.clearnet {
        line("clearnet", clearnet(name));
    }
    line("listening", status.listeners.join(", "));
    if let Some(page) = &status.page {
        line("page", page.clone());
    }
    if let Some(backend) = &status.backend {
        line("backend", self::backend(backend));
    }
    if let Some(visits) = &status.irc {
        line("irc", irc(visits));
    }
    line(
        "peers",
        format!(
            "{} verified ({} of them onion), {} stale, {} candidates, {} bad",
            peers.verified, peers.verified_onion, peers.stale, peers.candidate, peers.bad
        ),
    );
    line("probing", format!("{} now, next {}", peers.probing, until(status.next_probe)));
    line(
        "callers",
        format!("{} sessions, {} since the start, {} calls", callers.open_sessions, callers.sessions, callers.requests),
    );
    let turned_away = callers.refused_full + callers.refused_source + callers.refused_banned;
    let sent_off = callers.evicted
        + callers.excessive_requests
        + callers.excessive_bytes
        + callers.slow
        + callers.unreadable_lines
        + callers.failed_handshakes;
    if turned_away + sent_off > 0 {
        line("limits", format!("{turned_away} turned away, {sent_off} sent off; --json says why"));
    }
    line(
        "store",
        match (status.store.failing, status.store.waiting) {
            (true, waiting) => {
                format!("can't be written; is the disk full? {waiting} records wait until there is room")
            }
            (false, 0) => "all is on disk".to_owned(),
            (false, waiting) => format!("{waiting} records on their way to disk"),
        },
    );
    table.to_string()
}

fn clearnet(name: &ClearnetStatus) -> String {
    let fares = match name.reached {
        Some(reached) => format!("reached {}", ago(clock::now().since(reached))),
        None => "not reached yet, so nobody is told of it".to_owned(),
    };
    format!("{} {}, {fares}", name.host, ports(name.ssl_port, name.tcp_port))
}

fn backend(backend: &BackendStatus) -> String {
    let mut text = String::from(backend.electrum.clone());
    if let Some(software) = &backend.software {
        text.push_str(&format!(", {software}"));
    }
    if let Some(tip) = backend.tip {
        text.push_str(&format!(", at block {tip}"));
    }
    for (host, sessions) in &backend.sessions {
        text.push_str(&format!(", {sessions} at {host}"));
    }
    if let Some(trouble) = &backend.trouble {
        text.push_str(&format!("; of no use now: {trouble}"));
    }
    text
}

fn irc(visits: &Visits) -> String {
    let last =
        visits.last.map_or("not visited yet".to_owned(), |at| format!("visited {}", ago(clock::now().since(at))));
    let dropped = visits.cut_off + visits.control_codes + visits.unreadable;
    let mut text = format!("{}, {last}, {} servers met, {dropped} names of none", visits.server, visits.found);
    if let Some(next) = visits.next {
        text.push_str(&format!("; next {}", until(next)));
    }
    if let Some(trouble) = &visits.trouble {
        text.push_str(&format!("; came to nothing: {trouble}"));
    }
    text
}

fn onion(onion: &OnionStatus) -> String {
    let fares = match (onion.reached, &onion.trouble) {
        (Some(reached), None) => format!("reached {}", ago(clock::now().since(reached))),
        (Some(reached), Some(why)) => {
            format!("reached {}, missed {} times since: {why}", ago(clock::now().since(reached)), onion.missed)
        }
        (None, Some(why)) => format!("not reached yet, so nobody is told of it: {why}"),
        (None, None) => "not reached yet, so nobody is told of it".to_owned(),
    };
    format!("{}:{}, {fares}", onion.host, onion.port)
}

fn cells(row: &PeerRow, now: Time) -> [String; 10] {
    [
        row.host.clone(),
        row.state.to_string(),
        ports(row.ssl_port, row.tcp_port),
        row.protocol.clone().unwrap_or_default(),
        row.software.clone().unwrap_or_default(),
        row.latency_ms.map(|ms| format!("{ms} ms")).unwrap_or_default(),
        row.uptime.get("1w").map(|share| format!("{:.0} %", share * 100.0)).unwrap_or_default(),
        row.last_success.map(|at| ago(now.since(at))).unwrap_or_default(),
        row.source.clone(),
        row.trouble.clone().unwrap_or_default(),
    ]
}

/// Columns without lines between them, as narrow as the terminal asks for.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if !header.is_empty() {
        table.set_header(header.iter().copied());
    }
    table
}

/// The largest unit is precise enough: `3m`, `17h`, `4d`.
/// As in a real name.
pub fn ports(tls: Option<u16>, tcp: Option<u16>) -> String {
    let port = |letter: char, port: Option<u16>| port.map(|port| format!("{letter}{port}"));
    let ports: Vec<String> = [port('s', tls), port('t', tcp)].into_iter().flatten().collect();
    ports.join(" ")
}

fn ago(time: Duration) -> String {
    match time.as_secs() {
        secs @ 0..60 => format!("{secs}s ago"),
        secs @ 60..3600 => format!("{}m ago", secs / 60),
        secs @ 3600..172_800 => format!("{}h ago", secs / 3600),
        secs => format!("{}d ago", secs / 86_400),
    }
}

fn until(time: Time) -> String {
    match time.since(clock::now()).as_secs() {
        0 => "at once".to_owned(),
        secs => format!("in {}", humantime::format_duration(Duration::from_secs(secs))),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::backend::Front;
    use crate::book::Counts;
    use crate::control::{CallerStatus, ClearnetStatus, OnionStatus, StoreStatus};
    use crate::network::Network;
    use crate::route::TorState;

    pub fn row(host: &str, state: PeerState, last_success: Option<Time>) -> PeerRow {
        PeerRow {
            host: host.to_owned(),
            state,
            ip: None,
            tcp_port: Some(50001),
            ssl_port: Some(50002),
            protocol: Some("1.4.2".to_owned()),
            pruning: None,
            software: Some("ElectrumX 1.16.0".to_owned()),
            genesis_hash: None,
            key: None,
            key_since: None,
            key_changes: 0,
            tip: None,
            source: "seed".to_owned(),
            first_hand: true,
            first_seen: Time::default(),
            last_try: None,
            last_success,
            next_try: Time::default(),
            failures: 0,
            trouble: (state == PeerState::Bad).then(|| "it serves another chain".to_owned()),
            latency_ms: Some(87),
            uptime: [("1w".to_owned(), 0.987)].into(),
            history: vec![true],
        }
    }

    #[test]
    fn peers_are_sorted_and_chosen() {
        let now = clock::now();
        let rows = vec![
            row("bad.example", PeerState::Bad, None),
            row("old.example", PeerState::Verified, Some(now - Duration::from_hours(5))),
            row("new.example", PeerState::Verified, Some(now - Duration::from_mins(5))),
            row("x.onion", PeerState::Candidate, None),
        ];
        let args = PeersArgs { json: false, onion: false, clearnet: true, state: None };
        insta::assert_snapshot!(peers(rows.clone(), &args).unwrap());
        let args = PeersArgs { json: true, onion: true, clearnet: false, state: Some(StateArg::Candidate) };
        let json: Vec<PeerRow> = serde_json::from_str(&peers(rows, &args).unwrap()).unwrap();
        assert_eq!(json.len(), 1);
    }

    #[test]
    fn a_status_is_a_few_lines() {
        let shown = status(&Status {
            version: "0.1.0".to_owned(),
            network: Network::Signet,
            uptime_secs: 3720,
            tor: TorState::Starting { percent: None, waits_for: "the first answer of an onion service".to_owned() },
            network_down: true,
            onion: Some(OnionStatus {
                host: "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion".to_owned(),
                port: 50001,
                reached: None,
                missed: 3,
                trouble: Some("its onion service wasn't found".to_owned()),
            }),
            clearnet: Some(ClearnetStatus {
                host: "wp.example.org".to_owned(),
                tcp_port: Some(50001),
                ssl_port: None,
                reached: None,
            }),
            listeners: vec!["tcp://127.0.0.1:50001".to_owned()],
            page: Some("http://127.0.0.1:4280".to_owned()),
            backend: Some(BackendStatus {
                electrum: Front::Peers,
                trouble: None,
                software: None,
                tip: None,
                sessions: [("a.example".to_owned(), 2)].into(),
            }),
            irc: Some(Visits { server: "irc.example:6697".to_owned(), found: 2, cut_off: 1, ..Visits::default() }),
            peers: Counts {
                verified: 12,
                stale: 1,
                candidate: 3,
                bad: 2,
                verified_onion: 4,
                probing: 5,
                ..Counts::default()
            },
            next_probe: Time::default(),
            store: StoreStatus { failing: false, waiting: 0, batches: 7, bytes: 90_000 },
            callers: CallerStatus {
                open_sessions: 2,
                sessions: 40,
                sessions_onion: 3,
                calls: Vec::new(),
                requests: 99,
                refused_full: 0,
                refused_source: 7,
                refused_banned: 0,
                evicted: 0,
                failed_handshakes: 0,
                delayed_requests: 0,
                passed_requests: 0,
                backend_failures: 0,
                excessive_requests: 3,
                excessive_bytes: 0,
                unreadable_lines: 0,
                slow: 0,
                idle: 1,
                broken_sessions: 0,
            },
        });
        insta::assert_snapshot!(shown);
    }
}
