//! Our onion name: it is told to others only once we ourselves have reached it through Tor, as they would.

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
use crate::clock::{self, Time};
use crate::connect::{ProbeError, ProbeTarget};
use crate::dial::{Dialer, Isolation};
use crate::electrum::identity::{Identity, LocalIdentity};
use crate::electrum::prober::ProbeExpectations;
use crate::network::Network;
use crate::peer::{Host, Port, Ports, Transport};
use crate::probe::{Deadlines, probe};
use crate::route::{Route, TorState};

/// Between two looks at a name that was reached at the last one: each is a rendezvous of its own, so it also shows that
/// our Tor works, when nobody else is to be asked for hours.
const CHECK_INTERVAL: Duration = Duration::from_secs(150);

/// From a new way into Tor to the first look. A new service's descriptor is out within seconds.
const TRIGGER_DELAY: Duration = Duration::from_secs(1);

/// After a miss; doubles up to the second.
const MIN_RETRY: Duration = Duration::from_secs(5);
const MAX_RETRY: Duration = Duration::from_mins(2);

/// Circles to be used in turn: by the time that one is used again, its circuit of last time is closed, which Arti does
/// after ten minutes. More of them would leave more behind in its memory.
const ISOLATION_GROUPS: u8 = 6;

/// Our onion name, and how it fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnionServiceState {
    pub host: Host,
    pub port: Port,
    /// When we last reached it through Tor.
    pub last_reached: Option<Time>,
    /// How often in a row it could not be reached, and why not.
    pub failures: u32,
    pub last_error: Option<String>,
}

impl OnionServiceState {
    pub fn new(host: Host, port: Port) -> OnionServiceState {
        OnionServiceState { host, port, last_reached: None, failures: 0, last_error: None }
    }
}

/// What the watch on our name needs.
#[derive(Debug)]
pub struct OnionMonitor {
    pub network: Network,
    pub dialer: Dialer,
    pub onion_service: watch::Sender<Option<OnionServiceState>>,
    /// Gets the name as soon as it was reached.
    pub local_identity: watch::Sender<Arc<LocalIdentity>>,
    pub health: watch::Receiver<TorHealth>,
    pub inbox: Inbox,
}

impl OnionMonitor {
    /// Looks again and again whether our name can be reached, until nobody listens any more.
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

    /// Tries once, and returns how often in a row that was without success.
    async fn check(&self, name: &OnionServiceState, group: u8) -> u32 {
        let outcome = self_probe(&self.dialer, self.network, name, group).await;
        let (now, mut failures, mut is_change) = (clock::now(), 0, false);
        self.onion_service.send_if_modified(|current| {
            // Another one may have taken its place meanwhile.
            let Some(current) = current.as_mut().filter(|current| current.host == name.host) else { return false };
            match &outcome {
                Ok(()) => {
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
            Ok(()) => {
                if is_change {
                    tracing::info!(name = %name.host, "our onion name can be reached");
                }
                self.publish_onion(name);
                let _ = self.inbox.send(BookMessage::Event(Event::TorPathProven)).await;
                let ports = Ports::single(Transport::Tcp, name.port);
                let listed = Box::new(self.local_identity.borrow().identity.listed(&name.host, ports, None));
                let _ = self.inbox.send(BookMessage::Event(Event::SelfReachable(listed))).await;
            }
            Err(failure) if is_change && name.last_reached.is_some() => {
                tracing::warn!(%failure, "our onion name could not be reached");
            }
            Err(failure) => tracing::debug!(%failure, "our onion name could not be reached"),
        }
        failures
    }

    /// Publishes the name to clients of the onion service.
    fn publish_onion(&self, name: &OnionServiceState) {
        self.local_identity.send_if_modified(|identity| {
            let onion = Some((name.host.clone(), Ports::single(Transport::Tcp, name.port)));
            let is_new = identity.identity.onion != onion;
            if is_new {
                *identity = Arc::new(LocalIdentity::new(Identity { onion, ..identity.identity.clone() }));
            }
            is_new
        });
    }

    /// Waits this long, or until something happens that makes another look worth while.
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
        // When all that might change is gone, so is the inbox soon.
        waiting.await;
    }
}

/// Resolves when the book begins to think that Tor is down.
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

/// One whole conversation with ourselves, by way of our name.
async fn self_probe(dialer: &Dialer, network: Network, name: &OnionServiceState, group: u8) -> Result<(), ProbeError> {
    let target =
        ProbeTarget::without_extras(name.host.clone(), Route::Tor, Vec::new(), vec![(Transport::Tcp, name.port)]);
    let expected = ProbeExpectations {
        host: None,
        genesis_hash: network.genesis_hash(),
        default_ports: network.default_ports(),
        announce: None,
        checkpoint_height: None,
    };
    let dialer = Dialer { isolation: Isolation::SelfCheck(group), ..dialer.clone() };
    probe(&dialer, &target, &expected, Deadlines::for_route(Route::Tor), |_| {}).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

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
