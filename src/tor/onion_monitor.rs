//! Monitor of the onion name, which is published only once reached through Tor.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use tokio::sync::watch;
use tokio::time::sleep;

use super::TorHealth;
use crate::backoff::Backoff;
use crate::book::Event;
use crate::book_handle::{BookMessage, Inbox};
use crate::chain::Chain;
use crate::clock::{self, Time};
use crate::connect::{ProbeError, ProbeTarget, Verified};
use crate::dial::{Dialer, Isolation};
use crate::electrum::identity::{Identity, LocalIdentity};
use crate::electrum::prober::{ChainProof, FeaturesStep, ProbeExpectations, RequestOrder};
use crate::peer::{Host, Port, Ports, Transport};
use crate::probe::{Deadlines, probe};
use crate::route::Route;
use crate::tor_state::TorState;

/// Interval between checks of a name that was reached at the last check.
///
/// Each check is a rendezvous, so it also shows that Tor works while no peer is due.
const CHECK_INTERVAL: Duration = Duration::from_secs(150);

/// Delay from a trigger, such as a new connector, to the check.
///
/// The descriptor of a new service is published within seconds.
const TRIGGER_DELAY: Duration = Duration::from_secs(1);

/// Pause after a failure; it doubles up to [`MAX_RETRY`].
const MIN_RETRY: Duration = Duration::from_secs(5);
/// Longest pause after failures.
const MAX_RETRY: Duration = Duration::from_mins(2);

/// Number of failures in a row after which the port for TLS is no longer advertised.
///
/// One failure may be that of a circuit, and each change of the ports is announced to peers.
const MAX_TLS_FAILURES: u32 = 3;

/// Number of isolation groups used in turn.
///
/// When a group is used again, its last circuit is closed, which Arti does after ten minutes. More
/// groups would leave more circuits in Arti's memory.
const ISOLATION_GROUPS: u8 = 6;

/// The onion name and whether it is reachable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnionServiceState {
    /// The onion name.
    pub host: Host,
    /// The virtual ports. Those for TLS are advertised only once reached.
    pub ports: Ports,
    /// Whether only clients with a key find the service. Its name is then not advertised.
    pub is_restricted: bool,
    /// Reachability of the port for TLS, if there is one.
    pub tls: TlsPortState,
    /// Time of the last success through Tor. `None`: none yet.
    pub last_reached: Option<Time>,
    /// Number of failures in a row.
    pub failures: u32,
    /// Error of the last check. `None` after a success.
    pub last_error: Option<String>,
}

impl OnionServiceState {
    /// Creates the state of a name that was not checked yet.
    pub fn new(host: Host, ports: Ports) -> OnionServiceState {
        let tls = TlsPortState::default();
        OnionServiceState { host, ports, is_restricted: false, tls, last_reached: None, failures: 0, last_error: None }
    }

    /// Returns the ports to advertise after a success: not that for TLS unless it was reached.
    fn reached_ports(&self) -> Ports {
        let tls = self.ports.tls().filter(|_| self.tls.is_reached);
        Ports::new(self.ports.tcp(), tls).unwrap_or(self.ports)
    }
}

/// Reachability of the onion name's port for TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsPortState {
    /// Whether the port is advertised: it was reached, and has failed less than [`MAX_TLS_FAILURES`] times since.
    pub is_reached: bool,
    /// Number of failures in a row.
    pub failures: u32,
    /// Error of the last check. `None` after a success.
    pub last_error: Option<String>,
}

impl TlsPortState {
    /// Returns the state after a check of the port.
    fn after(&self, outcome: Result<(), ProbeError>) -> TlsPortState {
        match outcome {
            Ok(()) => TlsPortState { is_reached: true, ..TlsPortState::default() },
            Err(error) => {
                let failures = self.failures.saturating_add(1);
                let is_reached = self.is_reached && failures < MAX_TLS_FAILURES;
                TlsPortState { is_reached, failures, last_error: Some(error.to_string()) }
            }
        }
    }
}

