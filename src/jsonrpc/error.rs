//! Errors of requests, with their codes on the wire.

use serde_json::json;

use super::SharedBuf;
use crate::peer::Version;

/// Error response to a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// The line is not JSON.
    #[error("invalid JSON")]
    Parse,
    /// The line is not JSON, for a reason that is easy to remove.
    #[error("invalid JSON: {0}")]
    Encoding(&'static str),
    /// The line has more bytes than this.
    #[error("the line is longer than {0} bytes")]
    TooLong(usize),
    /// The JSON is not a request, for this reason.
    #[error("invalid request: {0}")]
    InvalidRequest(&'static str),
    /// Waypost does not serve the method.
    #[error("unknown method; this node serves peer discovery only")]
    UnknownMethod,
    /// The parameters do not fit the method; contains what is expected.
    #[error("invalid parameters: {0}")]
    InvalidParams(&'static str),
    /// The version was negotiated before.
    #[error("server.version was already sent; it is accepted once in a connection")]
    VersionRepeated,
    /// No requested protocol version is supported.
    #[error("unsupported protocol version; this node speaks {oldest} to {newest}")]
    UnsupportedVersion {
        /// Oldest supported version.
        oldest: Version,
        /// Newest supported version.
        newest: Version,
    },
    /// The backend failed; contains the predicate of the message.
    #[error("the backend server {0}")]
    Backend(&'static str),
    /// The response to the batch exceeds its limit.
    #[error("the response to this batch is too long; send the remaining requests separately")]
    BatchResponseTooLong,
    /// There is no memory for a long request.
    #[error("this node is busy with long requests; retry later")]
    OutOfMemory,
    /// The client exceeds a rate limit; names the limited unit.
    #[error("too many {0} for a shared node; retry later")]
    RateLimited(&'static str),
    /// No session is free; contains a suffix that names the limit, or nothing.
    #[error("this node has reached its limit of clients{0}; use another node, or retry later")]
    ServerFull(&'static str),
}

impl RpcError {
    /// Error for a line that is not UTF-8.
    pub const NOT_UTF8: RpcError = RpcError::Encoding("the line is not UTF-8");

    /// Returns the error code on the wire.
    ///
    /// Codes below -32000 are those of JSON-RPC 2.0, and 1 is the Electrum protocol's. ElectrumX
    /// uses -101 for excessive use and -102 for a busy server.
    pub fn code(&self) -> i32 {
        match self {
            RpcError::Parse | RpcError::Encoding(_) => -32700,
            RpcError::TooLong(_) | RpcError::BatchResponseTooLong | RpcError::InvalidRequest(_) => -32600,
            RpcError::UnknownMethod => -32601,
            RpcError::InvalidParams(_) => -32602,
            RpcError::UnsupportedVersion { .. } | RpcError::VersionRepeated => 1,
            RpcError::Backend(_) => -32603,
            RpcError::RateLimited(_) => -101,
            RpcError::ServerFull(_) | RpcError::OutOfMemory => -102,
        }
    }

    /// Encodes the error object of a response.
    pub fn to_json(&self) -> SharedBuf {
        json!({ "code": self.code(), "message": self.to_string() }).to_string().into()
    }
}
