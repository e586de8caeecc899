//! Check of an own clearnet name: resolves it and dials each port, by all paths that apply.

use std::net::IpAddr;

use super::own_address_check::{
    Conclusion, DialAddresses, Lookup, PathCheck, PortResult, Situation, VerifiedEndpoint, conclude,
};
use crate::chain::Chain;
use crate::config::Config;
use crate::connect::{FailureOrigin, ProbeError, ProbeTarget, Verified};
use crate::dial::{Dialer, Isolation};
use crate::electrum::prober::{ChainProof, FeaturesStep, ProbeExpectations, RequestOrder};
use crate::peer::{DnsName, Host, Ports};
use crate::probe::{Deadlines, probe};
use crate::route::Route;
use crate::tor_state::TorState;

/// Number of circuits that must fail before a check fails. A single exit may block the ports.
pub(crate) const CIRCUITS_PER_CHECK: u8 = 3;

/// Check of an own clearnet name.
#[derive(Debug, Clone)]
pub(crate) struct NameCheck {
    /// Chain that the endpoint must follow.
    pub chain: Chain,
    /// Dialer whose isolation group is replaced for each circuit.
    pub dialer: Dialer,
    /// Whether the name is `identity.host`.
    pub is_primary: bool,
    /// `identity.address` for `identity.host`; `None` if the name is resolved.
    pub address: Option<IpAddr>,
    /// `discovery.allow_private`: whether private addresses may be dialled.
    pub allows_private: bool,
}

/// Results of a check.
#[derive(Debug)]
pub(crate) struct CheckedName {
    /// Addresses of the name.
    pub lookup: Lookup,
    /// Results by path, in the order in which the paths were tried.
    pub checks: Vec<PathCheck>,
    /// What they mean.
    pub conclusion: Conclusion,
}

impl NameCheck {
    /// Creates the check of a name of this configuration.
    pub(crate) fn new(config: &Config, dialer: &Dialer, host: &Host) -> NameCheck {
        let is_primary = config.identity.clearnet.as_ref().is_some_and(|(primary, _)| primary == host);
        NameCheck {
            chain: config.book.chain.clone(),
            dialer: dialer.clone(),
            is_primary,
            address: config.identity.address.filter(|_| is_primary),
            allows_private: config.book.allow_private,
        }
    }

    /// Runs one check by all paths that apply.
    ///
    /// `tor` is the state of Tor. Falls back to the direct path if Tor itself failed.
    pub(crate) async fn run(&self, tor: &TorState, host: &Host, ports: Ports, group: u8) -> CheckedName {
        let (has_tor, has_direct) = (self.dialer.tor.borrow().is_some(), self.dialer.direct.is_some());
        let situation = Situation::new(tor, has_tor, has_direct, self.allows_private);
        let mut lookup = Lookup { configured: self.address, is_primary: self.is_primary, ..Lookup::default() };
        match host {
            Host::Ip(ip) => lookup.configured = Some(*ip),
            Host::Dns(name) if has_direct => {
                lookup.local = self.dialer.resolve(name, Route::Direct).await.unwrap_or_default();
            }
            Host::Dns(_) | Host::Onion(_) => {}
        }
        let mut checks = Vec::new();
        for via in situation.paths() {
            checks.push(self.check_path(host, ports, *via, group, &mut lookup).await);
        }
        if checks.iter().all(|check| check.via == Route::Tor && check.is_inconclusive()) && has_direct {
            checks.push(self.check_path(host, ports, Route::Direct, group, &mut lookup).await);
        }
        let conclusion = conclude(situation, &lookup, &checks);
        CheckedName { lookup, checks, conclusion }
    }

    /// Checks each port by one path.
    async fn check_path(&self, host: &Host, ports: Ports, via: Route, group: u8, lookup: &mut Lookup) -> PathCheck {
        if let (Host::Dns(name), Route::Tor) = (host, via)
            && let Err(failure) = self.resolve_through_exits(name, group, lookup).await
            && lookup.configured.is_none()
        {
            return PathCheck::unresolved(via, failure);
        }
        let dialled = match lookup.dial_addresses(via, self.allows_private) {
            Ok(addresses) => addresses,
            Err(reason) => return PathCheck::refused(via, reason),
        };
        let mut results = Vec::new();
        let web_sockets: Vec<_> = ports.web_sockets().collect();
        let mut missing = web_sockets.clone();
        for (transport, port) in ports.iter() {
            let target = ProbeTarget {
                web_sockets: missing.clone(),
                ..ProbeTarget::without_extras(host.clone(), via, dialled.addresses.clone(), vec![(transport, port)])
            };
            let outcome = self.probe_port(&target, group).await;
            if let Ok(endpoint) = &outcome {
                missing.retain(|web_socket| !endpoint.web_sockets.contains(web_socket));
            }
            results.push(PortResult { transport, port, outcome });
        }
        let DialAddresses { addresses, warnings } = dialled;
        PathCheck { via, refusal: None, lookup_error: None, addresses, ports: results, web_sockets, warnings }
    }

    /// Resolves the name through exits until they agree.
    ///
    /// Fails if no exit answers.
    async fn resolve_through_exits(&self, name: &DnsName, group: u8, lookup: &mut Lookup) -> Result<(), ProbeError> {
        let mut outcome = Ok(());
        for dialer in self.circuits(group) {
            if lookup.is_settled() {
                break;
            }
            match dialer.resolve(name, Route::Tor).await {
                Ok(addresses) => lookup.exits.push(addresses),
                Err(failure) => outcome = Err(failure),
            }
        }
        if lookup.exits.is_empty() { outcome } else { Ok(()) }
    }

    /// Probes one port with a full conversation, and the WebSockets of the target.
    ///
    /// Through Tor, retries on up to `CIRCUITS_PER_CHECK` circuits, except after a local failure.
    async fn probe_port(&self, target: &ProbeTarget, group: u8) -> Result<VerifiedEndpoint, ProbeError> {
        let via = target.via;
        let expected = ProbeExpectations {
            host: Some(target.host.clone()),
            chain: self.chain.clone(),
            proof: ChainProof::NotRequired,
            features: FeaturesStep::Included,
            order: RequestOrder::Together,
            announce: None,
            checkpoint_height: None,
            reference: None,
        };
        let mut outcome = Err(ProbeError::Unreachable);
        for dialer in self.circuits(group).take(if via == Route::Tor { usize::from(CIRCUITS_PER_CHECK) } else { 1 }) {
            outcome = probe(&dialer, target, &expected, Deadlines::for_route(via), |_| {}).await.map(|verified| {
                let Verified { ip, web_sockets, report, .. } = verified;
                let reached = web_sockets.iter().filter(|check| check.failure.is_none());
                let web_sockets = reached.map(|check| check.endpoint).collect();
                VerifiedEndpoint { ip, software: report.software, web_sockets }
            });
            if outcome.as_ref().map_or_else(|failure| failure.blame() == FailureOrigin::Local, |_| true) {
                break;
            }
        }
        outcome
    }

    /// Returns dialers that never share a circuit.
    fn circuits(&self, group: u8) -> impl Iterator<Item = Dialer> {
        let dialer = self.dialer.clone();
        (group..group + CIRCUITS_PER_CHECK)
            .map(move |group| Dialer { isolation: Isolation::OwnName(group), ..dialer.clone() })
    }
}
