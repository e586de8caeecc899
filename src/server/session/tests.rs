use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::SeedableRng;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::backend::{Backend, Server, ServerList, UpstreamAddr};
use crate::book::{Ingress, PerIngress, Snapshot};
use crate::book_handle::BookMessage;
use crate::chain::Chain;
use crate::client_counters::Counters;
use crate::dial::Tls;
use crate::electrum::identity::{self, Identity, LocalIdentity};
use crate::server::{ClientSource, Limits, MemoryPool};

static NEXT_SEED: AtomicU64 = AtomicU64::new(1);

/// Client of a session under test.
pub(super) struct TestClient {
    pub stream: BufReader<DuplexStream>,
    pub session: JoinHandle<()>,
    pub counters: Arc<Counters>,
    inbox: mpsc::Receiver<BookMessage>,
    _snapshot: watch::Sender<Arc<Snapshot>>,
}

/// Starts a session behind a pipe of this capacity in bytes.
fn connect(pipe: usize) -> TestClient {
    connect_within(pipe, ConnectionKind::default(), Limits::default())
}

pub(super) fn connect_within(pipe: usize, kind: ConnectionKind, limits: Limits) -> TestClient {
    connect_with_backend(pipe, kind, limits, None)
}

/// Starts a session with a backend.
pub(super) fn connect_with_backend(
    pipe: usize,
    kind: ConnectionKind,
    limits: Limits,
    backend: Option<Arc<Backend>>,
) -> TestClient {
    let (client_end, server_end) = tokio::io::duplex(pipe);
    let (snapshot, watcher) = watch::channel(Arc::default());
    let (sender, inbox) = mpsc::channel(1);
    let counters = Arc::new(Counters::default());
    let backend_state = if backend.is_some() { identity::BackendState::Unknown } else { identity::BackendState::None };
    let identity = Identity { backend: PerIngress::both(backend_state), ..Identity::default() };
    let shared = SessionContext {
        local_identity: watch::channel(Arc::new(LocalIdentity::new(identity))).1,
        snapshot: PerIngress::both(watcher),
        bans: watch::channel(Arc::default()).1,
        inbox: sender,
        limits: watch::channel(Arc::new(limits)).1,
        tls: PerIngress::default(),
        max_line_bytes: 5_000_000,
        memory: PerIngress::both(MemoryPool::new(5_000_000, Arc::clone(&counters))),
        book_requests: PerIngress::default(),
        backend: PerIngress::both(backend),
        counters: Arc::clone(&counters),
    };
    let from = Some("5.9.0.1".parse().unwrap());
    let source = Arc::new(SourceQuota::new(&shared.limits.borrow()));
    let connection = IncomingConnection {
        stream: Box::new(server_end),
        from,
        source: ClientSource::SharedTor,
        ingress: Ingress::Clearnet,
        kind,
    };
    let activity = Arc::new(SessionActivity::new(clock::now()));
    // Sessions differ, so that peers share them.
    let rng = StdRng::seed_from_u64(NEXT_SEED.fetch_add(1, Ordering::Relaxed));
    let memory = shared.memory[Ingress::Clearnet].open(ClientSource::SharedTor, 1);
    let session = tokio::spawn(async move { run(connection, source, activity, memory, &shared, rng).await });
    TestClient { stream: BufReader::new(client_end), session, counters, inbox, _snapshot: snapshot }
}

impl TestClient {
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).await.unwrap();
    }

    /// Receives the next line. Returns `None` at the end.
    pub(super) async fn receive(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).ok()
    }

    async fn receive_error_code(&mut self) -> Option<i64> {
        self.receive().await?["error"]["code"].as_i64()
    }
}

pub(super) const PING: &[u8] = b"{\"id\":1,\"method\":\"server.ping\"}\n";

#[tokio::test]
async fn pipelined_lines_are_answered_in_order() {
    let mut client = connect(4096);
    client.send(&[PING, b"{\"id\":2,\"method\":\"server.peers.subscribe\"}\r\n"].concat()).await;
    assert_eq!(client.receive().await.unwrap()["id"], 1);
    assert_eq!(client.receive().await.unwrap()["result"], serde_json::json!([]));
    assert_eq!(client.counters.requests.value(), 2);
}

