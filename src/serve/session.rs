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

use super::door::{Arrival, Manner};
use super::limits::{Allowance, Limits, Meter};
use super::link::{Heard, Link, Patience};
use super::relay::{Event, Outlook, Relay, passes};
use super::{Count, Shared};
use crate::backend::{Backend, Connection};
use crate::book::Caller;
use crate::clock;
use crate::conversation::server::{Answered, Introduction, Part, Session, Turn, assemble};
use crate::dial::Stream;
use crate::inbox::Input;
use crate::peer::Host;
use crate::protocol::{Incoming, Method, Pieces, RpcError, parse_line};

/// After a failed connection to the backend, a session's calls fail at once for this long.
const BACKEND_PAUSE: Duration = Duration::from_secs(1);

/// How long a caller that we part from may take to hear it.
const LINGER: Duration = Duration::from_secs(2);

/// Talks with a caller until either has enough.
pub async fn run(arrival: Arrival, source: Option<Arc<Allowance>>, shared: &Shared, rng: StdRng) {
    let Arrival { stream, from, caller, manner, .. } = arrival;
    let backend = shared.backend.as_ref().filter(|_| manner.fronted);
    let session = Session::new(Arc::clone(&shared.ourselves.borrow()), caller, backend.is_some());
    let limits = Arc::clone(&shared.limits.borrow());
    let Ok(Some(link)) = timeout(limits.handshake, greet(stream, manner, shared)).await else {
        shared.counters.failed_handshakes.add(1);
        return;
    };
    let requests = Meter::new(limits.requests_per_second);
    let patience = Patience::new(&limits);
    let mut talk = Talk {
        link,
        session,
        caller,
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
    if let End::Parting = talk.lines().await {
        let _ = timeout(LINGER, talk.link.part()).await;
    }
}

/// The handshakes that come before the first line.
async fn greet(stream: Box<dyn Stream>, manner: Manner, shared: &Shared) -> Option<Link> {
    let stream = match &shared.tls {
        Some(tls) if manner.tls => tls.accept(stream).await.ok()?,
        _ if manner.tls => return None,
        _ => stream,
    };
    if manner.websocket { Link::websocket(stream).await.ok() } else { Some(Link::lines(stream, &shared.long_lines)) }
}

struct Talk<'a> {
    link: Link,
    session: Session,
    caller: Caller,
    from: Option<IpAddr>,
    shared: &'a Shared,
    /// As they were when the session began.
    limits: Arc<Limits>,
    /// The server behind us, where this caller gets to it.
    backend: Option<&'a Arc<Backend>>,
    patience: Patience,
    requests: Meter,
    source: Option<Arc<Allowance>>,
    /// To the server behind us, once the caller has asked for something of its.
    relay: Option<Relay>,
    /// Until when no further connection to the backend is tried.
    no_backend_until: Option<Instant>,
    rng: StdRng,
}

enum End {
    /// We close, after a last word that the caller is to hear.
    Parting,
    Gone,
}

enum Next {
    Heard(Heard),
    Relayed(Event),
    /// The server behind us leaves the caller waiting in the midst of something.
    Stalled,
}

