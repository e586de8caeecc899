//! Sessions that peers serve: their choice, and what happens when a peer fails.

use std::net::SocketAddr;
use std::sync::Mutex;

use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use super::tests::{FRONTED, Talk, talk_before};
use super::*;
use crate::backend::PeerPool;
use crate::book::{Event as BookEvent, Snapshot, UpstreamCandidate};
use crate::connect::ProbeTarget;
use crate::dial::{Dialer, Direct, Isolation, Tls};
use crate::peer::{Port, Transport, Version};
use crate::route::Route;
use crate::server::Limits;

/// Instead of a method: it greets, and says nothing more.
const SILENT: &str = "(silent)";

/// A peer that answers each call with its own name and the method's, "held" together with the next one; and what it heard.
struct Peer {
    name: &'static str,
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Peer {
    /// It hangs up at the calls of this method.
    async fn start(name: &'static str, hangs_up: &'static str) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, heard) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let hears = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, name, hangs_up, Arc::clone(&hears)));
            }
        });
        Peer { name, address, heard }
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    fn carrier(&self) -> UpstreamCandidate {
        let door = (Transport::Tcp, Port::new(self.address.port()).unwrap());
        let attempt = ProbeTarget::without_extras(
            format!("{}.example", self.name).parse().unwrap(),
            Route::Direct,
            vec![self.address.ip()],
            vec![door],
        );
        UpstreamCandidate { target: attempt, key: None, newest: Version::new(1, 4) }
    }
}

async fn serve(stream: TcpStream, name: &str, hangs_up: &str, heard: Arc<Mutex<Vec<String>>>) -> Option<()> {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let mut stream = BufReader::new(stream);
    let (mut line, mut held) = (String::new(), String::new());
    while stream.read_line(&mut line).await.ok()? > 0 {
        let call: serde_json::Value = serde_json::from_str(&line).unwrap();
        line.clear();
        let method = call["method"].as_str().unwrap();
        heard.lock().unwrap().push(method.to_owned());
        if method == hangs_up {
            return None;
        }
        if hangs_up == SILENT && method != "server.version" {
            continue;
        }
        if call["params"][1] == "nonsense" {
            let error = json!({ "id": call["id"], "error": { "code": 1, "message": "unsupported" } });
            stream.get_mut().write_all(format!("{error}\n").as_bytes()).await.ok()?;
            continue;
        }
        held.push_str(&format!("{}\n", json!({ "id": call["id"], "result": [name, method] })));
        if method != "held" {
            stream.get_mut().write_all(std::mem::take(&mut held).as_bytes()).await.ok()?;
        }
    }
    None
}

/// A session before these peers, the best first, and the ends of the channels that must stay open.
fn talk(peers: &[&Peer]) -> (Talk, Arc<Backend>, tokio::sync::mpsc::Receiver<BookMessage>) {
    let carriers = peers.iter().map(|peer| peer.carrier()).collect();
    let mut snapshot = Snapshot::default();
    snapshot.upstream_candidates = carriers;
    let (_, tor) = tokio::sync::watch::channel(None);
    let dialer = Dialer { tls: Tls::new().unwrap(), direct: Some(Direct), tor, isolation: Isolation::Peers };
    let (inbox, doubts) = tokio::sync::mpsc::channel(8);
    let peers = PeerPool::new(dialer, tokio::sync::watch::channel(Arc::new(snapshot)).1, inbox);
    let backend = Arc::new(Backend::Peers(peers));
    (talk_before(64 * 1024, FRONTED, Limits::default(), Some(Arc::clone(&backend))), backend, doubts)
}

fn carried(backend: &Backend) -> Vec<(String, usize)> {
    backend.session_counts().into_iter().map(|(host, sessions)| (host.to_string(), sessions)).collect()
}

