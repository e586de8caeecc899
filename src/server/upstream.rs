//! Connection of a session to the backend, with the calls that are pending on it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;
use tokio::io::AsyncWrite;
use tokio::time::Instant;
use tokio_util::io::{poll_read_buf, poll_write_buf};

use super::batch::{AfterBatch, Batch, BatchSlot, MAX_BATCH_BYTES};
use super::pending_calls::{PendingCalls, ReplyKind, Resend};
use crate::backend::{UpstreamConnection, UpstreamLease};
use crate::dial::Stream;
use crate::electrum::responder::{ForwardedCall, ReplyPart, encode_line};
use crate::jsonrpc::{AnswerId, RpcError, SharedBuf};
use crate::peer::Host;

/// Size of a read in bytes. A session buffers this much for a slow client.
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
    /// Number of bytes of `input` that contain no line feed.
    scan_offset: usize,
    /// Long line of which the client has received only the start. `None` between lines.
    long_line: Option<AnswerId>,
    /// Batch that waits for responses.
    batch: Option<Batch>,
    /// Last id used for a request of a batch.
    last_id: u64,
    /// Time of the last received byte or forwarded request.
    last_activity: Instant,
    /// Time since which a response is awaited. `None` if no tracked call is pending.
    awaiting_since: Option<Instant>,
}

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
    /// The batch is complete.
    Batch {
        /// Responses in the order of the requests.
        replies: Vec<SharedBuf>,
        /// What follows the response.
        then: AfterBatch,
    },
    /// The responses of the batch exceed their limit.
    BatchTooLong,
    /// The upstream closed the connection.
    End,
}

