//! The own names: resolved here and by exits, and reached from outside.

use std::net::IpAddr;

use super::{Finding, RunningDaemon, Subject};
use crate::config::Config;
use crate::connect::{FailureOrigin, ProbeError, Verified};
use crate::daemon::{CheckedName, Lookup, NameCheck, PathCheck, PortResult};
use crate::dial::Dialer;
use crate::jsonrpc::is_waypost;
use crate::netgroup::is_public;
use crate::peer::{Host, Port, Ports, Transport};
use crate::route::Route;
use crate::tor::{Mode, probe_onion_name};
use crate::tor_state::TorState;

/// Circuits on which the onion name is dialled before the check fails. One circuit may fail by chance.
const ONION_ATTEMPTS: u8 = 2;

/// Result of the checks of the onion name.
pub(super) struct CheckedOnion {
    pub findings: Vec<Finding>,
    /// Name and ports; `None` without an onion service that all clients can reach.
    pub name: Option<(Host, Ports)>,
    /// Whether the port for TCP was reached.
    pub is_reached: bool,
}

/// Result of the checks of a clearnet name.
pub(super) struct CheckedClearnet {
    pub findings: Vec<Finding>,
    /// Addresses of the name.
    pub lookup: Lookup,
    pub is_reached: bool,
}

/// Dials the onion name through Tor.
pub(super) async fn check_onion(config: &Config, daemon: Option<&RunningDaemon>, dialer: &Dialer) -> CheckedOnion {
    let status = daemon.map(|daemon| &daemon.status);
    let mut checked = CheckedOnion { findings: Vec::new(), name: None, is_reached: false };
    if let Some(error) = status.and_then(|status| status.onion_error.as_ref()) {
        let advice = "look at the log of the daemon";
        checked.findings.push(Finding::failure(Subject::OnionName, error.to_string(), advice));
    }
    let is_restricted = config.tor.settings.service.as_ref().is_some_and(|service| service.clients.is_some());
    if is_restricted {
        let text = "only clients with a key find the service; the daemon tests it, see `waypost status`";
        checked.findings.push(Finding::ok(Subject::OnionName, text));
        return checked;
    }
    let of_daemon = || {
        let onion = status?.onion.as_ref()?;
        Some((onion.host.parse().ok()?, Ports::new(Port::new(onion.port), onion.tls_port.and_then(Port::new))?))
    };
    checked.name = config.tor.onion_host.clone().or_else(of_daemon);
    let Some((host, ports)) = &checked.name else {
        if config.tor.settings.service.is_some() && checked.findings.is_empty() {
            let text = "the onion service of the embedded Tor has no name yet, or no daemon runs it";
            checked.findings.push(Finding::warning(Subject::OnionName, text, "start the daemon with `waypost run`"));
        }
        return checked;
    };
    if dialer.tor.borrow().is_none() {
        let text = format!("{host} is not tested, as there is no Tor");
        checked.findings.push(Finding::warning(Subject::OnionName, text, "start Tor"));
        return checked;
    }
    for (transport, port) in ports.iter() {
        let mut outcome = Err(ProbeError::TorUnavailable);
        for group in 0..ONION_ATTEMPTS {
            outcome = probe_onion_name(dialer, &config.book.chain, host, (transport, port), group).await;
            if outcome.is_ok() {
                break;
            }
        }
        checked.is_reached |= outcome.is_ok() && transport == Transport::Tcp;
        checked.findings.push(onion_finding(config, host, (transport, port), outcome));
    }
    checked
}

