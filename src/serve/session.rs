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
use tokio::time::timeout;

use super::door::{Arrival, Manner};
use super::limits::{Allowance, Meter};
use super::link::{Heard, Link, Patience};
use super::{Count, Shared};
use crate::clock;
use crate::conversation::server::{Introduction, Part, Session, Turn, assemble};
use crate::dial::Stream;
use crate::inbox::Input;
use crate::protocol::{Pieces, RpcError, parse_line};

/// How long a caller that we part from may take to hear it.
const LINGER: Duration = Duration::from_secs(2);

/// Talks with a caller until either has enough.
pub async fn run(arrival: Arrival, source: Option<Arc<Allowance>>, shared: &Shared, rng: StdRng) {
    let Arrival { stream, from, caller, manner, .. } = arrival;
    let session = Session::new(Arc::clone(&shared.ourselves.borrow()), caller);
    let Ok(Some(link)) = timeout(shared.limits.handshake, greet(stream, manner, shared)).await else {
        shared.counters.failed_handshakes.add(1);
        return;
    };
    let requests = Meter::new(shared.limits.requests_per_second);
    let patience = Patience::new(&shared.limits);
    let mut talk = Talk { link, session, from, shared, patience, requests, source, rng };
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
    if manner.websocket { Link::websocket(stream).await.ok() } else { Some(Link::lines(stream)) }
}

struct Talk<'a> {
    link: Link,
    session: Session,
    from: Option<IpAddr>,
    shared: &'a Shared,
    patience: Patience,
    requests: Meter,
    source: Option<Arc<Allowance>>,
    rng: StdRng,
}

enum End {
    /// We close, after a last word that the caller is to hear.
    Parting,
    Gone,
}

impl Talk<'_> {
    /// One line after the other: while one is answered, the next waits where it costs us nothing.
    async fn lines(&mut self) -> End {
        let Shared { limits, counters, .. } = self.shared;
        loop {
            let turn = match self.link.hear(&mut self.patience, limits).await {
                // As people send them by hand, after a line of theirs.
                Heard::Line(line) if line.trim_ascii().is_empty() => continue,
                Heard::Line(line) => self.line(&line).await,
                Heard::Unreadable(error) => Ok(Session::unreadable(&error)),
                Heard::Slow => return gone(&counters.slow),
                Heard::Silent => return gone(&counters.idle),
                Heard::End => return End::Gone,
            };
            let (mut answer, mut close) = match turn {
                Ok(turn) => {
                    if turn.unreadable {
                        counters.unreadable_lines.add(1);
                    }
                    let close = turn.close;
                    (self.answer(turn).await, close)
                }
                Err(error) => (Some(Session::farewell(&error)), true),
            };
            if let Some(long) = answer.as_ref().map(Pieces::len)
                && self.source.as_ref().is_some_and(|source| !source.bytes_out.take(long))
            {
                counters.excessive_bytes.add(1);
                close = true;
                answer = Some(Session::farewell(&RpcError::Excessive("bytes")));
            }
            if let Some(answer) = answer {
                let mut sending = pin!(self.link.send(answer));
                // Mostly it goes at once, and needs no timer.
                let sent = match poll!(sending.as_mut()) {
                    Poll::Ready(sent) => Ok(sent),
                    Poll::Pending => timeout(limits.line, sending).await,
                };
                match sent {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return End::Gone,
                    Err(_) => return gone(&counters.slow),
                }
            }
            if close {
                return End::Parting;
            }
        }
    }

    /// What to say to a line, when the caller may ask for as much.
    async fn line(&mut self, line: &str) -> Result<Turn, RpcError> {
        if self.source.as_ref().is_some_and(|source| !source.bytes_in.take(line.len())) {
            self.shared.counters.excessive_bytes.add(1);
            return Err(RpcError::Excessive("bytes"));
        }
        // A first one before anything is done with it.
        self.asks(1).await?;
        let incoming = parse_line(line);
        self.asks(incoming.as_ref().map_or(0, |incoming| incoming.calls() - 1)).await?;
        let Shared { limits, snapshot, .. } = self.shared;
        Ok(self.session.turn(incoming, limits.batch, &snapshot.borrow(), clock::now(), &mut self.rng))
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

    /// A line's answers in order, those included that the book has to give.
    async fn answer(&mut self, turn: Turn) -> Option<Pieces> {
        let mut answers = SmallVec::<[Pieces; 1]>::with_capacity(turn.parts.len());
        for part in turn.parts {
            match part {
                Part::Answer(answer) => answers.push(answer),
                Part::AddPeer(introduction) => answers.extend(self.introduce(introduction).await),
            }
        }
        assemble(answers, turn.batch)
    }

    async fn introduce(&mut self, introduction: Introduction) -> Option<Pieces> {
        let (reply, accepted) = oneshot::channel();
        let features = introduction.features.clone();
        // Where the book has more to do than it can, strangers' wishes are the first to be dropped.
        let accepted = match self.shared.inbox.try_send(Input::AddPeer { features, from: self.from, reply }) {
            Ok(()) => accepted.await.unwrap_or(false),
            Err(_) => false,
        };
        introduction.answer(accepted)
    }
}

