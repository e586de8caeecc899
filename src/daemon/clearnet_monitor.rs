//! The own clearnet name: tested as a remote client would reach it, and advertised only while that works.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::sleep;

use super::own_address_check::{
    Candidates, Conclusion, Lookup, PathCheck, PortResult, Situation, VerifiedEndpoint, conclude,
};
use crate::backoff::Backoff;
use crate::book::Event;
use crate::book_handle::{BookMessage, Inbox};
use crate::connect::{FailureOrigin, ProbeError, ProbeTarget};
use crate::dial::{Dialer, Isolation};
use crate::electrum::identity::LocalIdentity;
use crate::electrum::prober::ProbeExpectations;
use crate::network::Network;
use crate::peer::{DnsName, Host, Port, Ports, Transport};
use crate::probe::{Deadlines, probe};
use crate::route::Route;
use crate::tor::TorHealth;

/// Between two tests, of which the last succeeded.
const CHECK_INTERVAL: Duration = Duration::from_hours(1);

/// After a failed test; doubles up to the second.
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_mins(30);

/// From Tor's becoming ready to the test through it.
const SETTLE_DELAY: Duration = Duration::from_secs(1);

/// Circuits tried before a failure is believed: an exit may be unable or unwilling to reach the name.
const CIRCUITS_PER_CHECK: u8 = 3;

/// Isolation groups in rotation, so that a retry doesn't meet the circuits of the last test.
const ISOLATION_GROUPS: u8 = 4 * CIRCUITS_PER_CHECK;

/// How the name fares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameState {
    /// The address that is published.
    pub address: Option<IpAddr>,
    /// The path by which it was reached; None where it wasn't, or is taken on the operator's word.
    pub via: Option<Route>,
    /// Failed tests in a row, and why the last one failed.
    pub failures: u32,
    pub last_error: Option<String>,
    /// What the operator should know though the name is advertised.
    pub warnings: Vec<String>,
}

/// What the watch on the name needs.
#[derive(Debug)]
pub struct ClearnetMonitor {
    pub network: Network,
    pub dialer: Dialer,
    pub local_identity: watch::Receiver<Arc<LocalIdentity>>,
    /// `identity.address`.
    pub address: Option<IpAddr>,
    pub allows_private: bool,
    pub health: watch::Receiver<TorHealth>,
    pub state: watch::Sender<NameState>,
    pub inbox: Inbox,
}

impl ClearnetMonitor {
    /// Tests the name again and again, until the book's task ends.
    pub async fn run(mut self, mut rng: StdRng) {
        let mut group = 0;
        while !self.inbox.is_closed() {
            let Some((host, ports)) = self.local_identity.borrow().identity.clearnet.clone() else {
                return std::future::pending().await;
            };
            // Marked as seen: a change during the test cuts the delay short.
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
        conclude(situation, &lookup, &checks)
    }

    /// Tests each port by one path.
    async fn check_path(&self, host: &Host, ports: Ports, via: Route, group: u8, lookup: &mut Lookup) -> PathCheck {
        if let (Host::Dns(name), Route::Tor) = (host, via)
            && let Err(failure) = self.resolve_through_exits(name, group, lookup).await
            && lookup.configured.is_none()
        {
            return PathCheck::unresolved(via, failure);
        }
        let candidates = match lookup.candidates(via, self.allows_private) {
            Ok(candidates) => candidates,
            Err(reason) => return PathCheck::refused(via, reason),
        };
        let mut results = Vec::new();
        for (transport, port) in ports.iter() {
            let outcome = self.probe_port(host, via, &candidates.addresses, (transport, port), group).await;
            results.push(PortResult { transport, port, outcome });
        }
        let Candidates { addresses, warnings } = candidates;
        PathCheck { via, refusal: None, unresolved: None, addresses, ports: results, warnings }
    }

    /// Asks exits until they agree. It fails where none has an answer.
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

    /// One whole conversation at one port. Through Tor, on further circuits before a failure is believed.
    async fn probe_port(
        &self,
        host: &Host,
        via: Route,
        addresses: &[IpAddr],
        endpoint: (Transport, Port),
        group: u8,
    ) -> Result<VerifiedEndpoint, ProbeError> {
        let target = ProbeTarget::without_extras(host.clone(), via, addresses.to_vec(), vec![endpoint]);
        let expected = ProbeExpectations {
            host: Some(host.clone()),
            genesis_hash: self.network.genesis_hash(),
            default_ports: self.network.default_ports(),
            announce: None,
            compare: None,
        };
        let mut outcome = Err(ProbeError::Unreachable);
        for dialer in self.circuits(group).take(if via == Route::Tor { usize::from(CIRCUITS_PER_CHECK) } else { 1 }) {
            outcome = probe(&dialer, &target, &expected, Deadlines::for_route(via), |_| {})
                .await
                .map(|verified| VerifiedEndpoint { ip: verified.ip, software: verified.report.software });
            if outcome.as_ref().map_or_else(|failure| failure.blame() == FailureOrigin::Local, |_| true) {
                break;
            }
        }
        outcome
    }

    /// Dialers whose circuits are apart from each other.
    fn circuits(&self, group: u8) -> impl Iterator<Item = Dialer> {
        let dialer = self.dialer.clone();
        (group..group + CIRCUITS_PER_CHECK)
            .map(move |number| Dialer { circle: Isolation::OwnName(number), ..dialer.clone() })
    }

    /// Tells the book and operators, and returns the number of failed tests in a row.
    async fn record(&self, host: &Host, ports: Ports, conclusion: Conclusion) -> u32 {
        let before = self.state.borrow().clone();
        let state = match conclusion {
            Conclusion::Reached { via, ip, ports, warnings } => {
                if before.last_error.is_some() || before.via.is_none() {
                    tracing::info!(name = %host, address = ?ip, "identity.host is reached {via}");
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
                    tracing::warn!(name = %host, reason, "identity.host can't be reached");
                }
                // Reached from this machine alone, it was advertised for want of a better test.
                if via == Route::Tor && before.via == Some(Route::Direct) {
                    let _ = self.inbox.send(BookMessage::Event(Event::SelfUnreachable(host.clone()))).await;
                }
                let failures = before.failures.saturating_add(1);
                let via = before.via.filter(|before| via == Route::Direct || *before == Route::Tor);
                let address = before.address.filter(|_| via.is_some());
                NameState { failures, via, address, last_error: Some(reason), warnings: Vec::new() }
            }
            Conclusion::Pending => NameState { warnings: vec!["it is tested once Tor is there".to_owned()], ..before },
        };
        for warning in state.warnings.iter().filter(|warning| !before.warnings.contains(warning)) {
            tracing::warn!(name = %host, "identity.host: {warning}");
        }
        let failures = state.failures;
        self.state.send_replace(state);
        failures
    }

    async fn advertise(&self, host: &Host, ports: Ports, ip: Option<IpAddr>) {
        let listed = Box::new(self.local_identity.borrow().identity.listed(host, ports, ip));
        let _ = self.inbox.send(BookMessage::Event(Event::SelfReachable(listed))).await;
    }

    /// Waits this long, or until Tor appears or becomes ready.
    async fn wait_for_trigger(&mut self, delay: Duration, was_ready: bool, had_tor: bool) {
        let ClearnetMonitor { health, dialer, .. } = self;
        let ready = async {
            while !health.borrow_and_update().state.is_ready() {
                if health.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let appears = async {
            if dialer.tor.wait_for(Option::is_some).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = sleep(delay) => return,
            () = ready, if !was_ready => {}
            () = appears, if !had_tor => {}
        }
        sleep(SETTLE_DELAY).await;
    }
}
