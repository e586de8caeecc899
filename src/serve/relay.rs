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

use super::unanswered::{Heard, Resend, Unanswered};
use crate::backend::{Connection, Seat};
use crate::conversation::server::{Part, Passed, assemble, own_id};
use crate::dial::Stream;
use crate::peer::Host;
use crate::protocol::{AnswerId, Pieces, RpcError};

/// Read from the server at once. As much may be under way to a caller who takes his time.
const CHUNK: usize = 16 * 1024;

/// The answers to one batch, until all are there.
const LONGEST_BATCH: usize = 8 * 1024 * 1024;

/// How long a server of the operator's may be silent while an answer or the rest of a line is awaited.
const STALL: Duration = Duration::from_secs(120);

/// How long a peer may be silent after a question: where another could go on, and where none can. Wallets wait for half a minute.
const SILENCE: Duration = Duration::from_secs(15);
const TIED_SILENCE: Duration = Duration::from_secs(60);

/// Peers in a row that a session is moved away from without an answer, before it is given up.
const MOVES: u32 = 3;

/// A peer's answer up to this length is held until it is whole, so that another peer can still take over.
const LONGEST_WHOLE: usize = 256 * 1024;

/// The connection, and what is under way on it.
pub struct Relay {
    stream: Box<dyn Stream>,
    /// Whose connection it is, where it is a peer's.
    seat: Option<Seat>,
    /// The calls without an answer, other than those of the batch.
    unanswered: Unanswered,
    /// How often it was moved since there was an answer.
    moves: u32,
    out: BytesMut,
    /// All of it is written, but may not have left yet.
    flushing: bool,
    input: BytesMut,
    /// So much of it was looked through for a line's end, and has none.
    searched: usize,
    /// A line whose beginning the client has, and whose end is awaited.
    long_line: Option<AnswerId>,
    batch: Option<Batch>,
    last_id: u64,
    /// When the server last said something, or was asked.
    since: Instant,
    /// Since when an answer is awaited, as far as that is known.
    asked: Option<Instant>,
}

/// What a client gets when the server fails.
pub struct Failed {
    /// The answers to its calls, each a line.
    pub lines: Vec<Pieces>,
    /// Whether the session can go on with another connection.
    pub outlook: Outlook,
}

/// Whether a session outlives its connection to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// Every call is answered.
    GoesOn,
    /// The client expects notifications or answers that will not come.
    Ends,
    /// The client has the beginning of a line: what is sent now would be taken for its end.
    EndsWithinLine,
}

/// A batch that waits for answers of the server's.
struct Batch {
    parts: Vec<Waiting>,
    missing: usize,
    length: usize,
    /// It is the last that the caller may ask.
    last: bool,
}

enum Waiting {
    /// Answered, or not to be answered.
    Ready(Option<Pieces>),
    For(u64, Box<Passed>),
}

/// What happened on the connection.
pub enum Event {
    /// All that waited was sent.
    Sent,
    /// Bytes for the caller, of which the last may be within a line.
    Pass(Bytes),
    /// All answers to a batch, in order.
    Batch {
        answers: Vec<Pieces>,
        last: bool,
    },
    /// The answers to a batch are too long.
    TooLong,
    End,
}

impl Relay {
    pub fn new(Connection { stream, seat }: Connection) -> Relay {
        Relay {
            stream,
            unanswered: Unanswered::new(if seat.is_some() { Resend::Possible } else { Resend::Impossible }),
            seat,
            moves: 0,
            out: BytesMut::new(),
            flushing: false,
            input: BytesMut::new(),
            searched: 0,
            long_line: None,
            batch: None,
            last_id: 0,
            since: Instant::now(),
            asked: None,
        }
    }

    /// Whether the caller's next line may be heard: not while there is something to be finished first.
    pub fn is_free(&self) -> bool {
        self.out.is_empty() && !self.flushing && self.long_line.is_none() && self.batch.is_none()
    }

    pub fn is_within_line(&self) -> bool {
        self.long_line.is_some()
    }

    /// When the server has been silent for too long, if something is awaited of it.
    pub fn stalls_at(&self) -> Option<Instant> {
        let patience = match &self.seat {
            None => STALL,
            Some(_) if self.unanswered.can_move() => SILENCE,
            Some(_) => TIED_SILENCE,
        };
        let silent = self.asked.map(|asked| asked + patience);
        let stuck = (!self.is_free()).then(|| self.since + STALL);
        silent.into_iter().chain(stuck).min()
    }

