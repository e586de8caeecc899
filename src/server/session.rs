//! Session of one client: lines in, responses out, within the limits.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::poll;
use rand::rngs::StdRng;
use smallvec::SmallVec;
use tokio::time::{Instant, sleep_until, timeout};

use super::SessionContext;
use super::batch::AfterBatch;
use super::client_stream::{ClientInput, ClientStream, ReadTimer};
use super::connection::{ConnectionKind, IncomingConnection};
use super::limits::{Limits, RateMeter, SourceQuota};
use super::metered_stream::MeteredStream;
use super::session_activity::SessionActivity;
use super::upstream::{Outlook, Upstream, UpstreamEvent, has_forwarded_calls};
use crate::backend::{Backend, UpstreamConnection};
use crate::book::Ingress;
use crate::client_counters::Counter;
use crate::clock;
use crate::dial::Stream;
use crate::electrum::responder::{CallOutcome, LineResult, PendingAddPeer, ReplyPart, Responder, encode_line};
use crate::jsonrpc::{Message, Method, RpcError, SharedBuf, parse_line};
use crate::peer::Host;

/// Time after a failed connection to the backend during which a session's calls fail at once.
const BACKEND_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Time limit for a client to close the connection after the last response.
const CLOSE_LINGER: Duration = Duration::from_secs(2);

/// Serves a client until either side closes the connection.
pub(super) async fn run(
    connection: IncomingConnection,
    source: Arc<SourceQuota>,
    activity: Arc<SessionActivity>,
    shared: &SessionContext,
    rng: StdRng,
) {
    let IncomingConnection { stream, from, ingress, kind, .. } = connection;
    let backend = shared.backend[ingress].as_ref().filter(|_| kind.backend_access);
    let responder = Responder::new(Arc::clone(&shared.local_identity.borrow()), ingress, backend.is_some());
    let limits = Arc::clone(&shared.limits.borrow());
    let stream: Box<dyn Stream> = Box::new(MeteredStream::new(stream, Arc::clone(&source)));
    let Ok(Some(stream)) = timeout(limits.handshake, handshake(stream, ingress, kind, shared)).await else {
        shared.counters.failed_handshakes.add(1);
        return;
    };
    let requests = RateMeter::new(limits.requests_per_second);
    let read_timer = ReadTimer::new(&limits);
    let mut session = ClientSession {
        stream,
        responder,
        ingress,
        from,
        shared,
        limits,
        backend,
        read_timer,
        requests,
        source,
        activity,
        upstream: None,
        backend_retry_at: None,
        rng,
    };
    if let SessionEnd::Graceful = session.run_loop().await {
        let _ = timeout(CLOSE_LINGER, session.stream.shutdown()).await;
    }
}

/// Performs the TLS and WebSocket handshakes. Returns `None` if one fails.
async fn handshake(
    stream: Box<dyn Stream>,
    ingress: Ingress,
    kind: ConnectionKind,
    shared: &SessionContext,
) -> Option<ClientStream> {
    let stream = match &shared.tls {
        Some(tls) if kind.tls => tls.accept(stream).await.ok()?,
        _ if kind.tls => return None,
        _ => stream,
    };
    if kind.websocket {
        ClientStream::websocket(stream).await.ok()
    } else {
        Some(ClientStream::lines(stream, &shared.long_lines[ingress]))
    }
}

struct ClientSession<'a> {
    stream: ClientStream,
    responder: Responder,
    ingress: Ingress,
    /// Address of the client. `None` on the onion ingress.
    from: Option<IpAddr>,
    shared: &'a SessionContext,
    /// Limits at the start of the session.
    limits: Arc<Limits>,
    /// The backend. `None` if requests of this client are not forwarded.
    backend: Option<&'a Arc<Backend>>,
    read_timer: ReadTimer,
    /// Meter of this session's requests.
    requests: RateMeter,
    /// Meters of the client's source.
    source: Arc<SourceQuota>,
    /// Time of the last request, for evictions.
    activity: Arc<SessionActivity>,
    /// Connection to the backend. `None` until the first forwarded request, and after a loss.
    upstream: Option<Upstream>,
    /// Earliest time of the next connection to the backend. `None` if there was no failure.
    backend_retry_at: Option<Instant>,
    rng: StdRng,
}

