//! What can be wrong with a call, and the code that says so on the wire.

use serde_json::json;

use super::SharedBuf;
use crate::peer::Version;

/// An error as a caller gets it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    #[error("invalid JSON")]
    Parse,
    #[error("the line is longer than {0} bytes")]
    TooLong(usize),
    #[error("invalid request: {0}")]
    InvalidRequest(&'static str),
    #[error("unknown method; this node serves peer discovery only")]
    UnknownMethod,
    #[error("invalid parameters: {0}")]
    InvalidParams(&'static str),
    #[error("unsupported protocol version; this node speaks {oldest} to {newest}")]
    UnsupportedVersion { oldest: Version, newest: Version },
    #[error("the Electrum server behind this node {0}")]
    Backend(&'static str),
    #[error("the answers of this batch are too long; ask for the rest by itself")]
    BatchResponseTooLong,
    #[error("too many {0} for a node that many share; come back in a while")]
    RateLimited(&'static str),
    #[error("this node has as many callers as it takes{0}; try another, or come back later")]
    ServerFull(&'static str),
}

impl RpcError {
    /// The standard codes of JSON-RPC 2.0, the protocol's own 1 for a request that can't be met, and those that ElectrumX has
    /// for who uses too much, and for a server that is busy.
    pub fn code(&self) -> i32 {
        match self {
            RpcError::Parse => -32700,
            RpcError::TooLong(_) | RpcError::BatchResponseTooLong | RpcError::InvalidRequest(_) => -32600,
            RpcError::UnknownMethod => -32601,
            RpcError::InvalidParams(_) => -32602,
            RpcError::UnsupportedVersion { .. } => 1,
            RpcError::Backend(_) => -32603,
            RpcError::RateLimited(_) => -101,
            RpcError::ServerFull(_) => -102,
        }
    }

    pub fn to_json(&self) -> SharedBuf {
        json!({ "code": self.code(), "message": self.to_string() }).to_string().into()
    }
}