fn onion_finding(
    config: &Config,
    host: &Host,
    (transport, port): (Transport, Port),
    outcome: Result<Verified, ProbeError>,
) -> Finding {
    let is_external = config.tor.onion_host.is_some();
    let error = match outcome {
        Ok(verified) => {
            let software = verified.report.software.unwrap_or_default();
            let secs = verified.duration.as_secs_f64();
            return if is_waypost(&software) {
                Finding::ok(
                    Subject::OnionName,
                    format!("{host} answers at {transport} port {port} through Tor, in {secs:.1} s"),
                )
            } else {
                let text = format!("{host} is answered by {software:?}, not by Waypost");
                Finding::failure(
                    Subject::OnionName,
                    text,
                    "correct HiddenServicePort in torrc: it must lead to listen.onion_tcp",
                )
            };
        }
        Err(error) => error,
    };
    let advice = match (error, is_external) {
        (ProbeError::OnionDescriptorNotFound, true) => {
            "let your Tor run the service: HiddenServiceDir in torrc must be the directory whose file hostname has this \
             name; Tor publishes it within a minute"
        }
        (ProbeError::Tls, true) => "let HiddenServicePort for this port lead to an address of listen.onion_tls",
        (ProbeError::Refused | ProbeError::Unreachable | ProbeError::Closed, true) => {
            "check HiddenServicePort in torrc: it must have this port and lead to an address of listen.onion_tcp, or of \
             listen.onion_tls for TLS, where the daemon must listen"
        }
        (error, _) if error.blame() == FailureOrigin::Local => "check that Tor works, and run this again",
        (_, true) => "look at the logs of Tor and of the daemon",
        (_, false) => "wait a minute after a start; then look at the log of the daemon",
    };
    Finding::failure(
        Subject::OnionName,
        format!("{host}, {transport} port {port}, is not reached through Tor: {error}"),
        advice,
    )
}

/// Resolves a clearnet name and dials each of its ports, by all paths that apply.
pub(super) async fn check_clearnet(
    config: &Config,
    (host, ports): (&Host, Ports),
    dialer: &Dialer,
    tor_works: bool,
) -> CheckedClearnet {
    let tor = match config.tor.settings.mode {
        Mode::Off => TorState::Off,
        _ if tor_works => TorState::Ready,
        _ => TorState::Starting { percent: None, waiting_for: "an answer".to_owned() },
    };
    let check = NameCheck::new(config, dialer, host);
    let CheckedName { lookup, checks, .. } = check.run(&tor, host, ports, 0).await;
    let is_reached = checks.iter().flat_map(|check| &check.ports).any(|port| port.outcome.is_ok());
    let mut findings = match host {
        Host::Dns(_) => lookup_findings(host, &lookup, config.book.allow_private),
        Host::Ip(_) | Host::Onion(_) => Vec::new(),
    };
    let was_tested_outside = checks.iter().any(|check| check.via == Route::Tor && !check.ports.is_empty());
    for check in &checks {
        findings.extend(path_findings(host, check, ports));
    }
    if !was_tested_outside {
        let text = format!("{host} is not tested from outside, as no exit of Tor is available");
        let advice =
            "with Tor, the name is tested as clients reach it; a test from this machine can succeed by mistake";
        findings.push(Finding::warning(Subject::ClearnetName, text, advice));
    }
    CheckedClearnet { findings, lookup, is_reached }
}

/// Compares the addresses of the name by source.
fn lookup_findings(host: &Host, lookup: &Lookup, allows_private: bool) -> Vec<Finding> {
    let exits: Vec<IpAddr> = distinct(lookup.exits.iter().flatten());
    let found: Vec<IpAddr> = distinct(lookup.local.iter().chain(&exits));
    if found.is_empty() {
        let text = format!("{host} has no address in DNS");
        return vec![Finding::failure(
            Subject::ClearnetName,
            text,
            "create an A or AAAA record with the public address",
        )];
    }
    let mut findings = Vec::new();
    let mut by_source = Vec::new();
    for (addresses, source) in [(&lookup.local, "on this machine"), (&exits, "for exits of Tor")] {
        if !addresses.is_empty() {
            by_source.push(format!("{} {source}", join(addresses)));
        }
    }
    findings.push(Finding::ok(Subject::ClearnetName, format!("{host} resolves to {}", by_source.join(", "))));
    // Exits see the public record. Without them the resolver of this machine has to do.
    let public_record = if exits.is_empty() { &lookup.local } else { &exits };
    let private = |ip: &&IpAddr| !allows_private && !is_public(**ip);
    let in_record: Vec<IpAddr> = public_record.iter().filter(private).copied().collect();
    if !in_record.is_empty() {
        let text =
            format!("{host} resolves to {}, which is not public: other servers reject the name", join(&in_record));
        let advice =
            "correct the DNS record; if only the hosts file of this machine has this address, set identity.address";
        findings.push(Finding::failure(Subject::ClearnetName, text, advice));
    }
    if let Some(configured) = lookup.configured.filter(|configured| !public_record.contains(configured)) {
        let text = format!("{host} resolves to {}, but identity.address is {configured}", join(public_record));
        let advice = "correct the DNS record or identity.address: other servers connect to the address in DNS";
        findings.push(Finding::failure(Subject::ClearnetName, text, advice));
    }
    findings
}

