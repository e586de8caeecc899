//! Connections: from a route and an endpoint to a byte stream, plain or TLS.

#[cfg(feature = "embedded-tor")]
mod arti;
mod direct;
mod handshake_signature;
mod happy_eyeballs;
mod socks;
mod socks_handshake;
mod socks_login;
mod socks_port;
mod tls;
mod web_socket;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::{fmt, io};

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

#[cfg(feature = "embedded-tor")]
pub use arti::{Arti, Client};
pub use direct::Direct;
pub use socks::Socks;
pub use socks_login::{SocksLogin, SocksPort};
pub use socks_port::{SocksDetection, clearnet_access, detect_tor, lacks_bind};
pub use tls::{Tls, public_key};

use crate::connect::{ProbeError, ProbeTarget, TlsCertificate};
use crate::peer::{DnsName, Host, Port, Transport};
use crate::route::Route;

/// A bidirectional byte stream of any transport.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// An established connection.
pub struct Connection {
    /// The byte stream, decrypted if the transport is TLS.
    pub stream: Box<dyn Stream>,
    /// Address that was reached, directly or by an exit. `None` for onion services.
    pub ip: Option<IpAddr>,
    /// Certificate of the server. `None` without TLS.
    pub certificate: Option<TlsCertificate>,
}

/// Opens connections by any route that is available.
#[derive(Debug, Clone)]
pub struct Dialer {
    /// TLS client.
    pub tls: Tls,
    /// Permission to connect without Tor. `None` with `tor.only`: no `Direct` exists then.
    pub direct: Option<Direct>,
    /// Connector of the Tor in use. `None` while there is no Tor.
    pub tor: watch::Receiver<Option<TorConnector>>,
    /// Which streams may share a circuit.
    pub isolation: Isolation,
    /// Local addresses of direct connections that announce a clearnet name. Never used through Tor.
    pub announce_from: LocalAddresses,
}

/// Local addresses of each own name. Without an entry, the system chooses the source of connections.
pub type NameAddresses = BTreeMap<Host, Vec<IpAddr>>;

/// Local addresses that announcements of the own names come from, as tasks update them. Default: none.
///
/// Peers accept an announcement only from an address of the announced name.
#[derive(Debug, Clone)]
pub struct LocalAddresses(watch::Receiver<NameAddresses>);

impl LocalAddresses {
    /// Follows the addresses of a sender.
    pub fn new(addresses: watch::Receiver<NameAddresses>) -> LocalAddresses {
        LocalAddresses(addresses)
    }

    /// Returns the local addresses for the announcement of a name. Empty: the system chooses.
    fn of(&self, own: &Host) -> Vec<IpAddr> {
        self.0.borrow().get(own).cloned().unwrap_or_default()
    }
}

impl Default for LocalAddresses {
    fn default() -> LocalAddresses {
        LocalAddresses(watch::channel(NameAddresses::new()).1)
    }
}

/// A connector into the Tor network.
#[derive(Debug, Clone)]
pub enum TorConnector {
    /// External Tor on a SOCKS port.
    Socks(Socks),
    /// The embedded Tor.
    #[cfg(feature = "embedded-tor")]
    Arti(Arti),
}

/// Isolation of streams. Streams of different groups never share a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// One group for each host that is dialled.
    Peers,
    /// One group for each host that the onion side dials.
    ///
    /// They differ from those of the clearnet side, because a peer must not see that both are one node.
    OnionSidePeers,
    /// One group for each session that a peer serves.
    Session(u64),
    /// The group of IRC visits.
    Irc,
    /// Groups of the onion monitor, which are used in turn.
    SelfCheck(u8),
    /// Groups for checks of the own clearnet name.
    ///
    /// They differ from those of the onion name, because the two names must not be linkable.
    OwnName(u8),
}

impl Isolation {
    /// Returns the isolation group of a stream to a host.
    fn group(self, host: &Host) -> IsolationGroup {
        match self {
            Isolation::Peers => IsolationGroup::Host(host.clone()),
            Isolation::OnionSidePeers => IsolationGroup::OnionSideHost(host.clone()),
            Isolation::Session(number) => IsolationGroup::Session(number),
            Isolation::Irc => IsolationGroup::Irc,
            Isolation::SelfCheck(number) => IsolationGroup::SelfCheck(number),
            Isolation::OwnName(number) => IsolationGroup::OwnName(number),
        }
    }
}

/// Streams that may share a circuit. Displayed as the SOCKS user name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum IsolationGroup {
    Host(Host),
    OnionSideHost(Host),
    Session(u64),
    Irc,
    SelfCheck(u8),
    OwnName(u8),
}

