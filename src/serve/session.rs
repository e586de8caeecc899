//! One caller's connection: lines in, answers out, within the limits.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use rand::rngs::StdRng;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};

use super::Shared;
use crate::book::Caller;
use crate::clock;
use crate::conversation::server::{Introduction, Part, Session, Turn, assemble};
use crate::inbox::Input;
use crate::protocol::{MAX_CALL, RpcError};

/// How long a caller that we part from may take to hear it.
const LINGER: Duration = Duration::from_secs(2);

/// Talks with a caller until either has enough. `from` is where the caller is, if that means anything.
pub async fn run<S: AsyncRead + AsyncWrite>(
    stream: S,
    from: Option<IpAddr>,
    caller: Caller,
    shared: Shared,
    mut rng: StdRng,
) {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut lines = FramedRead::with_capacity(reader, LinesCodec::new_with_max_length(MAX_CALL), 1024);
    let mut session = Session::new(Arc::clone(&shared.identity.borrow()), caller);
    loop {
        let turn = match next_line(&mut lines, &shared).await {
            // As people send them by hand, after a line of theirs.
            Heard::Line(line) if line.trim_ascii().is_empty() => continue,
            Heard::Line(line) => {
                let snapshot = shared.snapshot.borrow().clone();
                session.line(&line, &snapshot, clock::now(), &mut rng)
            }
            Heard::Unreadable(error) => Session::unreadable(&error),
            Heard::TooSlow => {
                shared.counters.slow_lines.add(1);
                return;
            }
            Heard::End => return,
        };
        shared.counters.requests.add(turn.parts.len() as u64);
        shared.counters.unreadable_lines.add(u64::from(turn.unreadable));
        let close = turn.close;
        if let Some(answer) = answer(turn, from, &shared).await
            && !matches!(timeout(shared.limits.line, send(&mut writer, &answer)).await, Ok(Ok(())))
        {
            return;
        }
        if close {
            let _ = timeout(LINGER, part(lines.get_mut(), &mut writer)).await;
            return;
        }
    }
}

async fn send<W: AsyncWrite + Unpin>(writer: &mut W, answer: &[u8]) -> io::Result<()> {
    writer.write_all(answer).await?;
    writer.flush().await
}

