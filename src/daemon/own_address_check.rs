//! Decisions of the check of the own clearnet name, without I/O.
//!
//! They choose the addresses and paths to dial, and interpret the results. `clearnet_monitor`
//! resolves and dials.

use std::net::IpAddr;

use crate::connect::{FailureOrigin, ProbeError};
use crate::jsonrpc::is_waypost;
use crate::netgroup::is_public;
use crate::peer::{Port, Ports, Transport};
use crate::route::Route;
use crate::tor_state::TorState;

/// Number of sources that must return an address through Tor before it is dialled.
///
/// Each circuit is a source, and so is this machine's resolver. A single exit may lie.
const MIN_CONFIRMATIONS: usize = 2;

/// Paths that are available for a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Situation {
    /// Availability of Tor, which checks from outside of the operator's network.
    pub tor: TorAvailability,
    /// Whether this process may open direct connections; false with `tor.only`.
    pub has_direct: bool,
    /// `discovery.allow_private`: whether private addresses may be dialled, which Tor can't reach.
    pub allows_private: bool,
}

/// Availability of Tor for a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TorAvailability {
    /// A connection through Tor succeeded.
    Ready,
    /// Tor is present, and is starting or down.
    Unproven,
    /// No Tor is connected yet.
    Absent,
    /// `tor.mode` is off, so that Tor never appears.
    Disabled,
}

/// Addresses of the name, by source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lookup {
    /// `identity.address`, or `identity.host` if that is an IP address. Replaces the others.
    pub configured: Option<IpAddr>,
    /// Whether the name is `identity.host`, so that `identity.address` applies to it.
    pub is_primary: bool,
    /// Answers of this machine's resolver.
    pub local: Vec<IpAddr>,
    /// Answers of Tor exits, one list for each circuit that answered.
    pub exits: Vec<Vec<IpAddr>>,
}

/// Addresses that may be dialled, with warnings for the operator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DialAddresses {
    /// Addresses to dial; never empty.
    pub addresses: Vec<IpAddr>,
    /// Mismatches between the sources, and private addresses that were left out.
    pub warnings: Vec<String>,
}

/// Result of a check of the name by one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathCheck {
    /// Path of the check.
    pub via: Route,
    /// Reason why nothing was dialled; `None` if the ports were dialled.
    pub refusal: Option<String>,
    /// Failure of the lookup, if that is why nothing was dialled.
    pub lookup_error: Option<ProbeError>,
    /// Addresses that were dialled.
    pub addresses: Vec<IpAddr>,
    /// Result for each configured port for TCP or TLS; empty if nothing was dialled.
    pub ports: Vec<PortResult>,
    /// Configured ports for WebSockets.
    pub web_sockets: Vec<(Transport, Port)>,
    /// Warnings about the addresses.
    pub warnings: Vec<String>,
}

/// Result of a probe of one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortResult {
    /// TCP or TLS.
    pub transport: Transport,
    /// Configured port.
    pub port: Port,
    /// Verified endpoint or failure.
    pub outcome: Result<VerifiedEndpoint, ProbeError>,
}

/// Endpoint that passed verification as the own name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VerifiedEndpoint {
    /// Address that answered; `None` if unknown.
    pub ip: Option<IpAddr>,
    /// Reported software. It is not Waypost's if another server answers at the address.
    pub software: Option<String>,
    /// WebSockets that passed verification as well.
    pub web_sockets: Vec<(Transport, Port)>,
}

/// Conclusion from all checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Conclusion {
    /// The name is reachable.
    Reached {
        /// Path that reached it.
        via: Route,
        /// Address that answered.
        ip: Option<IpAddr>,
        /// Ports that answered. Only these are advertised.
        ports: Ports,
        /// Warnings about addresses and about the other ports.
        warnings: Vec<String>,
    },
    /// The name can't be tested from here. It is advertised at the configured address.
    Assumed {
        /// Configured address.
        ip: IpAddr,
        /// Reason why it is untested.
        warning: String,
    },
    /// The name was not reached.
    Unreached {
        /// Failures by path, with advice.
        reason: String,
        /// Path of the last check. Without hairpin NAT, a direct failure proves little.
        via: Route,
    },
    /// No path is available yet.
    Pending,
}

impl Situation {
    /// Combines Tor's state with the paths of the dialer.
    pub(crate) fn new(tor: &TorState, has_tor: bool, has_direct: bool, allows_private: bool) -> Situation {
        let tor = match (tor, has_tor) {
            (TorState::Off, _) => TorAvailability::Disabled,
            (_, false) => TorAvailability::Absent,
            (TorState::Ready, true) => TorAvailability::Ready,
            (_, true) => TorAvailability::Unproven,
        };
        Situation { tor, has_direct, allows_private }
    }

