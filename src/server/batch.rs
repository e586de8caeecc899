//! Batch of a client whose requests are forwarded one by one.
//!
//! The response is sent in the order of the requests, while the responses of the upstream arrive. One that arrives
//! before its turn is kept if there is memory for it. Otherwise it is dropped, and its request is sent again, alone,
//! once it is the first: then it is known which response arrives, and it needs no memory whatever its length.
//!
//! The response is a single line. So it starts once no response to an earlier request is missing, or when it is
//! complete. Notifications that arrive in between follow it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::memory::{MemoryCharge, Need, OutOfMemory};
use super::pending_calls::PendingCalls;
use crate::electrum::responder::ForwardedCall;
use crate::jsonrpc::{OutcomeKey, ResponseScanner, RpcError, SharedBuf};

/// Maximum memory for responses that arrive before their turn, in bytes.
const MAX_HELD_BYTES: usize = 512 * 1024;

/// Lines between the responses that need no memory of the pool, in bytes: some ten notifications.
const FREE_LINES_BYTES: usize = 4 * 1024;

/// Batch that waits for responses of the upstream.
pub(super) struct Batch {
    /// Requests whose responses are not sent, in order.
    slots: VecDeque<Slot>,
    then: AfterBatch,
    /// Prefix of the ids of its requests, which a client can't guess.
    nonce: u64,
    /// Last number used in an id.
    last_id: u64,
    /// Bytes of the response that are sent.
    sent: usize,
    /// Long response to the first request, which is sent while it arrives.
    streamed: Option<StreamedResponse>,
    /// Long line that is dropped for lack of memory.
    dropped: Option<ResponseScanner>,
    /// Size of the responses that wait for their turn, in bytes.
    held_bytes: usize,
    held: MemoryCharge,
    /// Lines that are no responses to the batch.
    other_lines: BytesMut,
}

/// What a session does after the response to a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterBatch {
    /// It continues with the client's next line.
    Continue,
    /// It ends.
    Close,
}

/// One request of a batch.
enum Slot {
    /// Its response, or `None` for a notification, with the memory that it holds.
    Ready(Option<SharedBuf>, usize),
    /// The request was forwarded under the id with this number.
    Sent(u64, Box<ForwardedCall>),
    /// The request is not sent, or its response was dropped.
    Unsent(Box<ForwardedCall>),
}

/// Kind of a long line, of which only the start is known.
pub(super) enum LongLine {
    /// It is kept until its end.
    Kept,
    /// It is sent to the client or dropped while it arrives.
    InParts,
}

/// What remains after the last response.
pub(super) struct FinishedBatch {
    /// End of the response to the client. Empty if the client expects none.
    pub end: SharedBuf,
    /// Lines that are no responses to the batch.
    pub other_lines: BytesMut,
    pub then: AfterBatch,
}

impl Batch {
    /// Creates a batch. Requests without a response are to be forwarded.
    pub(super) fn new(
        parts: Vec<Result<Option<SharedBuf>, Box<ForwardedCall>>>,
        then: AfterBatch,
        nonce: u64,
        held: MemoryCharge,
    ) -> Batch {
        let slots = parts.into_iter().map(|part| match part {
            Ok(reply) => Slot::Ready(reply, 0),
            Err(forwarded) => Slot::Unsent(forwarded),
        });
        Batch {
            slots: slots.collect(),
            then,
            nonce,
            last_id: 0,
            sent: 0,
            streamed: None,
            dropped: None,
            held_bytes: 0,
            held,
            other_lines: BytesMut::new(),
        }
    }

    /// Returns whether the client has received a part of the response.
    pub(super) fn is_started(&self) -> bool {
        self.sent > 0
    }

    /// Returns whether the client has received a part of the response to one request.
    pub(super) fn is_within_response(&self) -> bool {
        self.streamed.is_some()
    }

    /// Writes all requests that are not answered, for another upstream.
    pub(super) fn write_requests(&mut self, out: &mut BytesMut) {
        self.dropped = None;
        for slot in 0..self.slots.len() {
            self.write_request(slot, out);
        }
    }

