//! The Tor in use: which one it is, and whether onion peers answer through it.

use std::time::Duration;

use futures_util::future::select_ok;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use tokio::time::{Instant, timeout};

use super::{Finding, RunningDaemon, Subject, isolation};
use crate::api::PeerInfo;
use crate::book::PeerState;
use crate::config::Config;
use crate::connect::ProbeTarget;
use crate::dial::{Dialer, TorConnector};
use crate::peer::{Host, Port, Ports, Transport};
use crate::route::Route;
use crate::tor::{TemporaryTor, TemporaryTorError};
use crate::tor_state::TorState;

/// Onion peers that are dialled to find out whether Tor works. One that answers suffices.
const DIALLED_PEERS: usize = 5;

/// Time for the first of these peers to answer. Arti and C tor give a circuit up after about a minute.
const DIAL_TIMEOUT: Duration = Duration::from_secs(90);

/// Tor that the checks use.
pub(super) struct TorInUse(TemporaryTor);

impl TorInUse {
    /// Finds the configured Tor, or starts the embedded one for the checks.
    pub(super) async fn find(config: &Config) -> (Vec<Finding>, Option<TorInUse>) {
        match TemporaryTor::find(&config.tor.settings, &|_| {}).await {
            Ok(tor) => {
                let text = match tor.connector() {
                    TorConnector::Socks(socks) => format!("Tor answers on its SOCKS port {}", socks.port().address),
                    #[cfg(feature = "embedded-tor")]
                    TorConnector::Arti(_) => "an embedded Tor has started for these checks".to_owned(),
                };
                (vec![Finding::ok(Subject::Tor, text)], Some(TorInUse(tor)))
            }
            Err(TemporaryTorError::Off) => {
                let text = "tor.mode is off: no onion peer is contacted, and nothing can be tested from outside";
                (vec![Finding::ok(Subject::Tor, text)], None)
            }
            Err(error @ TemporaryTorError::NotFound(_)) => {
                let advice = "without Tor, only onion peers of the fallback are served";
                (vec![Finding::failure(Subject::Tor, error.to_string(), advice)], None)
            }
            Err(error @ TemporaryTorError::NotStarted(_)) => {
                let advice = "check the Internet connection, the clock and tor.arti_config; networks that block Tor need \
                              bridges";
                (vec![Finding::failure(Subject::Tor, error.to_string(), advice)], None)
            }
        }
    }

    /// Returns the connector of this Tor.
    pub(super) fn connector(&self) -> TorConnector {
        self.0.connector()
    }

    /// Checks that onion peers answer, and that the streams of different isolation groups share no circuit.
    ///
    /// Also returns whether one answered.
    pub(super) async fn check(
        &self,
        config: &Config,
        daemon: Option<&RunningDaemon>,
        dialer: &Dialer,
        rng: &mut StdRng,
    ) -> (Vec<Finding>, bool) {
        let mut findings = daemon.map(daemon_state).into_iter().flatten().collect::<Vec<_>>();
        if let TorConnector::Socks(socks) = self.connector()
            && let Some(refusal) = socks.clearnet().borrow().refusal()
        {
            let text = "this Tor connects to onion services only, so nothing can be tested from outside";
            findings.push(Finding::warning(Subject::Tor, text, refusal));
        }
        let peers = onion_peers(config, daemon, rng);
        if peers.is_empty() {
            let advice = "add an onion server with `waypost add`, or to discovery.seeds";
            findings.push(Finding::warning(Subject::Tor, "no onion peer is known, so Tor is not tested", advice));
            return (findings, false);
        }
        let mut works = false;
        let started_at = Instant::now();
        let dials = peers.iter().map(|target| Box::pin(dial(dialer, target)));
        match timeout(DIAL_TIMEOUT, select_ok(dials)).await {
            Ok(Ok((answering, _))) => {
                works = true;
                let secs = started_at.elapsed().as_secs_f64();
                findings
                    .push(Finding::ok(Subject::Tor, format!("an onion peer accepts a connection after {secs:.1} s")));
                if matches!(self.connector(), TorConnector::Socks(_)) {
                    findings.extend(isolation::check(dialer, answering).await);
                }
            }
            _ => {
                let text = format!("none of {} onion peers accepts a connection through Tor", peers.len());
                let advice = "check that Tor has bootstrapped (its log says 100 %) and that the machine is online";
                findings.push(Finding::failure(Subject::Tor, text, advice));
            }
        }
        (findings, works)
    }
}

/// Returns what the daemon says about its Tor, if that is not good.
fn daemon_state(daemon: &RunningDaemon) -> Option<Finding> {
    let source = daemon.status.tor_source.as_ref().map(|source| format!(" ({source})")).unwrap_or_default();
    match &daemon.status.tor {
        TorState::Ready => {
            let since = daemon.status.tor_since.map(|since| format!(" since {since}")).unwrap_or_default();
            Some(Finding::ok(Subject::Tor, format!("the daemon's Tor{source} is ready{since}")))
        }
        TorState::Off => None,
        state @ TorState::Starting { .. } => {
            let text = format!("the daemon's Tor{source} is {state}");
            Some(Finding::warning(Subject::Tor, text, "wait some minutes, and look at its log if it does not change"))
        }
        state @ TorState::Down { .. } => {
            let text = format!("the daemon's Tor{source} is {state}");
            Some(Finding::failure(Subject::Tor, text, "check that Tor runs and that the machine is online"))
        }
    }
}

/// Chooses onion peers: verified ones of the daemon, or seeds.
fn onion_peers(config: &Config, daemon: Option<&RunningDaemon>, rng: &mut StdRng) -> Vec<ProbeTarget> {
    let target = |host: Host, endpoint: (Transport, Port)| {
        ProbeTarget::without_extras(host, Route::Tor, Vec::new(), vec![endpoint])
    };
    let verified = daemon.into_iter().flat_map(|daemon| &daemon.peers).filter(|peer| peer.state == PeerState::Verified);
    let of_peer = |peer: &PeerInfo| {
        let host: Host = peer.host.parse().ok()?;
        let ports = [(Transport::Tcp, peer.ports.tcp_port), (Transport::Tls, peer.ports.ssl_port)];
        let endpoint = ports.into_iter().find_map(|(transport, port)| Some((transport, Port::new(port?)?)))?;
        host.is_onion().then(|| target(host, endpoint))
    };
    let verified: Vec<ProbeTarget> = verified.filter_map(of_peer).sample(rng, DIALLED_PEERS);
    if !verified.is_empty() {
        return verified;
    }
    let first = |ports: &Ports| ports.iter().next();
    let seeds = config.book.seeds.iter().filter(|seed| seed.host.is_onion());
    seeds.filter_map(|seed| Some(target(seed.host.clone(), first(&seed.ports)?))).sample(rng, DIALLED_PEERS)
}

/// Connects without TLS: only the connection matters.
async fn dial<'a>(dialer: &Dialer, target: &'a ProbeTarget) -> Result<&'a ProbeTarget, ()> {
    let [(_, port)] = *target.endpoints.as_slice() else { return Err(()) };
    dialer.dial(target, (Transport::Tcp, port)).await.map(|_| target).map_err(drop)
}
