//! What can be wrong with a call, and the code that says so on the wire.

use serde::ser::{Serialize, SerializeMap, Serializer};

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
    #[error("unsupported protocol version; this node speaks {} to {}", super::OLDEST, super::NEWEST)]
    UnsupportedVersion,
    #[error("the answers of this batch are too long; ask for the rest by itself")]
    TooMuch,
}

impl RpcError {
    /// The standard codes of JSON-RPC 2.0, and the protocol's own 1 for a request that can't be met.
    pub fn code(&self) -> i32 {
        match self {
            RpcError::Parse => -32700,
            RpcError::TooLong(_) | RpcError::TooMuch | RpcError::InvalidRequest(_) => -32600,
            RpcError::UnknownMethod => -32601,
            RpcError::InvalidParams(_) => -32602,
            RpcError::UnsupportedVersion => 1,
        }
    }
}

impl Serialize for RpcError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("code", &self.code())?;
        map.serialize_entry("message", &self.to_string())?;
        map.end()
    }
}
