//! Result of a probe, and the protocol violations that it can find.

use serde::{Deserialize, Serialize};

use super::{Features, PeerList, Version};

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
    /// Whether the peer accepted `server.add_peer`. None if it was not sent.
    pub add_peer_result: Option<bool>,
}

/// Violation of the protocol or the chain, which marks a peer bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Fault {
    /// The genesis hash is that of another chain.
    #[error("genesis hash of another chain")]
    WrongGenesis,
    /// The features do not list the dialled host.
    #[error("features without the dialled host")]
    HostMismatch,
    /// A response has an invalid form.
    #[error("malformed response")]
    Malformed,
    /// The peer answers `server.version` with an error.
    #[error("server.version refused")]
    VersionRefused,
    /// A response exceeds the size limit.
    #[error("response too long")]
    ResponseTooLong,
    /// Too many notifications arrive instead of a response.
    #[error("notifications instead of a response")]
    ExcessNotifications,
    /// The chain tip is too far behind the consensus.
    #[error("chain behind the consensus")]
    ChainBehind,
    /// The header at the compared height differs from the consensus.
    #[error("header of another chain")]
    ChainFork,
}
