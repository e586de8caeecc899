//! `waypost status`: state of the daemon as text.

use std::time::Duration;

use super::format::{ago, until};
use super::terminal::{Style, Styled, TerminalStyle};
use crate::api::{BackendStatus, BanListStatus, ChainStatus, ClearnetStatus, IrcStatus, OnionStatus, Status};
use crate::book::Counts;
use crate::clock;
use crate::tor_state::TorState;

/// Column of the values, which is wrapped on narrow terminals.
const VALUE: usize = 1;

/// Writes the state as a table of names and values.
pub(super) fn status(status: &Status, terminal: TerminalStyle) -> String {
    terminal.draw(&[], lines(status).into_iter().map(|(name, value)| vec![Styled::plain(name), value]), VALUE)
}

/// Returns the style of a Tor state.
fn tor_style(tor: &TorState) -> Style {
    match tor {
        TorState::Off => Style::Faint,
        TorState::Starting { .. } => Style::Doubtful,
        TorState::Ready => Style::Good,
        TorState::Down { .. } => Style::Wrong,
    }
}

/// Returns the name and value of each line.
fn lines(status: &Status) -> Vec<(&'static str, Styled)> {
    let Status { peers, clients, .. } = status;
    let mut lines = Vec::new();
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime_secs)).to_string();
    let mut line = |name, value: String| lines.push((name, Styled::new(value, style(name, status))));
    line("waypost", format!("{} on {}, up {uptime}", status.version, status.network));
    line("tor", status.tor.to_string());
    if let Some(source) = &status.tor_source {
        line("tor via", source.to_string());
    }
    if let Some(reason) = &status.clearnet_blocked {
        line("blocked", format!("clearnet peers wait: {reason}"));
    }
    if status.network_down {
        line("network", "seems to be down: no peer answers directly".to_owned());
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
    for name in &status.other_names {
        line("other name", clearnet(name));
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
    for list in status.ban_lists.iter().filter(|list| list.is_notable()) {
        line("bans", bans(list));
    }
    if let Some(chain) = &status.chain {
        line("chain", self::chain(chain));
    }
    line("peers", counts(peers));
    if let Some(onion_side) = &status.onion_side {
        line("onion side", counts(onion_side));
    }
    line("probing", format!("{} now, next {}", peers.probing, until(status.next_probe)));
    line(
        "clients",
        format!("{} sessions, {} since the start, {} calls", clients.open_sessions, clients.sessions, clients.requests),
    );
    let (rejected, disconnected) = (clients.rejected(), clients.disconnected());
    if rejected + disconnected > 0 {
        line("limits", format!("{rejected} rejected, {disconnected} disconnected; --json shows the reasons"));
    }
    line(
        "store",
        match (status.store.failing, status.store.pending) {
            (true, pending) => {
                format!("write failed, {pending} records pending; check the free disk space")
            }
            (false, 0) => "all records are on disk".to_owned(),
            (false, pending) => format!("{pending} records pending"),
        },
    );
    lines
}

/// Returns the style of a line's value.
fn style(name: &str, status: &Status) -> Style {
    let style_if = |condition: bool, style| if condition { style } else { Style::Plain };
    match name {
        "tor" => tor_style(&status.tor),
        "network" | "blocked" | "no onion" => Style::Wrong,
        "onion" => style_if(
            status.onion.as_ref().is_some_and(|name| name.error.is_some() || name.tls_error.is_some()),
            Style::Doubtful,
        ),
        "clearnet" => style_if(status.clearnet.as_ref().is_some_and(ClearnetStatus::is_doubtful), Style::Doubtful),
        "other name" => style_if(status.other_names.iter().any(ClearnetStatus::is_doubtful), Style::Doubtful),
        "backend" => match &status.backend {
            Some(backend) if backend.error.is_some() => Style::Wrong,
            Some(backend) => style_if(backend.is_behind(), Style::Doubtful),
            None => Style::Plain,
        },
        "irc" => style_if(status.irc.as_ref().is_some_and(|visits| visits.error.is_some()), Style::Doubtful),
        "bans" => style_if(status.ban_lists.iter().any(|list| list.error.is_some()), Style::Doubtful),
        "store" => style_if(status.store.failing, Style::Wrong),
        _ => Style::Plain,
    }
}

/// Describes the clearnet name.
fn clearnet(name: &ClearnetStatus) -> String {
    let mut text = format!("{} {}", name.host, name.ports);
    if let Some(address) = name.address.as_ref().filter(|address| **address != name.host) {
        text.push_str(&format!(" at {address}"));
    }
    match (name.last_reached, name.via) {
        (Some(reached), Some(via)) => text.push_str(&format!(", reached {via} {}", ago(clock::now().since(reached)))),
        // A warning gives the reason why it is advertised.
        _ if name.address.is_some() => text.push_str(", not tested"),
        _ => text.push_str(", not reached yet and not advertised"),
    }
    if name.last_reached.is_some() || name.address.is_some() {
        text.push_str(&format!(", {}", name.listings));
    }
    if let Some(reason) = &name.error {
        text.push_str(&format!("; {} failed tests: {reason}", name.failures));
    }
    for warning in &name.warnings {
        text.push_str(&format!("; {warning}"));
    }
    text
}

/// Describes the backend.
fn backend(backend: &BackendStatus) -> String {
    let mut text = backend.electrum.clone();
    if let Some(software) = &backend.software {
        text.push_str(&format!(", {software}"));
    }
    if let Some(tip) = backend.tip {
        text.push_str(&format!(", at block {tip}"));
    }
    if let Some(blocks @ 1..) = backend.blocks_behind {
        text.push_str(&format!(", {blocks} behind the known chain"));
    }
    // With one server, its state is that of the backend.
    if let [_, _, ..] = backend.servers.as_slice() {
        for server in &backend.servers {
            let state = server.error.as_deref().map_or_else(String::new, |error| format!(" (unusable: {error})"));
            text.push_str(&format!(", {} at {}{state}", server.sessions, server.address));
        }
    }
    for (host, sessions) in &backend.sessions {
        text.push_str(&format!(", {sessions} at {host}"));
    }
    if backend.checks_differed > 0 {
        text.push_str(&format!(", {} wrong answers of peers", backend.checks_differed));
    }
    if let Some(problem) = &backend.error {
        text.push_str(&format!("; unusable: {problem}"));
    }
    text
}

/// Describes the known chain and the positions of the peers.
fn chain(chain: &ChainStatus) -> String {
    let Some(tip_time) = chain.tip_time else {
        return format!("no block after the pinned one at {} is known yet", chain.height);
    };
    let ChainStatus { height, log2_work, level, ahead, behind, less_work, .. } = chain;
    let age = ago(clock::now().since(tip_time));
    let mut text = format!("block {height} of {age}, 2^{log2_work:.1} hashes; {level} peers level");
    for (count, position) in [(ahead, "ahead"), (behind, "behind"), (less_work, "with less work")] {
        if *count > 0 {
            text.push_str(&format!(", {count} {position}"));
        }
    }
    text
}

/// Describes the visits to IRC.
fn irc(visits: &IrcStatus) -> String {
    let last =
        visits.last.map_or("not visited yet".to_owned(), |at| format!("visited {}", ago(clock::now().since(at))));
    let dropped = visits.cut_off + visits.control_codes + visits.unreadable;
    let mut text = format!("{}, {last}, {} servers found, {dropped} names ignored", visits.server, visits.found);
    if let Some(next) = visits.next {
        text.push_str(&format!("; next {}", until(next)));
    }
    if let Some(problem) = &visits.error {
        text.push_str(&format!("; failed: {problem}"));
    }
    text
}

/// Describes a ban list.
fn bans(list: &BanListStatus) -> String {
    let mut text =
        format!("{}, {} patterns, read {}", list.path, list.patterns, ago(clock::now().since(list.last_read)));
    if let Some(signed) = list.signed {
        text.push_str(&format!(", signed {}", ago(clock::now().since(signed))));
    }
    if list.skipped > 0 {
        text.push_str(&format!(", {} entries without effect", list.skipped));
    }
    if let Some(error) = &list.error {
        text.push_str(&format!("; newer version not used: {error}"));
    }
    text
}

/// Describes the onion service.
fn onion(onion: &OnionStatus) -> String {
    let reachability = match (onion.last_reached, &onion.error) {
        (Some(reached), None) => format!("reached {}", ago(clock::now().since(reached))),
        (Some(reached), Some(reason)) => {
            format!("reached {}, {} failed checks since: {reason}", ago(clock::now().since(reached)), onion.failures)
        }
        (None, Some(reason)) if onion.restricted => format!("not reached yet: {reason}"),
        (None, None) if onion.restricted => "not reached yet".to_owned(),
        (None, Some(reason)) => format!("not reached yet and not advertised: {reason}"),
        (None, None) => "not reached yet and not advertised".to_owned(),
    };
    let listings = match onion.last_reached {
        _ if onion.restricted => "; not advertised, as only clients with a key find it".to_owned(),
        Some(_) => format!(", {}", onion.listings),
        None => String::new(),
    };
    let tls = match (onion.tls_port, &onion.tls_error) {
        (Some(port), Some(reason)) => format!("; TLS port {port} not reached: {reason}"),
        (Some(port), None) => format!("; TLS port {port}"),
        (None, _) => String::new(),
    };
    // Without a comma, the address and port fit into a line of 80 characters.
    format!("{}:{} {reachability}{listings}{tls}", onion.host, onion.port)
}

fn counts(peers: &Counts) -> String {
    format!(
        "{} verified ({} of them onion), {} stale, {} candidates, {} bad",
        peers.verified, peers.verified_onion, peers.stale, peers.candidate, peers.bad
    )
}

#[cfg(test)]
mod tests {
    use super::super::test_fixtures;
    use super::*;
    use crate::clock::Time;

    #[test]
    fn status_fits_terminal_width() {
        let drawn = |width| status(&test_fixtures::status(), TerminalStyle { width, ..TerminalStyle::default() });
        insta::assert_snapshot!("no_width", drawn(None));
        insta::assert_snapshot!("width_80", drawn(Some(80)));
        assert!(drawn(Some(80)).lines().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn problems_are_highlighted() {
        let styles = |status: &Status| -> Vec<(&'static str, Style)> {
            let styled = lines(status).into_iter().map(|(name, value)| (name, value.style));
            styled.filter(|(_, style)| *style != Style::Plain).collect()
        };
        let mut status = test_fixtures::status();
        let expected = [
            ("tor", Style::Doubtful),
            ("blocked", Style::Wrong),
            ("network", Style::Wrong),
            ("onion", Style::Doubtful),
            ("no onion", Style::Wrong),
            ("clearnet", Style::Doubtful),
            ("other name", Style::Doubtful),
            ("backend", Style::Doubtful),
            ("bans", Style::Doubtful),
            ("bans", Style::Doubtful),
        ];
        assert_eq!(styles(&status), expected);
        status.tor = TorState::Ready;
        (status.network_down, status.onion, status.clearnet) = (false, None, None);
        status.other_names.clear();
        (status.clearnet_blocked, status.onion_error, status.backend) = (None, None, None);
        status.ban_lists.clear();
        status.store.failing = true;
        assert_eq!(styles(&status), [("tor", Style::Good), ("store", Style::Wrong)]);
        let down = TorState::Down { since: Time::default(), reason: "it is gone".to_owned() };
        assert_eq!([tor_style(&down), tor_style(&TorState::Off)], [Style::Wrong, Style::Faint]);
    }
}
