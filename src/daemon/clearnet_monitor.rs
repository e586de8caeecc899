//! Periodic check of the own clearnet name, which is advertised only while it is reachable.
//!
//! The name is checked as a remote client would reach it: through Tor exits, if Tor is ready.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::sleep;

use super::own_address_check::{
    Conclusion, DialAddresses, Lookup, PathCheck, PortResult, Situation, VerifiedEndpoint, conclude,
};
use crate::backoff::Backoff;
use crate::book::Event;
use crate::book_handle::{BookMessage, Inbox};
use crate::config::local_addresses;
use crate::connect::{FailureOrigin, ProbeError, ProbeTarget, Verified};
use crate::dial::{Dialer, Isolation};
use crate::electrum::identity::LocalIdentity;
use crate::electrum::prober::{FeaturesStep, ProbeExpectations};
use crate::network::Network;
use crate::peer::{DnsName, Host, Ports};
use crate::probe::{Deadlines, probe};
use crate::route::Route;
use crate::tor::TorHealth;

/// Time to the next check after a success.
const CHECK_INTERVAL: Duration = Duration::from_hours(1);

/// Time to the next check after the first failure. Doubles with each further failure.
const RETRY_MIN: Duration = Duration::from_secs(5);
/// Longest time to the next check after failures.
const RETRY_MAX: Duration = Duration::from_mins(30);

/// Time from Tor becoming available to the check.
const SETTLE_DELAY: Duration = Duration::from_secs(1);

/// Number of circuits that must fail before a check fails. A single exit may block the ports.
const CIRCUITS_PER_CHECK: u8 = 3;

/// Number of isolation groups in rotation. A retry never uses the circuits of the previous check.
const ISOLATION_GROUPS: u8 = 4 * CIRCUITS_PER_CHECK;

/// State of the own clearnet name, for the status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NameState {
    /// Advertised address; `None` if the name is not advertised or the address is unknown.
    pub address: Option<IpAddr>,
    /// Path by which the name was reached. `None` if it was not, or if it is advertised untested.
    pub via: Option<Route>,
    /// Failed checks in a row.
    pub failures: u32,
    /// Reason of the last failure; `None` after a success.
    pub last_error: Option<String>,
    /// Problems that do not prevent advertising the name.
    pub warnings: Vec<String>,
}

/// Task that checks the own clearnet name and reports the result to the book.
#[derive(Debug)]
pub(crate) struct ClearnetMonitor {
    /// Chain that the endpoint must follow.
    pub network: Network,
    /// Dialer whose isolation group is replaced for each circuit.
    pub dialer: Dialer,
    /// Own names, of which the clearnet name is checked.
    pub local_identity: watch::Receiver<Arc<LocalIdentity>>,
    /// `identity.address`; `None` if the name is resolved.
    pub address: Option<IpAddr>,
    /// `discovery.allow_private`: whether private addresses may be dialled.
    pub allows_private: bool,
    /// Local addresses that announce the name, updated after each check. `None`: they are configured.
    pub announce_from: Option<watch::Sender<Vec<IpAddr>>>,
    /// State of Tor. A check starts when it becomes ready.
    pub health: watch::Receiver<TorHealth>,
    /// State for the status, updated after each check.
    pub state: watch::Sender<NameState>,
    /// Channel to the book's task; the monitor ends with it.
    pub inbox: Inbox,
}

impl ClearnetMonitor {
    /// Checks the name periodically, until the book's task ends.
    ///
    /// Waits forever if no clearnet name is configured.
    pub(crate) async fn run(mut self, mut rng: StdRng) {
        let mut group = 0;
        while !self.inbox.is_closed() {
            let Some((host, ports)) = self.local_identity.borrow().identity.clearnet.clone() else {
                return std::future::pending().await;
            };
            // Marked as seen here, so that a change during the check ends the delay early.
            let was_ready = self.health.borrow_and_update().state.is_ready();
            let had_tor = self.dialer.tor.borrow_and_update().is_some();
            let conclusion = self.check(&host, ports, group).await;
            group = (group + CIRCUITS_PER_CHECK) % ISOLATION_GROUPS;
            let failures = self.record(&host, ports, conclusion).await;
            let delay = match failures {
                0 => CHECK_INTERVAL,
                failures => Backoff::new(RETRY_MIN, RETRY_MAX).after(failures),
            };
            self.wait_for_trigger(delay.mul_f64(rng.random_range(0.8..1.2)), was_ready, had_tor).await;
        }
    }