    /// Whether another server may go on where this one failed: as long as the caller is subscribed to nothing.
    pub fn may_move(&self) -> bool {
        self.unanswered.can_move() && self.long_line.is_none() && self.moves < MOVES
    }

    /// Whose connection it is, where it is a peer's.
    pub fn host(&self) -> Option<&Host> {
        self.seat.as_ref().map(Seat::host)
    }

    /// Whether the client would miss something if the server went away now.
    pub fn is_needed(&self) -> bool {
        let Relay { unanswered, long_line, .. } = self;
        self.awaits() || long_line.is_some() || unanswered.is_subscribed() || unanswered.is_incomplete()
    }

    /// Whether the client waits for an answer, as far as that is known.
    fn awaits(&self) -> bool {
        self.batch.is_some() || !self.unanswered.is_empty()
    }

    /// Ends all that is under way with an error.
    pub fn fail(mut self, error: &RpcError) -> Failed {
        let mut lines: Vec<Pieces> = Vec::new();
        let mut outlook = match &self.long_line {
            Some(_) => return Failed { lines, outlook: Outlook::EndsWithinLine },
            None if self.unanswered.is_subscribed() || self.unanswered.is_incomplete() => Outlook::Ends,
            None => Outlook::GoesOn,
        };
        let answers = self.unanswered.fail(error);
        lines.extend(answers.into_iter().filter_map(|answer| assemble([answer], false)));
        if let Some(Batch { parts, last, .. }) = self.batch {
            let answers = parts.into_iter().filter_map(|part| match part {
                Waiting::Ready(answer) => answer,
                Waiting::For(_, passed) => passed.failed(error),
            });
            lines.extend(assemble(answers, true));
            if last {
                outlook = Outlook::Ends;
            }
        }
        Failed { lines, outlook }
    }

    /// The server is of no use any more.
    pub fn failed(&self) {
        if let Some(seat) = &self.seat {
            seat.failed();
        }
    }

    /// Goes on with another server, which is asked again for what the other didn't answer.
    pub fn move_to(&mut self, Connection { stream, seat }: Connection) {
        (self.stream, self.seat) = (stream, seat);
        let now = Instant::now();
        (self.flushing, self.since, self.asked) = (false, now, Some(now));
        self.moves += 1;
        (self.input, self.searched) = (BytesMut::new(), 0);
        self.out.clear();
        for line in self.unanswered.lines() {
            self.out.extend_from_slice(line.as_bytes());
            self.out.extend_from_slice(b"\n");
        }
        for part in self.batch.iter().flat_map(|batch| &batch.parts) {
            if let Waiting::For(id, passed) = part {
                self.out.extend_from_slice(&passed.line(*id));
            }
        }
    }

    /// Sends a line as it came, which is this call.
    pub fn pass(&mut self, line: &str, passed: Box<Passed>) {
        self.unanswered.ask(line, passed);
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\n");
        self.ask();
    }

    /// Sends the calls of a batch that are the server's, each as a line of its own.
    pub fn pass_batch(&mut self, parts: Vec<Result<Option<Pieces>, Box<Passed>>>, last: bool) {
        let mut batch = Batch { parts: Vec::new(), missing: 0, length: 0, last };
        for part in parts {
            batch.parts.push(match part {
                Ok(answer) => Waiting::Ready(answer),
                Err(passed) => {
                    self.last_id += 1;
                    self.out.extend_from_slice(&passed.line(self.last_id));
                    batch.missing += 1;
                    Waiting::For(self.last_id, passed)
                }
            });
        }
        self.batch = Some(batch);
        self.ask();
    }

    fn ask(&mut self) {
        self.since = Instant::now();
        if self.awaits() {
            self.asked.get_or_insert(self.since);
        }
    }