impl Talk<'_> {
    /// One line after the other: while one is answered, the next waits where it costs us nothing.
    async fn lines(&mut self) -> End {
        loop {
            let done = match self.next().await {
                Next::Heard(heard) => {
                    self.patience.begin();
                    self.heard(heard).await
                }
                Next::Relayed(event) => self.relayed(event).await,
                Next::Stalled => self.lost("doesn't answer").await,
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    async fn next(&mut self) -> Next {
        let Talk { link, relay, patience, limits, .. } = self;
        let Some(relay) = relay else { return Next::Heard(link.hear(patience, limits).await) };
        let (free, stalls_at) = (relay.is_free(), relay.stalls_at());
        tokio::select! {
            biased;
            event = relay.next() => Next::Relayed(event),
            heard = link.hear(patience, limits), if free => Next::Heard(heard),
            () = sleep_until(stalls_at.unwrap_or_else(Instant::now)), if stalls_at.is_some() => Next::Stalled,
        }
    }

    async fn heard(&mut self, heard: Heard) -> Result<(), End> {
        let counters = &self.shared.counters;
        let turn = match heard {
            // As people send them by hand, after a line of theirs.
            Heard::Line(line) if line.trim_ascii().is_empty() => return Ok(()),
            Heard::Line(line) => {
                let turn = self.line(&line).await;
                match turn {
                    Ok(turn) if passes(&turn.parts) => return self.pass(&line, turn).await,
                    turn => turn,
                }
            }
            Heard::Unreadable(error) => Ok(Session::unreadable(&error)),
            Heard::Slow => return Err(gone(&counters.slow)),
            Heard::Silent => return Err(gone(&counters.idle)),
            Heard::End => return Err(End::Gone),
        };
        match turn {
            Ok(turn) => {
                if turn.unreadable {
                    counters.unreadable_lines.add(1);
                }
                let (close, batch) = (turn.close, turn.batch);
                let answers = self.answers(turn).await;
                self.tell(assemble(answers, batch)).await?;
                if close { Err(End::Parting) } else { Ok(()) }
            }
            Err(error) => self.part(&error).await,
        }
    }

    /// What to say to a line, when the caller may ask for as much.
    async fn line(&mut self, line: &str) -> Result<Turn, RpcError> {
        let fronts = self.backend.is_some();
        if let Some(source) = &self.source
            && !(if fronts { source.bytes_in.wait_for(line.len()).await } else { source.bytes_in.take(line.len()) })
        {
            self.shared.counters.excessive_bytes.add(1);
            return Err(RpcError::Excessive("bytes"));
        }
        if !fronts {
            // A first one before anything is done with it.
            self.asks(1).await?;
        }
        let incoming = parse_line(line);
        let calls = incoming.as_ref().map_or(1, Incoming::calls);
        let snapshot = &self.shared.snapshot;
        if !fronts {
            self.asks(calls - 1).await?;
        }
        let turn = self.session.turn(incoming, self.limits.batch, &snapshot.borrow(), clock::now(), &mut self.rng);
        for (method, answered) in &turn.calls {
            self.shared.counters.calls.count(self.caller, *method, *answered);
        }
        if !fronts {
            return Ok(turn);
        }
        let passed = turn.parts.iter().filter(|part| matches!(part, Part::Pass(_))).count();
        self.asks(calls.saturating_sub(passed)).await?;
        self.shared.counters.passed_requests.add(passed as u64);
        match &self.source {
            Some(source) if !source.passed.wait(passed).await => {
                self.shared.counters.excessive_requests.add(1);
                Err(RpcError::Excessive("requests"))
            }
            _ => Ok(turn),
        }
    }

    /// Counts so many calls, and waits until the caller may make them.
    async fn asks(&mut self, calls: usize) -> Result<(), RpcError> {
        let counters = &self.shared.counters;
        counters.requests.add(calls as u64);
        for meter in [Some(&self.requests), self.source.as_ref().map(|source| &source.requests)].into_iter().flatten() {
            if !meter.take(calls) {
                counters.delayed_requests.add(calls as u64);
                if !meter.wait(calls).await {
                    counters.excessive_requests.add(1);
                    return Err(RpcError::Excessive("requests"));
                }
            }
        }
        Ok(())
    }

    /// Forwards a line, or the backend's calls of a batch. Where there is no connection, each is answered with an error.
    async fn pass(&mut self, line: &str, turn: Turn) -> Result<(), End> {
        let relay = match self.relay.take() {
            Some(relay) => Some(relay),
            None => self.open(None).await.map(Relay::new),
        };
        let (batch, close) = (turn.batch, turn.close);
        let mut parts = Vec::with_capacity(turn.parts.len());
        for part in turn.parts {
            parts.push(match part {
                Part::Pass(passed) => Err(passed),
                Part::Answer(answer) => Ok(Some(answer)),
                Part::AddPeer(introduction) => Ok(self.introduce(introduction).await),
            });
        }
        let Some(mut relay) = relay else {
            let error = RpcError::Backend("can't be reached");
            let answers = parts.into_iter().filter_map(|part| part.unwrap_or_else(|passed| passed.failed(&error)));
            self.tell(assemble(answers, batch)).await?;
            return if close { Err(End::Parting) } else { Ok(()) };
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
    async fn open(&mut self, failed: Option<Host>) -> Option<Connection> {
        if self.no_backend_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let version = self.session.agree();
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

    async fn relayed(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Sent => Ok(()),
            Event::Pass(bytes) => {
                if let Some(source) = &self.source {
                    // Whoever is sent a lot gets it slowly.
                    while !source.bytes_out.wait_for(bytes.len()).await {}
                }
                match timeout(self.limits.line, self.link.pass(bytes)).await {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(_)) => Err(End::Gone),
                    Err(_) => Err(gone(&self.shared.counters.slow)),
                }
            }
            Event::Batch { answers, last } => {
                self.tell(assemble(answers, true)).await?;
                if last { Err(End::Parting) } else { Ok(()) }
            }
            Event::TooLong => self.fail(&RpcError::TooMuch).await,
            Event::End => self.lost("went away").await,
        }
    }

    /// The backend is of no use any more. Where it was a peer, another may take over.
    async fn lost(&mut self, how: &'static str) -> Result<(), End> {
        let Some(mut relay) = self.relay.take_if(|relay| relay.is_needed()) else {
            // The next is opened when there is something to ask.
            self.relay = None;
            return Ok(());
        };
        self.shared.counters.backend_failures.add(1);
        relay.failed();
        if relay.may_move()
            && let Some(connection) = self.open(relay.host().cloned()).await
        {
            relay.move_to(connection);
            self.relay = Some(relay);
            return Ok(());
        }
        self.relay = Some(relay);
        self.fail(&RpcError::Backend(how)).await
    }

    /// Drops the connection to the backend, and answers each call that it left unanswered with an error.
    ///
    /// A client that is subscribed has to learn that no notification will come: its session ends.
    async fn fail(&mut self, error: &RpcError) -> Result<(), End> {
        let Some(relay) = self.relay.take() else { return Ok(()) };
        let failed = relay.fail(error);
        let is_silent = failed.lines.is_empty();
        for line in failed.lines {
            self.tell(Some(line)).await?;
        }
        match failed.outlook {
            Outlook::GoesOn => Ok(()),
            Outlook::Ends if is_silent => self.part(error).await,
            Outlook::Ends | Outlook::EndsWithinLine => Err(End::Parting),
        }
    }

    /// Sends an answer, if there is one and the caller may have as much.
    async fn tell(&mut self, answer: Option<Pieces>) -> Result<(), End> {
        let Some(answer) = answer else { return Ok(()) };
        match &self.source {
            // What the backend sent may have used it all up.
            Some(source) if self.backend.is_some() => while !source.bytes_out.wait_for(answer.len()).await {},
            Some(source) if !source.bytes_out.take(answer.len()) => {
                self.shared.counters.excessive_bytes.add(1);
                return self.part(&RpcError::Excessive("bytes")).await;
            }
            _ => {}
        }
        self.send(answer).await
    }

    /// The last word.
    async fn part(&mut self, error: &RpcError) -> Result<(), End> {
        // In the midst of a line of the server's it would be taken for a part of it.
        if self.relay.as_ref().is_none_or(|relay| !relay.is_within_line()) {
            self.send(Session::farewell(error)).await?;
        }
        Err(End::Parting)
    }

    async fn send(&mut self, answer: Pieces) -> Result<(), End> {
        let mut sending = pin!(self.link.send(answer));
        // Mostly it goes at once, and needs no timer.
        let sent = match poll!(sending.as_mut()) {
            Poll::Ready(sent) => Ok(sent),
            Poll::Pending => timeout(self.limits.line, sending).await,
        };
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(gone(&self.shared.counters.slow)),
        }
    }

    /// A line's answers in order, those included that the book has to give.
    async fn answers(&mut self, turn: Turn) -> SmallVec<[Pieces; 1]> {
        let mut answers = SmallVec::with_capacity(turn.parts.len());
        for part in turn.parts {
            match part {
                Part::Answer(answer) => answers.push(answer),
                Part::AddPeer(introduction) => answers.extend(self.introduce(introduction).await),
                Part::Pass(_) => {}
            }
        }
        answers
    }

    async fn introduce(&mut self, introduction: Introduction) -> Option<Pieces> {
        let (reply, accepted) = oneshot::channel();
        let features = introduction.features.clone();
        // Where the book has more to do than it can, strangers' wishes are the first to be dropped.
        let accepted = match self.shared.inbox.try_send(Input::AddPeer { features, from: self.from, reply }) {
            Ok(()) => accepted.await.unwrap_or(false),
            Err(_) => false,
        };
        let answered = if accepted { Answered::Answered } else { Answered::Refused };
        self.shared.counters.calls.count(self.caller, Method::AddPeer, answered);
        introduction.answer(accepted)
    }
}

fn gone(why: &Count) -> End {
    why.add(1);
    End::Gone
}

#[cfg(test)]
mod losses;
#[cfg(test)]
mod moves;
#[cfg(test)]
mod tests;