    /// Returns the paths to check, in order.
    pub(crate) fn paths(&self) -> &'static [Route] {
        match (self.tor, self.has_direct) {
            (TorAvailability::Ready, true) if !self.allows_private => &[Route::Tor],
            (TorAvailability::Ready | TorAvailability::Unproven, true) => &[Route::Direct, Route::Tor],
            (TorAvailability::Ready | TorAvailability::Unproven, false) => &[Route::Tor],
            (TorAvailability::Absent | TorAvailability::Disabled, true) => &[Route::Direct],
            (TorAvailability::Absent | TorAvailability::Disabled, false) => &[],
        }
    }
}

impl Lookup {
    /// Returns the addresses to dial by a path, or the reason why there is none.
    pub(crate) fn dial_addresses(&self, via: Route, allows_private: bool) -> Result<DialAddresses, String> {
        let found = match via {
            Route::Direct => self.local.clone(),
            Route::Tor => self.confirmed(),
        };
        let is_usable = |ip: &IpAddr| allows_private || is_public(*ip);
        let (usable, private): (Vec<IpAddr>, Vec<IpAddr>) = found.into_iter().partition(is_usable);
        let mut warnings = Vec::new();
        if !usable.is_empty() && !private.is_empty() {
            warnings.push(format!(
                "the name also resolves to {}, which isn't public: other servers reject such names",
                join(&private)
            ));
        }
        if let Some(configured) = self.configured {
            if !is_usable(&configured) {
                return Err(format!("{configured} isn't public; configure the public address of this machine"));
            }
            if !usable.is_empty() && !usable.contains(&configured) {
                let resolver = if via == Route::Tor { "through Tor" } else { "on this machine" };
                let found = join(&usable);
                warnings.push(format!("the name resolves to {found} {resolver}, not to {configured} as configured"));
            }
            return Ok(DialAddresses { addresses: vec![configured], warnings });
        }
        if !usable.is_empty() {
            return Ok(DialAddresses { addresses: usable, warnings });
        }
        Err(match (via, private.as_slice()) {
            (Route::Tor, []) if self.exits.iter().any(|found| !found.is_empty()) => {
                format!("Tor exits do not agree on an address: {}", join(&self.exits.concat()))
            }
            (_, []) => "the name has no address in DNS".to_owned(),
            (Route::Direct, private) => format!(
                "the name resolves to {} on this machine, which isn't public; correct the hosts file or DNS{}",
                join(private),
                if self.is_primary { ", or set identity.address" } else { "" }
            ),
            (Route::Tor, private) => {
                format!("the name resolves to {} in DNS, which isn't public; correct DNS", join(private))
            }
        })
    }

    /// Whether enough circuits agree, so that no further lookup is needed.
    pub(crate) fn is_settled(&self) -> bool {
        !self.confirmed().is_empty()
    }

    /// Returns the addresses from exits that have `MIN_CONFIRMATIONS`.
    fn confirmed(&self) -> Vec<IpAddr> {
        let confirmations = |ip: &IpAddr| {
            let exits = self.exits.iter().filter(|found| found.contains(ip)).count();
            exits + usize::from(self.local.contains(ip))
        };
        let mut confirmed: Vec<IpAddr> = Vec::new();
        for ip in self.exits.iter().flatten() {
            if !confirmed.contains(ip) && confirmations(ip) >= MIN_CONFIRMATIONS {
                confirmed.push(*ip);
            }
        }
        confirmed
    }
}

