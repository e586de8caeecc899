//! A session's connection to the server behind us: what waits to be sent there, and what comes back.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::AsyncWrite;
use tokio::time::Instant;
use tokio_util::io::{poll_read_buf, poll_write_buf};

use super::pending_calls::{PendingCalls, ReplyKind, Resend};
use crate::backend::{Connection, UpstreamLease};
use crate::dial::Stream;
use crate::electrum::responder::{ForwardedCall, ReplyPart, encode_line, upstream_id};
use crate::jsonrpc::{AnswerId, RpcError, SharedBuf};
use crate::peer::Host;

/// Read from the server at once. As much may be under way to a caller who takes his time.
const READ_BYTES: usize = 16 * 1024;

/// The answers to one batch, until all are there.
const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;

/// How long a server of the operator's may be silent while an answer or the rest of a line is awaited.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a peer may be silent after a question: where another could go on, and where none can. Wallets wait for half a minute.
const REPLY_TIMEOUT: Duration = Duration::from_secs(15);
const PINNED_REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// Peers in a row that a session is moved away from without an answer, before it is given up.
const MAX_FAILOVERS: u32 = 3;

/// A peer's answer up to this length is held until it is whole, so that another peer can still take over.
const MAX_BUFFERED_LINE: usize = 256 * 1024;

/// The connection, and what is under way on it.
pub struct Upstream {
    stream: Box<dyn Stream>,
    /// Whose connection it is, where it is a peer's.
    lease: Option<UpstreamLease>,
    /// The calls without an answer, other than those of the batch.
    pending: PendingCalls,
    /// How often it was moved since there was an answer.
    failovers: u32,
    out: BytesMut,
    /// All of it is written, but may not have left yet.
    flushing: bool,
    input: BytesMut,
    /// So much of it was looked through for a line's end, and has none.
    scan_offset: usize,
    /// A line whose beginning the client has, and whose end is awaited.
    long_line: Option<AnswerId>,
    batch: Option<Batch>,
    last_id: u64,
    /// When the server last said something, or was call.
    last_activity: Instant,
    /// Since when an answer is awaited, as far as that is known.
    awaiting_since: Option<Instant>,
}

/// What a client gets when the server fails.
pub struct Failed {
    /// The answers to its calls, each a line.
    pub lines: Vec<SharedBuf>,
    /// Whether the session can go on with another connection.
    pub outlook: Outlook,
}

/// Whether a session outlives its connection to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// Every call is answered.
    Continue,
    /// The client expects notifications or answers that will not come.
    Close,
    /// The client has the beginning of a line: what is sent now would be taken for its end.
    CloseMidLine,
}

/// A batch that waits for answers of the server's.
struct Batch {
    parts: Vec<BatchSlot>,
    awaited: usize,
    bytes: usize,
    /// It is the last that the caller may ask.
    last: bool,
}

enum BatchSlot {
    /// Answered, or not to be answered.
    Ready(Option<SharedBuf>),
    Waiting(u64, Box<ForwardedCall>),
}

/// What happened on the connection.
pub enum UpstreamEvent {
    /// All that waited was sent.
    Sent,
    /// Bytes for the caller, of which the last may be within a line.
    Data(Bytes),
    /// All answers to a batch, in order.
    Batch {
        replies: Vec<SharedBuf>,
        last: bool,
    },
    /// The answers to a batch are too long.
    BatchTooLong,
    End,
}

