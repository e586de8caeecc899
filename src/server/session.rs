//! One caller's connection: lines in, answers out, within the limits.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::poll;
use rand::rngs::StdRng;
use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use super::client_stream::{ClientInput, ClientStream, ReadTimer};
use super::connection::{ConnectionKind, IncomingConnection};
use super::limits::{Limits, RateMeter, SourceQuota};
use super::upstream::{Outlook, Upstream, UpstreamEvent, passes};
use super::{Counter, SessionContext};
use crate::backend::{Backend, UpstreamConnection};
use crate::book::Ingress;
use crate::book_handle::BookMessage;
use crate::clock;
use crate::dial::Stream;
use crate::electrum::responder::{CallOutcome, LineResult, PendingAddPeer, ReplyPart, Responder, encode_line};
use crate::jsonrpc::{Message, Method, RpcError, SharedBuf, parse_line};
use crate::peer::Host;

/// After a failed connection to the backend, a session's calls fail at once for this long.
const BACKEND_PAUSE: Duration = Duration::from_secs(1);

/// How long a caller that we part from may take to hear it.
const CLOSE_LINGER: Duration = Duration::from_secs(2);

/// Talks with a caller until either has enough.
pub async fn run(arrival: IncomingConnection, source: Option<Arc<SourceQuota>>, shared: &SessionContext, rng: StdRng) {
    let IncomingConnection { stream, from, ingress, kind, .. } = arrival;
    let backend = shared.backend.as_ref().filter(|_| kind.backend_access);
    let session = Responder::new(Arc::clone(&shared.ourselves.borrow()), ingress, backend.is_some());
    let limits = Arc::clone(&shared.limits.borrow());
    let Ok(Some(link)) = timeout(limits.handshake, greet(stream, kind, shared)).await else {
        shared.counters.failed_handshakes.add(1);
        return;
    };
    let requests = RateMeter::new(limits.requests_per_second);
    let patience = ReadTimer::new(&limits);
    let mut talk = ClientSession {
        link,
        session,
        ingress,
        from,
        shared,
        limits,
        backend,
        patience,
        requests,
        source,
        relay: None,
        no_backend_until: None,
        rng,
    };
    if let SessionEnd::Graceful = talk.run_loop().await {
        let _ = timeout(CLOSE_LINGER, talk.link.shutdown()).await;
    }
}

/// The handshakes that come before the first line.
async fn greet(stream: Box<dyn Stream>, kind: ConnectionKind, shared: &SessionContext) -> Option<ClientStream> {
    let stream = match &shared.tls {
        Some(tls) if kind.tls => tls.accept(stream).await.ok()?,
        _ if kind.tls => return None,
        _ => stream,
    };
    if kind.websocket {
        ClientStream::websocket(stream).await.ok()
    } else {
        Some(ClientStream::lines(stream, &shared.long_lines))
    }
}

struct ClientSession<'a> {
    link: ClientStream,
    session: Responder,
    ingress: Ingress,
    from: Option<IpAddr>,
    shared: &'a SessionContext,
    /// As they were when the session began.
    limits: Arc<Limits>,
    /// The server behind us, where this caller gets to it.
    backend: Option<&'a Arc<Backend>>,
    patience: ReadTimer,
    requests: RateMeter,
    source: Option<Arc<SourceQuota>>,
    /// To the server behind us, once the caller has asked for something of its.
    relay: Option<Upstream>,
    /// Until when no further connection to the backend is tried.
    no_backend_until: Option<Instant>,
    rng: StdRng,
}

enum SessionEnd {
    /// We close, after a last word that the caller is to hear.
    Graceful,
    Abort,
}

enum SessionEvent {
    Heard(ClientInput),
    Relayed(UpstreamEvent),
    /// The server behind us leaves the caller waiting in the midst of something.
    Stalled,
}

