//! The operator's way to a running daemon: a Unix socket that speaks the same JSON-RPC as everything else.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::codec::{Framed, LinesCodec};

use crate::backend::BackendTarget;
use crate::book::{Counts, PeerState};
use crate::book_handle::{AdminRequest, BookMessage, Inbox};
use crate::clock::Time;
use crate::irc_discovery::IrcStatus;
use crate::jsonrpc::{Id, Message, Request, parse_line};
use crate::network::Network;
use crate::route::{OnionError, Route, TorSource, TorState};
use crate::server::{AcceptLoop, ClientStats};

/// A book of ten thousand peers is about six megabytes of this.
const MAX_RESPONSE: usize = 64 * 1024 * 1024;

/// The book answers at once, whatever else it does.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The daemon's state, as `status` shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub network: Network,
    pub uptime_secs: u64,
    pub tor: TorState,
    /// The Tor in use; `None` where Tor is off.
    pub tor_source: Option<TorSource>,
    /// With `tor.only`: why the Tor in use reaches no clearnet peer.
    pub clearnet_blocked: Option<String>,
    /// Nothing answered directly for a while, not even peers that were fine lately.
    pub network_down: bool,
    /// Our onion service, if we have one.
    pub onion: Option<OnionStatus>,
    /// Why the embedded onion service does not run, if it should.
    pub onion_error: Option<OnionError>,
    /// Our name on clearnet, if we have one.
    pub clearnet: Option<ClearnetStatus>,
    pub listeners: Vec<String>,
    /// Where the status page is, if there is one.
    pub page: Option<String>,
    /// The server that we stand in front of, if there is one.
    pub backend: Option<BackendStatus>,
    /// The visits to IRC, if there are any.
    pub irc: Option<IrcStatus>,
    pub peers: Counts,
    /// When the book wants to be woken next.
    pub next_probe: Time,
    pub store: StoreStatus,
    pub clients: ClientStats,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OnionStatus {
    pub host: String,
    pub port: u16,
    /// When we last reached it ourselves, through Tor. Clients are sent it from the first time on.
    pub last_reached: Option<Time>,
    /// How often in a row it could not be reached, and why not.
    pub failures: u32,
    pub error: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClearnetStatus {
    pub host: String,
    pub tcp_port: Option<u16>,
    pub ssl_port: Option<u16>,
    /// The address that is published with it.
    pub address: Option<String>,
    /// The path by which it was last reached.
    pub via: Option<Route>,
    /// When it was last reached. It is advertised from the first time on.
    pub last_reached: Option<Time>,
    /// Failed tests in a row, and why the last one failed.
    pub failures: u32,
    pub error: Option<String>,
    /// What an operator should know though it is advertised.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackendStatus {
    /// As the configuration has it.
    pub electrum: BackendTarget,
    /// Why it is of no use at the moment.
    pub error: Option<String>,
    pub software: Option<String>,
    pub tip: Option<u32>,
    /// Where it is our peers: those that carry sessions, and how many.
    pub sessions: BTreeMap<String, usize>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoreStatus {
    /// The last write failed, for want of room perhaps.
    pub failing: bool,
    /// Records that are not on disk yet.
    pub pending: u64,
    /// Transactions since the start.
    pub batches: u64,
    /// How long its file is.
    pub bytes: u64,
}

/// One peer, as `peers` shows it. Times are in milliseconds since 1970.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerInfo {
    pub host: String,
    pub state: PeerState,
    pub ip: Option<String>,
    pub tcp_port: Option<u16>,
    pub ssl_port: Option<u16>,
    pub protocol: Option<String>,
    pub pruning: Option<u32>,
    pub software: Option<String>,
    pub genesis_hash: Option<String>,
    /// SHA-256 of the TLS certificate's key, since when, and how often it was another before.
    pub key: Option<String>,
    pub key_since: Option<Time>,
    pub key_changes: u32,
    pub tip: Option<u32>,
    pub source: String,
    /// Whether the peer itself said what stands here.
    pub self_reported: bool,
    pub first_seen: Time,
    pub last_try: Option<Time>,
    pub last_success: Option<Time>,
    pub next_try: Time,
    /// What holds the next try back, where that is more than its time.
    pub waiting_for: Option<String>,
    pub failures: u32,
    /// What went wrong at the last try, or why it is bad.
    pub error: Option<String>,
    pub latency_ms: Option<u64>,
    /// How much of the last two hours, day, week and month it was there, from 0 to 1; older whiles count as well, but less.
    pub uptime: BTreeMap<String, f64>,
    /// The last outcomes, oldest first: true for a success.
    pub history: Vec<bool>,
}

/// Has the book's task answer an operator's question, from wherever it was asked.
pub async fn query(inbox: &Inbox, ask: AdminRequest) -> Result<Value, String> {
    let (reply, answer) = oneshot::channel();
    let down = "the daemon is going down";
    inbox.send(BookMessage::Query { request: ask, reply }).await.map_err(|_| down.to_owned())?;
    answer.await.map_err(|_| down.to_owned())?
}

/// Takes the socket's place in the file system. One that a dead daemon left there is replaced; the store's lock has
/// shown by then that no living one uses it.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves operators until it is dropped.
pub async fn serve(listener: UnixListener, inbox: Inbox) {
    let mut listener = AcceptLoop::new(listener, "control");
    let mut sessions = JoinSet::new();
    loop {
        while sessions.try_join_next().is_some() {}
        sessions.spawn(session(listener.next().await, inbox.clone()));
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("no daemon answers on {}: {error}; {}", path.display(), advice(error))]
    NoDaemon { path: PathBuf, error: io::Error },
    #[error(
        "the daemon's answer can't be read: {0}; see its log, and that it is of this version (`waypost --version`)"
    )]
    Unreadable(String),
    #[error("{0}")]
    Refused(String),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "use sudo, or run this as the daemon's user",
        _ => "is `waypost run` running with this data_dir? --config or --data-dir say where it is",
    }
}

