//! Targets, results and errors of a verification.
//!
//! The book plans verifications, and drivers run them. Both use these types.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::header_chain::{ChainReference, ChainStanding};
use crate::peer::{Fault, Features, Host, PeerList, Port, Transport, Version};
use crate::route::Route;

/// SHA-256 of the public key of a TLS certificate.
pub type KeyHash = [u8; 32];

/// Hash of a certificate's issuer and of the minute in which its validity begins.
///
/// Certificates that one operator mints for many servers at once share it.
pub type CertificateBatch = [u8; 8];

/// What is recorded of a TLS certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsCertificate {
    /// Hash of the public key.
    pub key: KeyHash,
    /// Batch in which it was minted.
    pub batch: CertificateBatch,
}

/// Peer to verify, with the endpoints to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeTarget {
    /// Name under which the peer is known.
    pub host: Host,
    /// Route of all connections.
    pub via: Route,
    /// Checked addresses, the only ones that may be dialled. Empty for onion services.
    pub addresses: Vec<IpAddr>,
    /// Endpoints in the order in which they are dialled.
    pub endpoints: Vec<(Transport, Port)>,
    /// Endpoints of WebSockets that are verified after one of `endpoints`. Their failure changes nothing else.
    pub web_sockets: Vec<(Transport, Port)>,
    /// Requests that the peer did not respond to lately.
    pub limits: PeerLimits,
    /// Number of leading `endpoints` that are known to be the peer's.
    ///
    /// The others are claims of third parties: a success confirms them, a failure proves nothing.
    pub trusted_endpoint_count: usize,
    /// Own name to announce to the peer if its list lacks it. `None`: nothing is announced.
    pub announce: Option<Host>,
    /// Whether features must list the host. False for the operator's peers.
    pub must_list_host: bool,
    /// Block height of the header to compare. `None` if no height is known.
    pub checkpoint_height: Option<u32>,
    /// Chain to which the tip is compared; `None` if the work of the chain is not followed.
    pub reference: Option<ChainReference>,
}

impl ProbeTarget {
    /// Creates a target outside of the book's schedule.
    ///
    /// Nothing is announced or compared, and all endpoints are trusted.
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
            web_sockets: Vec::new(),
            limits: PeerLimits::default(),
            announce: None,
            must_list_host: true,
            checkpoint_height: None,
            reference: None,
        }
    }
}

/// Requests that a peer does not respond to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerLimits {
    /// It closes the connection at `server.features`, or falls silent.
    pub skips_features: bool,
    /// It can't handle several requests at once.
    pub one_by_one: bool,
}

/// Result of a successful verification.
#[derive(Debug, Clone)]
pub struct Verified {
    /// Address of the peer. `None` through Tor.
    pub ip: Option<IpAddr>,
    /// Transport that answered.
    pub transport: Transport,
    /// Port that answered.
    pub port: Port,
    /// Certificate of the peer. `None` for plain TCP.
    pub certificate: Option<TlsCertificate>,
    /// Results of the WebSockets that were dialled after that.
    pub web_sockets: Vec<WebSocketCheck>,
    /// Time since the last response of the peer, which WebSockets that fail take.
    pub since_response: Duration,
    /// Requests that the peer did not respond to.
    pub limits: PeerLimits,
    /// Whether the TLS handshake failed at an endpoint that was dialled before.
    pub tls_failed: bool,
    /// Time from the start of the connection to the last response.
    pub duration: Duration,
    /// What the peer reported.
    pub report: ProbeReport,
}

/// Result of the verification of a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebSocketCheck {
    /// Endpoint of the WebSocket.
    pub endpoint: (Transport, Port),
    /// The failure; `None` if the peer was verified there.
    pub failure: Option<ProbeError>,
}

/// Data that a peer sent during a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// Name and version of its software.
    pub software: Option<String>,
    /// Negotiated protocol version; 1.0 if the response had the form of that version.
    pub negotiated_version: Version,
    /// Result of `server.features`; `None` if the peer does not know the method.
    pub features: Option<Features>,
    /// Valid entries of its peer list.
    pub peer_list: PeerList,
    /// Height of its chain tip; `None` if it sent none.
    pub tip_height: Option<u32>,
    /// Height at which its header was requested, and that header's block hash.
    pub checkpoint: Option<(u32, [u8; 32])>,
    /// Position of its tip relative to the known chain; `None` if the work of the chain is not followed.
    pub standing: Option<ChainStanding>,
    /// Whether the peer accepted `server.add_peer`. None if it was not sent.
    pub add_peer_result: Option<bool>,
}

/// Reason why a verification failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ProbeError {
    /// The endpoint refused the connection.
    #[error("connection refused")]
    Refused,
    /// No connection could be established, without a refusal.
    #[error("host unreachable")]
    Unreachable,
    /// The DNS name does not resolve.
    #[error("host name not found")]
    NameNotFound,
    /// Tor found no descriptor of the onion service.
    #[error("onion service not found")]
    OnionDescriptorNotFound,
    /// A response did not arrive before the deadline.
    #[error("timed out waiting for a response")]
    Timeout,
    /// The peer closed the connection before the last response.
    #[error("connection closed by the peer")]
    Closed,
    /// The TLS handshake failed.
    #[error("TLS handshake failed")]
    Tls,
    /// The host name resolves to an address that is not public.
    #[error("host name resolves to an address that isn't public")]
    NotPublic,
    /// A response violates the protocol.
    #[error("{0}")]
    ProtocolViolation(Fault),
    /// The Tor in use did not answer.
    #[error("Tor unavailable on this machine")]
    TorUnavailable,
    /// The probe panicked or reached a state that should be impossible.
    #[error("internal error in the probe; the log has details")]
    Internal,
    /// This machine has no free file descriptors or memory.
    #[error("file descriptors or memory exhausted on this machine")]
    LocalResourceExhausted,
    /// The SOCKS port has a policy against clearnet addresses.
    #[error("Tor's SOCKS port refuses connections to clearnet addresses")]
    TorPolicy,
    /// The peer did not show the headers that prove its chain.
    #[error("no proof of the chain: the header at the pinned or compared height is missing, incomplete or different")]
    Unproven,
    /// The endpoint serves no WebSocket.
    #[error("no WebSocket at this port")]
    WebSocket,
}

/// Origin of a failure, as far as the failure itself shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureOrigin {
    /// The peer, which was reached, so the path works.
    Peer,
    /// The peer, without proof that the path works.
    PeerUnconfirmed,
    /// The peer or the path. Later results on the same path decide.
    Ambiguous,
    /// This machine or the Tor that it uses.
    Local,
}

impl ProbeError {
    /// Returns the origin of the failure.
    pub fn blame(self) -> FailureOrigin {
        match self {
            ProbeError::Closed
            | ProbeError::Tls
            | ProbeError::ProtocolViolation(_)
            | ProbeError::Unproven
            | ProbeError::WebSocket => FailureOrigin::Peer,
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
