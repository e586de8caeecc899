//! Supervision of an external Tor on a SOCKS port.
//!
//! The SOCKS port is checked every few seconds. Whether that Tor reaches its network shows in use:
//! the first onion peer that answers proves it, and until then the book tries a few peers. The
//! control port would know sooner, but needs a password or cookie, and it reports "bootstrapped"
//! even when all circuits have failed.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{TorChannels, report_probe};
use crate::book::Event;
use crate::book_handle::BookMessage;
use crate::dial::{Socks, SocksDetection, SocksPort, TorConnector, clearnet_access, detect_tor, lacks_bind};
use crate::tor_state::{ClearnetAccess, TorKind, TorProbe, TorSource};

/// Interval between two checks of the port.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Interval between checks of a port that refuses clearnet, as torrc may have changed.
///
/// Each check causes a warning in Tor's log.
const RECHECK_REFUSAL: Duration = Duration::from_mins(10);

/// Monitors the first of these ports where Tor answers, until the daemon shuts down.
pub(super) async fn watch(ports: Vec<SocksPort>, secret: u128, channels: TorChannels) {
    let mut monitor = Monitor { ports, secret, channels, current: None, tor_probe: None, clearnet: None };
    while monitor.check().await {
        match &monitor.current {
            Some(current) => {
                let mut clearnet = current.socks.clearnet();
                tokio::select! {
                    _ = clearnet.wait_for(|access| Some(*access) != monitor.clearnet) => {}
                    () = sleep(POLL_INTERVAL) => {}
                }
            }
            None => sleep(POLL_INTERVAL).await,
        }
    }
}

struct Monitor {
    ports: Vec<SocksPort>,
    secret: u128,
    channels: TorChannels,
    current: Option<Current>,
    /// The state that the book received last.
    tor_probe: Option<TorProbe>,
    /// The clearnet access that the book received last.
    clearnet: Option<ClearnetAccess>,
}

/// A port of Tor, and the clearnet connections that it accepts.
struct FoundPort {
    port: SocksPort,
    access: ClearnetAccess,
}

/// The port in use.
struct Current {
    socks: Socks,
    /// Time of the last check which connections the port accepts.
    checked: Instant,
}

impl Current {
    fn is_fresh(&self) -> bool {
        self.checked.elapsed() < RECHECK_REFUSAL
    }
}

/// Checks one port, without a warning in Tor's log if nothing new can be learnt.
async fn check(port: &SocksPort, current: Option<&Current>) -> SocksDetection {
    let known = current.map(|current| (*current.socks.clearnet().borrow(), current.is_fresh()));
    match known {
        Some((ClearnetAccess::OnionOnly, true)) if lacks_bind(port).await => {
            SocksDetection::Tor(ClearnetAccess::OnionOnly)
        }
        Some((ClearnetAccess::NamesOnly, is_fresh)) => match detect_tor(port).await {
            SocksDetection::Tor(_) if is_fresh => SocksDetection::Tor(ClearnetAccess::NamesOnly),
            SocksDetection::Tor(access) => SocksDetection::Tor(clearnet_access(port).await.unwrap_or(access)),
            other => other,
        },
        _ => detect_tor(port).await,
    }
}

impl Monitor {
    /// Checks all ports once and reports changes. Returns false when the daemon shuts down.
    async fn check(&mut self) -> bool {
        let tor_probe = match self.detect().await {
            Ok(found) => {
                self.use_port(found);
                TorProbe::Reachable
            }
            Err(reason) => {
                self.current = None;
                TorProbe::Unavailable { reason }
            }
        };
        self.publish();
        let clearnet = self.current.as_ref().map(|current| *current.socks.clearnet().borrow());
        // Sent before the state of Tor, which makes the book try peers.
        if let Some(access) = clearnet
            && self.clearnet != Some(access)
        {
            if self.channels.inbox.send(BookMessage::Event(Event::TorClearnet(access))).await.is_err() {
                return false;
            }
            self.clearnet = Some(access);
        }
        if self.tor_probe.as_ref() != Some(&tor_probe) {
            if !report_probe(&self.channels.inbox, tor_probe.clone()).await {
                return false;
            }
            self.tor_probe = Some(tor_probe);
        }
        !self.channels.inbox.is_closed()
    }

    /// Returns the first port where Tor answers, or the reason why there is none.
    async fn detect(&self) -> Result<FoundPort, String> {
        let mut reasons = Vec::new();
        for port in &self.ports {
            let (address, current) = (&port.address, self.current.as_ref());
            match check(port, current.filter(|current| current.socks.port() == port)).await {
                SocksDetection::Tor(access) => return Ok(FoundPort { port: port.clone(), access }),
                SocksDetection::LoginRejected(reason) => reasons.push(format!("{address}: {reason}")),
                SocksDetection::NotTor => reasons.push(format!("the program on {address} is not Tor")),
                SocksDetection::Unreachable(error) => reasons.push(format!("no Tor on {address}: {error}")),
            }
        }
        reasons.push("start Tor (e.g. `systemctl start tor`), or set tor.socks to its SOCKS address".to_owned());
        Err(reasons.join("; "))
    }

    /// Dials through this port from now on.
    fn use_port(&mut self, FoundPort { port, access }: FoundPort) {
        match &mut self.current {
            Some(current) if *current.socks.port() == port => {
                if !current.is_fresh() {
                    current.checked = Instant::now();
                }
                current.socks.set_clearnet(access);
            }
            _ => {
                tracing::info!(address = %port.address, "found Tor on its SOCKS port");
                let socks = Socks::new(port, self.secret);
                socks.set_clearnet(access);
                self.channels.connector.send_replace(Some(TorConnector::Socks(socks.clone())));
                self.current = Some(Current { socks, checked: Instant::now() });
            }
        }
    }

    /// Reports the port in use, or the ports that are checked, to operators.
    fn publish(&self) {
        let ports = match &self.current {
            Some(current) => std::slice::from_ref(current.socks.port()),
            None => self.ports.as_slice(),
        };
        let addresses = ports.iter().map(|port| port.address.clone()).collect();
        let shares_circuits = ports.iter().any(SocksPort::shares_circuits);
        let clearnet = self.current.as_ref().map(|current| *current.socks.clearnet().borrow()).unwrap_or_default();
        let source = TorSource { clearnet, shares_circuits, ..TorSource::new(TorKind::Socks, addresses) };
        self.channels.report.send_if_modified(|report| {
            let is_new = report.source.as_ref() != Some(&source);
            report.source = Some(source);
            is_new
        });
    }
}