/// How a session ends.
enum SessionEnd {
    /// Waypost closes the connection after the client has received the last line.
    Graceful,
    /// The connection is dropped at once.
    Abort,
}

/// Next event of a session.
enum SessionEvent {
    /// Input of the client.
    Input(ClientInput),
    /// Event on the connection to the backend.
    Upstream(UpstreamEvent),
    /// The backend has been silent for too long.
    Stalled,
}

impl ClientSession<'_> {
    /// Handles one line after the other. Meanwhile the next waits in the client's socket.
    async fn run_loop(&mut self) -> SessionEnd {
        loop {
            let outcome = match self.next().await {
                SessionEvent::Input(input) => {
                    // Pings do not keep an idle session open.
                    if !matches!(input, ClientInput::Control) {
                        self.read_timer.restart();
                    }
                    self.on_input(input).await
                }
                SessionEvent::Upstream(event) => self.on_upstream(event).await,
                SessionEvent::Stalled => self.on_upstream_lost("doesn't respond").await,
            };
            if let Err(end) = outcome {
                return end;
            }
        }
    }

    async fn next(&mut self) -> SessionEvent {
        let ClientSession { stream, upstream, read_timer, limits, .. } = self;
        let Some(upstream) = upstream else { return SessionEvent::Input(stream.read(read_timer, limits).await) };
        let (accepts_input, stall_deadline) = (upstream.accepts_input(), upstream.stall_deadline());
        tokio::select! {
            biased;
            event = upstream.next() => SessionEvent::Upstream(event),
            input = stream.read(read_timer, limits), if accepts_input => SessionEvent::Input(input),
            () = sleep_until(stall_deadline.unwrap_or_else(Instant::now)), if stall_deadline.is_some() => SessionEvent::Stalled,
        }
    }

    async fn on_input(&mut self, input: ClientInput) -> Result<(), SessionEnd> {
        let counters = &self.shared.counters;
        let result = match input {
            // Blank lines are ignored, as an operator may send them from a terminal. They count as requests.
            ClientInput::Line(line) if line.trim_ascii().is_empty() => return self.charge_control().await,
            ClientInput::Control => return self.charge_control().await,
            ClientInput::Line(line) => {
                let result = self.handle_line(&line).await;
                match result {
                    Ok(result) if has_forwarded_calls(&result.parts) => return self.forward(&line, result).await,
                    result => result,
                }
            }
            ClientInput::Unreadable(error) => Ok(Responder::malformed(&error)),
            ClientInput::Slow => return Err(abort(&counters.slow)),
            ClientInput::Idle => return Err(abort(&counters.idle)),
            ClientInput::End => return Err(SessionEnd::Abort),
        };
        match result {
            Ok(result) => {
                if result.is_malformed {
                    counters.malformed_lines.add(1);
                }
                let (close, batch) = (result.close, result.batch);
                let replies = self.collect_replies(result).await;
                self.send_reply(encode_line(replies, batch)).await?;
                if close { Err(SessionEnd::Graceful) } else { Ok(()) }
            }
            Err(error) => self.close_with(&error).await,
        }
    }

    /// Returns the result of a line, or an error if it exceeds a rate limit.
    async fn handle_line(&mut self, line: &str) -> Result<LineResult, RpcError> {
        let has_backend = self.backend.is_some();
        self.activity.record_request(clock::now());
        if !has_backend {
            // The first request is charged before the line is parsed.
            self.charge_requests(1).await?;
        }
        let message = parse_line(line);
        let calls = message.as_ref().map_or(1, Message::calls);
        let snapshot = &self.shared.snapshot[self.ingress];
        if !has_backend {
            self.charge_requests(calls - 1).await?;
        }
        let result =
            self.responder.handle_line(message, self.limits.batch, &snapshot.borrow(), clock::now(), &mut self.rng);
        for (method, outcome) in &result.calls {
            self.shared.counters.calls.count(self.ingress, *method, *outcome);
        }
        if !has_backend {
            return Ok(result);
        }
        let forwarded = result.parts.iter().filter(|part| matches!(part, ReplyPart::Forward(_))).count();
        self.charge_requests(calls.saturating_sub(forwarded)).await?;
        self.shared.counters.forwarded_requests.add(forwarded as u64);
        if !self.source.forwarded.acquire(forwarded).await {
            self.shared.counters.rate_limited_requests.add(1);
            return Err(RpcError::RateLimited("requests"));
        }
        Ok(result)
    }

    /// Counts requests, and waits until the rate limits allow them.
    async fn charge_requests(&mut self, calls: usize) -> Result<(), RpcError> {
        let counters = &self.shared.counters;
        counters.requests.add(calls as u64);
        for meter in [&self.requests, &self.source.requests] {
            if !meter.try_acquire(calls) {
                counters.delayed_requests.add(calls as u64);
                if !meter.acquire(calls).await {
                    counters.rate_limited_requests.add(1);
                    return Err(RpcError::RateLimited("requests"));
                }
            }
        }
        Ok(())
    }

    /// Charges input without a request, such as a blank line or a ping, as one request.
    async fn charge_control(&mut self) -> Result<(), SessionEnd> {
        match self.charge_requests(1).await {
            Ok(()) => Ok(()),
            Err(error) => self.close_with(&error).await,
        }
    }

    /// Forwards a line, or the requests of a batch that are for the backend.
    ///
    /// Without a connection, each gets an error response.
    async fn forward(&mut self, line: &str, result: LineResult) -> Result<(), SessionEnd> {
        let upstream = match self.upstream.take() {
            Some(upstream) => Some(upstream),
            None => self.open_upstream(None).await.map(Upstream::new),
        };
        let (batch, close) = (result.batch, result.close);
        let mut parts = Vec::with_capacity(result.parts.len());
        for part in result.parts {
            parts.push(match part {
                ReplyPart::Forward(forwarded) => Err(forwarded),
                ReplyPart::Ready(reply) => Ok(Some(reply)),
                ReplyPart::AddPeer(pending) => Ok(self.submit_add_peer(pending).await),
            });
        }
        let Some(mut upstream) = upstream else {
            let error = RpcError::Backend("can't be reached");
            let replies =
                parts.into_iter().filter_map(|part| part.unwrap_or_else(|forwarded| forwarded.failed(&error)));
            self.send_reply(encode_line(replies, batch)).await?;
            return if close { Err(SessionEnd::Graceful) } else { Ok(()) };
        };
        if batch {
            upstream.forward_batch(parts, if close { AfterBatch::Close } else { AfterBatch::Continue });
        } else if let Some(Err(forwarded)) = parts.pop() {
            upstream.forward(line, forwarded);
        }
        self.upstream = Some(upstream);
        Ok(())
    }

    /// Opens a connection to the backend, preferably not to the peer that has just failed.
    async fn open_upstream(&mut self, failed: Option<Host>) -> Option<UpstreamConnection> {
        if self.backend_retry_at.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let version = self.responder.upstream_version();
        match self.backend?.open(&version, failed.as_ref()).await {
            Ok(connection) => Some(connection),
            Err(error) => {
                self.backend_retry_at = Some(Instant::now() + BACKEND_RETRY_DELAY);
                self.shared.counters.backend_failures.add(1);
                tracing::debug!(%error, "no connection to the backend server");
                None
            }
        }
    }

    async fn on_upstream(&mut self, event: UpstreamEvent) -> Result<(), SessionEnd> {
        match event {
            UpstreamEvent::Sent => Ok(()),
            UpstreamEvent::Data(bytes) => {
                // Limits the bytes per second of the source.
                while !self.source.bytes_out.acquire_clamped(bytes.len()).await {}
                match timeout(self.limits.line, self.stream.write_raw(bytes)).await {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(_)) => Err(SessionEnd::Abort),
                    Err(_) => Err(abort(&self.shared.counters.slow)),
                }
            }
            UpstreamEvent::Batch { replies, then } => {
                self.send_reply(encode_line(replies, true)).await?;
                match then {
                    AfterBatch::Continue => Ok(()),
                    AfterBatch::Close => Err(SessionEnd::Graceful),
                }
            }
            UpstreamEvent::BatchTooLong => self.fail(&RpcError::BatchResponseTooLong).await,
            UpstreamEvent::End => self.on_upstream_lost("closed the connection").await,
        }
    }

    /// Handles the loss of the backend. A peer may be replaced by another one.
    async fn on_upstream_lost(&mut self, failure: &'static str) -> Result<(), SessionEnd> {
        let Some(mut upstream) = self.upstream.take_if(|upstream| upstream.is_needed()) else {
            // The next forwarded request opens a new one.
            self.upstream = None;
            return Ok(());
        };
        self.shared.counters.backend_failures.add(1);
        upstream.report_failure();
        if upstream.can_fail_over()
            && let Some(connection) = self.open_upstream(upstream.host().cloned()).await
        {
            upstream.fail_over(connection);
            self.upstream = Some(upstream);
            return Ok(());
        }
        self.upstream = Some(upstream);
        self.fail(&RpcError::Backend(failure)).await
    }

    /// Drops the connection to the backend, and fails each pending call.
    ///
    /// The session of a subscribed client ends, because no notification would follow.
    async fn fail(&mut self, error: &RpcError) -> Result<(), SessionEnd> {
        let Some(upstream) = self.upstream.take() else { return Ok(()) };
        let failed = upstream.fail(error);
        let has_no_pending_call = failed.lines.is_empty();
        for line in failed.lines {
            self.send_reply(Some(line)).await?;
        }
        match failed.outlook {
            Outlook::Continue => Ok(()),
            Outlook::Close if has_no_pending_call => self.close_with(error).await,
            Outlook::Close | Outlook::CloseMidLine => Err(SessionEnd::Graceful),
        }
    }

    /// Sends a reply within the byte limits of the source.
    async fn send_reply(&mut self, reply: Option<SharedBuf>) -> Result<(), SessionEnd> {
        let Some(reply) = reply else { return Ok(()) };
        if self.backend.is_some() {
            // Forwarded data may have used up the quota, so replies wait instead of failing.
            while !self.source.bytes_out.acquire_clamped(reply.len()).await {}
        } else if !self.source.bytes_out.try_acquire(reply.len()) {
            self.shared.counters.rate_limited_bytes.add(1);
            return self.close_with(&RpcError::RateLimited("bytes")).await;
        }
        self.send(reply).await
    }

    /// Sends an error, and ends the session.
    async fn close_with(&mut self, error: &RpcError) -> Result<(), SessionEnd> {
        // Within a forwarded line, the error would be read as a part of that line.
        if self.upstream.as_ref().is_none_or(|upstream| !upstream.is_mid_line()) {
            self.send(Responder::closing_error(error)).await?;
        }
        Err(SessionEnd::Graceful)
    }

    async fn send(&mut self, reply: SharedBuf) -> Result<(), SessionEnd> {
        let mut sending = pin!(self.stream.send(reply));
        // Most sends finish at once and need no timer.
        let sent = match poll!(sending.as_mut()) {
            Poll::Ready(sent) => Ok(sent),
            Poll::Pending => timeout(self.limits.line, sending).await,
        };
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(SessionEnd::Abort),
            Err(_) => Err(abort(&self.shared.counters.slow)),
        }
    }

    /// Returns the replies of a line in order. Those of `add_peer` wait for the book.
    async fn collect_replies(&mut self, result: LineResult) -> SmallVec<[SharedBuf; 1]> {
        let mut replies = SmallVec::with_capacity(result.parts.len());
        for part in result.parts {
            match part {
                ReplyPart::Ready(reply) => replies.push(reply),
                ReplyPart::AddPeer(pending) => replies.extend(self.submit_add_peer(pending).await),
                ReplyPart::Forward(_) => {}
            }
        }
        replies
    }

    /// Submits an `add_peer` to the book, and returns its reply.
    async fn submit_add_peer(&mut self, pending: PendingAddPeer) -> Option<SharedBuf> {
        let pool = &self.shared.book_requests[self.ingress];
        let accepted = pool.add_peer(&self.shared.inbox, self.ingress, pending.features.clone(), self.from).await;
        let outcome = if accepted { CallOutcome::Ok } else { CallOutcome::Refused };
        self.shared.counters.calls.count(self.ingress, Method::AddPeer, outcome);
        pending.answer(accepted)
    }
}

/// Counts the reason, and ends the session at once.
fn abort(reason: &Counter) -> SessionEnd {
    reason.add(1);
    SessionEnd::Abort
}

#[cfg(test)]
mod failover_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod upstream_loss_tests;
