//! How the own clearnet name is tested: which addresses are dialled, by which path, and what the results mean.
//!
//! Only decisions, without I/O: `clearnet_name` looks up and dials.

use std::net::IpAddr;

use crate::connect::{FailureOrigin, ProbeError};
use crate::jsonrpc::USER_AGENT;
use crate::netgroup::is_public;
use crate::peer::{Port, Ports, Transport};
use crate::route::{Route, TorState};

/// Circuits on which an address must be named before it is dialled, unless this machine's resolver names it as well.
/// A single exit could name an address of its own.
const MIN_CONFIRMATIONS: usize = 2;

/// What is there to test the name with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    pub tor: TorAvailability,
    /// Whether this process may open connections past Tor.
    pub has_direct: bool,
    /// Whether addresses that are not public may be used: those can't be reached through Tor.
    pub allows_private: bool,
}

/// Whether Tor can test the name, from outside of the operator's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TorAvailability {
    Ready,
    /// It is there, and didn't reach anything yet.
    Unproven,
    Absent,
    /// Absent for good: it is switched off.
    Off,
}

/// What was found out about the name's addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lookup {
    /// `identity.address`, or an address in place of the name.
    pub configured: Option<IpAddr>,
    /// As this machine's resolver has it.
    pub local: Vec<IpAddr>,
    /// As Tor's exits have it, for each circuit that had an answer.
    pub exits: Vec<Vec<IpAddr>>,
}

/// Addresses that may be dialled, and what an operator should know about them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidates {
    pub addresses: Vec<IpAddr>,
    pub warnings: Vec<String>,
}

/// One test of the name, by one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathCheck {
    pub via: Route,
    /// Why nothing was dialled, if nothing was.
    pub refusal: Option<String>,
    /// Why the name could not be looked up, if that is why.
    pub unresolved: Option<ProbeError>,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<PortResult>,
    pub warnings: Vec<String>,
}

/// What became of one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortResult {
    pub transport: Transport,
    pub port: Port,
    pub outcome: Result<VerifiedEndpoint, ProbeError>,
}

/// An endpoint that answered as the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedEndpoint {
    pub ip: Option<IpAddr>,
    pub software: Option<String>,
}

/// What the checks mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conclusion {
    Reached {
        via: Route,
        ip: Option<IpAddr>,
        /// Those that endpoint.
        ports: Ports,
        warnings: Vec<String>,
    },
    /// It can't be tested from here, and the operator names the address.
    Assumed { ip: IpAddr, warning: String },
    Unreached {
        reason: String,
        /// The path of the check that decided. A direct one says little: a router may only take connections from outside.
        via: Route,
    },
    /// There is no path yet.
    Pending,
}

impl Situation {
    pub fn new(tor: &TorState, has_tor: bool, has_direct: bool, allows_private: bool) -> Situation {
        let tor = match (tor, has_tor) {
            (TorState::Off, _) => TorAvailability::Off,
            (_, false) => TorAvailability::Absent,
            (TorState::Ready, true) => TorAvailability::Ready,
            (_, true) => TorAvailability::Unproven,
        };
        Situation { tor, has_direct, allows_private }
    }

    /// The paths to try, in order, until the name is reached.
    pub fn paths(&self) -> &'static [Route] {
        match (self.tor, self.has_direct) {
            (TorAvailability::Ready, true) if !self.allows_private => &[Route::Tor],
            (TorAvailability::Ready | TorAvailability::Unproven, true) => &[Route::Direct, Route::Tor],
            (TorAvailability::Ready | TorAvailability::Unproven, false) => &[Route::Tor],
            (TorAvailability::Absent | TorAvailability::Off, true) => &[Route::Direct],
            (TorAvailability::Absent | TorAvailability::Off, false) => &[],
        }
    }
}

impl Lookup {
    /// The addresses to dial by a path; or why there is none.
    pub fn candidates(&self, via: Route, allows_private: bool) -> Result<Candidates, String> {
        let found = match via {
            Route::Direct => self.local.clone(),
            Route::Tor => self.confirmed(),
        };
        let is_usable = |ip: &IpAddr| allows_private || is_public(*ip);
        let (usable, private): (Vec<IpAddr>, Vec<IpAddr>) = found.into_iter().partition(is_usable);
        let mut warnings = Vec::new();
        if !usable.is_empty() && !private.is_empty() {
            warnings.push(format!(
                "the name also means {}, which isn't public: other servers reject such a name",
                join(&private)
            ));
        }
        if let Some(configured) = self.configured {
            if !is_usable(&configured) {
                return Err(format!(
                    "{configured} isn't public; configure the address by which others reach this machine"
                ));
            }
            if !usable.is_empty() && !usable.contains(&configured) {
                let resolver = if via == Route::Tor { "through Tor" } else { "here" };
                let found = join(&usable);
                warnings.push(format!("the name means {found} {resolver}, and not {configured} as configured"));
            }
            return Ok(Candidates { addresses: vec![configured], warnings });
        }
        if !usable.is_empty() {
            return Ok(Candidates { addresses: usable, warnings });
        }
        Err(match (via, private.as_slice()) {
            (Route::Tor, []) if self.exits.iter().any(|found| !found.is_empty()) => {
                format!("Tor's exits name different addresses: {}", join(&self.exits.concat()))
            }
            (_, []) => "the name has no address in DNS".to_owned(),
            (Route::Direct, private) => format!(
                "the name means {} on this machine, which isn't public; correct the hosts file or DNS, or set identity.address",
                join(private)
            ),
            (Route::Tor, private) => {
                format!("the name means {} in DNS, which isn't public; correct DNS", join(private))
            }
        })
    }

