//! Violations that a probe can find.

use serde::{Deserialize, Serialize};

/// Violation of the protocol or the chain, which marks a peer bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Fault {
    /// The genesis hash is that of another chain.
    #[error("genesis hash of another chain")]
    WrongGenesis,
    /// The features list other hosts than the dialled one.
    #[error("features of another host")]
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
    /// The peer follows a branch with less work than the known chain.
    #[error("chain with less work")]
    LessWork,
    /// A header does not continue the known chain.
    #[error("header chain with a broken link")]
    BrokenChain,
    /// A header lacks the work that its height requires.
    #[error("header without the required work")]
    TooLittleWork,
    /// A header has an earlier time than the rules allow.
    #[error("header with an invalid time")]
    InvalidBlockTime,
    /// The features list no host name, as the server was not told its own.
    #[error("features without a host name")]
    NoHosts,
    /// The peer agreed to a protocol version that was not requested.
    #[error("protocol version that was not requested")]
    VersionNotRequested,
}