/// Task that checks and publishes the onion name.
#[derive(Debug)]
pub struct OnionMonitor {
    /// The chain of the node.
    pub chain: Chain,
    /// Dialer for the checks, which use isolation groups of their own.
    pub dialer: Dialer,
    /// The name to check, and the result.
    pub onion_service: watch::Sender<Option<OnionServiceState>>,
    /// The local identity, which receives the name after the first success.
    pub local_identity: watch::Sender<Arc<LocalIdentity>>,
    /// State of Tor according to the book.
    pub health: watch::Receiver<TorHealth>,
    /// Messages to the book.
    pub inbox: Inbox,
}

impl OnionMonitor {
    /// Checks the name periodically until the daemon shuts down.
    pub async fn run(mut self, mut rng: StdRng) {
        let (mut names, mut group) = (self.onion_service.subscribe(), 0);
        let mut known_host = None;
        while !self.inbox.is_closed() {
            let name = names.borrow_and_update().clone();
            let pause = match name {
                Some(name) if self.dialer.tor.borrow().is_some() => {
                    if known_host.as_ref() != Some(&name.host) {
                        let event = Event::LocalHost(name.host.clone());
                        if self.inbox.send(BookMessage::Event(event)).await.is_err() {
                            return;
                        }
                        known_host = Some(name.host.clone());
                    }
                    group = (group + 1) % ISOLATION_GROUPS;
                    let failures = self.check(&name, group).await;
                    names.mark_unchanged();
                    pause(failures, &mut rng)
                }
                _ => Duration::MAX,
            };
            self.wait_for_trigger(&mut names, pause).await;
        }
    }

    /// Checks the name once and returns the number of failures in a row.
    async fn check(&self, name: &OnionServiceState, group: u8) -> u32 {
        let Some(port) = name.ports.tcp() else { return 0 };
        let outcome = self.probe(name, (Transport::Tcp, port), group).await;
        // Without TCP, Tor or the service doesn't work, which says nothing about TLS.
        let tls = match (&outcome, name.ports.tls()) {
            (Ok(()), Some(port)) => name.tls.after(self.probe(name, (Transport::Tls, port), group).await),
            _ => name.tls.clone(),
        };
        log_tls_change(&name.tls, &tls);
        let name = &OnionServiceState { tls, ..name.clone() };
        let (now, mut failures, mut is_change) = (clock::now(), 0, false);
        self.onion_service.send_if_modified(|current| {
            // The name may have changed during the check.
            let Some(current) = current.as_mut().filter(|current| current.host == name.host) else { return false };
            current.tls = name.tls.clone();
            match &outcome {
                Ok(_) => {
                    is_change = current.last_reached.is_none() || current.failures > 0;
                    (current.last_reached, current.failures, current.last_error) = (Some(now), 0, None);
                }
                Err(failure) => {
                    is_change = current.failures == 0;
                    current.failures = current.failures.saturating_add(1);
                    current.last_error = Some(failure.to_string());
                }
            }
            failures = current.failures;
            true
        });
        match &outcome {
            Ok(_) => {
                if is_change {
                    tracing::info!(name = %name.host, "the onion name is reachable");
                }
                let _ = self.inbox.send(BookMessage::Event(Event::TorPathProven)).await;
                if name.is_restricted {
                    return failures;
                }
                let ports = name.reached_ports();
                self.publish_onion(&name.host, ports);
                let listed = Box::new(self.local_identity.borrow().identity.listed(&name.host, ports, None));
                let _ = self.inbox.send(BookMessage::Event(Event::SelfReachable(listed))).await;
            }
            Err(failure) if is_change && name.last_reached.is_some() => {
                tracing::warn!(%failure, "the onion name could not be reached; `waypost doctor` looks for the cause");
            }
            Err(failure) => tracing::debug!(%failure, "the onion name could not be reached"),
        }
        failures
    }

    async fn probe(&self, name: &OnionServiceState, endpoint: (Transport, Port), group: u8) -> Result<(), ProbeError> {
        probe_onion_name(&self.dialer, &self.chain, &name.host, endpoint, group).await.map(drop)
    }

    /// Publishes the name to clients of the onion service.
    fn publish_onion(&self, host: &Host, ports: Ports) {
        self.local_identity.send_if_modified(|identity| {
            let onion = Some((host.clone(), ports));
            let is_new = identity.identity.onion != onion;
            if is_new {
                *identity = Arc::new(LocalIdentity::new(Identity { onion, ..identity.identity.clone() }));
            }
            is_new
        });
    }

