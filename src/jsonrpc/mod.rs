//! Bytes to JSON-RPC and back: one message a line, in version 1.0 or 2.0, alone or in batches.

mod answer_id;
mod error;
mod message;
mod method;
mod shared_buf;

pub use answer_id::AnswerId;
pub use error::RpcError;
pub use message::{
    BATCH_TOO_LONG, Batch, Id, InvalidRequest, JsonRpcVersion, MAX_BATCH_CALLS, Message, Request, Response,
    encode_raw_response, encode_request, encode_response, from_object, parse_line, parse_response,
};
pub use method::{Call, Method, VersionRange};
pub use shared_buf::SharedBuf;

use crate::peer::Version;

/// The protocol versions that we speak, with callers and with peers.
pub const MIN_PROTOCOL: Version = Version::new(1, 0);
pub const MAX_PROTOCOL: Version = Version::new(1, 6);
/// Version for clients that send none. Every current server supports it.
pub const DEFAULT_PROTOCOL: Version = Version::new(1, 4);

/// What we are called where the protocol asks for a software's name.
pub const USER_AGENT: &str = concat!("Waypost ", env!("CARGO_PKG_VERSION"));

/// A caller's line may be this long: the longest call we serve is an `add_peer`, of a few hundred bytes, and it is what a
/// caller can have us keep in memory while the rest of the line doesn't come.
pub const MAX_REQUEST_BYTES: usize = 16 * 1024;

/// The answers of one batch may come to this; what is left of it is answered with an error. One list of peers fits in
/// four times.
pub const MAX_BATCH_RESPONSE_BYTES: usize = 512 * 1024;

/// An answer that we ask for may be this long, which is four times what a list of a thousand peers takes. It is what a hostile
/// peer can have us keep, for as long as a probe lasts.
pub const MAX_RESPONSE_BYTES: usize = 512 * 1024;