/// Returns the result of each port on one path.
fn path_findings(host: &Host, check: &PathCheck, configured: Ports) -> Vec<Finding> {
    let via = check.via;
    if let Some(reason) = &check.refusal {
        let advice = "other servers reject the name until this is corrected";
        return vec![Finding::failure(Subject::ClearnetName, format!("{host}: {reason} (test {via})"), advice)];
    }
    if check.is_inconclusive() {
        let advice = "check that Tor works, and run this again";
        return vec![Finding::warning(
            Subject::ClearnetName,
            format!("{host}: the test {via} failed on this machine"),
            advice,
        )];
    }
    let addresses = join(&check.addresses);
    let mut findings: Vec<Finding> =
        check.ports.iter().map(|result| port_finding(host, result, via, &addresses)).collect();
    let reached = || check.ports.iter().filter_map(|result| result.outcome.as_ref().ok());
    for (transport, port) in configured.web_sockets() {
        let name = if transport == Transport::Tls { "WebSocket with TLS" } else { "WebSocket" };
        findings.push(if reached().any(|endpoint| endpoint.web_sockets.contains(&(transport, port))) {
            Finding::ok(Subject::ClearnetName, format!("{host}: {name} port {port} answers {via}"))
        } else {
            let text = format!("{host}: {name} port {port} does not answer {via}, at {addresses}");
            Finding::failure(Subject::ClearnetName, text, port_advice(ProbeError::WebSocket))
        });
    }
    findings
}

fn port_finding(host: &Host, result: &PortResult, via: Route, addresses: &str) -> Finding {
    let PortResult { transport, port, outcome } = result;
    match outcome {
        Ok(endpoint) => match endpoint.software.as_deref().filter(|software| !is_waypost(software)) {
            None => Finding::ok(Subject::ClearnetName, format!("{host}: {transport} port {port} answers {via}")),
            Some(software) => {
                let text = format!("{host}: {transport} port {port} is answered {via} by {software:?}, not by Waypost");
                let advice = "correct the DNS record, or the port forwarding: another server has this address";
                Finding::warning(Subject::ClearnetName, text, advice)
            }
        },
        Err(error) => {
            let text = format!("{host}: {transport} port {port} fails {via}, at {addresses}: {error}");
            Finding::failure(Subject::ClearnetName, text, port_advice(*error))
        }
    }
}

fn port_advice(error: ProbeError) -> &'static str {
    match error {
        ProbeError::Refused => {
            "nothing listens there: check that the daemon runs and listens on this port, that the router forwards it to \
             this machine, and that the DNS record is right"
        }
        ProbeError::Unreachable | ProbeError::Timeout => {
            "open the port in the firewall, also for exits of Tor, and forward it in the router; a router without hairpin \
             NAT has the same effect on tests without Tor"
        }
        ProbeError::Tls => "the port does not speak TLS: check listen.tls, or the proxy in front of Waypost",
        ProbeError::WebSocket => "check listen.ws and listen.wss, or the proxy in front of Waypost",
        _ => "another server seems to have this address: check the DNS record and the port forwarding",
    }
}

fn distinct<'a>(addresses: impl Iterator<Item = &'a IpAddr>) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for ip in addresses {
        if !found.contains(ip) {
            found.push(*ip);
        }
    }
    found
}

fn join(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" and ")
}
