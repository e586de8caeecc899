//! What became of an attempt, and whose fault it was.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::peer::{Fault, Port, Report, Transport};

/// SHA-256 of a certificate's public key.
pub type KeyHash = [u8; 32];

/// A verification that succeeded.
#[derive(Debug, Clone)]
pub struct Verified {
    /// None through Tor.
    pub ip: Option<IpAddr>,
    pub transport: Transport,
    pub port: Port,
    /// The TLS certificate's key.
    pub key: Option<KeyHash>,
    /// From the first packet to the last answer.
    pub took: Duration,
    pub report: Report,
}

/// Why a verification failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    #[error("it refused the connection")]
    Refused,
    #[error("it didn't answer the connection")]
    Unreachable,
    #[error("its name wasn't found")]
    NotFound,
    #[error("its onion service wasn't found")]
    NoDescriptor,
    #[error("it fell silent")]
    Silent,
    #[error("it closed the connection")]
    Closed,
    #[error("its TLS failed")]
    Tls,
    #[error("its name means an address that isn't public")]
    NotPublic,
    #[error("{0}")]
    Bad(Fault),
    #[error("our Tor wasn't there")]
    OurTor,
    #[error("the probe broke down")]
    Internal,
    #[error("we ran out of descriptors or memory")]
    OurLimits,
    #[error("Tor's SOCKS port refuses connections to clearnet addresses")]
    TorPolicy,
}

/// Who is to blame for a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The peer, and it was reached: so the way to it works.
    Peer,
    /// The peer, whatever else.
    PeerUnreached,
    /// The peer or our own network. Only what happens on the same way about the same time can tell.
    Unclear,
    Us,
}

impl Failure {
    pub fn blame(self) -> Blame {
        match self {
            Failure::Closed | Failure::Tls | Failure::Bad(_) => Blame::Peer,
            // A firewall on our side refuses like a peer does, so this proves no way.
            Failure::Refused | Failure::NotPublic => Blame::PeerUnreached,
            // When our network breaks down in the middle of a conversation, the peer seems to fall silent.
            Failure::Unreachable | Failure::NotFound | Failure::NoDescriptor | Failure::Silent => Blame::Unclear,
            Failure::OurTor | Failure::Internal | Failure::OurLimits | Failure::TorPolicy => Blame::Us,
        }
    }
}
