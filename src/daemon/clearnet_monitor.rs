//! The own clearnet name: tested as a remote client would reach it, and advertised only while that works.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::sleep;

use super::own_address_check::{Answered, Candidates, Conclusion, LookUp, PortResult, Situation, Trial, conclude};
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
const LOOK: Duration = Duration::from_hours(1);

/// After a failed test; doubles up to the second.
const RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_mins(30);

/// From Tor's becoming ready to the test through it.
const FIRST: Duration = Duration::from_secs(1);

/// Circuits tried before a failure is believed: an exit may be unable or unwilling to reach the name.
const CIRCUITS: u8 = 3;

/// Isolation groups in rotation, so that a retry doesn't meet the circuits of the last test.
const GROUPS: u8 = 4 * CIRCUITS;

/// How the name fares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameState {
    /// The address that is published.
    pub address: Option<IpAddr>,
    /// The path by which it was reached; None where it wasn't, or is taken on the operator's word.
    pub via: Option<Route>,
    /// Failed tests in a row, and why the last one failed.
    pub missed: u32,
    pub problem: Option<String>,
    /// What the operator should know though the name is advertised.
    pub warnings: Vec<String>,
}

/// What the watch on the name needs.
#[derive(Debug)]
pub struct ClearnetName {
    pub network: Network,
    pub dialer: Dialer,
    pub ourselves: watch::Receiver<Arc<LocalIdentity>>,
    /// `identity.address`.
    pub address: Option<IpAddr>,
    pub allows_private: bool,
    pub health: watch::Receiver<TorHealth>,
    pub state: watch::Sender<NameState>,
    pub inbox: Inbox,
}

impl ClearnetName {
    /// Tests the name again and again, until the book's task ends.
    pub async fn run(mut self, mut rng: StdRng) {
        let mut group = 0;
        while !self.inbox.is_closed() {
            let Some((host, ports)) = self.ourselves.borrow().identity.clearnet.clone() else {
                return std::future::pending().await;
            };
            // Marked as seen: a change during the test cuts the pause short.
            let was_ready = self.health.borrow_and_update().state.is_ready();
            let had_tor = self.dialer.tor.borrow_and_update().is_some();
            let conclusion = self.test(&host, ports, group).await;
            group = (group + CIRCUITS) % GROUPS;
            let missed = self.note(&host, ports, conclusion).await;
            let pause = match missed {
                0 => LOOK,
                missed => Backoff::new(RETRY, LONGEST_RETRY).after(missed),
            };
            self.rest(pause.mul_f64(rng.random_range(0.8..1.2)), was_ready, had_tor).await;
        }
    }

    async fn test(&self, host: &Host, ports: Ports, group: u8) -> Conclusion {
        let (has_tor, has_direct) = (self.dialer.tor.borrow().is_some(), self.dialer.direct.is_some());
        let situation = Situation::new(&self.health.borrow().state, has_tor, has_direct, self.allows_private);
        let mut look_up = LookUp { configured: self.address, ..LookUp::default() };
        match host {
            Host::Ip(ip) => look_up.configured = Some(*ip),
            Host::Dns(name) if has_direct => {
                look_up.here = self.dialer.resolve(name, Route::Direct).await.unwrap_or_default();
            }
            Host::Dns(_) | Host::Onion(_) => {}
        }
        let mut trials = Vec::new();
        for via in situation.paths() {
            trials.push(self.trial(host, ports, *via, group, &mut look_up).await);
        }
        if trials.iter().all(|trial| trial.via == Route::Tor && trial.is_inconclusive()) && has_direct {
            trials.push(self.trial(host, ports, Route::Direct, group, &mut look_up).await);
        }
        conclude(situation, &look_up, &trials)
    }

    /// Tests each port by one path.
    async fn trial(&self, host: &Host, ports: Ports, via: Route, group: u8, look_up: &mut LookUp) -> Trial {
        if let (Host::Dns(name), Route::Tor) = (host, via)
            && let Err(failure) = self.ask_exits(name, group, look_up).await
            && look_up.configured.is_none()
        {
            return Trial::unresolved(via, failure);
        }
        let candidates = match look_up.candidates(via, self.allows_private) {
            Ok(candidates) => candidates,
            Err(reason) => return Trial::refused(via, reason),
        };
        let mut results = Vec::new();
        for (transport, port) in ports.iter() {
            let outcome = self.reach(host, via, &candidates.addresses, (transport, port), group).await;
            results.push(PortResult { transport, port, outcome });
        }
        let Candidates { addresses, warnings } = candidates;
        Trial { via, refusal: None, unresolved: None, addresses, ports: results, warnings }
    }

