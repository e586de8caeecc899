//! Batch of a client whose requests are forwarded one by one.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::pending_calls::PendingCalls;
use crate::electrum::responder::{ForwardedCall, upstream_id};
use crate::jsonrpc::SharedBuf;

/// Maximum buffered responses of one batch, in bytes.
pub(super) const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Batch that waits for responses of the upstream.
pub(super) struct Batch {
    pub(super) parts: Vec<BatchSlot>,
    /// Number of slots without a response.
    pub(super) awaited: usize,
    /// Size of the received responses.
    pub(super) bytes: usize,
    /// What follows the response.
    pub(super) then: AfterBatch,
}

/// What a session does after the response to a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterBatch {
    /// It continues with the client's next line.
    Continue,
    /// It ends.
    Close,
}

/// Place of one request in the response to a batch.
pub(super) enum BatchSlot {
    /// The response, or `None` for a notification.
    Ready(Option<SharedBuf>),
    /// The request was forwarded under this id.
    Waiting(u64, Box<ForwardedCall>),
}

impl Batch {
    /// Stores a response to one of the requests. Returns `None` if the line is not one.
    pub(super) fn resolve(&mut self, line: &[u8], pending: &mut PendingCalls) -> Option<()> {
        // A copy, because a slice would keep the whole read buffer alive.
        let line = Bytes::copy_from_slice(line);
        #[derive(Deserialize)]
        struct Envelope<'a> {
            id: &'a str,
            #[serde(borrow, default)]
            result: Option<&'a RawValue>,
            #[serde(borrow, default)]
            error: Option<&'a RawValue>,
        }
        let response = serde_json::from_slice::<Envelope<'_>>(&line).ok()?;
        let is_match =
            |part: &&mut BatchSlot| matches!(part, BatchSlot::Waiting(id, _) if upstream_id(*id) == response.id);
        let part = self.parts.iter_mut().find(is_match)?;
        let piece = |json: &RawValue| SharedBuf::from(line.slice_ref(json.get().as_bytes()));
        let outcome = match (response.error, response.result) {
            (Some(error), _) => Err(piece(error)),
            (None, Some(result)) => Ok(piece(result)),
            (None, None) => Ok(SharedBuf::from(&b"null"[..])),
        };
        let BatchSlot::Waiting(_, forwarded) = &*part else { return None };
        pending.note_answered(forwarded);
        *part = BatchSlot::Ready(forwarded.answer(outcome));
        self.awaited -= 1;
        self.bytes += line.len();
        Some(())
    }
}
