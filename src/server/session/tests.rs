use std::time::Duration;

use rand::SeedableRng;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::backend::{Backend, Server, UpstreamAddr};
use crate::book::{Ingress, Snapshot};
use crate::dial::Tls;
use crate::electrum::identity::{self, Identity, LocalIdentity};
use crate::network::Network;
use crate::server::{ClientSource, Counters, Limits, LongLinePool};

pub struct Talk {
    stream: BufReader<DuplexStream>,
    pub session: JoinHandle<()>,
    pub counters: Arc<Counters>,
    inbox: mpsc::Receiver<BookMessage>,
    _snapshot: watch::Sender<Arc<Snapshot>>,
}

/// A session at the other end of a pipe that holds so many bytes.
fn talk(pipe: usize) -> Talk {
    talk_within(pipe, ConnectionKind::default(), Limits::default())
}

fn talk_within(pipe: usize, kind: ConnectionKind, limits: Limits) -> Talk {
    talk_before(pipe, kind, limits, None)
}

/// The same in front of a server.
pub fn talk_before(pipe: usize, kind: ConnectionKind, limits: Limits, backend: Option<Arc<Backend>>) -> Talk {
    let (ours, theirs) = tokio::io::duplex(pipe);
    let (snapshot, watcher) = watch::channel(Arc::default());
    let (sender, inbox) = mpsc::channel(1);
    let counters = Arc::new(Counters::default());
    let front = if backend.is_some() { identity::BackendState::Unknown } else { identity::BackendState::None };
    let identity = Identity { backend: front, ..Identity::default() };
    let shared = SessionContext {
        ourselves: watch::channel(Arc::new(LocalIdentity::new(identity))).1,
        snapshot: watcher,
        bans: watch::channel(Arc::default()).1,
        inbox: sender,
        limits: watch::channel(Arc::new(limits)).1,
        tls: None,
        long_lines: LongLinePool::new(if backend.is_some() { 5_000_000 } else { 0 }),
        backend,
        counters: Arc::clone(&counters),
    };
    let from = Some("5.9.0.1".parse().unwrap());
    let source = Some(Arc::new(SourceQuota::new(&shared.limits.borrow())));
    let arrival = IncomingConnection {
        stream: Box::new(theirs),
        from,
        source: ClientSource::SharedTor,
        ingress: Ingress::Clearnet,
        kind,
    };
    let session = tokio::spawn(async move { run(arrival, source, &shared, StdRng::seed_from_u64(1)).await });
    Talk { stream: BufReader::new(ours), session, counters, inbox, _snapshot: snapshot }
}

impl Talk {
    pub async fn say(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).await.unwrap();
    }

    /// The next answer, or nothing at the end.
    pub async fn hear(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).ok()
    }

    async fn code(&mut self) -> Option<i64> {
        self.hear().await?["error"]["code"].as_i64()
    }
}

