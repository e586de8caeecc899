//! A Tor that somebody else runs: is it there?
//!
//! Whether it is there is asked of its SOCKS port every few seconds. Whether it is in the network we learn by using it:
//! the first onion peer that answers is the proof, and while there is none the book tries a few, now and then. Its
//! control port would report_probe sooner, but wants a password or a cookie that few operators give to another program, and it
//! can say "bootstrapped" of a Tor whose circuits have all died; an answer from a peer can't be wrong.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{TorChannels, report_probe};
use crate::book::Event;
use crate::book_handle::BookMessage;
use crate::dial::{Socks, SocksDetection, TorConnector, clearnet_access, detect_tor, lacks_bind};
use crate::route::{ClearnetAccess, TorKind, TorProbe, TorSource};

/// Between two looks.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Interval for checking again a port that refuses clearnet. Each check is a warning in Tor's log, and torrc may have changed.
const RECHECK_REFUSAL: Duration = Duration::from_mins(10);

/// Looks after the first of these addresses that is Tor's. Ends when nobody listens to it any more.
pub async fn watch(addresses: Vec<SocketAddr>, secret: u128, channels: TorChannels) {
    let mut monitor = Monitor { addresses, secret, channels, current: None, tor_probe: None, clearnet: None };
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
    addresses: Vec<SocketAddr>,
    secret: u128,
    channels: TorChannels,
    current: Option<Current>,
    /// What the book was last told.
    tor_probe: Option<TorProbe>,
    clearnet: Option<ClearnetAccess>,
}

/// The port in use.
struct Current {
    socks: Socks,
    /// When it was last checked which connections it accepts.
    checked: Instant,
}

impl Current {
    fn is_fresh(&self) -> bool {
        self.checked.elapsed() < RECHECK_REFUSAL
    }
}

/// Looks at one address, without a warning in Tor's log where nothing new is to be clearnet.
async fn check(address: SocketAddr, current: Option<&Current>) -> SocksDetection {
    let known = current.map(|current| (*current.socks.clearnet().borrow(), current.is_fresh()));
    match known {
        Some((ClearnetAccess::OnionOnly, true)) if lacks_bind(address).await => {
            SocksDetection::Tor(ClearnetAccess::OnionOnly)
        }
        Some((ClearnetAccess::NamesOnly, is_fresh)) => match detect_tor(address).await {
            SocksDetection::Tor(_) if is_fresh => SocksDetection::Tor(ClearnetAccess::NamesOnly),
            SocksDetection::Tor(access) => SocksDetection::Tor(clearnet_access(address).await.unwrap_or(access)),
            other => other,
        },
        _ => detect_tor(address).await,
    }
}

impl Monitor {
    /// Looks once, and reports what changed. False when the daemon ends.
    async fn check(&mut self) -> bool {
        let (tor_probe, found) = self.detect().await;
        match found {
            Some((address, access)) => self.use_port(address, access),
            None => self.current = None,
        }
        self.publish();
        let clearnet = self.current.as_ref().map(|current| *current.socks.clearnet().borrow());
        // Before the tor_probe, at which the book begins to try peers.
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

    /// The first address where Tor answers, and which clearnet connections it accepts.
    async fn detect(&self) -> (TorProbe, Option<(SocketAddr, ClearnetAccess)>) {
        let mut reasons = Vec::new();
        for address in &self.addresses {
            let current = self.current.as_ref().filter(|current| current.socks.address() == *address);
            match check(*address, current).await {
                SocksDetection::Tor(access) => return (TorProbe::Reachable, Some((*address, access))),
                SocksDetection::NotTor => reasons.push(format!("what answers on {address} is not Tor")),
                SocksDetection::Unreachable(error) => reasons.push(format!("no Tor on {address}: {error}")),
            }
        }
        reasons.push("start Tor, with `systemctl start tor` say, or let tor.socks say where it is".to_owned());
        (TorProbe::Unavailable { reason: reasons.join("; ") }, None)
    }

    /// Dials through this port from now on.
    fn use_port(&mut self, address: SocketAddr, access: ClearnetAccess) {
        match &mut self.current {
            Some(current) if current.socks.address() == address => {
                if !current.is_fresh() {
                    current.checked = Instant::now();
                }
                current.socks.set_clearnet(access);
            }
            _ => {
                tracing::info!(%address, "Tor answers on its SOCKS port");
                let socks = Socks::new(address, self.secret);
                socks.set_clearnet(access);
                self.channels.connector.send_replace(Some(TorConnector::Socks(socks.clone())));
                self.current = Some(Current { socks, checked: Instant::now() });
            }
        }
    }

    /// Shows operators which port is in use, or which are tried.
    fn publish(&self) {
        let addresses = self.current.as_ref().map_or(self.addresses.clone(), |current| vec![current.socks.address()]);
        let clearnet = self.current.as_ref().map(|current| *current.socks.clearnet().borrow()).unwrap_or_default();
        let source = TorSource { clearnet, ..TorSource::new(TorKind::Socks, addresses) };
        self.channels.report.send_if_modified(|report| {
            let is_new = report.source.as_ref() != Some(&source);
            report.source = Some(source);
            is_new
        });
    }
}
