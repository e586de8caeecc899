//! JSON-RPC 1.0 and 2.0, one message or batch per line.

mod error;
mod message;
mod method;
mod params;
mod response_scanner;
mod shared_buf;
mod software;

pub use error::RpcError;
pub use message::{
    BATCH_TOO_LONG, Batch, Id, InvalidRequest, JsonRpcVersion, MAX_BATCH_CALLS, Message, Request, Response,
    encode_raw_response, encode_request, encode_response, from_object, parse_line, parse_response, push_response_end,
    response_start,
};
pub use method::{Call, Method, VersionRange};
pub use response_scanner::{OutcomeKey, ResponseScanner};
pub use shared_buf::SharedBuf;
pub use software::{MAX_SOFTWARE_CHARS, USER_AGENT, is_waypost, software_in_front_of};

use crate::peer::Version;

/// Oldest Electrum protocol version that Waypost speaks, with clients and with peers.
pub const MIN_PROTOCOL: Version = Version::new(1, 0);
/// Newest Electrum protocol version that Waypost speaks.
pub const MAX_PROTOCOL: Version = Version::new(1, 7);
/// Protocol version of clients that send none.
///
/// Every current server supports it.
pub const DEFAULT_PROTOCOL: Version = Version::new(1, 4);

/// Longest line of a client in bytes, unless its requests are forwarded.
///
/// The longest request that Waypost serves is an `add_peer` of a few hundred bytes. A client can
/// make a session keep this much while the rest of a line is missing.
pub const MAX_REQUEST_BYTES: usize = 16 * 1024;

/// Longest response to a batch, in bytes.
///
/// The remaining requests of the batch get an error. Four peer lists fit.
pub const MAX_BATCH_RESPONSE_BYTES: usize = 512 * 1024;

/// Longest response from a peer, in bytes: four times a list of a thousand peers.
///
/// A hostile peer can make a probe keep this much.
pub const MAX_RESPONSE_BYTES: usize = 512 * 1024;
