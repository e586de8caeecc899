//! Sources of peers' names.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::peer::Host;

/// Source of a peer's name: the first one, until the operator names the peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Source {
    /// Built-in or configured seed.
    Seed,
    /// `waypost add`.
    Operator,
    /// Peer list of this peer.
    Peer(Host),
    /// Request `server.add_peer` from this address; `None` through Tor.
    AddPeer(Option<IpAddr>),
    /// IRC channel.
    Irc,
}

impl Source {
    /// Returns whether the operator named the peer.
    pub fn is_operator(&self) -> bool {
        matches!(self, Source::Seed | Source::Operator)
    }

    /// Returns the origin of ports that this source names.
    pub fn port_origin(&self) -> PortOrigin {
        if self.is_operator() { PortOrigin::Operator } else { PortOrigin::Untrusted }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Seed => f.write_str("seed"),
            Source::Operator => f.write_str("operator"),
            Source::Peer(host) => write!(f, "peer {host}"),
            Source::AddPeer(Some(ip)) => write!(f, "add_peer from {ip}"),
            Source::AddPeer(None) => f.write_str("add_peer through Tor"),
            Source::Irc => f.write_str("IRC"),
        }
    }
}

/// Origin of a port number, which decides whether a blocked port may be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortOrigin {
    /// The operator wrote it, for a seed or in a command.
    Operator,
    /// A peer, a client or an IRC channel named it.
    Untrusted,
}
