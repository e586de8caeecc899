//! Sessions with peers as backend: choice of the peer, and failover.

use std::net::SocketAddr;
use std::sync::Mutex;

use rand::SeedableRng;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use super::tests::{TestClient, WITH_BACKEND, connect_with_backend};
use super::*;
use crate::backend::{PeerPool, ServerList, SessionNeeds};
use crate::book::{Event as BookEvent, Side, Snapshot, UpstreamCandidate};
use crate::book_handle::BookMessage;
use crate::connect::ProbeTarget;
use crate::dial::{Dialer, Direct, Isolation, LocalAddresses, Tls};
use crate::peer::{Port, Transport, Version};
use crate::route::Route;
use crate::server::Limits;

/// Value of `closes_at` for a peer that responds only to `server.version`.
pub(super) const SILENT: &str = "(silent)";

/// Value of `closes_at` for a silent peer that sends notifications.
pub(super) const NOISY: &str = "(noisy)";

/// Value of `closes_at` for a peer that does not answer subscriptions.
pub(super) const NO_RENEWAL: &str = "(no renewal)";

/// Value of `closes_at` for a peer that returns errors to wallets.
pub(super) const ERRORS: &str = "(errors)";

/// Value of `closes_at` for a peer that invents balances.
pub(super) const LIAR: &str = "(liar)";

/// Peer that responds with its name and the method. The response to "held" waits for the next one.
pub(super) struct Peer {
    name: &'static str,
    address: SocketAddr,
    received: Arc<Mutex<Vec<String>>>,
}

impl Peer {
    /// Starts a peer that closes the connection at a request of this method.
    pub(super) async fn start(name: &'static str, closes_at: &'static str) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, received) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let log = Arc::clone(&received);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, name, closes_at, Arc::clone(&log)));
            }
        });
        Peer { name, address, received }
    }

    pub(super) fn received(&self) -> Vec<String> {
        self.received.lock().unwrap().clone()
    }

    fn upstream_candidate(&self) -> UpstreamCandidate {
        let endpoint = (Transport::Tcp, Port::new(self.address.port()).unwrap());
        let target = ProbeTarget::without_extras(
            format!("{}.example", self.name).parse().unwrap(),
            Route::Direct,
            vec![self.address.ip()],
            vec![endpoint],
        );
        UpstreamCandidate { target, key: None, newest: Version::new(1, 4), is_senior: true }
    }
}

