//! Connection of a session to the backend, with the calls that are pending on it.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::io::poll_write_buf;

use super::batch::{AfterBatch, Batch, FinishedBatch, LongLine};
use super::memory::{MemoryCharge, Need, OutOfMemory, SessionMemory};
use super::pending_calls::{PendingCalls, ReplyKind, Resend};
use super::upstream_event::{Failed, Outlook, UpstreamEvent};
use crate::backend::{UpstreamConnection, UpstreamLease};
use crate::dial::Stream;
use crate::electrum::responder::{ForwardedCall, ReplyPart, encode_line};
use crate::jsonrpc::{ResponseScanner, RpcError, SharedBuf};
use crate::peer::Host;

/// Size of a read in bytes. A session buffers this much for a slow client, without a charge.
const READ_BYTES: usize = 16 * 1024;

/// Time limit for a backend server's response, and for progress within a line.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);

/// Time limit for a peer's response if another peer can take over.
///
/// Wallets wait for half a minute.
const REPLY_TIMEOUT: Duration = Duration::from_secs(15);

/// Time limit for a peer's response if no other peer can take over.
const PINNED_REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// Consecutive failovers without a response, after which the calls fail.
const MAX_FAILOVERS: u32 = 3;

/// Longest line of a peer that is buffered whole, in bytes.
///
/// Another peer can take over until the client has received a part of a line.
const MAX_BUFFERED_LINE: usize = 256 * 1024;

/// Connection of a session to a backend server or peer.
pub(super) struct Upstream {
    stream: Box<dyn Stream>,
    /// Lease of the peer. `None` for a backend server.
    lease: Option<UpstreamLease>,
    /// Calls without a response, except those of the batch.
    pending: PendingCalls,
    /// Failovers since the last response.
    failovers: u32,
    /// Bytes to send.
    out: BytesMut,
    /// Whether everything is written, but not flushed.
    flushing: bool,
    /// Received bytes that are not parsed.
    input: BytesMut,
    /// Charge for `input`, and for what was taken from it and is being sent.
    input_charge: MemoryCharge,
    memory: Arc<SessionMemory>,
    /// Number of bytes of `input` that contain no line feed.
    scan_offset: usize,
    /// Long line of which the client has received only the start. `None` between lines.
    long_line: Option<ResponseScanner>,
    /// Batch that waits for responses.
    batch: Option<Batch>,
    /// Time of the last received byte or forwarded request.
    last_activity: Instant,
    /// Time since which a response is awaited. `None` if no tracked call is pending.
    awaiting_since: Option<Instant>,
}

impl Upstream {
    /// Starts with an open connection and no pending call.
    pub(super) fn new(
        UpstreamConnection { stream, lease }: UpstreamConnection,
        memory: Arc<SessionMemory>,
    ) -> Upstream {
        let resend = if lease.is_some() { Resend::Possible } else { Resend::Impossible };
        Upstream {
            stream,
            pending: PendingCalls::new(resend, memory.charge()),
            lease,
            failovers: 0,
            out: BytesMut::new(),
            flushing: false,
            input: BytesMut::new(),
            input_charge: memory.charge(),
            memory,
            scan_offset: 0,
            long_line: None,
            batch: None,
            last_activity: Instant::now(),
            awaiting_since: None,
        }
    }

    /// Returns whether the client's next line may be read.
    ///
    /// Unsent bytes, a long line or a batch must be finished first.
    pub(super) fn accepts_input(&self) -> bool {
        self.out.is_empty() && !self.flushing && self.long_line.is_none() && self.batch.is_none()
    }

    /// Returns whether the client has received only the start of a line.
    pub(super) fn is_mid_line(&self) -> bool {
        self.long_line.is_some() || self.batch.as_ref().is_some_and(Batch::is_started)
    }

    /// Returns the time at which a silent upstream counts as failed.
    ///
    /// `None` if nothing is awaited.
    pub(super) fn stall_deadline(&self) -> Option<Instant> {
        let silence_limit = match &self.lease {
            None => STALL_TIMEOUT,
            Some(_) if self.pending.can_fail_over() => REPLY_TIMEOUT,
            Some(_) => PINNED_REPLY_TIMEOUT,
        };
        let reply_deadline = self.awaiting_since.map(|call| call + silence_limit);
        let progress_deadline = (!self.accepts_input()).then(|| self.last_activity + STALL_TIMEOUT);
        reply_deadline.into_iter().chain(progress_deadline).min()
    }

