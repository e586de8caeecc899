//! One caller's connection: lines in, answers out, within the limits.

use std::io;
use std::net::IpAddr;

use futures_util::{SinkExt, StreamExt};
use rand::rngs::StdRng;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::bytes::Bytes;
use tokio_util::codec::{BytesCodec, FramedRead, FramedWrite, LinesCodec, LinesCodecError};

use super::Shared;
use crate::book::Caller;
use crate::clock;
use crate::conversation::server::{Introduction, Part, Session, Turn, assemble};
use crate::inbox::Input;
use crate::protocol::{MAX_CALL, RpcError};

/// Talks with a caller until either has enough. `from` is where the caller is, if that means anything.
pub async fn run<S: AsyncRead + AsyncWrite>(
    stream: S,
    from: Option<IpAddr>,
    caller: Caller,
    shared: Shared,
    mut rng: StdRng,
) {
    let (reader, writer) = tokio::io::split(stream);
    let mut lines = FramedRead::with_capacity(reader, LinesCodec::new_with_max_length(MAX_CALL), 1024);
    let mut out = FramedWrite::new(writer, BytesCodec::new());
    let mut session = Session::new(shared.identity.clone(), caller);
    loop {
        let turn = match next_line(&mut lines, &shared).await {
            Heard::Line(line) => {
                let snapshot = shared.snapshot.borrow().clone();
                session.line(&line, &snapshot, clock::now(), &mut rng)
            }
            Heard::Unreadable(error) => {
                shared.counters.unreadable_lines.add(1);
                Session::unreadable(&error)
            }
            Heard::TooSlow => {
                shared.counters.slow_lines.add(1);
                return;
            }
            Heard::End => return,
        };
        shared.counters.requests.add(turn.parts.len() as u64);
        let close = turn.close;
        if let Some(answer) = answer(turn, from, &shared).await
            && !matches!(timeout(shared.limits.line, out.send(Bytes::from(answer))).await, Ok(Ok(())))
        {
            return;
        }
        if close {
            let _ = timeout(shared.limits.line, <FramedWrite<_, _> as SinkExt<Bytes>>::close(&mut out)).await;
            return;
        }
    }
}

enum Heard {
    Line(String),
    Unreadable(RpcError),
    TooSlow,
    End,
}

/// A caller may be silent for a long time between lines, but not within one.
async fn next_line<R: AsyncRead + Unpin>(lines: &mut FramedRead<R, LinesCodec>, shared: &Shared) -> Heard {
    let mut deadline = Instant::now() + shared.limits.idle;
    let mut began = !lines.read_buffer().is_empty();
    if began {
        deadline = Instant::now() + shared.limits.line;
    }
    loop {
        let look = if began { deadline } else { deadline.min(Instant::now() + shared.limits.line) };
        match timeout_at(look, lines.next()).await {
            Ok(Some(Ok(line))) => return Heard::Line(line),
            Ok(Some(Err(error))) => return unreadable(&error),
            Ok(None) => return Heard::End,
            Err(_) if Instant::now() >= deadline => return if began { Heard::TooSlow } else { Heard::End },
            // Nothing complete yet; from here on the line's own time runs.
            Err(_) if !began && !lines.read_buffer().is_empty() => {
                began = true;
                deadline = deadline.min(Instant::now() + shared.limits.line);
            }
            Err(_) => {}
        }
    }
}

fn unreadable(error: &LinesCodecError) -> Heard {
    match error {
        LinesCodecError::MaxLineLengthExceeded => Heard::Unreadable(RpcError::TooLong(MAX_CALL)),
        LinesCodecError::Io(error) if error.kind() == io::ErrorKind::InvalidData => Heard::Unreadable(RpcError::Parse),
        LinesCodecError::Io(_) => Heard::End,
    }
}

/// A line's answers in order, those included that the book has to give.
async fn answer(turn: Turn, from: Option<IpAddr>, shared: &Shared) -> Option<Vec<u8>> {
    let mut answers = Vec::with_capacity(turn.parts.len());
    for part in turn.parts {
        match part {
            Part::Answer(answer) => answers.push(answer),
            Part::AddPeer(introduction) => answers.extend(introduce(introduction, from, shared).await),
        }
    }
    assemble(answers, turn.batch)
}

async fn introduce(introduction: Introduction, from: Option<IpAddr>, shared: &Shared) -> Option<Vec<u8>> {
    let (reply, accepted) = oneshot::channel();
    let features = introduction.features.clone();
    // Where the book has more to do than it can, strangers' wishes are the first to be dropped.
    let accepted = match shared.inbox.try_send(Input::AddPeer { features, from, reply }) {
        Ok(()) => accepted.await.unwrap_or(false),
        Err(_) => false,
    };
    introduction.answer(accepted)
}