    /// Sends what waits and reads what comes, until there is something to tell. It may be dropped at any time.
    pub async fn next(&mut self) -> Event {
        poll_fn(|cx| self.poll_next(cx)).await.unwrap_or(Event::End)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Event>> {
        if let Some(event) = self.tell() {
            return Poll::Ready(Ok(event));
        }
        if !self.out.is_empty() {
            while self.out.has_remaining() {
                match poll_write_buf(Pin::new(&mut self.stream), cx, &mut self.out) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Event::End)),
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
            return Poll::Ready(Ok(Event::Sent));
        }
        loop {
            self.input.reserve(CHUNK);
            let read = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input))?;
            if read == 0 {
                return Poll::Ready(Ok(Event::End));
            }
            self.since = Instant::now();
            self.asked = self.asked.map(|_| self.since);
            if let Some(event) = self.tell() {
                return Poll::Ready(Ok(event));
            }
        }
    }

    /// What there is to tell of what was read, after which nothing more may be awaited, for all that is known.
    fn tell(&mut self) -> Option<Event> {
        let event = self.heard();
        if event.is_some() && !self.awaits() {
            self.asked = None;
        }
        event
    }

    fn heard(&mut self) -> Option<Event> {
        if self.batch.is_none() {
            return self.heard_alone();
        }
        // Line by line, as any of them may be an answer that the batch waits for.
        while let Some(batch) = self.batch.as_mut().filter(|batch| batch.missing > 0) {
            let length = batch.length;
            let Some(line) = self.line() else {
                return (length + self.input.len() > LONGEST_BATCH).then_some(Event::TooLong);
            };
            match self.batch.as_mut().and_then(|batch| batch.take(&line, &mut self.unanswered)) {
                None => return Some(self.pass_on(line)),
                Some(()) => self.moves = 0,
            }
        }
        let Batch { parts, last, .. } = self.batch.take()?;
        let answers = parts.into_iter().filter_map(|part| match part {
            Waiting::Ready(answer) => answer,
            Waiting::For(..) => None,
        });
        Some(Event::Batch { answers: answers.collect(), last })
    }

    /// What was read, as far as it is whole lines or too long to be held.
    fn heard_alone(&mut self) -> Option<Event> {
        if self.long_line.is_some() {
            return self.heard_within_line();
        }
        let mut whole = 0;
        while let Some(end) = memchr(b'\n', self.input.get(self.searched..)?) {
            let line = whole..self.searched + end + 1;
            (whole, self.searched) = (line.end, line.end);
            if self.unanswered.hear(self.input.get(line)?) == Heard::Answer {
                self.moves = 0;
            }
        }
        if whole > 0 {
            self.searched = 0;
            return Some(Event::Pass(self.input.split_to(whole).freeze()));
        }
        self.searched = self.input.len();
        let longest = if self.seat.is_some() { LONGEST_WHOLE } else { CHUNK };
        if self.input.len() < longest {
            return None;
        }
        self.long_line = Some(AnswerId::default());
        self.searched = 0;
        self.heard_within_line()
    }

    /// What was read of a long line, up to its end.
    fn heard_within_line(&mut self) -> Option<Event> {
        if self.input.is_empty() {
            return None;
        }
        let mut long_line = self.long_line.take()?;
        let end = memchr(b'\n', &self.input).map(|end| end + 1);
        let piece = self.input.split_to(end.unwrap_or(self.input.len())).freeze();
        long_line.feed(&piece);
        if end.is_none() {
            self.long_line = Some(long_line);
        } else if long_line.id().is_some_and(|id| self.unanswered.hear_id(id) == Heard::Answer) {
            self.moves = 0;
        }
        Some(Event::Pass(piece))
    }

    /// The next line of what was read, if it is whole.
    fn line(&mut self) -> Option<Bytes> {
        let rest = self.input.get(self.searched..).unwrap_or_default();
        let Some(end) = memchr(b'\n', rest) else {
            self.searched = self.input.len();
            return None;
        };
        let line = self.input.split_to(self.searched + end + 1).freeze();
        self.searched = 0;
        Some(line)
    }

    /// A line for the client, which may be an answer that it waits for.
    fn pass_on(&mut self, line: Bytes) -> Event {
        if self.unanswered.hear(&line) == Heard::Answer {
            self.moves = 0;
        }
        Event::Pass(line)
    }
}

impl Batch {
    /// Takes a line that is the answer to one of its calls; None if it is none.
    fn take(&mut self, line: &[u8], unanswered: &mut Unanswered) -> Option<()> {
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
        let is_its = |part: &&mut Waiting| matches!(part, Waiting::For(id, _) if own_id(*id) == answer.id);
        let part = self.parts.iter_mut().find(is_its)?;
        let piece = |json: &RawValue| Pieces::from(line.slice_ref(json.get().as_bytes()));
        let outcome = match (answer.error, answer.result) {
            (Some(error), _) => Err(piece(error)),
            (None, Some(result)) => Ok(piece(result)),
            (None, None) => Ok(Pieces::from(&b"null"[..])),
        };
        let Waiting::For(_, passed) = &*part else { return None };
        unanswered.answered_elsewhere(passed);
        *part = Waiting::Ready(passed.answer(outcome));
        self.missing -= 1;
        self.length += line.len();
        Some(())
    }
}

/// Whether anything of a turn is for the server.
pub fn passes(parts: &[Part]) -> bool {
    parts.iter().any(|part| matches!(part, Part::Pass(_)))
}