impl Upstream {
    /// Starts with an open connection and no pending call.
    pub(super) fn new(UpstreamConnection { stream, lease }: UpstreamConnection) -> Upstream {
        Upstream {
            stream,
            pending: PendingCalls::new(if lease.is_some() { Resend::Possible } else { Resend::Impossible }),
            lease,
            failovers: 0,
            out: BytesMut::new(),
            flushing: false,
            input: BytesMut::new(),
            scan_offset: 0,
            long_line: None,
            batch: None,
            last_id: 0,
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
        self.long_line.is_some()
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
        self.pending.can_fail_over() && self.long_line.is_none() && self.failovers < MAX_FAILOVERS
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
    fn has_pending(&self) -> bool {
        self.batch.is_some() || !self.pending.is_empty()
    }

    /// Fails all pending calls.
    pub(super) fn fail(mut self, error: &RpcError) -> Failed {
        let mut lines: Vec<SharedBuf> = Vec::new();
        let mut outlook = match &self.long_line {
            Some(_) => return Failed { lines, outlook: Outlook::CloseMidLine },
            None if self.pending.is_subscribed() || self.pending.is_incomplete() => Outlook::Close,
            None => Outlook::Continue,
        };
        let replies = self.pending.fail(error);
        lines.extend(replies.into_iter().filter_map(|reply| encode_line([reply], false)));
        if let Some(Batch { parts, then, .. }) = self.batch {
            let replies = parts.into_iter().filter_map(|part| match part {
                BatchSlot::Ready(answer) => answer,
                BatchSlot::Waiting(_, forwarded) => forwarded.failed(error),
            });
            lines.extend(encode_line(replies, true));
            if then == AfterBatch::Close {
                outlook = Outlook::Close;
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
        for part in self.batch.iter().flat_map(|batch| &batch.parts) {
            if let BatchSlot::Waiting(id, forwarded) = part {
                self.out.extend_from_slice(&forwarded.line(*id));
            }
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
    pub(super) fn forward_batch(
        &mut self,
        parts: Vec<Result<Option<SharedBuf>, Box<ForwardedCall>>>,
        then: AfterBatch,
    ) {
        let mut batch = Batch { parts: Vec::new(), awaited: 0, bytes: 0, then };
        for part in parts {
            batch.parts.push(match part {
                Ok(answer) => BatchSlot::Ready(answer),
                Err(forwarded) => {
                    self.last_id += 1;
                    self.out.extend_from_slice(&forwarded.line(self.last_id));
                    batch.awaited += 1;
                    BatchSlot::Waiting(self.last_id, forwarded)
                }
            });
        }
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
        if let Some(event) = self.next_event() {
            return Poll::Ready(Ok(event));
        }
        if !self.out.is_empty() {
            while self.out.has_remaining() {
                match poll_write_buf(Pin::new(&mut self.stream), cx, &mut self.out) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Ok(UpstreamEvent::End)),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
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
        loop {
            self.input.reserve(READ_BYTES);
            let read = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input))?;
            if read == 0 {
                return Poll::Ready(Ok(UpstreamEvent::End));
            }
            self.last_activity = Instant::now();
            self.awaiting_since = self.awaiting_since.map(|_| self.last_activity);
            if let Some(event) = self.next_event() {
                return Poll::Ready(Ok(event));
            }
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
        if self.batch.is_none() {
            return self.parse_passthrough();
        }
        // Each line may be a response to the batch, so lines are handled one by one.
        while let Some(batch) = self.batch.as_mut().filter(|batch| batch.awaited > 0) {
            let bytes = batch.bytes;
            let Some(line) = self.next_line() else {
                return (bytes + self.input.len() > MAX_BATCH_BYTES).then_some(UpstreamEvent::BatchTooLong);
            };
            match self.batch.as_mut().and_then(|batch| batch.resolve(&line, &mut self.pending)) {
                None => return Some(self.on_line(line)),
                Some(()) => self.failovers = 0,
            }
        }
        let Batch { parts, then, .. } = self.batch.take()?;
        let replies = parts.into_iter().filter_map(|part| match part {
            BatchSlot::Ready(answer) => answer,
            BatchSlot::Waiting(..) => None,
        });
        Some(UpstreamEvent::Batch { replies: replies.collect(), then })
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
        let max_buffered = if self.lease.is_some() { MAX_BUFFERED_LINE } else { READ_BYTES };
        if self.input.len() < max_buffered {
            return None;
        }
        self.long_line = Some(AnswerId::default());
        self.scan_offset = 0;
        self.parse_long_line()
    }

    /// Returns the received part of a long line, up to its end.
    fn parse_long_line(&mut self) -> Option<UpstreamEvent> {
        if self.input.is_empty() {
            return None;
        }
        let mut long_line = self.long_line.take()?;
        let end = memchr(b'\n', &self.input).map(|end| end + 1);
        let piece = self.input.split_to(end.unwrap_or(self.input.len())).freeze();
        long_line.feed(&piece);
        if end.is_none() {
            self.long_line = Some(long_line);
        } else if long_line.id().is_some_and(|id| self.pending.resolve_id(id) == ReplyKind::Response) {
            self.failovers = 0;
        }
        Some(UpstreamEvent::Data(piece))
    }

    /// Returns the next complete line.
    fn next_line(&mut self) -> Option<Bytes> {
        let rest = self.input.get(self.scan_offset..).unwrap_or_default();
        let Some(end) = memchr(b'\n', rest) else {
            self.scan_offset = self.input.len();
            return None;
        };
        let line = self.input.split_to(self.scan_offset + end + 1).freeze();
        self.scan_offset = 0;
        Some(line)
    }

    /// Resolves the call that a line responds to, and returns the line for the client.
    fn on_line(&mut self, line: Bytes) -> UpstreamEvent {
        if self.pending.resolve(&line) == ReplyKind::Response {
            self.failovers = 0;
        }
        UpstreamEvent::Data(line)
    }
}

/// Returns whether any part of a line's result is for the backend.
pub(super) fn has_forwarded_calls(parts: &[ReplyPart]) -> bool {
    parts.iter().any(|part| matches!(part, ReplyPart::Forward(_)))
}