    /// Writes the first request again if its response was dropped, and no other response can arrive.
    pub(super) fn write_first_request(&mut self, pending: &PendingCalls, out: &mut BytesMut) {
        if matches!(self.slots.front(), Some(Slot::Unsent(_))) && self.awaited() == 0 && pending.is_empty() {
            self.write_request(0, out);
        }
    }

    fn write_request(&mut self, slot: usize, out: &mut BytesMut) {
        let Some(slot) = self.slots.get_mut(slot) else { return };
        *slot = match std::mem::replace(slot, Slot::Ready(None, 0)) {
            Slot::Ready(reply, held) => Slot::Ready(reply, held),
            Slot::Sent(_, forwarded) | Slot::Unsent(forwarded) => {
                self.last_id += 1;
                out.extend_from_slice(&forwarded.line(&request_id(self.nonce, self.last_id)));
                Slot::Sent(self.last_id, forwarded)
            }
        };
    }

    /// Returns the next responses in order; `None` while the first one is missing, or responses to earlier calls.
    pub(super) fn next_reply(&mut self, pending: &PendingCalls) -> Option<SharedBuf> {
        self.may_send(pending).then(|| self.take_ready()).flatten()
    }

    /// Returns whether the client may receive a part of the response.
    fn may_send(&self, pending: &PendingCalls) -> bool {
        self.is_started() || pending.is_empty() || self.slots.iter().all(|slot| matches!(slot, Slot::Ready(..)))
    }

    fn take_ready(&mut self) -> Option<SharedBuf> {
        // What was taken before is sent now.
        let _ = self.held.resize(self.held_bytes, Need::Optional);
        let mut replies = SharedBuf::default();
        while let Some(Slot::Ready(reply, held)) = self.slots.front_mut() {
            self.held_bytes -= *held;
            if let Some(reply) = reply.take() {
                replies.push(separator(self.sent + replies.len()));
                replies.append(reply);
            }
            self.slots.pop_front();
        }
        self.sent += replies.len();
        (!replies.is_empty()).then_some(replies)
    }

    /// Ends the batch; `None` while a response is missing.
    pub(super) fn finish(&mut self) -> Option<FinishedBatch> {
        if !self.slots.is_empty() {
            return None;
        }
        let mut end = SharedBuf::default();
        if self.sent > 0 {
            end.push_array_end(self.sent);
        }
        Some(FinishedBatch { end, other_lines: std::mem::take(&mut self.other_lines), then: self.then })
    }

    /// Returns the rest of the response if the missing ones fail.
    pub(super) fn fail(mut self, error: &RpcError) -> (SharedBuf, AfterBatch) {
        for slot in &mut self.slots {
            if let Slot::Sent(_, forwarded) | Slot::Unsent(forwarded) = slot {
                *slot = Slot::Ready(forwarded.failed(error), 0);
            }
        }
        let mut rest = self.take_ready().unwrap_or_default();
        if self.sent > 0 {
            rest.push_array_end(self.sent - rest.len());
        }
        (rest, self.then)
    }

    /// Handles a complete line. Returns false if it is no response to the batch.
    pub(super) fn on_line(&mut self, line: &Bytes, pending: &mut PendingCalls) -> bool {
        let Some((slot, outcome)) = self.parse(line) else { return false };
        let Some(Slot::Sent(_, forwarded)) = self.slots.get(slot) else { return false };
        if let Ok(result) = &outcome
            && forwarded.method().ends_with("subscribe")
        {
            pending.note_answered(forwarded, Some(&result.to_vec()));
        }
        let (reply, held) = if slot == 0 && self.may_send(pending) {
            // It is sent at once, so it may share the read buffer.
            (forwarded.answer(outcome), 0)
        } else if self.held_bytes + line.len() <= MAX_HELD_BYTES
            && self.held.resize(self.held_bytes + line.len(), Need::Optional).is_ok()
        {
            let copied = |value: SharedBuf| SharedBuf::from(value.to_vec());
            (forwarded.answer(outcome.map(copied).map_err(copied)), line.len())
        } else {
            self.drop_response(slot);
            return true;
        };
        self.held_bytes += held;
        if let Some(slot) = self.slots.get_mut(slot) {
            *slot = Slot::Ready(reply, held);
        }
        true
    }