#[tokio::test]
async fn overlong_line_closes_session() {
    let mut client = connect(4096);
    let (reader, mut writer) = tokio::io::split(client.stream);
    let mut reader = BufReader::new(reader);
    let sending = tokio::spawn(async move {
        // Far more than the session reads before it ends.
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
    client.session.await.unwrap();
    assert_eq!(client.counters.malformed_lines.value(), 1);
    sending.await.unwrap();
    client.inbox.close();
}

#[tokio::test]
async fn invalid_utf8_returns_parse_error() {
    let mut client = connect(4096);
    client.send(b"\xff\xfe\xfd\n").await;
    assert_eq!(client.receive_error_code().await, Some(-32700));
    client.session.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn slow_writer_is_disconnected() {
    let mut client = connect(4096);
    for _ in 0..200 {
        sleep(Duration::from_secs(1)).await;
        if client.stream.get_mut().write_all(b"{").await.is_err() {
            break;
        }
    }
    client.session.await.unwrap();
    assert_eq!(client.counters.slow.value(), 1);
}

#[tokio::test(start_paused = true)]
async fn idle_client_is_disconnected_after_ten_minutes() {
    let mut client = connect(4096);
    sleep(Duration::from_secs(590)).await;
    client.send(PING).await;
    assert!(client.receive().await.is_some());
    sleep(Duration::from_secs(590)).await;
    assert!(!client.session.is_finished());
    sleep(Duration::from_secs(40)).await;
    assert!(client.session.is_finished());
}

#[tokio::test(start_paused = true)]
async fn client_that_does_not_read_is_disconnected() {
    let mut client = connect(256);
    client.send(PING).await;
    sleep(Duration::from_secs(60)).await;
    assert!(client.session.is_finished());
}

#[tokio::test]
async fn requests_over_rate_are_delayed() {
    let limits = Limits { requests_per_second: 10, ..Limits::default() };
    let mut client = connect_within(64 * 1024, ConnectionKind::default(), limits);
    client.send(&PING.repeat(32)).await;
    for _ in 0..32 {
        assert!(client.receive().await.unwrap()["error"].is_null());
    }
    assert_eq!(client.counters.delayed_requests.value(), 2);
    assert_eq!(client.counters.rate_limited_requests.value(), 0);
}

#[tokio::test]
async fn requests_far_over_rate_are_rejected() {
    let batch = |calls: usize| format!("[{}]\n", vec![r#"{"id":1,"method":"server.ping"}"#; calls].join(","));
    let limits = Limits { source_requests_per_second: 10, ..Limits::default() };
    let mut client = connect_within(64 * 1024, ConnectionKind::default(), limits);
    client.send(batch(30).as_bytes()).await;
    assert_eq!(client.receive().await.unwrap().as_array().unwrap().len(), 30);
    client.send(batch(40).as_bytes()).await;
    assert_eq!(client.receive_error_code().await, Some(-101));
    client.session.await.unwrap();
    assert_eq!(client.counters.rate_limited_requests.value(), 1);
    let limits = Limits { batch: 64, ..Limits::default() };
    let mut client = connect_within(64 * 1024, ConnectionKind::default(), limits.clone());
    client.send(batch(64).as_bytes()).await;
    assert_eq!(client.receive().await.unwrap().as_array().unwrap().len(), 64, "the longest allowed batch");
    let mut client = connect_within(64 * 1024, ConnectionKind::default(), limits);
    client.send(batch(65).as_bytes()).await;
    assert_eq!(client.receive_error_code().await, Some(-32600), "one request too many");
}

#[tokio::test]
async fn received_bytes_over_quota_wait_and_sent_ones_end_the_session() {
    let limits = Limits { bytes_in_per_second: 1000, ..Limits::default() };
    let mut client = connect_within(8192, ConnectionKind::default(), limits);
    let start = Instant::now();
    client.send(&[&[b' '; 4000], PING].concat()).await;
    assert!(client.receive().await.unwrap()["error"].is_null());
    client.send(PING).await;
    assert!(client.receive().await.unwrap()["error"].is_null());
    assert!(start.elapsed() > Duration::from_millis(500), "a thousand bytes over the burst take a second");
    let limits = Limits { bytes_out_per_second: 500, ..Limits::default() };
    let mut client = connect_within(4096, ConnectionKind::default(), limits);
    client.send(&PING.repeat(2)).await;
    assert!(client.receive().await.unwrap()["error"].is_null());
    assert_eq!(client.receive_error_code().await, Some(-101));
    assert_eq!(client.counters.rate_limited_bytes.value(), 1);
}

#[tokio::test(start_paused = true)]
async fn stalled_handshake_times_out() {
    let client =
        connect_within(4096, ConnectionKind { websocket: true, ..ConnectionKind::default() }, Limits::default());
    sleep(Duration::from_secs(11)).await;
    client.session.await.unwrap();
    assert_eq!(client.counters.failed_handshakes.value(), 1);
}

#[tokio::test]
async fn add_peer_waits_for_book() {
    let mut client = connect(4096);
    client.send(b"{\"id\":1,\"method\":\"server.add_peer\",\"params\":[{}]}\n").await;
    match client.inbox.recv().await {
        Some(BookMessage::AddPeer { from, reply, .. }) => {
            assert_eq!(from, Some("5.9.0.1".parse().unwrap()));
            reply.send(true).unwrap();
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(client.receive().await.unwrap()["result"], true);
}

#[tokio::test]
async fn replies_do_not_wait_for_later_requests() {
    let add_peer = &b"{\"id\":1,\"method\":\"server.add_peer\",\"params\":[{}]}\n"[..];
    let mut client = connect(4096);
    client.send(&[PING, add_peer, PING].concat()).await;
    assert!(client.receive().await.unwrap()["error"].is_null(), "the book has not replied");
    assert!(matches!(client.inbox.recv().await, Some(BookMessage::AddPeer { .. })));
    assert_eq!(client.receive().await.unwrap()["result"], false, "the book has dropped the request");
    assert!(client.receive().await.unwrap()["error"].is_null());

    let limits = Limits { requests_per_second: 1, ..Limits::default() };
    let mut client = connect_within(64 * 1024, ConnectionKind::default(), limits);
    let start = Instant::now();
    client.send(&PING.repeat(4)).await;
    for _ in 0..3 {
        assert!(client.receive().await.unwrap()["error"].is_null());
    }
    assert!(start.elapsed() < Duration::from_millis(900), "the burst is answered at once");
    assert!(client.receive().await.unwrap()["error"].is_null());
    assert!(start.elapsed() > Duration::from_millis(900), "the fourth request is delayed");
    assert_eq!((client.counters.requests.value(), client.counters.delayed_requests.value()), (4, 1));
}

#[tokio::test]
async fn unread_replies_are_charged() {
    let mut client = connect(1024);
    let request = r#"{"id":1,"method":"server.features"}"#;
    client.send(format!("[{}]\n", [request; 60].join(",")).as_bytes()).await;
    while client.counters.memory_bytes.value() == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    let held = client.counters.memory_bytes.value();
    assert!(held > 60 * 200, "{held} bytes");
    assert_eq!(client.receive().await.unwrap().as_array().unwrap().len(), 60);
    client.send(PING).await;
    assert!(client.receive().await.unwrap()["error"].is_null());
    assert_eq!(client.counters.memory_bytes.value(), 0);
}

#[tokio::test]
async fn add_peer_is_refused_when_book_is_busy() {
    let mut client = connect(4096);
    client.inbox.close();
    client.send(b"{\"id\":1,\"method\":\"server.add_peer\",\"params\":[{}]}\n").await;
    assert_eq!(client.receive().await.unwrap()["result"], false);
}

pub(super) const WITH_BACKEND: ConnectionKind =
    ConnectionKind { tls: false, websocket: false, backend_access: BackendAccess::All };

/// Starts a session whose backend at a socket in this directory runs a script per connection.
pub(super) async fn connect_to_script<F>(
    dir: &std::path::Path,
    limits: Limits,
    script: impl Fn(tokio::net::UnixStream) -> F + Send + 'static,
) -> TestClient
where
    F: Future<Output = ()> + Send + 'static,
{
    let path = dir.join("electrs");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(script(stream));
        }
    });
    let (_chain, known) = tokio::sync::watch::channel(None);
    let server = Server::new(UpstreamAddr::Unix(path), &Chain::REGTEST, Tls::new().unwrap(), dir.join("key"), known);
    let backend = Backend { servers: Arc::new(ServerList::new(vec![server])), peers: None };
    connect_with_backend(4096, WITH_BACKEND, limits, Some(Arc::new(backend)))
}

/// Responds to each request with its method, or as the method says.
pub(super) async fn fake_electrs(stream: tokio::net::UnixStream) {
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
                stream.get_mut().write_all(b"{\"method\":\"note\",\"params\":[]}\n").await.unwrap();
                Value::Null
            }
            "close" => return,
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
async fn other_methods_are_forwarded_and_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = connect_to_script(dir.path(), Limits::default(), fake_electrs).await;
    client.send(b"{\"id\":1,\"method\":\"server.version\",\"params\":[\"x\",\"1.4\"]}\n").await;
    assert_eq!(client.receive().await.unwrap()["result"][1], "1.4");
    client.send(b"{\"id\":\"a\",\"method\":\"blockchain.headers.subscribe\"}\n").await;
    assert_eq!(
        client.receive().await.unwrap(),
        serde_json::json!({"id":"a","jsonrpc":"2.0","result":"blockchain.headers.subscribe"})
    );
    // Waypost serves its own methods, and notifications are forwarded.
    client.send(b"{\"id\":1,\"method\":\"server.peers.subscribe\"}\n{\"id\":2,\"method\":\"notify\"}\n").await;
    assert_eq!(client.receive().await.unwrap()["result"], serde_json::json!([]));
    assert_eq!(client.receive().await.unwrap()["method"], "note");
    assert_eq!(client.receive().await.unwrap()["id"], 2);
    client.send(b"{\"id\":3,\"method\":\"long\"}\n").await;
    assert_eq!(client.receive().await.unwrap()["result"].as_str().unwrap().len(), 300_000);
    let long = format!("{{\"id\":4,\"method\":\"broadcast\",\"params\":[\"{}\"]}}\n", "0".repeat(1_000_000));
    client.send(long.as_bytes()).await;
    assert_eq!(client.receive().await.unwrap()["result"], "broadcast");
    // The backend gets pings too, so that it keeps the connection.
    client.send(PING).await;
    assert_eq!(client.receive().await.unwrap()["result"], "server.ping");
    assert_eq!(client.counters.forwarded_requests.value(), 5);
    assert_eq!(client.counters.requests.value(), 2);
}

#[tokio::test]
async fn batch_is_split_and_reassembled_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = connect_to_script(dir.path(), Limits::default(), fake_electrs).await;
    let batch = r#"[{"id":7,"method":"one"},{"id":8,"method":"server.peers.subscribe"},{"jsonrpc":"2.0","method":"quiet"},
        {"jsonrpc":"2.0","id":7,"method":"notify"},{"id":9,"method":"error"}]"#;
    client.send(format!("{}\n", batch.replace('\n', "")).as_bytes()).await;
    let answers = client.receive().await.unwrap();
    let expected = serde_json::json!([
        {"id": 7, "error": null, "result": "one"},
        {"id": 8, "error": null, "result": []},
        {"id": 7, "jsonrpc": "2.0", "result": null},
        {"id": 9, "error": {"code": 7}, "result": null},
    ]);
    assert_eq!(answers, expected);
    assert_eq!(client.receive().await.unwrap()["method"], "note", "a notification follows the response");
    client.send(b"{\"id\":1,\"method\":\"after\"}\n").await;
    assert_eq!(client.receive().await.unwrap()["result"], "after");
}

#[tokio::test]
async fn blank_lines_count_as_requests() {
    let limits = Limits { requests_per_second: 10, ..Limits::default() };
    let mut client = connect_within(4096, ConnectionKind::default(), limits);
    client.send(&[b"\n".repeat(35), PING.to_vec()].concat()).await;
    assert!(client.receive().await.unwrap()["error"].is_null());
    assert_eq!(client.counters.requests.value(), 36);
    assert!(client.counters.delayed_requests.value() > 0, "a burst of 30 is allowed");
}

#[tokio::test]
async fn client_that_stops_sending_gets_its_responses() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = connect_to_script(dir.path(), Limits::default(), fake_electrs).await;
    client.send(b"{\"id\":1,\"method\":\"one\"}\n{\"id\":2,\"method\":\"long\"}\n").await;
    client.stream.get_mut().shutdown().await.unwrap();
    assert_eq!(client.receive().await.unwrap()["result"], "one");
    assert_eq!(client.receive().await.unwrap()["id"], 2);
    assert!(client.receive().await.is_none());
    client.session.await.unwrap();
}

#[tokio::test]
async fn tls_on_a_plain_port_is_closed_at_once() {
    let mut client = connect(4096);
    client.send(&[0x16, 3, 1, 2, 0, 1]).await;
    assert!(client.receive().await.is_none());
    client.session.await.unwrap();
    assert_eq!(client.counters.failed_handshakes.value(), 1);
}