impl PathCheck {
    /// Creates the result of a check in which nothing was dialled.
    pub(crate) fn refused(via: Route, reason: String) -> PathCheck {
        PathCheck {
            via,
            refusal: Some(reason),
            lookup_error: None,
            addresses: Vec::new(),
            ports: Vec::new(),
            web_sockets: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Creates the result of a check whose lookup failed on all circuits.
    pub(crate) fn unresolved(via: Route, failure: ProbeError) -> PathCheck {
        let reason = format!("the lookup of the name {via} failed: {failure}");
        PathCheck { lookup_error: Some(failure), ..PathCheck::refused(via, reason) }
    }

    fn has_reached(&self) -> bool {
        self.ports.iter().any(|port| port.outcome.is_ok())
    }

    /// Whether the check failed because of this machine or its Tor, so that it proves nothing.
    pub(crate) fn is_inconclusive(&self) -> bool {
        let lookup_failed = self.lookup_error.is_some_and(|failure| failure.blame() == FailureOrigin::Local);
        !self.has_reached() && (lookup_failed || self.ports.iter().any(|port| is_local(&port.outcome)))
    }

    /// Describes the failures, with the path and addresses.
    fn failures(&self) -> String {
        if let Some(reason) = &self.refusal {
            return reason.clone();
        }
        let ports = self.ports.iter().filter_map(|port| {
            let failure = port.outcome.as_ref().err()?;
            Some(format!("{} port {}: {failure}", port.transport, port.port))
        });
        let origin = if self.via == Route::Tor { "through Tor" } else { "from this machine" };
        format!("{origin}, at {}, {}", join(&self.addresses), ports.collect::<Vec<_>>().join(", "))
    }
}

/// Interprets the checks of one run. The last one decides if none reached the name.
pub(crate) fn conclude(situation: Situation, lookup: &Lookup, checks: &[PathCheck]) -> Conclusion {
    if let Some(check) = checks.iter().find(|check| check.has_reached()) {
        return conclude_reached(check);
    }
    let Some(last) = checks.last() else { return Conclusion::Pending };
    let reason = checks.iter().map(PathCheck::failures).collect::<Vec<_>>().join("; ");
    if last.via == Route::Tor {
        let advice = match last.refusal {
            Some(_) => "",
            None => "; open the ports in the firewall, also for Tor exits, and forward them in the router",
        };
        return Conclusion::Unreached { reason: format!("{reason}{advice}"), via: Route::Tor };
    }
    let is_unconnected = last.ports.iter().all(|port| is_unconnected(&port.outcome));
    match lookup.configured {
        Some(ip) if situation.tor == TorAvailability::Disabled && last.refusal.is_none() && is_unconnected => {
            Conclusion::Assumed {
                ip,
                warning: format!(
                    "{reason}; no test from outside without Tor: advertised untested at {ip}, as configured"
                ),
            }
        }
        _ if last.refusal.is_none() && is_unconnected => Conclusion::Unreached {
            reason: format!(
                "{reason}; a router without hairpin NAT has the same effect: with Tor, the name is tested from outside"
            ),
            via: Route::Direct,
        },
        _ => Conclusion::Unreached { reason, via: Route::Direct },
    }
}

/// Builds the conclusion from a check that reached a port.
fn conclude_reached(check: &PathCheck) -> Conclusion {
    let mut warnings = check.warnings.clone();
    let port = |transport| {
        let result = check.ports.iter().find(|port| port.transport == transport && port.outcome.is_ok());
        result.map(|result| result.port)
    };
    let Some(ports) = Ports::new(port(Transport::Tcp), port(Transport::Tls)) else { return Conclusion::Pending };
    let answered = || check.ports.iter().filter_map(|port| port.outcome.as_ref().ok());
    let mut reached = [None, None];
    for (transport, port) in check.web_sockets.iter().copied() {
        let [ws, wss] = &mut reached;
        let (slot, kind) = match transport {
            Transport::Tcp => (ws, "WebSocket"),
            Transport::Tls => (wss, "WebSocket with TLS"),
        };
        if answered().any(|endpoint| endpoint.web_sockets.contains(&(transport, port))) {
            *slot = Some(port);
        } else {
            warnings.push(format!("port {port} of the {kind} is not advertised: it was not reached there"));
        }
    }
    let [ws, wss] = reached;
    let ports = ports.with_web_sockets(ws, wss);
    for result in &check.ports {
        match &result.outcome {
            Err(failure) => {
                warnings.push(format!("{} port {} is not advertised: {failure}", result.transport, result.port));
            }
            Ok(endpoint) => {
                warnings.extend(endpoint.software.as_deref().filter(|name| !is_waypost(name)).map(|name| {
                    format!("{} port {} is answered by {name}, not by Waypost", result.transport, result.port)
                }))
            }
        }
    }
    let ip = answered().find_map(|endpoint| endpoint.ip);
    Conclusion::Reached { via: check.via, ip, ports, warnings }
}

/// Whether this machine or its Tor caused the failure.
fn is_local(outcome: &Result<VerifiedEndpoint, ProbeError>) -> bool {
    outcome.as_ref().is_err_and(|failure| failure.blame() == FailureOrigin::Local)
}

/// Whether no connection was established, as behind a router without hairpin NAT.
fn is_unconnected(outcome: &Result<VerifiedEndpoint, ProbeError>) -> bool {
    matches!(outcome, Err(ProbeError::Refused | ProbeError::Unreachable))
}

fn join(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests;