    /// Returns the request that a line responds to, and its outcome; `None` for other lines.
    fn parse(&self, line: &Bytes) -> Option<(usize, Result<SharedBuf, SharedBuf>)> {
        #[derive(Deserialize)]
        struct Envelope<'a> {
            id: &'a str,
            #[serde(borrow, default)]
            result: Option<&'a RawValue>,
            #[serde(borrow, default)]
            error: Option<&'a RawValue>,
        }
        let response = serde_json::from_slice::<Envelope<'_>>(line).ok()?;
        let slot = self.slot_of(response.id)?;
        let piece = |json: &RawValue| SharedBuf::from(line.slice_ref(json.get().as_bytes()));
        let outcome = match (response.error, response.result) {
            (Some(error), _) => Err(piece(error)),
            (None, Some(result)) => Ok(piece(result)),
            (None, None) => Ok(SharedBuf::from(&b"null"[..])),
        };
        Some((slot, outcome))
    }

    /// Returns whether a line responds to the first request.
    fn is_first(&self, scanner: &ResponseScanner) -> bool {
        scanner.id().and_then(|id| self.slot_of(id.as_str()?)) == Some(0)
    }

    fn slot_of(&self, id: &str) -> Option<usize> {
        let number = id.strip_prefix(&format!("{:016x}-", self.nonce))?.parse::<u64>().ok()?;
        self.slots.iter().position(|slot| matches!(slot, Slot::Sent(sent, _) if *sent == number))
    }

    /// Returns the number of requests whose responses are not sent.
    pub(super) fn unanswered(&self) -> usize {
        self.slots.len()
    }

    /// Number of responses that may arrive.
    fn awaited(&self) -> usize {
        self.slots.iter().filter(|slot| matches!(slot, Slot::Sent(..))).count()
    }

    /// Keeps a line that is no response to the batch until the batch ends.
    ///
    /// # Errors
    /// Returns an error if there is no memory for it.
    pub(super) fn keep_line(&mut self, line: &[u8]) -> Result<(), OutOfMemory> {
        let kept = self.other_lines.len() + line.len();
        if kept > FREE_LINES_BYTES {
            self.held.resize(self.held.bytes() + line.len(), Need::Required)?;
            self.held_bytes += line.len();
        }
        self.other_lines.extend_from_slice(line);
        Ok(())
    }

    /// Drops a response that does not fit into the memory. Its request is sent again later, unless it changes something.
    fn drop_response(&mut self, slot: usize) {
        let Some(slot) = self.slots.get_mut(slot) else { return };
        if let Slot::Sent(_, forwarded) = std::mem::replace(slot, Slot::Ready(None, 0)) {
            *slot = if forwarded.method().contains("broadcast") {
                Slot::Ready(forwarded.failed(&RpcError::BatchResponseTooLong), 0)
            } else {
                Slot::Unsent(forwarded)
            };
        }
    }

    /// Decides about a long line that starts with these bytes, of which `received` have arrived.
    pub(super) fn on_long_line(
        &mut self,
        start: &[u8],
        received: usize,
        pending: &PendingCalls,
        input: &mut MemoryCharge,
    ) -> LongLine {
        let mut scanner = ResponseScanner::default();
        scanner.feed(start);
        let slot = scanner.id().and_then(|id| self.slot_of(id.as_str()?));
        let is_only_one =
            self.awaited() == 1 && matches!(self.slots.front(), Some(Slot::Sent(..))) && pending.is_empty();
        let is_first = slot == Some(0) || (scanner.id().is_none() && is_only_one);
        if is_first && self.may_send(pending) {
            self.streamed = Some(StreamedResponse::default());
        } else if self.held_bytes + received > MAX_HELD_BYTES || input.resize(received, Need::Optional).is_err() {
            self.dropped = Some(ResponseScanner::default());
        } else {
            return LongLine::Kept;
        }
        LongLine::InParts
    }

    /// Returns whether the last line is sent or dropped while it arrives.
    pub(super) fn is_within_long_line(&self) -> bool {
        self.streamed.is_some() || self.dropped.is_some()
    }

    /// Handles a part of a long line. Returns what is sent to the client.
    ///
    /// # Errors
    /// Returns an error if the dropped line is no response to the batch.
    pub(super) fn on_part(
        &mut self,
        part: &Bytes,
        ends: bool,
        pending: &mut PendingCalls,
    ) -> Result<SharedBuf, OutOfMemory> {
        let mut reply = SharedBuf::default();
        if let Some(mut dropped) = self.dropped.take() {
            dropped.feed(part);
            if ends {
                let slot = dropped.id().and_then(|id| self.slot_of(id.as_str()?));
                self.drop_response(slot.ok_or(OutOfMemory)?);
            } else {
                self.dropped = Some(dropped);
            }
            return Ok(reply);
        }
        let Some(mut streamed) = self.streamed.take() else { return Ok(reply) };
        let Some(Slot::Sent(_, forwarded)) = self.slots.front() else { return Ok(reply) };
        let was_started = streamed.key.is_some();
        streamed.scan(part, forwarded, &mut reply);
        // Nothing was sent of other lines, as they have no outcome.
        let is_response = streamed.key.is_some() || self.is_first(&streamed.scanner);
        if ends && is_response {
            streamed.end(forwarded, &mut reply);
            pending.note_long_answer(forwarded);
        }
        if !forwarded.expects_response() {
            reply = SharedBuf::default();
        } else if !was_started && !reply.is_empty() {
            reply.prepend(separator(self.sent));
        }
        self.sent += reply.len();
        if !ends {
            self.streamed = Some(streamed);
        } else if is_response {
            self.slots.pop_front();
        }
        Ok(reply)
    }
}