/// Says that we are done, and lets what is still on its way run out: a connection closed on unread bytes is reset, and
/// the last answer lost with it.
async fn part<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(reader: &mut R, writer: &mut W) -> io::Result<()> {
    writer.shutdown().await?;
    let mut unread = [0; 1024];
    while reader.read(&mut unread).await? > 0 {}
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::SeedableRng;
    use serde_json::Value;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};
    use tokio::sync::{Semaphore, mpsc, watch};
    use tokio::task::JoinHandle;
    use tokio::time::sleep;

    use super::*;
    use crate::book::Snapshot;
    use crate::serve::{Counters, Limits};

    struct Talk {
        stream: BufReader<DuplexStream>,
        session: JoinHandle<()>,
        counters: Arc<Counters>,
        inbox: mpsc::Receiver<Input>,
        _snapshot: watch::Sender<Arc<Snapshot>>,
    }

    /// A session at the other end of a pipe that holds so many bytes.
    fn talk(pipe: usize) -> Talk {
        let (ours, theirs) = tokio::io::duplex(pipe);
        let (snapshot, watcher) = watch::channel(Arc::default());
        let (sender, inbox) = mpsc::channel(1);
        let counters = Arc::new(Counters::default());
        let shared = Shared {
            identity: watch::channel(Arc::default()).1,
            snapshot: watcher,
            inbox: sender,
            limits: Limits::default(),
            slots: Arc::new(Semaphore::new(1)),
            counters: Arc::clone(&counters),
        };
        let from = Some("5.9.0.1".parse().unwrap());
        let session = tokio::spawn(run(theirs, from, Caller::Clearnet, shared, StdRng::seed_from_u64(1)));
        Talk { stream: BufReader::new(ours), session, counters, inbox, _snapshot: snapshot }
    }

    impl Talk {
        async fn say(&mut self, bytes: &[u8]) {
            self.stream.get_mut().write_all(bytes).await.unwrap();
        }

        /// The next answer, or nothing at the end.
        async fn hear(&mut self) -> Option<Value> {
            let mut line = String::new();
            self.stream.read_line(&mut line).await.unwrap();
            serde_json::from_str(&line).ok()
        }

        async fn code(&mut self) -> Option<i64> {
            self.hear().await?["error"]["code"].as_i64()
        }
    }

    const PING: &[u8] = b"{\"id\":1,\"method\":\"server.ping\"}\n";

    #[tokio::test]
    async fn lines_are_answered_one_after_the_other() {
        let mut talk = talk(4096);
        talk.say(&[PING, b"{\"id\":2,\"method\":\"server.peers.subscribe\"}\r\n"].concat()).await;
        assert_eq!(talk.hear().await.unwrap()["id"], 1);
        assert_eq!(talk.hear().await.unwrap()["result"], serde_json::json!([]));
        assert_eq!(talk.counters.requests.value(), 2);
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_the_last() {
        let mut talk = talk(4096);
        let (reader, mut writer) = tokio::io::split(talk.stream);
        let mut reader = BufReader::new(reader);
        let sending = tokio::spawn(async move {
            // Far more than is read; the session ends in the midst of it.
            for _ in 0..1024 {
                if writer.write_all(&[b'x'; 4096]).await.is_err() {
                    return;
                }
            }
        });
        let mut line = String::new();
        reader.read_line(&mut line).await.unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(answer["error"]["code"], -32600);
        talk.session.await.unwrap();
        assert_eq!(talk.counters.unreadable_lines.value(), 1);
        sending.await.unwrap();
        talk.inbox.close();
    }

    #[tokio::test]
    async fn what_is_no_text_is_an_error() {
        let mut talk = talk(4096);
        talk.say(b"\xff\xfe\xfd\n").await;
        assert_eq!(talk.code().await, Some(-32700));
        talk.session.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_drips_is_sent_off() {
        let mut talk = talk(4096);
        for _ in 0..200 {
            sleep(Duration::from_secs(1)).await;
            if talk.stream.get_mut().write_all(b"{").await.is_err() {
                break;
            }
        }
        talk.session.await.unwrap();
        assert_eq!(talk.counters.slow_lines.value(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_let_be_for_ten_minutes() {
        let mut talk = talk(4096);
        sleep(Duration::from_secs(590)).await;
        talk.say(PING).await;
        assert!(talk.hear().await.is_some());
        sleep(Duration::from_secs(590)).await;
        assert!(!talk.session.is_finished());
        sleep(Duration::from_secs(20)).await;
        assert!(talk.session.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_sent_off() {
        let mut talk = talk(256);
        talk.say(PING).await;
        sleep(Duration::from_secs(60)).await;
        assert!(talk.session.is_finished());
    }

    #[tokio::test]
    async fn introductions_wait_for_the_books_word() {
        let mut talk = talk(4096);
        talk.say(b"{\"id\":1,\"method\":\"server.add_peer\",\"params\":[{}]}\n").await;
        match talk.inbox.recv().await {
            Some(Input::AddPeer { from, reply, .. }) => {
                assert_eq!(from, Some("5.9.0.1".parse().unwrap()));
                reply.send(true).unwrap();
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(talk.hear().await.unwrap()["result"], true);
    }

    #[tokio::test]
    async fn when_the_book_is_busy_introductions_are_turned_down() {
        let mut talk = talk(4096);
        talk.inbox.close();
        talk.say(b"{\"id\":1,\"method\":\"server.add_peer\",\"params\":[{}]}\n").await;
        assert_eq!(talk.hear().await.unwrap()["result"], false);
    }
}
