//! `waypost status`: a daemon's state in a few lines.

use std::time::Duration;

use super::format::{ago, ports, until};
use super::terminal::{Style, Styled, TerminalStyle};
use crate::clock;
use crate::control::{BackendStatus, ClearnetStatus, OnionStatus, Status};
use crate::irc_discovery::IrcStatus;
use crate::route::TorState;

/// Where a line has more to say than its name, and it is too long, it is wrapped.
const VALUE: usize = 1;

pub fn status(status: &Status, look: TerminalStyle) -> String {
    look.draw(&[], lines(status).into_iter().map(|(name, value)| vec![Styled::plain(name), value]), VALUE)
}

/// What is good or bad about Tor.
pub fn tor_tone(tor: &TorState) -> Style {
    match tor {
        TorState::Off => Style::Faint,
        TorState::Starting { .. } => Style::Doubtful,
        TorState::Ready => Style::Good,
        TorState::Down { .. } => Style::Wrong,
    }
}

fn lines(status: &Status) -> Vec<(&'static str, Styled)> {
    let Status { peers, clients: callers, .. } = status;
    let mut lines = Vec::new();
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime_secs)).to_string();
    let mut line = |name, value: String| lines.push((name, Styled::new(value, tone(name, status))));
    line("waypost", format!("{} on {}, up {uptime}", status.version, status.network));
    line("tor", status.tor.to_string());
    if let Some(source) = &status.tor_source {
        line("tor via", source.to_string());
    }
    if let Some(reason) = &status.clearnet_blocked {
        line("blocked", format!("clearnet peers wait: {reason}"));
    }
    if status.network_down {
        line("network", "seems to be down: nobody answers directly".to_owned());
    }
    if let Some(onion) = &status.onion {
        line("onion", self::onion(onion));
    }
    if let Some(error) = &status.onion_error {
        line("no onion", error.to_string());
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
        "clients",
        format!("{} sessions, {} since the start, {} calls", callers.open_sessions, callers.sessions, callers.requests),
    );
    let (rejected, disconnected) = (callers.rejected(), callers.disconnected());
    if rejected + disconnected > 0 {
        line("limits", format!("{rejected} rejected, {disconnected} disconnected; --json says why"));
    }
    line(
        "store",
        match (status.store.failing, status.store.pending) {
            (true, waiting) => {
                format!("can't be written; is the disk full? {waiting} records wait until there is room")
            }
            (false, 0) => "all is on disk".to_owned(),
            (false, waiting) => format!("{waiting} records on their way to disk"),
        },
    );
    lines
}

/// Whether what a line says is good or bad; most are neither.
fn tone(name: &str, status: &Status) -> Style {
    let if_so = |so: bool, tone| if so { tone } else { Style::Plain };
    match name {
        "tor" => tor_tone(&status.tor),
        "network" | "blocked" | "no onion" => Style::Wrong,
        "onion" => if_so(status.onion.as_ref().is_some_and(|name| name.error.is_some()), Style::Doubtful),
        "clearnet" => {
            let is_doubtful = |name: &ClearnetStatus| {
                name.last_reached.is_none() || name.error.is_some() || !name.warnings.is_empty()
            };
            if_so(status.clearnet.as_ref().is_some_and(is_doubtful), Style::Doubtful)
        }
        "backend" => if_so(status.backend.as_ref().is_some_and(|backend| backend.error.is_some()), Style::Wrong),
        "irc" => if_so(status.irc.as_ref().is_some_and(|visits| visits.error.is_some()), Style::Doubtful),
        "store" => if_so(status.store.failing, Style::Wrong),
        _ => Style::Plain,
    }
}

fn clearnet(name: &ClearnetStatus) -> String {
    let mut text = format!("{} {}", name.host, ports(name.ssl_port, name.tcp_port));
    if let Some(address) = name.address.as_ref().filter(|address| **address != name.host) {
        text.push_str(&format!(" at {address}"));
    }
    match (name.last_reached, name.via) {
        (Some(reached), Some(via)) => text.push_str(&format!(", reached {via} {}", ago(clock::now().since(reached)))),
        // Then a warning says why it is advertised.
        _ if name.address.is_some() => text.push_str(", not tested"),
        _ => text.push_str(", not reached yet and not advertised"),
    }
    if let Some(reason) = &name.error {
        text.push_str(&format!("; {} failed tests: {reason}", name.failures));
    }
    for warning in &name.warnings {
        text.push_str(&format!("; {warning}"));
    }
    text
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
    if let Some(problem) = &backend.error {
        text.push_str(&format!("; of no use now: {problem}"));
    }
    text
}

fn irc(visits: &IrcStatus) -> String {
    let last =
        visits.last.map_or("not visited yet".to_owned(), |at| format!("visited {}", ago(clock::now().since(at))));
    let dropped = visits.cut_off + visits.control_codes + visits.unreadable;
    let mut text = format!("{}, {last}, {} servers met, {dropped} names of none", visits.server, visits.found);
    if let Some(next) = visits.next {
        text.push_str(&format!("; next {}", until(next)));
    }
    if let Some(problem) = &visits.error {
        text.push_str(&format!("; came to nothing: {problem}"));
    }
    text
}

fn onion(onion: &OnionStatus) -> String {
    let fares = match (onion.last_reached, &onion.error) {
        (Some(reached), None) => format!("reached {}", ago(clock::now().since(reached))),
        (Some(reached), Some(reason)) => {
            format!("reached {}, missed {} times since: {reason}", ago(clock::now().since(reached)), onion.failures)
        }
        (None, Some(reason)) => format!("not reached yet, so not advertised: {reason}"),
        (None, None) => "not reached yet, so not advertised".to_owned(),
    };
    // No comma: so an address and its port fit into a line of 80 letters.
    format!("{}:{} {fares}", onion.host, onion.port)
}

#[cfg(test)]
mod tests {
    use super::super::test_fixtures;
    use super::*;
    use crate::clock::Time;

    #[test]
    fn a_status_is_a_few_lines() {
        let shown = |width| status(&test_fixtures::status(), TerminalStyle { width, ..TerminalStyle::default() });
        insta::assert_snapshot!("no_width", shown(None));
        insta::assert_snapshot!("width_80", shown(Some(80)));
        assert!(shown(Some(80)).lines().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn what_is_wrong_stands_out() {
        let tones = |status: &Status| -> Vec<(&'static str, Style)> {
            let toned = lines(status).into_iter().map(|(name, value)| (name, value.tone));
            toned.filter(|(_, tone)| *tone != Style::Plain).collect()
        };
        let mut status = test_fixtures::status();
        let expected = [
            ("tor", Style::Doubtful),
            ("blocked", Style::Wrong),
            ("network", Style::Wrong),
            ("onion", Style::Doubtful),
            ("no onion", Style::Wrong),
            ("clearnet", Style::Doubtful),
        ];
        assert_eq!(tones(&status), expected);
        status.tor = TorState::Ready;
        (status.network_down, status.onion, status.clearnet) = (false, None, None);
        (status.clearnet_blocked, status.onion_error) = (None, None);
        status.store.failing = true;
        assert_eq!(tones(&status), [("tor", Style::Good), ("store", Style::Wrong)]);
        let down = TorState::Down { since: Time::default(), reason: "it is gone".to_owned() };
        assert_eq!([tor_tone(&down), tor_tone(&TorState::Off)], [Style::Wrong, Style::Faint]);
    }
}