impl fmt::Display for IsolationGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IsolationGroup::Host(host) => write!(f, "{host}"),
            IsolationGroup::OnionSideHost(host) => write!(f, "onion side {host}"),
            IsolationGroup::Session(number) => write!(f, "session {number}"),
            IsolationGroup::Irc => f.write_str("irc"),
            IsolationGroup::SelfCheck(number) => write!(f, "self-check {number}"),
            IsolationGroup::OwnName(number) => write!(f, "own name {number}"),
        }
    }
}

/// Maps an I/O error that means that this machine is out of sockets or memory.
fn local_exhaustion(error: &io::Error) -> Option<ProbeError> {
    let codes = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| codes.contains(&code)).then_some(ProbeError::LocalResourceExhausted)
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("ip", &self.ip).finish_non_exhaustive()
    }
}

impl Dialer {
    /// Resolves a name through this machine's resolver, or through a Tor exit.
    pub async fn resolve(&self, name: &DnsName, via: Route) -> Result<Vec<IpAddr>, ProbeError> {
        match via {
            Route::Direct => self.direct()?.resolve(name).await,
            // On the circuits on which the host is dialled next.
            Route::Tor => self.tor()?.resolve(name, &self.isolation.group(&Host::Dns(name.clone()))).await,
        }
    }

    /// Connects to a WebSocket of a target. The stream has lines, as that of [`Dialer::dial`].
    ///
    /// It ends after `max_bytes` of the peer.
    pub async fn dial_web_socket(
        &self,
        target: &ProbeTarget,
        endpoint: (Transport, Port),
        max_bytes: usize,
    ) -> Result<Connection, ProbeError> {
        let connection = self.dial(target, endpoint).await?;
        let stream = web_socket::upgrade(connection.stream, max_bytes, &target.host, endpoint).await?;
        Ok(Connection { stream, ..connection })
    }

    /// Connects to one endpoint of a target, with a TLS handshake if its transport is TLS.
    pub async fn dial(
        &self,
        target: &ProbeTarget,
        (transport, port): (Transport, Port),
    ) -> Result<Connection, ProbeError> {
        let (stream, ip): (Box<dyn Stream>, Option<IpAddr>) = match target.via {
            Route::Direct => {
                let local = target.announce.as_ref().map(|own| self.announce_from.of(own)).unwrap_or_default();
                let (stream, ip) = self.direct()?.connect_from(&local, &target.addresses, port).await?;
                (Box::new(stream), Some(ip))
            }
            Route::Tor => self.connect_through_tor(target, port).await?,
        };
        match transport {
            Transport::Tcp => Ok(Connection { stream, ip, certificate: None }),
            Transport::Tls => {
                let (stream, certificate) = self.tls.connect(&target.host, stream).await?;
                Ok(Connection { stream: Box::new(stream), ip, certificate })
            }
        }
    }

    async fn connect_through_tor(
        &self,
        target: &ProbeTarget,
        port: Port,
    ) -> Result<(Box<dyn Stream>, Option<IpAddr>), ProbeError> {
        let (tor, group) = (self.tor()?, self.isolation.group(&target.host));
        if target.host.is_onion() {
            return Ok((tor.connect(&target.host, port, &group).await?, None));
        }
        // The checked addresses are dialled, as an exit would resolve the name to others.
        let mut failure = ProbeError::Unreachable;
        for ip in &target.addresses {
            match tor.connect(&Host::Ip(*ip), port, &group).await {
                Ok(stream) => return Ok((stream, Some(*ip))),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn direct(&self) -> Result<&Direct, ProbeError> {
        // The book sends no peer by this route if it is not permitted.
        self.direct.as_ref().ok_or(ProbeError::Internal)
    }

    fn tor(&self) -> Result<TorConnector, ProbeError> {
        self.tor.borrow().clone().ok_or(ProbeError::TorUnavailable)
    }
}

impl TorConnector {
    async fn connect(&self, host: &Host, port: Port, group: &IsolationGroup) -> Result<Box<dyn Stream>, ProbeError> {
        Ok(match self {
            TorConnector::Socks(socks) => socks.connect(host, port, group).await?,
            #[cfg(feature = "embedded-tor")]
            TorConnector::Arti(arti) => Box::new(arti.connect(host, port, group).await?),
        })
    }

    async fn resolve(&self, name: &DnsName, group: &IsolationGroup) -> Result<Vec<IpAddr>, ProbeError> {
        match self {
            TorConnector::Socks(socks) => socks.resolve(name, group).await,
            #[cfg(feature = "embedded-tor")]
            TorConnector::Arti(arti) => arti.resolve(name, group).await,
        }
    }
}