impl ClientSession<'_> {
    /// One line after the other: while one is answered, the next waits where it costs us nothing.
    async fn run_loop(&mut self) -> SessionEnd {
        loop {
            let done = match self.next().await {
                SessionEvent::Heard(heard) => {
                    self.patience.begin();
                    self.on_input(heard).await
                }
                SessionEvent::Relayed(event) => self.on_upstream(event).await,
                SessionEvent::Stalled => self.on_upstream_lost("doesn't answer").await,
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    async fn next(&mut self) -> SessionEvent {
        let ClientSession { link, relay, patience, limits, .. } = self;
        let Some(relay) = relay else { return SessionEvent::Heard(link.read(patience, limits).await) };
        let (free, stalls_at) = (relay.accepts_input(), relay.stall_deadline());
        tokio::select! {
            biased;
            event = relay.next() => SessionEvent::Relayed(event),
            heard = link.read(patience, limits), if free => SessionEvent::Heard(heard),
            () = sleep_until(stalls_at.unwrap_or_else(Instant::now)), if stalls_at.is_some() => SessionEvent::Stalled,
        }
    }

    async fn on_input(&mut self, heard: ClientInput) -> Result<(), SessionEnd> {
        let counters = &self.shared.counters;
        let turn = match heard {
            // As people send them by hand, after a line of theirs.
            ClientInput::Line(line) if line.trim_ascii().is_empty() => return Ok(()),
            ClientInput::Line(line) => {
                let turn = self.handle_line(&line).await;
                match turn {
                    Ok(turn) if passes(&turn.parts) => return self.forward(&line, turn).await,
                    turn => turn,
                }
            }
            ClientInput::Unreadable(error) => Ok(Responder::malformed(&error)),
            ClientInput::Slow => return Err(abort(&counters.slow)),
            ClientInput::Silent => return Err(abort(&counters.idle)),
            ClientInput::End => return Err(SessionEnd::Abort),
        };
        match turn {
            Ok(turn) => {
                if turn.is_malformed {
                    counters.malformed_lines.add(1);
                }
                let (close, batch) = (turn.close, turn.batch);
                let answers = self.collect_replies(turn).await;
                self.send_reply(encode_line(answers, batch)).await?;
                if close { Err(SessionEnd::Graceful) } else { Ok(()) }
            }
            Err(error) => self.close_with(&error).await,
        }
    }

    /// What to say to a line, when the caller may ask for as much.
    async fn handle_line(&mut self, line: &str) -> Result<LineResult, RpcError> {
        let fronts = self.backend.is_some();
        if let Some(source) = &self.source
            && !(if fronts {
                source.bytes_in.acquire_clamped(line.len()).await
            } else {
                source.bytes_in.try_acquire(line.len())
            })
        {
            self.shared.counters.rate_limited_bytes.add(1);
            return Err(RpcError::RateLimited("bytes"));
        }
        if !fronts {
            // A first one before anything is done with it.
            self.charge_requests(1).await?;
        }
        let incoming = parse_line(line);
        let calls = incoming.as_ref().map_or(1, Message::calls);
        let snapshot = &self.shared.snapshot;
        if !fronts {
            self.charge_requests(calls - 1).await?;
        }
        let turn =
            self.session.handle_line(incoming, self.limits.batch, &snapshot.borrow(), clock::now(), &mut self.rng);
        for (method, answered) in &turn.calls {
            self.shared.counters.calls.count(self.ingress, *method, *answered);
        }
        if !fronts {
            return Ok(turn);
        }
        let passed = turn.parts.iter().filter(|part| matches!(part, ReplyPart::Forward(_))).count();
        self.charge_requests(calls.saturating_sub(passed)).await?;
        self.shared.counters.forwarded_requests.add(passed as u64);
        match &self.source {
            Some(source) if !source.forwarded.acquire(passed).await => {
                self.shared.counters.rate_limited_requests.add(1);
                Err(RpcError::RateLimited("requests"))
            }
            _ => Ok(turn),
        }
    }

    /// Counts so many calls, and waits until the caller may make them.
    async fn charge_requests(&mut self, calls: usize) -> Result<(), RpcError> {
        let counters = &self.shared.counters;
        counters.requests.add(calls as u64);
        for meter in [Some(&self.requests), self.source.as_ref().map(|source| &source.requests)].into_iter().flatten() {
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

    /// Forwards a line, or the backend's calls of a batch. Where there is no connection, each is answered with an error.
    async fn forward(&mut self, line: &str, turn: LineResult) -> Result<(), SessionEnd> {
        let relay = match self.relay.take() {
            Some(relay) => Some(relay),
            None => self.open(None).await.map(Upstream::new),
        };
        let (batch, close) = (turn.batch, turn.close);
        let mut parts = Vec::with_capacity(turn.parts.len());
        for part in turn.parts {
            parts.push(match part {
                ReplyPart::Forward(passed) => Err(passed),
                ReplyPart::Ready(answer) => Ok(Some(answer)),
                ReplyPart::AddPeer(introduction) => Ok(self.submit_add_peer(introduction).await),
            });
        }
        let Some(mut relay) = relay else {
            let error = RpcError::Backend("can't be reached");
            let answers = parts.into_iter().filter_map(|part| part.unwrap_or_else(|passed| passed.failed(&error)));
            self.send_reply(encode_line(answers, batch)).await?;
            return if close { Err(SessionEnd::Graceful) } else { Ok(()) };
        };
        if batch {
            relay.pass_batch(parts, close);
        } else if let Some(Err(passed)) = parts.pop() {
            relay.pass(line, passed);
        }
        self.relay = Some(relay);
        Ok(())
    }

    /// A connection to the server behind us, and rather not to the peer that has just failed.
    async fn open(&mut self, failed: Option<Host>) -> Option<UpstreamConnection> {
        if self.no_backend_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let version = self.session.upstream_version();
        match self.backend?.open(&version, failed.as_ref()).await {
            Ok(connection) => Some(connection),
            Err(error) => {
                self.no_backend_until = Some(Instant::now() + BACKEND_PAUSE);
                self.shared.counters.backend_failures.add(1);
                tracing::debug!(%error, "no connection to the server behind us");
                None
            }
        }
    }

    async fn on_upstream(&mut self, event: UpstreamEvent) -> Result<(), SessionEnd> {
        match event {
            UpstreamEvent::Sent => Ok(()),
            UpstreamEvent::Data(bytes) => {
                if let Some(source) = &self.source {
                    // Limits the bytes per second of the source.
                    while !source.bytes_out.acquire_clamped(bytes.len()).await {}
                }
                match timeout(self.limits.line, self.link.write_raw(bytes)).await {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(_)) => Err(SessionEnd::Abort),
                    Err(_) => Err(abort(&self.shared.counters.slow)),
                }
            }
            UpstreamEvent::Batch { answers, last } => {
                self.send_reply(encode_line(answers, true)).await?;
                if last { Err(SessionEnd::Graceful) } else { Ok(()) }
            }
            UpstreamEvent::BatchTooLong => self.fail(&RpcError::BatchResponseTooLong).await,
            UpstreamEvent::End => self.on_upstream_lost("went away").await,
        }
    }

    /// The backend is of no use any more. Where it was a peer, another may take over.
    async fn on_upstream_lost(&mut self, how: &'static str) -> Result<(), SessionEnd> {
        let Some(mut relay) = self.relay.take_if(|relay| relay.is_needed()) else {
            // The next is opened when there is something to ask.
            self.relay = None;
            return Ok(());
        };
        self.shared.counters.backend_failures.add(1);
        relay.failed();
        if relay.can_fail_over()
            && let Some(connection) = self.open(relay.host().cloned()).await
        {
            relay.fail_over(connection);
            self.relay = Some(relay);
            return Ok(());
        }
        self.relay = Some(relay);
        self.fail(&RpcError::Backend(how)).await
    }

    /// Drops the connection to the backend, and answers each call that it left unanswered with an error.
    ///
    /// A client that is subscribed has to learn that no notification will come: its session ends.
    async fn fail(&mut self, error: &RpcError) -> Result<(), SessionEnd> {
        let Some(relay) = self.relay.take() else { return Ok(()) };
        let failed = relay.fail(error);
        let is_silent = failed.lines.is_empty();
        for line in failed.lines {
            self.send_reply(Some(line)).await?;
        }
        match failed.outlook {
            Outlook::GoesOn => Ok(()),
            Outlook::Ends if is_silent => self.close_with(error).await,
            Outlook::Ends | Outlook::EndsWithinLine => Err(SessionEnd::Graceful),
        }
    }

    /// Sends an answer, if there is one and the caller may have as much.
    async fn send_reply(&mut self, answer: Option<SharedBuf>) -> Result<(), SessionEnd> {
        let Some(answer) = answer else { return Ok(()) };
        match &self.source {
            // What the backend sent may have used it all up.
            Some(source) if self.backend.is_some() => while !source.bytes_out.acquire_clamped(answer.len()).await {},
            Some(source) if !source.bytes_out.try_acquire(answer.len()) => {
                self.shared.counters.rate_limited_bytes.add(1);
                return self.close_with(&RpcError::RateLimited("bytes")).await;
            }
            _ => {}
        }
        self.send(answer).await
    }

    /// The last word.
    async fn close_with(&mut self, error: &RpcError) -> Result<(), SessionEnd> {
        // In the midst of a line of the server's it would be taken for a part of it.
        if self.relay.as_ref().is_none_or(|relay| !relay.is_within_line()) {
            self.send(Responder::closing_error(error)).await?;
        }
        Err(SessionEnd::Graceful)
    }

    async fn send(&mut self, answer: SharedBuf) -> Result<(), SessionEnd> {
        let mut sending = pin!(self.link.send(answer));
        // Mostly it goes at once, and needs no timer.
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

    /// A line's answers in order, those included that the book has to give.
    async fn collect_replies(&mut self, turn: LineResult) -> SmallVec<[SharedBuf; 1]> {
        let mut answers = SmallVec::with_capacity(turn.parts.len());
        for part in turn.parts {
            match part {
                ReplyPart::Ready(answer) => answers.push(answer),
                ReplyPart::AddPeer(introduction) => answers.extend(self.submit_add_peer(introduction).await),
                ReplyPart::Forward(_) => {}
            }
        }
        answers
    }

    async fn submit_add_peer(&mut self, introduction: PendingAddPeer) -> Option<SharedBuf> {
        let (reply, accepted) = oneshot::channel();
        let features = introduction.features.clone();
        // Where the book has more to do than it can, strangers' wishes are the first to be dropped.
        let accepted = match self.shared.inbox.try_send(BookMessage::AddPeer { features, from: self.from, reply }) {
            Ok(()) => accepted.await.unwrap_or(false),
            Err(_) => false,
        };
        let answered = if accepted { CallOutcome::Ok } else { CallOutcome::Refused };
        self.shared.counters.calls.count(self.ingress, Method::AddPeer, answered);
        introduction.answer(accepted)
    }
}

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
