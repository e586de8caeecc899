//! Targets, results and errors of a verification, shared by the book that plans it and the drivers that run it.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::peer::{Fault, Host, Port, ProbeReport, Transport};
use crate::route::Route;

/// SHA-256 of the public key of a TLS certificate.
pub type KeyHash = [u8; 32];

/// Peer to verify, with the endpoints to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeTarget {
    /// Name under which the peer is known.
    pub host: Host,
    /// Route of all connections.
    pub via: Route,
    /// Checked addresses, the only ones that are dialled. Empty for onion services.
    pub addresses: Vec<IpAddr>,
    /// Endpoints in the order in which they are dialled.
    pub endpoints: Vec<(Transport, Port)>,
    /// How many of the first endpoints are believed to be the peer's. The others are claims of third parties: a success
    /// confirms them, and a failure says nothing about the peer.
    pub trusted_endpoint_count: usize,
    /// Whether to announce the local node to the peer if its list lacks it.
    pub announce: bool,
    /// Height of the header to compare. None if no height is known.
    pub checkpoint_height: Option<u32>,
}

impl ProbeTarget {
    /// Creates a target outside of the book's schedule: nothing is announced or compared, and all endpoints are trusted.
    pub fn without_extras(
        host: Host,
        via: Route,
        addresses: Vec<IpAddr>,
        endpoints: Vec<(Transport, Port)>,
    ) -> ProbeTarget {
        ProbeTarget {
            trusted_endpoint_count: endpoints.len(),
            host,
            via,
            addresses,
            endpoints,
            announce: false,
            checkpoint_height: None,
        }
    }
}

/// Result of a successful verification.
#[derive(Debug, Clone)]
pub struct Verified {
    /// Address of the peer. None through Tor.
    pub ip: Option<IpAddr>,
    /// Transport that answered.
    pub transport: Transport,
    /// Port that answered.
    pub port: Port,
    /// Key of the TLS certificate. None for plain TCP.
    pub tls_key_hash: Option<KeyHash>,
    /// Time from the first packet to the last response.
    pub duration: Duration,
    /// What the peer reported.
    pub report: ProbeReport,
}

/// Reason why a verification failed.
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

/// Origin of a failure, as far as the failure itself shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureOrigin {
    /// The peer, which was reached: the path to it works.
    Peer,
    /// The peer, without a proof that the path works.
    PeerUnconfirmed,
    /// The peer or the path. Later results on the same path decide.
    Ambiguous,
    /// This machine or its Tor.
    Local,
}

impl ProbeError {
    /// Returns where the failure originated.
    pub fn blame(self) -> FailureOrigin {
        match self {
            ProbeError::Closed | ProbeError::Tls | ProbeError::ProtocolViolation(_) => FailureOrigin::Peer,
            // A local firewall refuses like a peer does, so a refusal does not prove the path.
            ProbeError::Refused | ProbeError::NotPublic => FailureOrigin::PeerUnconfirmed,
            // A local network failure within a conversation looks like a silent peer.
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