    /// Asks exits until they agree. It fails where none has an answer.
    async fn ask_exits(&self, name: &DnsName, group: u8, look_up: &mut LookUp) -> Result<(), ProbeError> {
        let mut outcome = Ok(());
        for dialer in self.circuits(group) {
            if look_up.is_settled() {
                break;
            }
            match dialer.resolve(name, Route::Tor).await {
                Ok(addresses) => look_up.exits.push(addresses),
                Err(failure) => outcome = Err(failure),
            }
        }
        if look_up.exits.is_empty() { outcome } else { Ok(()) }
    }

    /// One whole conversation at one port. Through Tor, on further circuits before a failure is believed.
    async fn reach(
        &self,
        host: &Host,
        via: Route,
        addresses: &[IpAddr],
        door: (Transport, Port),
        group: u8,
    ) -> Result<Answered, ProbeError> {
        let attempt = ProbeTarget::without_extras(host.clone(), via, addresses.to_vec(), vec![door]);
        let expected = ProbeExpectations {
            host: Some(host.clone()),
            genesis_hash: self.network.genesis_hash(),
            default_ports: self.network.default_ports(),
            announce: None,
            checkpoint_height: None,
        };
        let mut outcome = Err(ProbeError::Unreachable);
        for dialer in self.circuits(group).take(if via == Route::Tor { usize::from(CIRCUITS) } else { 1 }) {
            outcome = probe(&dialer, &attempt, &expected, Deadlines::for_route(via), |_| {})
                .await
                .map(|verified| Answered { ip: verified.ip, software: verified.report.software });
            if outcome.as_ref().map_or_else(|failure| failure.blame() == FailureOrigin::Local, |_| true) {
                break;
            }
        }
        outcome
    }

    /// Dialers whose circuits are apart from each other.
    fn circuits(&self, group: u8) -> impl Iterator<Item = Dialer> {
        let dialer = self.dialer.clone();
        (group..group + CIRCUITS).map(move |number| Dialer { isolation: Isolation::OwnName(number), ..dialer.clone() })
    }

    /// Tells the book and operators, and returns the number of failed tests in a row.
    async fn note(&self, host: &Host, ports: Ports, conclusion: Conclusion) -> u32 {
        let before = self.state.borrow().clone();
        let state = match conclusion {
            Conclusion::Reached { via, ip, ports, warnings } => {
                if before.problem.is_some() || before.via.is_none() {
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
                if before.missed == 0 {
                    tracing::warn!(name = %host, reason, "identity.host can't be reached");
                }
                // Reached from this machine alone, it was advertised for want of a better test.
                if via == Route::Tor && before.via == Some(Route::Direct) {
                    let _ = self.inbox.send(BookMessage::Event(Event::SelfUnreachable(host.clone()))).await;
                }
                let missed = before.missed.saturating_add(1);
                let via = before.via.filter(|before| via == Route::Direct || *before == Route::Tor);
                let address = before.address.filter(|_| via.is_some());
                NameState { missed, via, address, problem: Some(reason), warnings: Vec::new() }
            }
            Conclusion::Waits => NameState { warnings: vec!["it is tested once Tor is there".to_owned()], ..before },
        };
        for warning in state.warnings.iter().filter(|warning| !before.warnings.contains(warning)) {
            tracing::warn!(name = %host, "identity.host: {warning}");
        }
        let missed = state.missed;
        self.state.send_replace(state);
        missed
    }

    async fn advertise(&self, host: &Host, ports: Ports, ip: Option<IpAddr>) {
        let listed = Box::new(self.ourselves.borrow().identity.listed(host, ports, ip));
        let _ = self.inbox.send(BookMessage::Event(Event::SelfReachable(listed))).await;
    }

    /// Waits this long, or until Tor appears or becomes ready.
    async fn rest(&mut self, pause: Duration, was_ready: bool, had_tor: bool) {
        let ClearnetName { health, dialer, .. } = self;
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
            () = sleep(pause) => return,
            () = ready, if !was_ready => {}
            () = appears, if !had_tor => {}
        }
        sleep(FIRST).await;
    }
}
