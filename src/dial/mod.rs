//! From a route and a door to a stream of bytes.

#[cfg(feature = "embedded-tor")]
mod arti;
mod direct;
mod socks;
mod socks_handshake;
mod socks_port;
mod tls;

use std::net::IpAddr;
use std::{fmt, io};

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

#[cfg(feature = "embedded-tor")]
pub use arti::{Arti, Client};
pub use direct::Direct;
pub use socks::Socks;
pub use socks_port::{SocksDetection, clearnet_access, detect_tor, lacks_bind};
pub use tls::{Tls, public_key};

use crate::connect::{KeyHash, ProbeError, ProbeTarget};
use crate::peer::{DnsName, Host, Port, Transport};
use crate::route::Route;

/// Bytes both ways, however they travel.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection that stands.
pub struct Connection {
    pub stream: Box<dyn Stream>,
    /// Address that was reached, directly or by an exit. None for onion services.
    pub ip: Option<IpAddr>,
    /// The key of the TLS certificate, if there is one.
    pub key: Option<KeyHash>,
}

/// What is needed to dial anybody.
#[derive(Debug, Clone)]
pub struct Dialer {
    pub tls: Tls,
    /// The way past Tor. None where nothing may leave but through Tor: then there is none in this process.
    pub direct: Option<Direct>,
    /// The Tor that was found or built last, if there is one.
    pub tor: watch::Receiver<Option<TorConnector>>,
    pub isolation: Isolation,
}

/// A way into the Tor network.
#[derive(Debug, Clone)]
pub enum TorConnector {
    /// External Tor on a SOCKS port.
    Socks(Socks),
    /// Our own.
    #[cfg(feature = "embedded-tor")]
    Arti(Arti),
}

/// Streams of different circles never share a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// A group of its own for each host that is dialled.
    Peers,
    /// Each session of a caller's that a peer carries has one of its own.
    Session(u64),
    /// For IRC.
    Irc,
    /// For looking after our own onion service, who is no peer. There are a few of these, to be used in turn.
    SelfCheck(u8),
    /// For tests of the own clearnet name. Apart from those of the onion service, as the two names must not be linked.
    OwnName(u8),
}

impl Isolation {
    /// What tells the group of one host from all others.
    fn key(self, host: &Host) -> String {
        match self {
            Isolation::Peers => host.to_string(),
            Isolation::Session(number) => format!("session {number}"),
            Isolation::Irc => "irc".to_owned(),
            Isolation::SelfCheck(number) => format!("ourselves {number}"),
            Isolation::OwnName(number) => format!("own name {number}"),
        }
    }
}

/// A failure that is ours alone: there are no descriptors left to connect with.
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
    /// The addresses of a name: as this machine's resolver has them, or a Tor exit's.
    pub async fn resolve(&self, name: &DnsName, via: Route) -> Result<Vec<IpAddr>, ProbeError> {
        match via {
            Route::Direct => self.direct()?.resolve(name).await,
            // On the circuits on which the host is dialled next.
            Route::Tor => self.tor()?.resolve(name, &self.isolation.key(&Host::Dns(name.clone()))).await,
        }
    }

    /// Opens one of an target's doors.
    pub async fn dial(
        &self,
        target: &ProbeTarget,
        (transport, port): (Transport, Port),
    ) -> Result<Connection, ProbeError> {
        let (stream, ip): (Box<dyn Stream>, Option<IpAddr>) = match target.via {
            Route::Direct => {
                let (stream, ip) = self.direct()?.connect(&target.addresses, port).await?;
                (Box::new(stream), Some(ip))
            }
            Route::Tor => self.connect_through_tor(target, port).await?,
        };
        match transport {
            Transport::Tcp => Ok(Connection { stream, ip, key: None }),
            Transport::Tls => {
                let (stream, key) = self.tls.connect(&target.host, stream).await?;
                Ok(Connection { stream: Box::new(stream), ip, key })
            }
        }
    }

    async fn connect_through_tor(
        &self,
        target: &ProbeTarget,
        port: Port,
    ) -> Result<(Box<dyn Stream>, Option<IpAddr>), ProbeError> {
        let (tor, group) = (self.tor()?, self.isolation.key(&target.host));
        if target.host.is_onion() {
            return Ok((tor.connect(&target.host, port, &group).await?, None));
        }
        // The addresses that were looked at, and not the name: an exit would look it up once more.
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
        // The book sends nobody this way where there is none.
        self.direct.as_ref().ok_or(ProbeError::Internal)
    }

    fn tor(&self) -> Result<TorConnector, ProbeError> {
        self.tor.borrow().clone().ok_or(ProbeError::TorUnavailable)
    }
}

impl TorConnector {
    async fn connect(&self, host: &Host, port: Port, group: &str) -> Result<Box<dyn Stream>, ProbeError> {
        Ok(match self {
            TorConnector::Socks(socks) => Box::new(socks.connect(host, port, group).await?),
            #[cfg(feature = "embedded-tor")]
            TorConnector::Arti(arti) => Box::new(arti.connect(host, port, group).await?),
        })
    }

    async fn resolve(&self, name: &DnsName, group: &str) -> Result<Vec<IpAddr>, ProbeError> {
        match self {
            TorConnector::Socks(socks) => socks.resolve(name, group).await,
            #[cfg(feature = "embedded-tor")]
            TorConnector::Arti(arti) => arti.resolve(name, group).await,
        }
    }
}