    /// Waits for this pause, or until an event makes a check worthwhile.
    async fn wait_for_trigger(&mut self, names: &mut watch::Receiver<Option<OnionServiceState>>, pause: Duration) {
        let waiting = async {
            tokio::select! {
                () = sleep(pause) => return,
                changed = self.dialer.tor.changed() => drop(changed),
                changed = names.changed() => drop(changed),
                () = wait_until_down(&mut self.health) => {}
            }
            sleep(TRIGGER_DELAY).await;
        };
        // If no trigger can occur any more, the inbox closes soon.
        waiting.await;
    }
}

/// Resolves when the book marks Tor as down.
async fn wait_until_down(health: &mut watch::Receiver<TorHealth>) {
    let is_down = |health: &TorHealth| matches!(health.state, TorState::Down { .. });
    loop {
        let was_down = is_down(&health.borrow_and_update());
        if health.changed().await.is_err() {
            return std::future::pending().await;
        }
        if !was_down && is_down(&health.borrow()) {
            return;
        }
    }
}

fn pause(failures: u32, rng: &mut impl Rng) -> Duration {
    let pause = match failures {
        0 => CHECK_INTERVAL,
        failures => Backoff::new(MIN_RETRY, MAX_RETRY).after((failures - 1) / 2 + 1),
    };
    pause.mul_f64(rng.random_range(0.8..1.2))
}

/// Logs when the port for TLS starts or ceases to be advertised.
fn log_tls_change(before: &TlsPortState, after: &TlsPortState) {
    match (before.is_reached, after.is_reached, &after.last_error) {
        (false, true, _) => tracing::info!("the TLS port of the onion name is reachable"),
        (true, false, Some(error)) => {
            tracing::warn!(error, "the TLS port of the onion name is not reachable, and no longer advertised");
        }
        _ => {}
    }
}

/// Probes the node itself at a port of its onion name.
///
/// `group` chooses the circuits.
pub async fn probe_onion_name(
    dialer: &Dialer,
    chain: &Chain,
    host: &Host,
    endpoint: (Transport, Port),
    group: u8,
) -> Result<Verified, ProbeError> {
    let target = ProbeTarget::without_extras(host.clone(), Route::Tor, Vec::new(), vec![endpoint]);
    let expected = ProbeExpectations {
        host: None,
        chain: chain.clone(),
        proof: ChainProof::NotRequired,
        features: FeaturesStep::Included,
        order: RequestOrder::Together,
        announce: None,
        checkpoint_height: None,
        reference: None,
    };
    let dialer = Dialer { isolation: Isolation::SelfCheck(group), ..dialer.clone() };
    probe(&dialer, &target, &expected, Deadlines::for_route(Route::Tor), |_| {}).await
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn tls_port_is_advertised_until_it_has_failed_repeatedly() {
        let ports = Ports::new(Some(Port::MIN), Some(Port::MAX)).unwrap();
        let mut name = OnionServiceState::new("a.example".parse().unwrap(), ports);
        let mut check = |outcome| {
            name.tls = name.tls.after(outcome);
            name.reached_ports().tls().is_some()
        };
        assert!(!check(Err(ProbeError::Tls)), "never reached");
        assert!(check(Ok(())));
        let still_advertised: Vec<bool> = (0..4).map(|_| check(Err(ProbeError::Timeout))).collect();
        assert_eq!(still_advertised, [true, true, false, false]);
        assert!(!check(Err(ProbeError::Timeout)));
        assert!(check(Ok(())));
        assert_eq!(name.tls, TlsPortState { is_reached: true, ..TlsPortState::default() });
    }

    #[test]
    fn pause_grows_with_failures_up_to_the_maximum() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut after = |failures| pause(failures, &mut rng).as_secs();
        assert!((120..=180).contains(&after(0)));
        assert!((4..=6).contains(&after(1)));
        assert!((8..=12).contains(&after(3)));
        assert!((96..=144).contains(&after(50)));
        assert!((96..=144).contains(&after(u32::MAX)));
    }
}
