//! What became of an attempt, and whose fault it was.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::peer::{Fault, Port, ProbeReport, Transport};

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
    pub tls_key_hash: Option<KeyHash>,
    /// From the first packet to the last answer.
    pub duration: Duration,
    pub report: ProbeReport,
}

/// Why a verification failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ProbeError {
    #[error("it refused the connection")]
    Refused,
    #[error("it didn't answer the connection")]
    Unreachable,
    #[error("its name wasn't found")]
    NameNotFound,
    #[error("its onion service wasn't found")]
    OnionDescriptorNotFound,
    #[error("it fell silent")]
    Timeout,
    #[error("it closed the connection")]
    Closed,
    #[error("its TLS failed")]
    Tls,
    #[error("its name means an address that isn't public")]
    NotPublic,
    #[error("{0}")]
    ProtocolViolation(Fault),
    #[error("our Tor wasn't there")]
    TorUnavailable,
    #[error("the probe broke down")]
    Internal,
    #[error("we ran out of descriptors or memory")]
    LocalResourceExhausted,
    #[error("Tor's SOCKS port refuses connections to clearnet addresses")]
    TorPolicy,
}

/// Who is to blame for a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureOrigin {
    /// The peer, and it was reached: so the way to it works.
    Peer,
    /// The peer, whatever else.
    PeerUnconfirmed,
    /// The peer or our own network. Only what happens on the same way about the same time can tell.
    Ambiguous,
    Local,
}

impl ProbeError {
    pub fn blame(self) -> FailureOrigin {
        match self {
            ProbeError::Closed | ProbeError::Tls | ProbeError::ProtocolViolation(_) => FailureOrigin::Peer,
            // A firewall on our side refuses like a peer does, so this proves no way.
            ProbeError::Refused | ProbeError::NotPublic => FailureOrigin::PeerUnconfirmed,
            // When our network breaks down in the middle of a conversation, the peer seems to fall silent.
            ProbeError::Unreachable
            | ProbeError::NameNotFound
            | ProbeError::OnionDescriptorNotFound
            | ProbeError::Timeout => FailureOrigin::Ambiguous,
            ProbeError::TorUnavailable
            | ProbeError::Internal
            | ProbeError::LocalResourceExhausted
            | ProbeError::TorPolicy => FailureOrigin::Local,
        }
    }
}