    /// Returns whether another upstream can take over.
    ///
    /// A subscription or a partly sent line prevents it.
    pub(super) fn can_fail_over(&self) -> bool {
        let is_within_response = self.long_line.is_some() || self.batch.as_ref().is_some_and(Batch::is_within_response);
        self.pending.can_fail_over() && !is_within_response && self.failovers < MAX_FAILOVERS
    }

    /// Returns the peer. `None` for a backend server.
    pub(super) fn host(&self) -> Option<&Host> {
        self.lease.as_ref().map(UpstreamLease::host)
    }

    /// Returns whether the client would notice the loss of the connection.
    pub(super) fn is_needed(&self) -> bool {
        let Upstream { pending, long_line, .. } = self;
        self.has_pending() || long_line.is_some() || pending.is_subscribed() || pending.is_incomplete()
    }

    /// Returns whether a tracked call is pending.
    pub(super) fn has_pending(&self) -> bool {
        self.batch.is_some() || !self.pending.is_empty()
    }

    /// Fails all pending calls.
    pub(super) fn fail(mut self, error: &RpcError) -> Failed {
        let mut lines: Vec<SharedBuf> = Vec::new();
        if self.long_line.is_some() || self.batch.as_ref().is_some_and(Batch::is_within_response) {
            return Failed { lines, outlook: Outlook::CloseMidLine };
        }
        let is_lossy = self.pending.is_subscribed() || self.pending.is_incomplete();
        let mut outlook = if is_lossy { Outlook::Close } else { Outlook::Continue };
        let replies = self.pending.fail(error);
        lines.extend(replies.into_iter().filter_map(|reply| encode_line([reply], false)));
        if let Some(batch) = self.batch {
            // The client may have received the start of this line.
            let at = if batch.is_started() { 0 } else { lines.len() };
            let (rest, then) = batch.fail(error);
            if then == AfterBatch::Close {
                outlook = Outlook::Close;
            }
            if !rest.is_empty() {
                lines.insert(at, rest);
            }
        }
        Failed { lines, outlook }
    }

    /// Reports the failure of a peer to the pool.
    pub(super) fn report_failure(&self) {
        if let Some(lease) = &self.lease {
            lease.failed();
        }
    }

    /// Replaces the connection, and resends all pending calls.
    pub(super) fn fail_over(&mut self, UpstreamConnection { stream, lease }: UpstreamConnection) {
        (self.stream, self.lease) = (stream, lease);
        let now = Instant::now();
        (self.flushing, self.last_activity, self.awaiting_since) = (false, now, Some(now));
        self.failovers += 1;
        (self.input, self.scan_offset) = (BytesMut::new(), 0);
        self.out.clear();
        for line in self.pending.lines() {
            self.out.extend_from_slice(line.as_bytes());
            self.out.extend_from_slice(b"\n");
        }
        if let Some(batch) = &mut self.batch {
            batch.write_requests(&mut self.out);
        }
    }

    /// Forwards a line unchanged, which contains this call.
    pub(super) fn forward(&mut self, line: &str, forwarded: Box<ForwardedCall>) {
        self.pending.push(line, forwarded);
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\n");
        self.start_reply_timer();
    }

    /// Forwards the requests of a batch that are for the backend, each on its own line.
    ///
    /// `nonce` makes their ids unguessable.
    pub(super) fn forward_batch(
        &mut self,
        parts: Vec<Result<Option<SharedBuf>, Box<ForwardedCall>>>,
        then: AfterBatch,
        nonce: u64,
    ) {
        let mut batch = Batch::new(parts, then, nonce, self.memory.charge());
        batch.write_requests(&mut self.out);
        self.batch = Some(batch);
        self.start_reply_timer();
    }

    /// Starts the time limit of the response, unless it is already running.
    fn start_reply_timer(&mut self) {
        self.last_activity = Instant::now();
        if self.has_pending() {
            self.awaiting_since.get_or_insert(self.last_activity);
        }
    }

