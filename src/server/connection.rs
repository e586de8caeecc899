//! Connections of clients before they are admitted: the stream, the source and how to read it.

use std::fmt;
use std::net::IpAddr;

use super::trusted_proxies::ListenerProtocol;
use crate::backend::BackendAccess;
use crate::book::Ingress;
use crate::dial::Stream;
use crate::netgroup::Netgroup;

/// Connection of a client that waits for admission.
pub struct IncomingConnection {
    /// Bytes of the connection.
    pub stream: Box<dyn Stream>,
    /// Address of the client. None for clients of an onion service.
    pub from: Option<IpAddr>,
    /// Source that the session is counted for.
    pub source: ClientSource,
    /// Name of the node under which the client came.
    pub ingress: Ingress,
    /// How the connection is read.
    pub kind: ConnectionKind,
}

impl fmt::Debug for IncomingConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingConnection")
            .field("ingress", &self.ingress)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// How the bytes of a connection are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionKind {
    /// Whether the client starts a TLS handshake.
    pub tls: bool,
    /// Whether the client starts a WebSocket handshake.
    pub websocket: bool,
    /// Parts of the backend to which requests may be forwarded.
    pub backend_access: BackendAccess,
}

impl ConnectionKind {
    /// Returns the protocol of the listener, if it is a clearnet listener.
    pub(super) fn protocol(self) -> ListenerProtocol {
        match (self.tls, self.websocket) {
            (false, false) => ListenerProtocol::Tcp,
            (true, false) => ListenerProtocol::Tls,
            (false, true) => ListenerProtocol::Ws,
            (true, true) => ListenerProtocol::Wss,
        }
    }
}

/// Source of a session, for the limits per source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClientSource {
    /// IPv4 /24 or IPv6 /48.
    Subnet(Netgroup),
    /// Circuit of the onion service.
    Circuit(u64),
    /// External Tor that sends no circuit id, for all of its clients.
    SharedTor,
    /// Clients of `limits.exempt` in an IPv4 /24 or IPv6 /48, which have no limits.
    Exempt(Netgroup),
}

/// Group of sources that are probably one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum SourceGroup {
    /// IPv4 /16 or IPv6 /32.
    Allocation(Netgroup),
    /// All clients of the onion service, as circuits cost nothing.
    Onion,
    /// All clients without limits. They are not evicted.
    Exempt,
}

impl ClientSource {
    /// Returns the group of the source.
    pub(super) fn group(self) -> SourceGroup {
        match self {
            ClientSource::Subnet(subnet) => SourceGroup::Allocation(subnet.allocation_of()),
            ClientSource::Circuit(_) | ClientSource::SharedTor => SourceGroup::Onion,
            ClientSource::Exempt(_) => SourceGroup::Exempt,
        }
    }
}
