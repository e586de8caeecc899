//! Events on the upstream connection of a session, and its failure.

use bytes::Bytes;

use super::batch::AfterBatch;
use crate::jsonrpc::SharedBuf;

/// What a client gets when the upstream fails.
pub(super) struct Failed {
    /// Error responses to its calls, each a line.
    pub lines: Vec<SharedBuf>,
    /// Whether the session can continue on another connection.
    pub outlook: Outlook,
}

/// Whether a session outlives its upstream connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outlook {
    /// It does, since no call remains without a response.
    Continue,
    /// It ends, since the client expects notifications or responses that will not arrive.
    Close,
    /// It ends without an error, which the client would read as the rest of a line.
    CloseMidLine,
}

/// Event on an upstream connection.
pub(super) enum UpstreamEvent {
    /// All forwarded bytes are sent.
    Sent,
    /// Bytes for the client. They may end within a line.
    Data(Bytes),
    /// A part of the response to a batch.
    BatchPart(SharedBuf),
    /// The last part, and what follows the response.
    BatchEnd(SharedBuf, AfterBatch),
    /// There is no memory for the responses.
    OutOfMemory,
    /// The upstream closed the connection.
    End,
}