    /// Sends and receives until the next event. Cancel safe.
    pub(super) async fn next(&mut self) -> UpstreamEvent {
        poll_fn(|cx| self.poll_next(cx)).await.unwrap_or(UpstreamEvent::End)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<UpstreamEvent>> {
        self.release_input();
        loop {
            if let Some(event) = self.next_event() {
                return Poll::Ready(Ok(event));
            }
            if let Poll::Ready(event) = self.poll_send(cx)? {
                return Poll::Ready(Ok(event));
            }
            // A buffer on the stack, so that a session that waits holds none.
            let mut bytes = [MaybeUninit::uninit(); READ_BYTES];
            let mut bytes = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut bytes))?;
            if bytes.filled().is_empty() {
                return Poll::Ready(Ok(UpstreamEvent::End));
            }
            self.input.extend_from_slice(bytes.filled());
            self.last_activity = Instant::now();
            self.awaiting_since = self.awaiting_since.map(|_| self.last_activity);
        }
    }

    /// Sends the forwarded requests. It is pending if there are none.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<UpstreamEvent>> {
        while self.out.has_remaining() {
            if ready!(poll_write_buf(Pin::new(&mut self.stream), cx, &mut self.out))? == 0 {
                return Poll::Ready(Ok(UpstreamEvent::End));
            }
            if self.out.is_empty() {
                // Frees the memory of a long line.
                self.out = BytesMut::new();
                self.flushing = true;
            }
        }
        if self.flushing && Pin::new(&mut self.stream).poll_flush(cx)?.is_ready() {
            self.flushing = false;
            return Poll::Ready(Ok(UpstreamEvent::Sent));
        }
        Poll::Pending
    }

    /// Frees what was taken from the input, as the client has received it now.
    fn release_input(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        } else if self.input_charge.bytes() > 0 && self.input.len() <= READ_BYTES {
            self.input = BytesMut::from(&*self.input);
        }
        if self.input.len() <= READ_BYTES {
            self.input_charge.release();
        }
    }

    /// Returns the next event in the received bytes, and stops the timer if no call is pending.
    fn next_event(&mut self) -> Option<UpstreamEvent> {
        let event = self.parse();
        if event.is_some() && !self.has_pending() {
            self.awaiting_since = None;
        }
        event
    }

    /// Parses the received bytes.
    fn parse(&mut self) -> Option<UpstreamEvent> {
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
                let reply = batch.on_part(&part, ends, &mut self.pending)?;
                if !reply.is_empty() {
                    return Ok(Some(UpstreamEvent::BatchPart(reply)));
                }
            } else if let Some(line) = take_line(&mut self.input, &mut self.scan_offset) {
                if batch.on_line(&line, &mut self.pending) {
                    self.failovers = 0;
                } else if batch.is_started() {
                    batch.keep_line(&line)?;
                } else {
                    return Ok(Some(self.on_other_line(line)));
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

    /// Resolves the call that a line responds to, and returns the line for the client.
    fn on_other_line(&mut self, line: Bytes) -> UpstreamEvent {
        if self.pending.resolve(&line) == ReplyKind::Response {
            self.failovers = 0;
        }
        UpstreamEvent::Data(line)
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
        let mut complete = 0;
        while let Some(end) = memchr(b'\n', self.input.get(self.scan_offset..)?) {
            let line = complete..self.scan_offset + end + 1;
            (complete, self.scan_offset) = (line.end, line.end);
            if self.pending.resolve(self.input.get(line)?) == ReplyKind::Response {
                self.failovers = 0;
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
        let may_buffer = self.lease.is_some() && self.input.len() < MAX_BUFFERED_LINE;
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
        if !ends {
            self.long_line = Some(long_line);
        } else if long_line.id().is_some_and(|id| self.pending.resolve_id(id) == ReplyKind::Response) {
            self.failovers = 0;
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

/// Returns whether any part of a line's result is for the backend.
pub(super) fn has_forwarded_calls(parts: &[ReplyPart]) -> bool {
    parts.iter().any(|part| matches!(part, ReplyPart::Forward(_)))
}