/// One call to the daemon whose socket this is.
pub async fn request(path: &Path, method: &str, params: &[&str]) -> Result<Value, ControlError> {
    let no_daemon = |error| ControlError::NoDaemon { path: path.to_owned(), error };
    let unreadable = |error: &dyn std::fmt::Display| ControlError::Unreadable(error.to_string());
    let stream = UnixStream::connect(path).await.map_err(no_daemon)?;
    let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_RESPONSE));
    let request = json!({ "jsonrpc": "2.0", "id": 0, "method": method, "params": params });
    lines.send(request.to_string()).await.map_err(|error| unreadable(&error))?;
    let line = timeout(RESPONSE_TIMEOUT, lines.next()).await.map_err(|error| unreadable(&error))?;
    let line = line.ok_or_else(|| unreadable(&"it closed the connection"))?.map_err(|error| unreadable(&error))?;
    let mut answer: Value = serde_json::from_str(&line).map_err(|error| unreadable(&error))?;
    match answer.pointer("/error/message").and_then(Value::as_str) {
        Some(reason) => Err(ControlError::Refused(reason.to_owned())),
        None => Ok(answer.get_mut("result").map(Value::take).unwrap_or_default()),
    }
}

async fn session(stream: UnixStream, inbox: Inbox) {
    let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(64 * 1024));
    while let Some(Ok(line)) = lines.next().await {
        let id = match parse_line(&line) {
            Ok(Message::Single(Ok(Request { id: Id::Present(id), .. }))) => {
                serde_json::from_str(id.get()).unwrap_or_default()
            }
            _ => Value::Null,
        };
        let answer = match answer(&line, &inbox).await {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err(reason) => json!({ "jsonrpc": "2.0", "id": id, "error": { "code": 1, "message": reason } }),
        };
        if lines.send(answer.to_string()).await.is_err() {
            return;
        }
    }
}

async fn answer(line: &str, inbox: &Inbox) -> Result<Value, String> {
    let request = match parse_line(line) {
        Ok(Message::Single(Ok(request))) => request,
        _ => return Err("expected one JSON-RPC call a line".to_owned()),
    };
    let mut params: Vec<String> = match request.params {
        Some(params) => serde_json::from_str(params.get()).map_err(|_| "expected texts as parameters".to_owned())?,
        None => Vec::new(),
    };
    let ask = match (request.method.as_ref(), params.pop(), params.is_empty()) {
        ("status", None, _) => AdminRequest::Status,
        ("peers", None, _) => AdminRequest::Peers,
        ("add", Some(name), true) => AdminRequest::Add(name),
        ("forget", Some(host), true) => AdminRequest::Forget(host),
        _ => return Err("expected status, peers, add with a real name, or forget with a host".to_owned()),
    };
    self::query(inbox, ask).await
}