#[tokio::test]
async fn the_best_peer_that_answers_carries_the_session() {
    let (gone, second) = (Peer::start("gone", "server.version").await, Peer::start("second", "").await);
    let (mut talk, backend, mut doubts) = talk(&[&gone, &second]);
    talk.say(b"{\"id\":1,\"method\":\"blockchain.headers.subscribe\"}\n").await;
    assert_eq!(talk.hear().await.unwrap()["result"], json!(["second", "blockchain.headers.subscribe"]));
    assert_eq!(carried(&backend), [("second.example".to_owned(), 1)]);
    assert!(
        matches!(doubts.recv().await, Some(BookMessage::Event(BookEvent::SuspectPeer(host))) if host.to_string() == "gone.example")
    );
    drop(talk);
    tokio::time::timeout(Duration::from_secs(5), async {
        while !carried(&backend).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn before_a_subscription_another_peer_goes_on_where_one_failed() {
    let (first, second) = (Peer::start("first", "three").await, Peer::start("second", "").await);
    let (mut talk, backend, _doubts) = talk(&[&first, &second]);
    talk.say(b"{\"id\":1,\"method\":\"one\"}\n").await;
    assert_eq!(talk.hear().await.unwrap()["result"], json!(["first", "one"]));
    talk.say(b"{\"id\":2,\"method\":\"three\"}\n{\"id\":3,\"method\":\"four\"}\n").await;
    assert_eq!(talk.hear().await.unwrap(), json!({"id": 2, "result": ["second", "three"]}));
    assert_eq!(talk.hear().await.unwrap(), json!({"id": 3, "result": ["second", "four"]}));
    let batch = br#"[{"id":4,"method":"a"},{"id":5,"method":"server.peers.subscribe"},{"id":6,"method":"b"}]"#;
    talk.say(&[&batch[..], b"\n"].concat()).await;
    assert_eq!(talk.hear().await.unwrap()[2]["result"], json!(["second", "b"]));
    assert_eq!(carried(&backend), [("second.example".to_owned(), 1)]);
    assert_eq!(first.heard()[..3], ["server.version", "one", "three"]);
    assert!(!second.heard().contains(&"one".to_owned()), "it was answered already");
}

#[tokio::test]
async fn after_a_subscription_the_peers_loss_ends_the_session() {
    let (first, second) = (Peer::start("first", "three").await, Peer::start("second", "").await);
    let (mut talk, backend, mut doubts) = talk(&[&first, &second]);
    talk.say(b"{\"id\":1,\"method\":\"blockchain.headers.subscribe\"}\n").await;
    assert_eq!(talk.hear().await.unwrap()["result"][0], "first");
    talk.say(b"{\"id\":2,\"method\":\"three\"}\n").await;
    assert!(talk.hear().await.unwrap()["error"]["message"].as_str().unwrap().contains("went away"));
    talk.session.await.unwrap();
    assert_eq!(carried(&backend), []);
    assert!(second.heard().is_empty());
    assert!(
        matches!(doubts.recv().await, Some(BookMessage::Event(BookEvent::SuspectPeer(_)))),
        "the book is to look at it"
    );
}

#[tokio::test]
async fn a_call_before_a_batch_is_answered_once() {
    let (first, second) = (Peer::start("first", "").await, Peer::start("second", "").await);
    let (mut talk, ..) = talk(&[&first, &second]);
    let lines = "{\"id\":1,\"method\":\"blockchain.headers.subscribe\"}\n[{\"id\":2,\"method\":\"a\"},{\"id\":3,\"method\":\"b\"}]\n";
    talk.say(lines.as_bytes()).await;
    assert_eq!(talk.hear().await.unwrap()["id"], 1);
    assert_eq!(talk.hear().await.unwrap()[1]["result"], json!(["first", "b"]));
    // That was the answer to a subscription, so the session stays.
    assert!(second.heard().is_empty());
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(45)).await;
    talk.say(b"{\"id\":4,\"method\":\"c\"}\n").await;
    assert_eq!(talk.hear().await.unwrap()["result"], json!(["first", "c"]));
    assert!(second.heard().is_empty());
}

#[tokio::test]
async fn answers_that_come_together_leave_nothing_awaited() {
    let peer = Peer::start("peer", "").await;
    let (mut talk, ..) = talk(&[&peer]);
    talk.say(b"{\"id\":1,\"method\":\"held\"}\n{\"id\":2,\"method\":\"a.subscribe\"}\n").await;
    assert_eq!(talk.hear().await.unwrap()["id"], 1);
    assert_eq!(talk.hear().await.unwrap()["id"], 2);
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(!talk.session.is_finished(), "nobody asked it anything");
    talk.say(b"{\"id\":3,\"method\":\"held\"}\n").await;
    assert!(talk.hear().await.unwrap()["error"]["message"].as_str().unwrap().contains("doesn't answer"));
    talk.session.await.unwrap();
}

#[tokio::test]
async fn a_silent_peer_is_left_for_another() {
    let (silent, second) = (Peer::start("silent", SILENT).await, Peer::start("second", "").await);
    let (mut talk, ..) = talk(&[&silent, &second]);
    talk.say(b"{\"id\":\"\\u0041\",\"method\":\"a\"}\n").await;
    let began = tokio::time::Instant::now();
    assert_eq!(talk.hear().await.unwrap(), json!({"id": "A", "result": ["second", "a"]}));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_version_that_no_peer_speaks_is_held_against_none() {
    let (first, second) = (Peer::start("first", "").await, Peer::start("second", "").await);
    let (_talk, backend, mut doubts) = talk(&[&first, &second]);
    assert!(backend.open("nonsense", None).await.is_err());
    assert!(doubts.try_recv().is_err());
    let _connection = backend.open("1.4", None).await.unwrap();
    assert_eq!(carried(&backend), [("first.example".to_owned(), 1)]);
}

#[tokio::test]
async fn when_no_peer_is_left_the_call_fails_and_the_session_goes_on() {
    let (first, second) = (Peer::start("first", "three").await, Peer::start("second", "three").await);
    let (mut talk, _backend, _doubts) = talk(&[&first, &second]);
    talk.say(b"{\"id\":2,\"method\":\"three\"}\n").await;
    let answer = talk.hear().await.unwrap();
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(2), &json!(-32603)));
    talk.say(b"{\"id\":3,\"method\":\"four\"}\n").await;
    assert_eq!(talk.hear().await.unwrap()["result"][1], "four");
    let (mut talk, ..) = self::talk(&[]);
    talk.say(b"{\"id\":2,\"method\":\"three\"}\n").await;
    let answer = talk.hear().await.unwrap();
    assert!(answer["id"] == 2 && answer["error"]["message"].as_str().unwrap().contains("can't be reached"));
    assert!(!talk.session.is_finished());
}