async fn serve(stream: TcpStream, name: &str, closes_at: &str, received: Arc<Mutex<Vec<String>>>) -> Option<()> {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let mut stream = BufReader::new(stream);
    let (mut line, mut held) = (String::new(), String::new());
    while stream.read_line(&mut line).await.ok()? > 0 {
        let call: serde_json::Value = serde_json::from_str(&line).unwrap();
        line.clear();
        let method = call["method"].as_str().unwrap();
        received.lock().unwrap().push(method.to_owned());
        if method == closes_at {
            return None;
        }
        if closes_at == NOISY && method != "server.version" {
            while stream.get_mut().write_all(b"{\"method\":\"note\",\"params\":[]}\n").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        if closes_at == NO_RENEWAL && method == "blockchain.scripthash.subscribe" {
            continue;
        }
        if closes_at == SILENT && method != "server.version" {
            continue;
        }
        if call["params"][1] == "nonsense" || (closes_at == ERRORS && method.starts_with("blockchain.scripthash.get_"))
        {
            let error = json!({ "id": call["id"], "error": { "code": 1, "message": "unsupported" } });
            stream.get_mut().write_all(format!("{error}\n").as_bytes()).await.ok()?;
            continue;
        }
        let result = match method {
            "blockchain.scripthash.get_history" => json!([]),
            "blockchain.scripthash.get_balance" => {
                json!({ "confirmed": u8::from(closes_at == LIAR), "unconfirmed": 0 })
            }
            "blockchain.scripthash.subscribe" => json!(name),
            _ => json!([name, method]),
        };
        held.push_str(&format!("{}\n", json!({ "id": call["id"], "result": result })));
        if method != "held" {
            stream.get_mut().write_all(std::mem::take(&mut held).as_bytes()).await.ok()?;
        }
    }
    None
}

/// Starts a session with these peers as backend, the best first.
pub(super) fn connect(peers: &[&Peer]) -> (TestClient, Arc<Backend>, tokio::sync::mpsc::Receiver<BookMessage>) {
    connect_to(peers, |rank| rank == 0)
}

/// Starts a session with these peers as backend, of which some are senior.
pub(super) fn connect_to(
    peers: &[&Peer],
    is_senior: impl Fn(usize) -> bool,
) -> (TestClient, Arc<Backend>, tokio::sync::mpsc::Receiver<BookMessage>) {
    let candidate =
        |(rank, peer): (usize, &&Peer)| UpstreamCandidate { is_senior: is_senior(rank), ..peer.upstream_candidate() };
    let candidates = peers.iter().enumerate().map(candidate).collect();
    let mut snapshot = Snapshot::default();
    snapshot.upstream_candidates = candidates;
    let (_, tor) = tokio::sync::watch::channel(None);
    let announce_from = LocalAddresses::default();
    let dialer =
        Dialer { tls: Tls::new().unwrap(), direct: Some(Direct), tor, isolation: Isolation::Peers, announce_from };
    let (inbox, book_messages) = tokio::sync::mpsc::channel(8);
    let peers = PeerPool::new(Side::Both, dialer, tokio::sync::watch::channel(Arc::new(snapshot)).1, inbox);
    let peers = peers.with_repeat_delay(Duration::from_millis(200));
    let servers = Arc::new(ServerList::new(Vec::new()));
    let backend = Arc::new(Backend { servers, peers: Some(peers) });
    (connect_again(&backend), backend, book_messages)
}

/// Starts another session with the same backend.
pub(super) fn connect_again(backend: &Arc<Backend>) -> TestClient {
    connect_with_backend(64 * 1024, WITH_BACKEND, Limits::default(), Some(Arc::clone(backend)))
}

fn session_counts(backend: &Backend) -> Vec<(String, usize)> {
    backend
        .peers
        .as_ref()
        .unwrap()
        .session_counts()
        .into_iter()
        .map(|(host, sessions)| (host.to_string(), sessions))
        .collect()
}

#[tokio::test]
async fn first_peer_that_answers_serves_session() {
    let (unreachable, second) = (Peer::start("unreachable", "server.version").await, Peer::start("second", "").await);
    let (mut client, backend, mut book_messages) = connect(&[&unreachable, &second]);
    client.send(b"{\"id\":1,\"method\":\"blockchain.headers.subscribe\"}\n").await;
    assert_eq!(client.receive().await.unwrap()["result"], json!(["second", "blockchain.headers.subscribe"]));
    assert_eq!(session_counts(&backend), [("second.example".to_owned(), 1)]);
    assert!(
        matches!(book_messages.recv().await, Some(BookMessage::SideEvent(Side::Both, BookEvent::SuspectPeer(host))) if host.to_string() == "unreachable.example")
    );
    drop(client);
    tokio::time::timeout(Duration::from_secs(5), async {
        while !session_counts(&backend).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn failed_peer_before_subscription_is_replaced() {
    let (first, second) = (Peer::start("first", "three").await, Peer::start("second", "").await);
    let (mut client, backend, _doubts) = connect(&[&first, &second]);
    client.send(b"{\"id\":1,\"method\":\"one\"}\n").await;
    assert_eq!(client.receive().await.unwrap()["result"], json!(["first", "one"]));
    client.send(b"{\"id\":2,\"method\":\"three\"}\n{\"id\":3,\"method\":\"four\"}\n").await;
    assert_eq!(client.receive().await.unwrap(), json!({"id": 2, "result": ["second", "three"]}));
    assert_eq!(client.receive().await.unwrap(), json!({"id": 3, "result": ["second", "four"]}));
    let batch = br#"[{"id":4,"method":"a"},{"id":5,"method":"server.peers.subscribe"},{"id":6,"method":"b"}]"#;
    client.send(&[&batch[..], b"\n"].concat()).await;
    assert_eq!(client.receive().await.unwrap()[2]["result"], json!(["second", "b"]));
    assert_eq!(session_counts(&backend), [("second.example".to_owned(), 1)]);
    assert_eq!(first.received()[..3], ["server.version", "one", "three"]);
    assert!(!second.received().contains(&"one".to_owned()), "a call with a response is not resent");
}

#[tokio::test]
async fn failed_peer_after_subscription_closes_session() {
    let (first, second) = (Peer::start("first", "three").await, Peer::start("second", "").await);
    let (mut client, backend, mut book_messages) = connect(&[&first, &second]);
    client.send(b"{\"id\":1,\"method\":\"blockchain.headers.subscribe\"}\n").await;
    assert_eq!(client.receive().await.unwrap()["result"][0], "first");
    client.send(b"{\"id\":2,\"method\":\"three\"}\n").await;
    assert!(client.receive().await.unwrap()["error"]["message"].as_str().unwrap().contains("closed the connection"));
    client.session.await.unwrap();
    assert_eq!(session_counts(&backend), []);
    assert!(second.received().is_empty());
    assert!(
        matches!(book_messages.recv().await, Some(BookMessage::SideEvent(Side::Both, BookEvent::SuspectPeer(_)))),
        "the book rechecks the peer"
    );
}

#[tokio::test]
async fn call_before_batch_is_answered_once() {
    let (first, second) = (Peer::start("first", "").await, Peer::start("second", "").await);
    let (mut client, ..) = connect(&[&first, &second]);
    let lines = "{\"id\":1,\"method\":\"blockchain.headers.subscribe\"}\n[{\"id\":2,\"method\":\"a\"},{\"id\":3,\"method\":\"b\"}]\n";
    client.send(lines.as_bytes()).await;
    assert_eq!(client.receive().await.unwrap()["id"], 1);
    assert_eq!(client.receive().await.unwrap()[1]["result"], json!(["first", "b"]));
    // The subscription pins the session to its peer.
    assert!(second.received().is_empty());
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(45)).await;
    client.send(b"{\"id\":4,\"method\":\"c\"}\n").await;
    assert_eq!(client.receive().await.unwrap()["result"], json!(["first", "c"]));
    assert!(second.received().is_empty());
}

#[tokio::test]
async fn coalesced_responses_leave_nothing_pending() {
    let peer = Peer::start("peer", "").await;
    let (mut client, ..) = connect(&[&peer]);
    client.send(b"{\"id\":1,\"method\":\"held\"}\n{\"id\":2,\"method\":\"a.subscribe\"}\n").await;
    assert_eq!(client.receive().await.unwrap()["id"], 1);
    assert_eq!(client.receive().await.unwrap()["id"], 2);
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(!client.session.is_finished(), "no call is pending");
    client.send(b"{\"id\":3,\"method\":\"held\"}\n").await;
    assert!(client.receive().await.unwrap()["error"]["message"].as_str().unwrap().contains("doesn't respond"));
    client.session.await.unwrap();
}

#[tokio::test]
async fn silent_peer_is_replaced() {
    let (silent, second) = (Peer::start("silent", SILENT).await, Peer::start("second", "").await);
    let (mut client, ..) = connect(&[&silent, &second]);
    client.send(b"{\"id\":\"\\u0041\",\"method\":\"a\"}\n").await;
    let began = tokio::time::Instant::now();
    assert_eq!(client.receive().await.unwrap(), json!({"id": "A", "result": ["second", "a"]}));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn unsupported_version_penalizes_no_peer() {
    let (first, second) = (Peer::start("first", "").await, Peer::start("second", "").await);
    let (_client, backend, mut book_messages) = connect(&[&first, &second]);
    let mut rng = StdRng::seed_from_u64(1);
    let needs = |version| SessionNeeds { version, access: BackendAccess::All, failed: &[], client: None };
    assert!(backend.open(needs("nonsense"), &mut rng).await.is_err());
    assert!(book_messages.try_recv().is_err());
    let _connection = backend.open(needs("1.4"), &mut rng).await.unwrap();
    assert_eq!(session_counts(&backend), [("first.example".to_owned(), 1)]);
}

#[tokio::test]
async fn call_without_peers_fails_and_session_continues() {
    let (first, second) = (Peer::start("first", "three").await, Peer::start("second", "three").await);
    let (mut client, _backend, _doubts) = connect(&[&first, &second]);
    client.send(b"{\"id\":2,\"method\":\"three\"}\n").await;
    let answer = client.receive().await.unwrap();
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(2), &json!(-32603)));
    client.send(b"{\"id\":3,\"method\":\"four\"}\n").await;
    assert_eq!(client.receive().await.unwrap()["result"][1], "four");
    let (mut client, ..) = connect(&[]);
    client.send(b"{\"id\":2,\"method\":\"three\"}\n").await;
    let answer = client.receive().await.unwrap();
    assert!(answer["id"] == 2 && answer["error"]["message"].as_str().unwrap().contains("can't be reached"));
    assert!(!client.session.is_finished());
}