    /// Runs one check by all paths that apply.
    ///
    /// Falls back to the direct path if Tor itself failed.
    async fn check(&self, host: &Host, ports: Ports, group: u8) -> Conclusion {
        let (has_tor, has_direct) = (self.dialer.tor.borrow().is_some(), self.dialer.direct.is_some());
        let situation = Situation::new(&self.health.borrow().state, has_tor, has_direct, self.allows_private);
        let mut lookup = Lookup { configured: self.address, ..Lookup::default() };
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
        self.update_announce_from(&conclusion, &lookup);
        conclusion
    }

    /// Announces a reached name from the addresses of this machine that it resolves to.
    ///
    /// Peers reject announcements from other addresses. After a failed check the addresses stay as they are.
    fn update_announce_from(&self, conclusion: &Conclusion, lookup: &Lookup) {
        let Some(announce_from) = &self.announce_from else { return };
        let advertised = match conclusion {
            Conclusion::Reached { ip, .. } => *ip,
            Conclusion::Assumed { ip, .. } => Some(*ip),
            Conclusion::Unreached { .. } | Conclusion::Pending => return,
        };
        let addresses = advertised.into_iter().chain(lookup.local.iter().copied());
        announce_from.send_replace(local_addresses(addresses, self.allows_private));
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
            genesis_hash: self.network.genesis_hash(),
            default_ports: self.network.default_ports(),
            features: FeaturesStep::Included,
            announce: None,
            checkpoint_height: None,
            reference: None,
            pin: None,
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

    /// Reports a conclusion to the book, the status and the log.
    ///
    /// Returns the number of failed checks in a row.
    async fn record(&self, host: &Host, ports: Ports, conclusion: Conclusion) -> u32 {
        let before = self.state.borrow().clone();
        let state = match conclusion {
            Conclusion::Reached { via, ip, ports, warnings } => {
                if before.last_error.is_some() || before.via.is_none() {
                    tracing::info!(name = %host, address = ?ip, "identity.host is reachable {via}");
                }
                if via == Route::Tor {
                    let _ = self.inbox.send(BookMessage::Event(Event::TorPathProven)).await;
                }
                self.advertise(host, ports, ip).await;
                NameState { address: ip, via: Some(via), warnings, ..NameState::default() }
            }
            Conclusion::Assumed { ip, warning } => {
                self.advertise(host, ports, Some(ip)).await;
                NameState { address: Some(ip), warnings: vec![warning], ..NameState::default() }
            }
            Conclusion::Unreached { reason, via } => {
                if before.failures == 0 {
                    tracing::warn!(name = %host, reason, "identity.host is not reachable");
                }
                // A check through Tor overrules an earlier success from this machine.
                if via == Route::Tor && before.via == Some(Route::Direct) {
                    let _ = self.inbox.send(BookMessage::Event(Event::SelfUnreachable(host.clone()))).await;
                }
                let failures = before.failures.saturating_add(1);
                let via = before.via.filter(|before| via == Route::Direct || *before == Route::Tor);
                let address = before.address.filter(|_| via.is_some());
                NameState { failures, via, address, last_error: Some(reason), warnings: Vec::new() }
            }
            Conclusion::Pending => {
                NameState { warnings: vec!["the name is tested once Tor is available".to_owned()], ..before }
            }
        };
        for warning in state.warnings.iter().filter(|warning| !before.warnings.contains(warning)) {
            tracing::warn!(name = %host, "identity.host: {warning}");
        }
        let failures = state.failures;
        self.state.send_replace(state);
        failures
    }

    /// Has the book advertise the name at these ports.
    async fn advertise(&self, host: &Host, ports: Ports, ip: Option<IpAddr>) {
        let entry = Box::new(self.local_identity.borrow().identity.listed(host, ports, ip));
        let _ = self.inbox.send(BookMessage::Event(Event::SelfReachable(entry))).await;
    }

    /// Waits for `delay`, or until Tor appears or becomes ready.
    ///
    /// A name that was reached through Tor is not checked sooner. Otherwise an exit would see the check each time that
    /// the onion service returns after an outage of Tor.
    async fn wait_for_trigger(&mut self, delay: Duration, was_ready: bool, had_tor: bool) {
        if self.state.borrow().via == Some(Route::Tor) {
            return sleep(delay).await;
        }
        let ClearnetMonitor { health, dialer, .. } = self;
        let ready = async {
            while !health.borrow_and_update().state.is_ready() {
                if health.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let appeared = async {
            if dialer.tor.wait_for(Option::is_some).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = sleep(delay) => return,
            () = ready, if !was_ready => {}
            () = appeared, if !had_tor => {}
        }
        sleep(SETTLE_DELAY).await;
    }
}
