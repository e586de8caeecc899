//! What a verification finds out.

use serde::{Deserialize, Serialize};

use super::{Features, PeerList, Version};

/// What a peer reported about itself and others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    pub software: Option<String>,
    /// What was agreed on; 1.0 where the answer was of that protocol.
    pub negotiated_version: Version,
    /// None where it doesn't know the method.
    pub features: Option<Features>,
    pub peer_list: PeerList,
    /// The height of its chain.
    pub tip_height: Option<u32>,
    /// Of a height at which it was asked for its block, that block's hash.
    pub checkpoint: Option<(u32, [u8; 32])>,
    /// Whether the peer accepted `server.add_peer`. None if it was not sent.
    pub add_peer_result: Option<bool>,
}

/// What makes a peer bad, as opposed to unreachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Fault {
    #[error("it serves another chain")]
    WrongGenesis,
    #[error("its features don't name the host we dialled")]
    HostMismatch,
    #[error("an answer of the wrong shape")]
    Malformed,
    #[error("it refuses server.version")]
    VersionRefused,
    #[error("an answer that is too long")]
    ResponseTooLong,
    #[error("it goes on talking of other things")]
    ExcessNotifications,
    #[error("its chain is behind")]
    ChainBehind,
    #[error("it follows another chain")]
    ChainFork,
}
