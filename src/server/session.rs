//! Session of one client: lines in, responses out, within the limits.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use smallvec::SmallVec;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite;

use super::SessionContext;
use super::client_stream::{ClientInput, ClientStream, ReadTimer};
use super::connection::{ConnectionKind, IncomingConnection};
use super::input_memory::InputMemory;
use super::limits::{Limits, RateMeter, SourceQuota};
use super::memory::SessionMemory;
use super::metered_stream::{MeteredStream, is_unexpected_header};
use super::session_activity::SessionActivity;
use super::upstream::{Upstream, has_forwarded_calls};
use super::upstream_event::UpstreamEvent;
use crate::backend::{Backend, BackendAccess, UpstreamName};
use crate::book::Ingress;
use crate::client_counters::{Counter, Counters};
use crate::clock;
use crate::dial::Stream;
use crate::electrum::responder::{CallOutcome, LineResult, PendingAddPeer, ReplyPart, Responder, encode_line};
use crate::jsonrpc::{MAX_REQUEST_BYTES, Message, Method, RpcError, SharedBuf, parse_line};

/// Time after a failed connection to the backend during which a session's calls fail at once.
const BACKEND_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Time limit for a client to close the connection after the last response.
const CLOSE_LINGER: Duration = Duration::from_secs(2);

/// Serves a client until either side closes the connection.
pub(super) async fn run(
    connection: IncomingConnection,
    source: Arc<SourceQuota>,
    activity: Arc<SessionActivity>,
    memory: Arc<SessionMemory>,
    shared: &SessionContext,
    rng: StdRng,
) {
    let IncomingConnection { stream, from, ingress, kind, .. } = connection;
    let backend = shared.backend[ingress].as_ref().filter(|_| kind.backend_access != BackendAccess::None);
    let responder = Responder::new(Arc::clone(&shared.local_identity.borrow()), ingress, backend.is_some());
    let limits = Arc::clone(&shared.limits.borrow());
    let input = Arc::new(InputMemory::new(memory.charge()));
    let stream: Box<dyn Stream> = Box::new(MeteredStream::new(stream, Arc::clone(&source), Arc::clone(&input)));
    // In a box, as its state would otherwise take memory for the whole session.
    let handshake = Box::pin(handshake(stream, ingress, kind, shared));
    let stream = match timeout(limits.handshake, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if is_unexpected_header(&error) => return on_unexpected_header(ingress, kind, &shared.counters),
        Ok(Err(_)) | Err(_) => return shared.counters.failed_handshakes.add(1),
    };
    input.release(0);
    let requests = source.session_requests(&limits);
    let read_timer = ReadTimer::new(&limits);
    let mut session = ClientSession {
        stream,
        responder,
        ingress,
        kind,
        from,
        shared,
        limits,
        backend,
        access: kind.backend_access,
        failed_upstreams: Vec::new(),
        read_timer,
        requests,
        prepaid: [0; 2],
        source,
        activity,
        input,
        has_handled_input: false,
        has_input_ended: false,
        memory,
        replies: SharedBuf::default(),
        upstream: None,
        backend_retry_at: None,
        rng,
    };
    let end = session.run_loop().await;
    if let Some(upstream) = &mut session.upstream {
        upstream.on_client_gone();
    }
    if let SessionEnd::Graceful = end {
        let _ = timeout(CLOSE_LINGER, session.stream.shutdown()).await;
    }
}

/// Performs the TLS and WebSocket handshakes.
async fn handshake(
    stream: Box<dyn Stream>,
    ingress: Ingress,
    kind: ConnectionKind,
    shared: &SessionContext,
) -> io::Result<ClientStream> {
    let stream = match &shared.tls[ingress] {
        Some(tls) if kind.tls => tls.accept(stream).await?,
        _ if kind.tls => return Err(io::ErrorKind::Unsupported.into()),
        _ => stream,
    };
    if kind.websocket {
        ClientStream::websocket(stream).await.map_err(|error| match error {
            tungstenite::Error::Io(error) => error,
            error => io::Error::other(error),
        })
    } else {
        let max_line_bytes =
            if kind.backend_access == BackendAccess::None { MAX_REQUEST_BYTES } else { shared.max_line_bytes };
        Ok(ClientStream::lines(stream, max_line_bytes))
    }
}

