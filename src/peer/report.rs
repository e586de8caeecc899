//! What a verification finds out.

use serde::{Deserialize, Serialize};

use super::{Features, Listing, Version};

/// What a peer told of itself and others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub software: Option<String>,
    /// What was agreed on; 1.0 where the answer was of that protocol.
    pub agreed: Version,
    /// None where it doesn't know the method.
    pub features: Option<Features>,
    pub listing: Listing,
    /// The height of its chain.
    pub tip: Option<u32>,
    /// Of a height at which it was asked for its block, that block's hash.
    pub block: Option<(u32, [u8; 32])>,
    /// Whether it took us in; None where it wasn't told of us.
    pub announced: Option<bool>,
}

/// What makes a peer bad, as opposed to unreachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Fault {
    #[error("it serves another chain")]
    WrongGenesis,
    #[error("its features don't name the host we dialled")]
    NotItself,
    #[error("an answer of the wrong shape")]
    Malformed,
    #[error("it refuses server.version")]
    NoVersion,
    #[error("an answer that is too long")]
    TooLong,
    #[error("it goes on talking of other things")]
    Chatter,
    #[error("its chain is behind")]
    Behind,
    #[error("it follows another chain")]
    OtherChain,
}