    /// Whether enough circuits agree that no further one has to be asked.
    pub fn is_settled(&self) -> bool {
        !self.confirmed().is_empty()
    }

    /// What exits say, as far as more than one of them does or this machine's resolver agrees.
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
    /// One in which nothing was dialled.
    pub fn refused(via: Route, reason: String) -> PathCheck {
        let (addresses, ports, warnings) = (Vec::new(), Vec::new(), Vec::new());
        PathCheck { via, refusal: Some(reason), unresolved: None, addresses, ports, warnings }
    }

    /// One in which no circuit had an answer to the look-up.
    pub fn unresolved(via: Route, failure: ProbeError) -> PathCheck {
        let reason = format!("the look-up of the name {via} failed: {failure}");
        PathCheck { unresolved: Some(failure), ..PathCheck::refused(via, reason) }
    }

    fn has_reached(&self) -> bool {
        self.ports.iter().any(|port| port.outcome.is_ok())
    }

    /// Whether it failed for a reason that says nothing about the name.
    pub fn is_inconclusive(&self) -> bool {
        let lookup_failed = self.unresolved.is_some_and(|failure| failure.blame() == FailureOrigin::Local);
        !self.has_reached() && (lookup_failed || self.ports.iter().any(|port| is_local(&port.outcome)))
    }

    /// What went wrong, with the path.
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

/// What these checks mean together.
pub fn conclude(situation: Situation, lookup: &Lookup, checks: &[PathCheck]) -> Conclusion {
    if let Some(check) = checks.iter().find(|check| check.has_reached()) {
        return conclude_reached(check);
    }
    let Some(last) = checks.last() else { return Conclusion::Pending };
    let reason = checks.iter().map(PathCheck::failures).collect::<Vec<_>>().join("; ");
    if last.via == Route::Tor {
        let advice = match last.refusal {
            Some(_) => "",
            None => "; open the ports in the firewall, also to Tor's exits, and forward them in the router",
        };
        return Conclusion::Unreached { reason: format!("{reason}{advice}"), via: Route::Tor };
    }
    let is_unconnected = last.ports.iter().all(|port| is_unconnected(&port.outcome));
    match lookup.configured {
        Some(ip) if situation.tor == TorAvailability::Off && last.refusal.is_none() && is_unconnected => {
            Conclusion::Assumed {
                ip,
                warning: format!(
                    "{reason}; without Tor it can't be tested from outside, so it is advertised at {ip} on the operator's word"
                ),
            }
        }
        _ if last.refusal.is_none() && is_unconnected => Conclusion::Unreached {
            reason: format!(
                "{reason}; behind a router without hairpin NAT that proves nothing: with Tor, the name is tested from outside"
            ),
            via: Route::Direct,
        },
        _ => Conclusion::Unreached { reason, via: Route::Direct },
    }
}

fn conclude_reached(check: &PathCheck) -> Conclusion {
    let mut warnings = check.warnings.clone();
    let port = |transport| {
        let result = check.ports.iter().find(|port| port.transport == transport && port.outcome.is_ok());
        result.map(|result| result.port)
    };
    let Some(ports) = Ports::new(port(Transport::Tcp), port(Transport::Tls)) else { return Conclusion::Pending };
    for result in &check.ports {
        match &result.outcome {
            Err(failure) => {
                warnings.push(format!("{} port {} can't be reached: {failure}", result.transport, result.port));
            }
            Ok(endpoint) => {
                warnings.extend(endpoint.software.as_deref().filter(|name| *name != USER_AGENT).map(|name| {
                    format!("{} port {} is answered by {name}, not by this program", result.transport, result.port)
                }))
            }
        }
    }
    let ip = check.ports.iter().find_map(|port| port.outcome.as_ref().ok()?.ip);
    Conclusion::Reached { via: check.via, ip, ports, warnings }
}

fn is_local(outcome: &Result<VerifiedEndpoint, ProbeError>) -> bool {
    outcome.as_ref().is_err_and(|failure| failure.blame() == FailureOrigin::Local)
}

/// Whether no connection came about, as behind a router without hairpin NAT.
fn is_unconnected(outcome: &Result<VerifiedEndpoint, ProbeError>) -> bool {
    matches!(outcome, Err(ProbeError::Refused | ProbeError::Unreachable))
}

fn join(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests;
