//! Parsing of what the upstream sends: responses, notifications, parts of batches, renewed subscriptions.

use bytes::{Bytes, BytesMut};
use memchr::memchr;

use super::super::batch::{FinishedBatch, LongLine};
use super::super::memory::{Need, OutOfMemory};
use super::super::pending_calls::ReplyKind;
use super::super::subscriptions::Renewal;
use super::super::upstream_event::UpstreamEvent;
use super::{READ_BYTES, Upstream};
use crate::backend::UpstreamLease;
use crate::jsonrpc::{ResponseScanner, SharedBuf};

/// Longest line that is buffered whole if another upstream can take over, in bytes.
///
/// None can once the client has received a part of a line.
const MAX_BUFFERED_LINE: usize = 256 * 1024;

impl Upstream {
    /// Parses the received bytes.
    pub(super) fn parse(&mut self) -> Option<UpstreamEvent> {
        // The batch may follow the start of a long response.
        if self.batch.is_none() || self.long_line.is_some() {
            return self.parse_passthrough();
        }
        match self.parse_batch() {
            Ok(event) => event,
            Err(OutOfMemory) => Some(UpstreamEvent::OutOfMemory),
        }
    }

    /// Handles lines one by one while a batch waits, as each may be a response to it.
    fn parse_batch(&mut self) -> Result<Option<UpstreamEvent>, OutOfMemory> {
        loop {
            let Some(batch) = self.batch.as_mut() else { return Ok(None) };
            let reply = batch.next_reply(&self.pending);
            if let Some(finished) = batch.finish() {
                return Ok(Some(self.end_batch(reply.unwrap_or_default(), finished)));
            }
            if let Some(reply) = reply {
                return Ok(Some(UpstreamEvent::BatchPart(reply)));
            }
            batch.write_first_request(&self.pending, &mut self.out);
            if batch.is_within_long_line() {
                if self.input.is_empty() {
                    return Ok(None);
                }
                let (part, ends) = take_part(&mut self.input);
                self.line_bytes = if ends { 0 } else { self.line_bytes + part.len() };
                let before = batch.unanswered();
                let reply = batch.on_part(&part, ends, &mut self.pending)?;
                if batch.unanswered() < before {
                    self.on_reply();
                }
                if !reply.is_empty() {
                    return Ok(Some(UpstreamEvent::BatchPart(reply)));
                }
            } else if let Some(line) = take_line(&mut self.input, &mut self.scan_offset) {
                let is_started = batch.is_started();
                if batch.on_line(&line, &mut self.pending) {
                    self.on_reply();
                } else if !is_started {
                    if let Some(event) = self.on_other_line(line) {
                        return Ok(Some(event));
                    }
                } else if self.pending.subscriptions.is_renewing() {
                    // Its event may be a notification, which has to wait.
                    match self.on_other_line(line) {
                        Some(UpstreamEvent::Data(line)) => self.keep_line(&line)?,
                        Some(event) => return Ok(Some(event)),
                        None => {}
                    }
                } else {
                    batch.keep_line(&line)?;
                }
            } else {
                let Some(start) = self.input.get(..READ_BYTES) else { return Ok(None) };
                match batch.on_long_line(start, self.input.len(), &self.pending, &mut self.input_charge) {
                    LongLine::Kept => return Ok(None),
                    LongLine::InParts => self.scan_offset = 0,
                }
            }
        }
    }

    fn keep_line(&mut self, line: &[u8]) -> Result<(), OutOfMemory> {
        self.batch.as_mut().map_or(Ok(()), |batch| batch.keep_line(line))
    }

    /// Handles a line that is no response to the batch; `None` if the client gets nothing for it.
    fn on_other_line(&mut self, line: Bytes) -> Option<UpstreamEvent> {
        match self.pending.subscriptions.on_line(&line, &mut self.out) {
            Renewal::None => {}
            Renewal::Unchanged => {
                self.on_reply();
                return None;
            }
            Renewal::Changed(notification) => {
                self.on_reply();
                return Some(UpstreamEvent::Data(notification.into()));
            }
            Renewal::Refused => return Some(UpstreamEvent::End),
        }
        if self.pending.resolve(&line) == ReplyKind::Response {
            self.on_reply();
        }
        Some(UpstreamEvent::Data(line))
    }

    /// Ends the batch. Lines that were no responses to it are handled next.
    fn end_batch(&mut self, mut reply: SharedBuf, finished: FinishedBatch) -> UpstreamEvent {
        let FinishedBatch { end, mut other_lines, then } = finished;
        reply.append(end);
        self.batch = None;
        if !other_lines.is_empty() {
            other_lines.extend_from_slice(&self.input);
            (self.input, self.scan_offset) = (other_lines, 0);
        }
        UpstreamEvent::BatchEnd(reply, then)
    }

    /// Returns complete lines, or the start of a line that is too long to buffer.
    fn parse_passthrough(&mut self) -> Option<UpstreamEvent> {
        if self.long_line.is_some() {
            return self.parse_long_line();
        }
        while self.pending.subscriptions.is_renewing()
            && let Some(line) = take_line(&mut self.input, &mut self.scan_offset)
        {
            let event = self.on_other_line(line);
            if event.is_some() {
                return event;
            }
        }
        let mut complete = 0;
        while let Some(end) = memchr(b'\n', self.input.get(self.scan_offset..)?) {
            let line = complete..self.scan_offset + end + 1;
            (complete, self.scan_offset) = (line.end, line.end);
            if self.pending.resolve(self.input.get(line)?) == ReplyKind::Response {
                self.on_reply();
            }
        }
        if complete > 0 {
            self.scan_offset = 0;
            return Some(UpstreamEvent::Data(self.input.split_to(complete).freeze()));
        }
        self.scan_offset = self.input.len();
        if self.input.len() < READ_BYTES {
            return None;
        }
        let is_peer = matches!(self.lease, UpstreamLease::Peer(_));
        let may_buffer = is_peer && self.input.len() < MAX_BUFFERED_LINE;
        if may_buffer && self.input_charge.resize(self.input.len(), Need::Optional).is_ok() {
            return None;
        }
        self.long_line = Some(ResponseScanner::default());
        self.scan_offset = 0;
        self.parse_long_line()
    }

    /// Returns the received part of a long line, up to its end.
    fn parse_long_line(&mut self) -> Option<UpstreamEvent> {
        if self.input.is_empty() {
            return None;
        }
        let mut long_line = self.long_line.take()?;
        let (piece, ends) = take_part(&mut self.input);
        long_line.feed(&piece);
        self.line_bytes = if ends { 0 } else { self.line_bytes + piece.len() };
        if !ends {
            self.long_line = Some(long_line);
        } else if long_line.id().is_some_and(|id| self.pending.resolve_long(id) == ReplyKind::Response) {
            self.on_reply();
        }
        Some(UpstreamEvent::Data(piece))
    }
}

/// Takes the next complete line. `scan_offset` bytes contain no line feed.
fn take_line(input: &mut BytesMut, scan_offset: &mut usize) -> Option<Bytes> {
    let rest = input.get(*scan_offset..).unwrap_or_default();
    let Some(end) = memchr(b'\n', rest) else {
        *scan_offset = input.len();
        return None;
    };
    let line = input.split_to(*scan_offset + end + 1).freeze();
    *scan_offset = 0;
    Some(line)
}

/// Takes all bytes up to the end of the line. Returns whether they end it.
fn take_part(input: &mut BytesMut) -> (Bytes, bool) {
    let end = memchr(b'\n', input).map(|end| end + 1);
    (input.split_to(end.unwrap_or(input.len())).freeze(), end.is_some())
}
