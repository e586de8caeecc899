//! Connection of a session to the backend, with the calls that are pending on it.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::io::poll_write_buf;

use super::batch::{AfterBatch, Batch};
use super::memory::{MemoryCharge, SessionMemory};
use super::pending_calls::{PendingCalls, Resend};
use super::reply_timer::{Owed, Patience, ReplyTimer};
use super::upstream_event::{Failed, Outlook, UpstreamEvent};
use crate::backend::{ReadRequest, SessionFailure, UpstreamConnection, UpstreamLease, UpstreamName};
use crate::dial::Stream;
use crate::electrum::responder::{ForwardedCall, ReplyPart, encode_line};
use crate::jsonrpc::{ResponseScanner, RpcError, SharedBuf};

/// Size of a read in bytes. A session buffers this much for a slow client, without a charge.
const READ_BYTES: usize = 16 * 1024;

/// Time after which a client that leaves without a response has waited long enough for one.
const UNANSWERED_TIME: Duration = Duration::from_secs(5);

/// Connection of a session to a backend server or peer.
pub(super) struct Upstream {
    stream: Box<dyn Stream>,
    lease: UpstreamLease,
    /// Calls without a response, except those of the batch.
    pending: PendingCalls,
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
    /// Bytes of a started line that were taken from `input`.
    line_bytes: usize,
    /// Batch that waits for responses.
    batch: Option<Batch>,
    /// Time at which the batch was sent; meaningless without one.
    batch_since: Instant,
    /// Time at which this upstream took over, and subscriptions began to be renewed.
    connected_at: Instant,
    timer: ReplyTimer,
    /// Whether this upstream has answered a request.
    has_answered: bool,
    /// Number of requests that this upstream was sent.
    sent: usize,
    rng: StdRng,
}