pub const PING: &[u8] = b"{\"id\":1,\"method\":\"server.ping\"}\n";

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
    assert_eq!(talk.counters.malformed_lines.value(), 1);
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
async fn who_drips_is_disconnected() {
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
async fn who_does_not_read_is_disconnected() {
    let mut talk = talk(256);
    talk.say(PING).await;
    sleep(Duration::from_secs(60)).await;
    assert!(talk.session.is_finished());
}

#[tokio::test]
async fn who_asks_a_lot_waits_for_the_answers() {
    let limits = Limits { requests_per_second: 10, ..Limits::default() };
    let mut talk = talk_within(64 * 1024, ConnectionKind::default(), limits);
    talk.say(&PING.repeat(32)).await;
    for _ in 0..32 {
        assert!(talk.hear().await.unwrap()["error"].is_null());
    }
    assert_eq!(talk.counters.delayed_requests.value(), 2);
    assert_eq!(talk.counters.rate_limited_requests.value(), 0);
}

#[tokio::test]
async fn who_would_wait_too_long_is_told_so_and_disconnected() {
    let batch = |calls: usize| format!("[{}]\n", vec![r#"{"id":1,"method":"server.ping"}"#; calls].join(","));
    let limits = Limits { source_requests_per_second: 10, ..Limits::default() };
    let mut talk = talk_within(64 * 1024, ConnectionKind::default(), limits);
    talk.say(batch(30).as_bytes()).await;
    assert_eq!(talk.hear().await.unwrap().as_array().unwrap().len(), 30);
    talk.say(batch(40).as_bytes()).await;
    assert_eq!(talk.code().await, Some(-101));
    talk.session.await.unwrap();
    assert_eq!(talk.counters.rate_limited_requests.value(), 1);
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
    let mut talk = talk_within(4096, ConnectionKind::default(), limits);
    talk.say(&[&[b' '; 300], PING].concat()).await;
    assert_eq!(talk.code().await, Some(-101));
    let limits = Limits { bytes_out_per_second: 500, ..Limits::default() };
    let mut talk = talk_within(4096, ConnectionKind::default(), limits);
    talk.say(&PING.repeat(2)).await;
    assert!(talk.hear().await.unwrap()["error"].is_null());
    assert_eq!(talk.code().await, Some(-101));
    assert_eq!(talk.counters.rate_limited_bytes.value(), 1);
}

#[tokio::test]
async fn the_same_session_talks_in_websocket_messages() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;
    let kind = ConnectionKind { websocket: true, ..ConnectionKind::default() };
    let talk = talk_within(4096, kind, Limits::default());
    let (mut messages, _) = tokio_tungstenite::client_async("ws://localhost/", talk.stream.into_inner()).await.unwrap();
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
    let talk = talk_within(4096, ConnectionKind { websocket: true, ..ConnectionKind::default() }, Limits::default());
    sleep(Duration::from_secs(11)).await;
    talk.session.await.unwrap();
    assert_eq!(talk.counters.failed_handshakes.value(), 1);
}

#[tokio::test]
async fn introductions_wait_for_the_books_word() {
    let mut talk = talk(4096);
    talk.say(b"{\"id\":1,\"method\":\"server.add_peer\",\"params\":[{}]}\n").await;
    match talk.inbox.recv().await {
        Some(BookMessage::AddPeer { from, reply, .. }) => {
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

pub const FRONTED: ConnectionKind = ConnectionKind { tls: false, websocket: false, backend_access: true };

/// A session in front of a server at a socket in this directory, which plays a script.
pub async fn fronting<F>(dir: &std::path::Path, play: impl Fn(tokio::net::UnixStream) -> F + Send + 'static) -> Talk
where
    F: Future<Output = ()> + Send + 'static,
{
    let path = dir.join("electrs");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(play(stream));
        }
    });
    let server = Server::new(UpstreamAddr::Unix(path), Network::Regtest, Tls::new().unwrap(), dir.join("key"));
    talk_before(4096, FRONTED, Limits::default(), Some(Arc::new(Backend::Server(server))))
}

/// Greets, and then answers every call with its own name, or as the name says.
pub async fn electrs(stream: tokio::net::UnixStream) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
        let call: Value = serde_json::from_str(&line).unwrap();
        line.clear();
        let result = match call["method"].as_str().unwrap() {
            "server.version" => serde_json::json!(["electrs", call["params"][1]]),
            "long" => serde_json::json!("x".repeat(300_000)),
            "silent" => continue,
            "notify" => {
                stream.get_mut().write_all(b"{\"method\":\"news\",\"params\":[]}\n").await.unwrap();
                Value::Null
            }
            "gone" => return,
            "half" => {
                let _ = stream.get_mut().write_all("x".repeat(100_000).as_bytes()).await;
                return;
            }
            "error" => {
                let answer = format!("{{\"id\":{},\"error\":{{\"code\":7}}}}\n", call["id"]);
                stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
                continue;
            }
            method => serde_json::json!(method),
        };
        let answer = serde_json::json!({ "id": call["id"], "result": result, "jsonrpc": "2.0" });
        stream.get_mut().write_all(format!("{answer}\n").as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_ours_is_passed_on_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut talk = fronting(dir.path(), electrs).await;
    talk.say(b"{\"id\":1,\"method\":\"server.version\",\"params\":[\"x\",\"1.4\"]}\n").await;
    assert_eq!(talk.hear().await.unwrap()["result"][1], "1.4");
    talk.say(b"{\"id\":\"a\",\"method\":\"blockchain.headers.subscribe\"}\n").await;
    assert_eq!(
        talk.hear().await.unwrap(),
        serde_json::json!({"id":"a","jsonrpc":"2.0","result":"blockchain.headers.subscribe"})
    );
    // Ours are still answered here, and what nobody asked for passes.
    talk.say(b"{\"id\":1,\"method\":\"server.peers.subscribe\"}\n{\"id\":2,\"method\":\"notify\"}\n").await;
    assert_eq!(talk.hear().await.unwrap()["result"], serde_json::json!([]));
    assert_eq!(talk.hear().await.unwrap()["method"], "news");
    assert_eq!(talk.hear().await.unwrap()["id"], 2);
    talk.say(b"{\"id\":3,\"method\":\"long\"}\n").await;
    assert_eq!(talk.hear().await.unwrap()["result"].as_str().unwrap().len(), 300_000);
    let long = format!("{{\"id\":4,\"method\":\"broadcast\",\"params\":[\"{}\"]}}\n", "0".repeat(1_000_000));
    talk.say(long.as_bytes()).await;
    assert_eq!(talk.hear().await.unwrap()["result"], "broadcast");
    // It is to know that the caller is still there.
    talk.say(PING).await;
    assert_eq!(talk.hear().await.unwrap()["result"], "server.ping");
    assert_eq!(talk.counters.forwarded_requests.value(), 5);
    assert_eq!(talk.counters.requests.value(), 2);
}

#[tokio::test]
async fn batches_are_split_and_put_together_again_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut talk = fronting(dir.path(), electrs).await;
    let batch = r#"[{"id":7,"method":"one"},{"id":8,"method":"server.peers.subscribe"},{"jsonrpc":"2.0","method":"quiet"},
        {"jsonrpc":"2.0","id":7,"method":"notify"},{"id":9,"method":"error"}]"#;
    talk.say(format!("{}\n", batch.replace('\n', "")).as_bytes()).await;
    assert_eq!(talk.hear().await.unwrap()["method"], "news");
    let answers = talk.hear().await.unwrap();
    let expected = serde_json::json!([
        {"id": 7, "error": null, "result": "one"},
        {"id": 8, "error": null, "result": []},
        {"id": 7, "jsonrpc": "2.0", "result": null},
        {"id": 9, "error": {"code": 7}, "result": null},
    ]);
    assert_eq!(answers, expected);
    talk.say(b"{\"id\":1,\"method\":\"after\"}\n").await;
    assert_eq!(talk.hear().await.unwrap()["result"], "after");
}