fn gone(why: &Count) -> End {
    why.add(1);
    End::Gone
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::SeedableRng;
    use serde_json::Value;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};
    use tokio::sync::{mpsc, watch};
    use tokio::task::JoinHandle;
    use tokio::time::sleep;

    use super::*;
    use crate::book::{Caller, Snapshot};
    use crate::serve::{Counters, Limits, Source};

    struct Talk {
        stream: BufReader<DuplexStream>,
        session: JoinHandle<()>,
        counters: Arc<Counters>,
        inbox: mpsc::Receiver<Input>,
        _snapshot: watch::Sender<Arc<Snapshot>>,
    }

    /// A session at the other end of a pipe that holds so many bytes.
    fn talk(pipe: usize) -> Talk {
        talk_within(pipe, Manner::default(), Limits::default())
    }

    fn talk_within(pipe: usize, manner: Manner, limits: Limits) -> Talk {
        let (ours, theirs) = tokio::io::duplex(pipe);
        let (snapshot, watcher) = watch::channel(Arc::default());
        let (sender, inbox) = mpsc::channel(1);
        let counters = Arc::new(Counters::default());
        let shared = Shared {
            ourselves: watch::channel(Arc::default()).1,
            snapshot: watcher,
            bans: watch::channel(Arc::default()).1,
            inbox: sender,
            limits,
            tls: None,
            counters: Arc::clone(&counters),
        };
        let from = Some("5.9.0.1".parse().unwrap());
        let source = Some(Arc::new(Allowance::new(&shared.limits)));
        let arrival = Arrival { stream: Box::new(theirs), from, source: Source::Tor, caller: Caller::Clearnet, manner };
        let session = tokio::spawn(async move { run(arrival, source, &shared, StdRng::seed_from_u64(1)).await });
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
        assert_eq!(talk.counters.slow.value(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_let_be_for_ten_minutes() {
        let mut talk = talk(4096);
        sleep(Duration::from_secs(590)).await;
        talk.say(PING).await;
        assert!(talk.hear().await.is_some());
        sleep(Duration::from_secs(590)).await;
        assert!(!talk.session.is_finished());
        sleep(Duration::from_secs(40)).await;
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
    async fn who_asks_a_lot_waits_for_the_answers() {
        let limits = Limits { requests_per_second: 10, ..Limits::default() };
        let mut talk = talk_within(64 * 1024, Manner::default(), limits);
        talk.say(&PING.repeat(32)).await;
        for _ in 0..32 {
            assert!(talk.hear().await.unwrap()["error"].is_null());
        }
        assert_eq!(talk.counters.delayed_requests.value(), 2);
        assert_eq!(talk.counters.excessive_requests.value(), 0);
    }

    #[tokio::test]
    async fn who_would_wait_too_long_is_told_so_and_sent_off() {
        let batch = |calls: usize| format!("[{}]\n", vec![r#"{"id":1,"method":"server.ping"}"#; calls].join(","));
        let limits = Limits { source_requests_per_second: 10, ..Limits::default() };
        let mut talk = talk_within(64 * 1024, Manner::default(), limits);
        talk.say(batch(30).as_bytes()).await;
        assert_eq!(talk.hear().await.unwrap().as_array().unwrap().len(), 30);
        talk.say(batch(40).as_bytes()).await;
        assert_eq!(talk.code().await, Some(-101));
        talk.session.await.unwrap();
        assert_eq!(talk.counters.excessive_requests.value(), 1);
        let mut talk = self::talk(64 * 1024);
        talk.say(batch(64).as_bytes()).await;
        assert_eq!(talk.hear().await.unwrap().as_array().unwrap().len(), 64, "the longest batch is within the limits");
        let mut talk = self::talk(64 * 1024);
        talk.say(batch(65).as_bytes()).await;
        assert_eq!(talk.code().await, Some(-32600), "longer than any batch may be");
    }

    #[tokio::test]
    async fn what_a_source_sends_and_is_sent_is_limited() {
        let limits = Limits { bytes_in_per_second: 100, ..Limits::default() };
        let mut talk = talk_within(4096, Manner::default(), limits);
        talk.say(&[&[b' '; 300], PING].concat()).await;
        assert_eq!(talk.code().await, Some(-101));
        let limits = Limits { bytes_out_per_second: 500, ..Limits::default() };
        let mut talk = talk_within(4096, Manner::default(), limits);
        talk.say(&PING.repeat(2)).await;
        assert!(talk.hear().await.unwrap()["error"].is_null());
        assert_eq!(talk.code().await, Some(-101));
        assert_eq!(talk.counters.excessive_bytes.value(), 1);
    }

    #[tokio::test]
    async fn the_same_session_talks_in_websocket_messages() {
        use futures_util::{SinkExt, StreamExt};
        use tokio_tungstenite::tungstenite::Message;
        let manner = Manner { websocket: true, tls: false };
        let talk = talk_within(4096, manner, Limits::default());
        let (mut messages, _) =
            tokio_tungstenite::client_async("ws://localhost/", talk.stream.into_inner()).await.unwrap();
        messages.send(Message::text(r#"{"id":1,"method":"server.ping"}"#)).await.unwrap();
        let answer = messages.next().await.unwrap().unwrap().into_text().unwrap();
        assert_eq!(answer.len(), 1023);
        assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["id"], 1);
        messages.send(Message::text("x".repeat(20_000))).await.unwrap();
        let answer = messages.next().await.unwrap().unwrap().into_text().unwrap();
        assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["error"]["code"], -32600);
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_that_never_ends_is_given_up() {
        let talk = talk_within(4096, Manner { websocket: true, tls: false }, Limits::default());
        sleep(Duration::from_secs(11)).await;
        talk.session.await.unwrap();
        assert_eq!(talk.counters.failed_handshakes.value(), 1);
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