/// Returns what precedes a response if this many bytes were sent before it.
fn separator(sent: usize) -> &'static [u8] {
    if sent == 0 { b"[" } else { b"," }
}

/// Long response that is sent under the client's id while it arrives.
#[derive(Default)]
struct StreamedResponse {
    scanner: ResponseScanner,
    /// Key whose value is sent; `None` before its first byte.
    key: Option<OutcomeKey>,
    /// Key whose value is null, which JSON-RPC 1.0 sends together with the other one.
    null: Option<OutcomeKey>,
}

impl StreamedResponse {
    fn scan(&mut self, part: &Bytes, forwarded: &ForwardedCall, reply: &mut SharedBuf) {
        let StreamedResponse { scanner, key: sent, null } = self;
        scanner.feed_with(part, |key, range| {
            let mut value = part.slice(range);
            if sent.is_none() && *null != Some(key) {
                // The value is null, or what the client gets.
                match value.trim_ascii_start().first() {
                    None => return,
                    Some(b'n') => *null = Some(key),
                    Some(_) => {
                        reply.push(forwarded.answer_start(key));
                        value = value.slice_ref(value.trim_ascii_start());
                        *sent = Some(key);
                    }
                }
            }
            if *sent == Some(key) {
                reply.push(value);
            }
        });
    }

    fn end(&self, forwarded: &ForwardedCall, reply: &mut SharedBuf) {
        if self.key.is_none() {
            reply.push(forwarded.answer_start(OutcomeKey::Result));
            reply.push(&b"null"[..]);
        }
        forwarded.push_answer_end(reply);
    }
}

/// Builds the id under which a request of a batch is forwarded.
fn request_id(nonce: u64, number: u64) -> String {
    format!("{nonce:016x}-{number}")
}