/// Counts a PROXY header that did not come from a trusted proxy, and tells the operator of a clearnet listener.
///
/// The address is not logged: it may be a client's.
fn on_unexpected_header(ingress: Ingress, kind: ConnectionKind, counters: &Counters) {
    counters.unexpected_proxy_headers.add(1);
    if ingress == Ingress::Clearnet {
        tracing::warn!(
            "listen.{}: connection with an unexpected PROXY header closed; if your proxy sent it, add the proxy's address \
             to listen.trusted_proxies, and let only one proxy of a chain send the header",
            kind.protocol()
        );
    }
}

struct ClientSession<'a> {
    stream: ClientStream,
    responder: Responder,
    ingress: Ingress,
    kind: ConnectionKind,
    /// Address of the client. `None` on the onion ingress.
    from: Option<IpAddr>,
    shared: &'a SessionContext,
    /// Limits at the start of the session.
    limits: Arc<Limits>,
    /// The backend. `None` if requests of this client are not forwarded.
    backend: Option<&'a Arc<Backend>>,
    access: BackendAccess,
    /// Upstreams that failed within this session, the last one at the end.
    failed_upstreams: Vec<UpstreamName>,
    read_timer: ReadTimer,
    /// Meter of this session's requests.
    requests: RateMeter,
    /// Meters of the client's source.
    source: Arc<SourceQuota>,
    /// Requests that are charged and not handled: to the session's meter, and to the source's.
    prepaid: [usize; 2],
    /// Time of the last request, for evictions.
    activity: Arc<SessionActivity>,
    /// Memory of the request that is read or handled.
    input: Arc<InputMemory>,
    /// Whether the last request is handled, but its memory is not released.
    has_handled_input: bool,
    /// Whether the client sends nothing more, but still gets responses.
    has_input_ended: bool,
    memory: Arc<SessionMemory>,
    /// Replies to requests that were read together. They are sent together, before the session waits for anything.
    replies: SharedBuf,
    /// Connection to the backend. `None` until the first forwarded request, and after a loss.
    ///
    /// In a box, as it is larger than the rest of the session, and most sessions have none.
    upstream: Option<Box<Upstream>>,
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
            let event = match self.next().await {
                Ok(event) => event,
                Err(end) => return end,
            };
            // Another upstream may replace a failed one, and the time for this does not count for it.
            let keeps_upstream = self.upstream.is_some()
                && !matches!(event, SessionEvent::Stalled | SessionEvent::Upstream(UpstreamEvent::End));
            let began = keeps_upstream.then(Instant::now);
            let outcome = match event {
                SessionEvent::Input(input) => {
                    // Pings do not keep an idle session open. They may arrive within an unfinished request, whose
                    // memory stays charged.
                    if !matches!(input, ClientInput::Control) {
                        self.read_timer.restart();
                        self.has_handled_input = true;
                    }
                    self.on_input(input).await
                }
                SessionEvent::Upstream(event) => self.on_upstream(event).await,
                SessionEvent::Stalled => Box::pin(self.on_upstream_lost("doesn't respond", false)).await,
            };
            if let (Some(upstream), Some(began)) = (&mut self.upstream, began) {
                upstream.extend_deadlines(began.elapsed());
            }
            if let Err(end) = outcome {
                return end;
            }
            if self.has_input_ended && !self.awaits_responses() {
                return SessionEnd::Graceful;
            }
        }
    }

    /// Returns whether the backend owes the client a response.
    fn awaits_responses(&self) -> bool {
        self.upstream.as_ref().is_some_and(|upstream| upstream.has_pending())
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// Returns an error if the replies to the last requests can't be sent.
    async fn next(&mut self) -> Result<SessionEvent, SessionEnd> {
        if let Some(input) = self.send_collected().await? {
            return Ok(SessionEvent::Input(input));
        }
        if self.has_handled_input && self.upstream.as_ref().is_none_or(|upstream| upstream.accepts_input()) {
            self.has_handled_input = false;
            let rest = if self.input.is_long() { self.stream.shrink_buffer() } else { 0 };
            self.input.release(rest);
        }
        let may_read = !self.has_input_ended;
        let ClientSession { stream, upstream, read_timer, limits, .. } = self;
        let Some(upstream) = upstream else { return Ok(SessionEvent::Input(stream.read(read_timer, limits).await)) };
        let (accepts_input, stall_deadline) = (upstream.accepts_input(), upstream.stall_deadline());
        Ok(tokio::select! {
            biased;
            event = upstream.next() => SessionEvent::Upstream(event),
            input = stream.read(read_timer, limits), if accepts_input && may_read => SessionEvent::Input(input),
            () = sleep_until(stall_deadline.unwrap_or_else(Instant::now)), if stall_deadline.is_some() => SessionEvent::Stalled,
        })
    }

    async fn on_input(&mut self, input: ClientInput) -> Result<(), SessionEnd> {
        let counters = &self.shared.counters;
        let result = match input {
            // Blank lines are ignored, as an operator may send them from a terminal. They count as requests.
            ClientInput::Line(line) if line.trim_ascii().is_empty() => return self.charge_control().await,
            ClientInput::Control => return self.charge_control().await,
            ClientInput::Line(line) => {
                if self.backend.is_none() && !self.prepay_requests() {
                    // The request may be delayed, and the replies to earlier ones are not.
                    self.send_replies().await?;
                }
                let result = self.handle_line(&line).await;
                match result {
                    Ok(result) if has_forwarded_calls(&result.parts) => return self.forward(&line, result).await,
                    result => result,
                }
            }
            ClientInput::Unreadable(error) => Ok(Responder::malformed(&error)),
            ClientInput::OutOfMemory => {
                counters.out_of_memory.add(1);
                return Box::pin(self.close_with(&RpcError::OutOfMemory)).await;
            }
            ClientInput::Slow => return Err(abort(&counters.slow)),
            ClientInput::Idle => return Err(abort(&counters.idle)),
            ClientInput::Tls => return Err(abort(&counters.failed_handshakes)),
            ClientInput::ProxyHeader => {
                on_unexpected_header(self.ingress, self.kind, counters);
                return Err(SessionEnd::Abort);
            }
            ClientInput::End if self.awaits_responses() => {
                self.has_input_ended = true;
                return Ok(());
            }
            ClientInput::End | ClientInput::Lost => return Err(SessionEnd::Abort),
        };
        match result {
            Ok(result) => {
                if result.is_malformed {
                    counters.malformed_lines.add(1);
                }
                let (close, batch) = (result.close, result.batch);
                if result.parts.iter().any(|part| matches!(part, ReplyPart::AddPeer(_))) {
                    self.send_replies().await?;
                }
                let replies = self.collect_replies(result).await;
                self.add_reply(encode_line(replies, batch)).await?;
                if close {
                    self.send_replies().await?;
                    return Err(SessionEnd::Graceful);
                }
                Ok(())
            }
            Err(error) => Box::pin(self.close_with(&error)).await,
        }
    }

    /// Returns the result of a line, or an error if it exceeds a rate limit.
    async fn handle_line(&mut self, line: &str) -> Result<LineResult, RpcError> {
        let has_backend = self.backend.is_some();
        let now = clock::now();
        self.activity.record_request(now);
        if !has_backend {
            // The first request is charged before the line is parsed.
            self.charge_requests(1).await?;
        }
        let message = parse_line(line);
        // A line that is refused counts as one request. Otherwise its error would be that of a rate limit.
        let calls = message.as_ref().map_or(1, Message::calls);
        let calls = if calls > self.limits.batch { 1 } else { calls };
        let snapshot = &self.shared.snapshot[self.ingress];
        if !has_backend && calls > 1 {
            self.charge_requests(calls - 1).await?;
        }
        let result = self.responder.handle_line(message, self.limits.batch, &snapshot.borrow(), now, &mut self.rng);
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

    /// Returns the replies of a line in order. Those of `add_peer` wait for the book.
    async fn collect_replies(&mut self, result: LineResult) -> SmallVec<[SharedBuf; 1]> {
        let mut replies = SmallVec::with_capacity(result.parts.len());
        for part in result.parts {
            match part {
                ReplyPart::Ready(reply) => replies.push(reply),
                ReplyPart::AddPeer(pending) => replies.extend(Box::pin(self.submit_add_peer(pending)).await),
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

/// Ends the session if the client did not receive a response in time.
fn check_sent(sent: Result<io::Result<()>, Elapsed>, counters: &Counters) -> Result<(), SessionEnd> {
    match sent {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(SessionEnd::Abort),
        Err(_) => Err(abort(&counters.slow)),
    }
}

/// Counts the reason, and ends the session at once.
fn abort(reason: &Counter) -> SessionEnd {
    reason.add(1);
    SessionEnd::Abort
}

mod forwarding;
mod replies;
mod request_charges;

#[cfg(test)]
mod batch_tests;
#[cfg(test)]
mod failover_tests;
#[cfg(test)]
mod hostile_peer_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod upstream_loss_tests;
#[cfg(test)]
mod websocket_tests;