impl Upstream {
    /// Starts with an open connection and no pending call.
    pub(super) fn new(
        UpstreamConnection { stream, lease }: UpstreamConnection,
        memory: Arc<SessionMemory>,
        resend: Resend,
        mut rng: StdRng,
    ) -> Upstream {
        let now = Instant::now();
        Upstream {
            stream,
            lease,
            pending: PendingCalls::new(resend, &memory, rng.next_u64()),
            out: BytesMut::new(),
            flushing: false,
            input: BytesMut::new(),
            input_charge: memory.charge(),
            memory,
            scan_offset: 0,
            long_line: None,
            line_bytes: 0,
            batch: None,
            batch_since: now,
            connected_at: now,
            timer: ReplyTimer::new(now),
            has_answered: false,
            sent: 0,
            rng,
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

    /// Returns the time at which the upstream counts as failed; `None` if it owes nothing.
    pub(super) fn stall_deadline(&self) -> Option<Instant> {
        let is_peer = matches!(self.lease, UpstreamLease::Peer(_));
        let patience = match (is_peer, self.can_fail_over()) {
            (true, true) => Patience::Peer,
            (true, false) => Patience::LastPeer,
            (false, true) => Patience::Server,
            (false, false) => Patience::LastServer,
        };
        let batch = self.batch.as_ref().map(|_| self.batch_since);
        let renewal = self.pending.subscriptions.is_renewing().then_some(self.connected_at);
        let owed = Owed {
            oldest_request: self.pending.oldest().into_iter().chain(batch).chain(renewal).min(),
            line_bytes: self.line_bytes + self.input.len(),
            is_line_started: self.is_within_response(),
            has_unfinished_io: !self.accepts_input(),
        };
        self.timer.deadline(&owed, patience)
    }

    /// Extends the time limits by a time during which the upstream was not read.
    pub(super) fn extend_deadlines(&mut self, pause: Duration) {
        self.timer.extend(pause);
    }

    /// Returns whether another upstream can take over.
    ///
    /// A partly sent response prevents it, and a subscription that can't be renewed.
    pub(super) fn can_fail_over(&self) -> bool {
        self.pending.can_fail_over() && !self.is_within_response() && self.timer.may_fail_over(Instant::now())
    }

    /// Returns whether the client has received a part of a response.
    fn is_within_response(&self) -> bool {
        self.long_line.is_some() || self.batch.as_ref().is_some_and(Batch::is_within_response)
    }

    /// Returns the name of the upstream.
    pub(super) fn name(&self) -> UpstreamName {
        self.lease.name()
    }

    /// Returns whether the client would notice the loss of the connection.
    pub(super) fn is_needed(&self) -> bool {
        let Upstream { pending, long_line, .. } = self;
        self.has_pending() || long_line.is_some() || pending.subscriptions.is_subscribed() || pending.is_incomplete()
    }

    /// Returns whether a tracked call is pending.
    pub(super) fn has_pending(&self) -> bool {
        self.batch.is_some() || !self.pending.is_empty() || self.pending.subscriptions.is_renewing()
    }

    /// Fails all pending calls.
    pub(super) fn fail(mut self, error: &RpcError) -> Failed {
        let mut lines: Vec<SharedBuf> = Vec::new();
        if self.is_within_response() {
            return Failed { lines, outlook: Outlook::CloseMidLine };
        }
        let is_lossy = self.pending.subscriptions.is_subscribed() || self.pending.is_incomplete();
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

    /// Reports the failure of the upstream. `closed`: it has closed the connection.
    pub(super) fn report_failure(&mut self, closed: bool) {
        // A client must not choose the upstreams by its requests, so only one that costs nothing is proof.
        let is_first = self.sent == 1 && !self.has_answered && self.batch.is_none();
        let is_own_fault = closed && is_first && self.pending.has_only_cheap_call();
        let failure = if is_own_fault { SessionFailure::OwnFault } else { SessionFailure::Unclear };
        self.lease.failed(failure, &mut self.rng);
    }

    /// Handles the end of the session by the client, which may have waited for a response.
    pub(super) fn on_client_gone(&mut self) {
        let oldest = self.pending.oldest().into_iter().chain(self.batch.as_ref().map(|_| self.batch_since)).min();
        if oldest.is_some_and(|sent| sent.elapsed() >= UNANSWERED_TIME) {
            self.lease.failed(SessionFailure::Unclear, &mut self.rng);
        }
    }

    /// Replaces the connection, renews the subscriptions, and resends all pending calls.
    pub(super) fn fail_over(&mut self, UpstreamConnection { stream, lease }: UpstreamConnection) {
        (self.stream, self.lease) = (stream, lease);
        let now = Instant::now();
        self.timer.on_failover(now);
        (self.flushing, self.has_answered) = (false, false);
        (self.batch_since, self.connected_at) = (now, now);
        (self.input, self.scan_offset, self.line_bytes) = (BytesMut::new(), 0, 0);
        self.out.clear();
        self.sent = self.pending.resend(&mut self.out, now);
        if let Some(batch) = &mut self.batch {
            batch.write_requests(&mut self.out);
        }
    }

    /// Forwards a line unchanged, which contains this call.
    pub(super) fn forward(&mut self, line: &str, forwarded: Box<ForwardedCall>) {
        let request = forwarded.params().and_then(|params| ReadRequest::parse(forwarded.method(), params));
        let sampled = request.filter(|_| self.lease.peer().is_some_and(|lease| lease.samples(&mut self.rng)));
        self.pending.push(line, forwarded, sampled, Instant::now());
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\n");
        self.start_sending(1);
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
        let count = parts.len();
        let mut batch = Batch::new(parts, then, nonce, self.memory.charge());
        batch.write_requests(&mut self.out);
        self.batch = Some(batch);
        self.batch_since = Instant::now();
        self.start_sending(count);
    }

    fn start_sending(&mut self, requests: usize) {
        self.sent = self.sent.saturating_add(requests);
        self.timer.on_io(Instant::now());
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
            self.timer.on_io(Instant::now());
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
        if let Some((request, answer)) = self.pending.take_sampled()
            && let Some(lease) = self.lease.peer()
        {
            lease.compare(request, answer, &mut self.rng);
        }
        if event.is_some() && !self.has_pending() {
            self.timer.on_idle();
        }
        event
    }

    /// Records a response to a request.
    fn on_reply(&mut self) {
        let now = Instant::now();
        self.timer.on_reply(now);
        self.has_answered = true;
        self.lease.record_answer(now);
    }
}

/// Returns whether any part of a line's result is for the backend.
pub(super) fn has_forwarded_calls(parts: &[ReplyPart]) -> bool {
    parts.iter().any(|part| matches!(part, ReplyPart::Forward(_)))
}

mod parsing;