impl Upstream {
    pub fn new(Connection { stream, seat: lease }: Connection) -> Upstream {
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

    /// Whether the caller's next line may be heard: not while there is something to be finished first.
    pub fn accepts_input(&self) -> bool {
        self.out.is_empty() && !self.flushing && self.long_line.is_none() && self.batch.is_none()
    }

    pub fn is_mid_line(&self) -> bool {
        self.long_line.is_some()
    }

    /// When the server has been silent for too long, if something is awaited of it.
    pub fn stall_deadline(&self) -> Option<Instant> {
        let silence_limit = match &self.lease {
            None => STALL_TIMEOUT,
            Some(_) if self.pending.can_fail_over() => REPLY_TIMEOUT,
            Some(_) => PINNED_REPLY_TIMEOUT,
        };
        let reply_deadline = self.awaiting_since.map(|call| call + silence_limit);
        let progress_deadline = (!self.accepts_input()).then(|| self.last_activity + STALL_TIMEOUT);
        reply_deadline.into_iter().chain(progress_deadline).min()
    }

    /// Whether another server may go on where this one failed: as long as the caller is subscribed to nothing.
    pub fn can_fail_over(&self) -> bool {
        self.pending.can_fail_over() && self.long_line.is_none() && self.failovers < MAX_FAILOVERS
    }

    /// Whose connection it is, where it is a peer's.
    pub fn host(&self) -> Option<&Host> {
        self.lease.as_ref().map(UpstreamLease::host)
    }

    /// Whether the client would miss something if the server went away now.
    pub fn is_needed(&self) -> bool {
        let Upstream { pending, long_line, .. } = self;
        self.has_pending() || long_line.is_some() || pending.is_subscribed() || pending.is_incomplete()
    }

    /// Whether the client waits for an answer, as far as that is known.
    fn has_pending(&self) -> bool {
        self.batch.is_some() || !self.pending.is_empty()
    }

    /// Ends all that is under way with an error.
    pub fn fail(mut self, error: &RpcError) -> Failed {
        let mut lines: Vec<SharedBuf> = Vec::new();
        let mut outlook = match &self.long_line {
            Some(_) => return Failed { lines, outlook: Outlook::CloseMidLine },
            None if self.pending.is_subscribed() || self.pending.is_incomplete() => Outlook::Close,
            None => Outlook::Continue,
        };
        let replies = self.pending.fail(error);
        lines.extend(replies.into_iter().filter_map(|reply| encode_line([reply], false)));
        if let Some(Batch { parts, last, .. }) = self.batch {
            let replies = parts.into_iter().filter_map(|part| match part {
                BatchSlot::Ready(answer) => answer,
                BatchSlot::Waiting(_, forwarded) => forwarded.failed(error),
            });
            lines.extend(encode_line(replies, true));
            if last {
                outlook = Outlook::Close;
            }
        }
        Failed { lines, outlook }
    }

    /// The server is of no use any more.
    pub fn report_failure(&self) {
        if let Some(lease) = &self.lease {
            lease.failed();
        }
    }

    /// Goes on with another server, which is call again for what the other didn't answer.
    pub fn fail_over(&mut self, Connection { stream, seat: lease }: Connection) {
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

    /// Sends a line as it came, which is this call.
    pub fn forward(&mut self, line: &str, forwarded: Box<ForwardedCall>) {
        self.pending.push(line, forwarded);
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\n");
        self.start_reply_timer();
    }

    /// Sends the calls of a batch that are the server's, each as a line of its own.
    pub fn forward_batch(&mut self, parts: Vec<Result<Option<SharedBuf>, Box<ForwardedCall>>>, last: bool) {
        let mut batch = Batch { parts: Vec::new(), awaited: 0, bytes: 0, last };
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

    fn start_reply_timer(&mut self) {
        self.last_activity = Instant::now();
        if self.has_pending() {
            self.awaiting_since.get_or_insert(self.last_activity);
        }
    }

    /// Sends what waits and reads what comes, until there is something to tell. It may be dropped at any time.
    pub async fn next(&mut self) -> UpstreamEvent {
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
                // A long line's memory is not kept.
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

    /// What there is to tell of what was read, after which nothing more may be awaited, for all that is known.
    fn next_event(&mut self) -> Option<UpstreamEvent> {
        let event = self.parse();
        if event.is_some() && !self.has_pending() {
            self.awaiting_since = None;
        }
        event
    }

    fn parse(&mut self) -> Option<UpstreamEvent> {
        if self.batch.is_none() {
            return self.parse_passthrough();
        }
        // Line by line, as any of them may be an answer that the batch waits for.
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
        let Batch { parts, last, .. } = self.batch.take()?;
        let replies = parts.into_iter().filter_map(|part| match part {
            BatchSlot::Ready(answer) => answer,
            BatchSlot::Waiting(..) => None,
        });
        Some(UpstreamEvent::Batch { replies: replies.collect(), last })
    }

    /// What was read, as far as it is whole lines or too long to be held.
    fn parse_passthrough(&mut self) -> Option<UpstreamEvent> {
        if self.long_line.is_some() {
            return self.parse_long_line();
        }
        let mut whole = 0;
        while let Some(end) = memchr(b'\n', self.input.get(self.scan_offset..)?) {
            let line = whole..self.scan_offset + end + 1;
            (whole, self.scan_offset) = (line.end, line.end);
            if self.pending.resolve(self.input.get(line)?) == ReplyKind::Response {
                self.failovers = 0;
            }
        }
        if whole > 0 {
            self.scan_offset = 0;
            return Some(UpstreamEvent::Data(self.input.split_to(whole).freeze()));
        }
        self.scan_offset = self.input.len();
        let longest = if self.lease.is_some() { MAX_BUFFERED_LINE } else { READ_BYTES };
        if self.input.len() < longest {
            return None;
        }
        self.long_line = Some(AnswerId::default());
        self.scan_offset = 0;
        self.parse_long_line()
    }

    /// What was read of a long line, up to its end.
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

    /// The next line of what was read, if it is whole.
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

    /// A line for the client, which may be an answer that it waits for.
    fn on_line(&mut self, line: Bytes) -> UpstreamEvent {
        if self.pending.resolve(&line) == ReplyKind::Response {
            self.failovers = 0;
        }
        UpstreamEvent::Data(line)
    }
}

impl Batch {
    /// Takes a line that is the answer to one of its calls; None if it is none.
    fn resolve(&mut self, line: &[u8], pending: &mut PendingCalls) -> Option<()> {
        // A copy, or this answer would keep all that was read with it.
        let line = Bytes::copy_from_slice(line);
        #[derive(Deserialize)]
        struct Answer<'a> {
            id: &'a str,
            #[serde(borrow, default)]
            result: Option<&'a RawValue>,
            #[serde(borrow, default)]
            error: Option<&'a RawValue>,
        }
        let answer = serde_json::from_slice::<Answer<'_>>(&line).ok()?;
        let is_match =
            |part: &&mut BatchSlot| matches!(part, BatchSlot::Waiting(id, _) if upstream_id(*id) == answer.id);
        let part = self.parts.iter_mut().find(is_match)?;
        let piece = |json: &RawValue| SharedBuf::from(line.slice_ref(json.get().as_bytes()));
        let outcome = match (answer.error, answer.result) {
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

/// Whether anything of a turn is for the server.
pub fn has_forwarded_calls(parts: &[ReplyPart]) -> bool {
    parts.iter().any(|part| matches!(part, ReplyPart::Forward(_)))
}
