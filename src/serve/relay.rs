//! A session's connection to the server behind us: what waits to be sent there, and what comes back.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::AsyncWrite;
use tokio::time::Instant;
use tokio_util::io::{poll_read_buf, poll_write_buf};

use super::unanswered::{Heard, Unanswered, is_subscription};
use crate::backend::{Connection, Seat};
use crate::conversation::server::{Part, Passed, own_id};
use crate::dial::Stream;
use crate::peer::Host;
use crate::protocol::Pieces;

/// Read from the server at once. As much may be under way to a caller who takes his time.
const CHUNK: usize = 16 * 1024;

/// The answers to one batch, until all are there.
const LONGEST_BATCH: usize = 8 * 1024 * 1024;

/// How long a server may keep a batch, or the rest of a line, waiting.
const STALL: Duration = Duration::from_secs(120);

/// How long a peer may be silent after a question: where another could go on, and where none can. Wallets wait for half a minute.
const SILENCE: Duration = Duration::from_secs(15);
const TIED_SILENCE: Duration = Duration::from_secs(60);

/// Peers in a row that a session is moved away from without an answer, before it is given up.
const MOVES: u32 = 3;

/// A line that is longer is not waited for as a whole.
const LONGEST_WHOLE: usize = 256 * 1024;

/// The connection, and what is under way on it.
pub struct Relay {
    stream: Box<dyn Stream>,
    /// Whose connection it is, where it is a peer's.
    seat: Option<Seat>,
    /// What another server would have to be asked again; None where the session can't move to one.
    unanswered: Option<Unanswered>,
    /// How often it was moved since there was an answer.
    moves: u32,
    out: BytesMut,
    /// All of it is written, but may not have left yet.
    flushing: bool,
    input: BytesMut,
    /// So much of it was looked through for a line's end, and has none.
    searched: usize,
    /// The caller has the beginning of a line of the server's.
    within_line: bool,
    batch: Option<Batch>,
    last_id: u64,
    /// When the server last said something, or was asked.
    since: Instant,
    /// Since when an answer is awaited, as far as that is known.
    asked: Option<Instant>,
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
            unanswered: seat.is_some().then(Unanswered::default),
            seat,
            moves: 0,
            out: BytesMut::new(),
            flushing: false,
            input: BytesMut::new(),
            searched: 0,
            within_line: false,
            batch: None,
            last_id: 0,
            since: Instant::now(),
            asked: None,
        }
    }

    /// Whether the caller's next line may be heard: not while there is something to be finished first.
    pub fn is_free(&self) -> bool {
        self.out.is_empty() && !self.flushing && !self.within_line && self.batch.is_none()
    }

    pub fn is_within_line(&self) -> bool {
        self.within_line
    }

    /// When the server has been silent for too long, if something is awaited of it.
    pub fn stalls_at(&self) -> Option<Instant> {
        let patience = if self.unanswered.is_some() { SILENCE } else { TIED_SILENCE };
        let silent = self.asked.filter(|_| self.seat.is_some()).map(|asked| asked + patience);
        let stuck = (!self.is_free()).then(|| self.since + STALL);
        silent.into_iter().chain(stuck).min()
    }

    /// Whether another server may go on where this one failed: as long as the caller is subscribed to nothing.
    pub fn may_move(&self) -> bool {
        self.unanswered.is_some() && self.moves < MOVES
    }

    /// Whose connection it is, where it is a peer's.
    pub fn host(&self) -> Option<&Host> {
        self.seat.as_ref().map(Seat::host)
    }

    /// Whether the caller waits for an answer.
    pub fn is_awaited(&self) -> bool {
        self.batch.is_some() || self.unanswered.as_ref().is_none_or(|calls| !calls.is_empty())
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
        for line in self.unanswered.iter().flat_map(Unanswered::lines) {
            self.out.extend_from_slice(line.as_bytes());
            self.out.extend_from_slice(b"\n");
        }
        for part in self.batch.iter().flat_map(|batch| &batch.parts) {
            if let Waiting::For(id, passed) = part {
                self.out.extend_from_slice(&passed.line(*id));
            }
        }
    }

    /// Sends a line as it came.
    pub fn pass(&mut self, line: &str) {
        if self.unanswered.as_mut().is_some_and(|calls| calls.ask(line).is_err()) {
            self.unanswered = None;
        }
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
        self.asked.get_or_insert(self.since);
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
        let awaits = self.batch.is_some() || self.unanswered.as_ref().is_some_and(|calls| !calls.is_empty());
        if event.is_some() && !awaits {
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
            match self.batch.as_mut().and_then(|batch| batch.take(&line)) {
                None => return Some(self.pass_on(line)),
                Some(subscribes) => {
                    self.moves = 0;
                    if subscribes {
                        self.unanswered = None;
                    }
                }
            }
        }
        let Batch { parts, last, .. } = self.batch.take()?;
        let answers = parts.into_iter().filter_map(|part| match part {
            Waiting::Ready(answer) => answer,
            Waiting::For(..) => None,
        });
        Some(Event::Batch { answers: answers.collect(), last })
    }

    fn heard_alone(&mut self) -> Option<Event> {
        if self.input.is_empty() {
            return None;
        }
        if self.unanswered.is_some() {
            if let Some(line) = self.line() {
                return Some(self.pass_on(line));
            }
            if self.input.len() <= LONGEST_WHOLE {
                return None;
            }
            self.unanswered = None;
        }
        self.within_line = !self.input.ends_with(b"\n");
        self.searched = 0;
        Some(Event::Pass(std::mem::take(&mut self.input).freeze()))
    }

    /// The next line of what was read, if it is whole.
    fn line(&mut self) -> Option<Bytes> {
        let rest = self.input.get(self.searched..).unwrap_or_default();
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.input.len();
            return None;
        };
        let line = self.input.split_to(self.searched + end + 1).freeze();
        self.searched = 0;
        Some(line)
    }

    /// A line for the caller, which may be what he waits for.
    fn pass_on(&mut self, line: Bytes) -> Event {
        match self.unanswered.as_mut().map_or(Heard::Other, |calls| calls.hear(&line)) {
            Heard::Other => {}
            Heard::Answer => self.moves = 0,
            Heard::Subscription => self.unanswered = None,
        }
        Event::Pass(line)
    }
}

impl Batch {
    /// Takes a line that is the answer to one of its calls, and says whether that one subscribed to something.
    fn take(&mut self, line: &[u8]) -> Option<bool> {
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
        let subscribes = is_subscription(passed.method());
        *part = Waiting::Ready(passed.answer(outcome));
        self.missing -= 1;
        self.length += line.len();
        Some(subscribes)
    }
}

/// Whether anything of a turn is for the server.
pub fn passes(parts: &[Part]) -> bool {
    parts.iter().any(|part| matches!(part, Part::Pass(_)))
}
