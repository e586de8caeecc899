//! Unix socket for operators: JSON-RPC on the daemon's side, typed requests on the commands' side.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::codec::{Framed, LinesCodec};

use crate::accept_loop::AcceptLoop;
use crate::api::{AdminRequest, PeerInfo, Status};
use crate::book_handle::{Inbox, query};
use crate::jsonrpc::{Id, Message, Request, parse_line};

/// Maximum size of a response in bytes. Ten thousand peers take about six megabytes.
const MAX_RESPONSE: usize = 64 * 1024 * 1024;

/// Maximum size of a request in bytes.
const MAX_REQUEST: usize = 64 * 1024;

/// Maximum time to wait for a response, which normally takes milliseconds.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Binds the socket, which only its owner may use.
///
/// The socket of an earlier daemon is replaced. The lock of the store has already shown that no
/// other daemon is running.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Accepts operators' connections forever; dropping the future closes them.
pub async fn serve(listener: UnixListener, inbox: Inbox) {
    let mut listener = AcceptLoop::new(listener, "control");
    let mut sessions = JoinSet::new();
    loop {
        while sessions.try_join_next().is_some() {}
        sessions.spawn(session(listener.next().await, inbox.clone()));
    }
}

async fn session(stream: UnixStream, inbox: Inbox) {
    let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_REQUEST));
    while let Some(Ok(line)) = lines.next().await {
        let id = match parse_line(&line) {
            Ok(Message::Single(Ok(Request { id: Id::Present(id), .. }))) => {
                serde_json::from_str(id.get()).unwrap_or_default()
            }
            _ => Value::Null,
        };
        let response = match handle_line(&line, &inbox).await {
            // The result is long, and not parsed again.
            Ok(result) => format!(r#"{{"id":{id},"jsonrpc":"2.0","result":{result}}}"#),
            Err(reason) => json!({ "jsonrpc": "2.0", "id": id, "error": { "code": 1, "message": reason } }).to_string(),
        };
        if lines.send(response).await.is_err() {
            return;
        }
    }
}

/// Returns the JSON of the reply, or why the request is refused.
async fn handle_line(line: &str, inbox: &Inbox) -> Result<Box<RawValue>, String> {
    let request = match parse_line(line) {
        Ok(Message::Single(Ok(request))) => request,
        _ => return Err("malformed request: expected one JSON-RPC request per line".to_owned()),
    };
    let mut params: Vec<String> = match request.params {
        Some(params) => serde_json::from_str(params.get())
            .map_err(|_| "malformed parameters: expected a list of strings".to_owned())?,
        None => Vec::new(),
    };
    match (request.method.as_ref(), params.pop(), params.is_empty()) {
        ("status", None, _) => to_json(&query(inbox, AdminRequest::Status).await.map_err(reason)?),
        ("peers", None, _) => to_json(&query(inbox, AdminRequest::Peers).await.map_err(reason)?),
        ("add", Some(name), true) => {
            query(inbox, |reply| AdminRequest::Add { name, reply }).await.map_err(reason)??;
            to_json(&true)
        }
        ("forget", Some(host), true) => {
            query(inbox, |reply| AdminRequest::Forget { host, reply }).await.map_err(reason)??;
            to_json(&true)
        }
        _ => Err("unknown request: expected status, peers, add with a real name, or forget with a host".to_owned()),
    }
}

fn to_json(reply: &impl Serialize) -> Result<Box<RawValue>, String> {
    to_raw_value(reply).map_err(reason)
}

fn reason(error: impl ToString) -> String {
    error.to_string()
}

/// Failure of a request to the daemon.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket cannot be reached.
    #[error("no daemon answers on {}: {error}; {}", path.display(), advice(error))]
    NoDaemon {
        /// Path of the socket.
        path: PathBuf,
        /// Error of the operating system.
        error: io::Error,
    },
    /// The response is missing or malformed.
    #[error(
        "no usable response of the daemon: {0}; see its log, and check that it has this version (`waypost --version`)"
    )]
    Unreadable(String),
    /// The daemon refuses the request, for this reason.
    #[error("{0}")]
    Refused(String),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "use sudo, or run this as the daemon's user",
        _ => "check that `waypost run` is running with this data_dir; --config or --data-dir select it",
    }
}

/// Response as a command reads it.
#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<Refusal>,
}

/// Error of a response.
#[derive(Deserialize)]
struct Refusal {
    message: String,
}

/// Client of a daemon's control socket. Each request opens a connection.
#[derive(Debug, Clone)]
pub struct ControlClient {
    path: PathBuf,
}

impl ControlClient {
    /// Creates a client of the socket at `path`.
    pub fn new(path: PathBuf) -> ControlClient {
        ControlClient { path }
    }

    /// Requests the daemon's state.
    pub async fn status(&self) -> Result<Status, ControlError> {
        self.request("status", &[]).await
    }

    /// Requests all peers.
    pub async fn peers(&self) -> Result<Vec<PeerInfo>, ControlError> {
        self.request("peers", &[]).await
    }

    /// Adds a peer by its real name.
    pub async fn add(&self, name: &str) -> Result<(), ControlError> {
        self.request::<bool>("add", &[name]).await.map(drop)
    }

    /// Removes a peer by its host.
    pub async fn forget(&self, host: &str) -> Result<(), ControlError> {
        self.request::<bool>("forget", &[host]).await.map(drop)
    }

    async fn request<T: DeserializeOwned>(&self, method: &str, params: &[&str]) -> Result<T, ControlError> {
        let no_daemon = |error| ControlError::NoDaemon { path: self.path.clone(), error };
        let unreadable = |error: &dyn std::fmt::Display| ControlError::Unreadable(error.to_string());
        let stream = UnixStream::connect(&self.path).await.map_err(no_daemon)?;
        let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_RESPONSE));
        let request = json!({ "jsonrpc": "2.0", "id": 0, "method": method, "params": params });
        lines.send(request.to_string()).await.map_err(|error| unreadable(&error))?;
        let line = timeout(RESPONSE_TIMEOUT, lines.next()).await.map_err(|error| unreadable(&error))?;
        let line = line.ok_or_else(|| unreadable(&"connection closed"))?.map_err(|error| unreadable(&error))?;
        let response: Response<'_> = serde_json::from_str(&line).map_err(|error| unreadable(&error))?;
        match response {
            Response { error: Some(Refusal { message }), .. } => Err(ControlError::Refused(message)),
            Response { result, .. } => {
                let result = result.ok_or_else(|| unreadable(&"no result"))?;
                serde_json::from_str(result.get()).map_err(|error| unreadable(&error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::book_handle::BookMessage;

    /// Serves a socket with a stub of the book's task, which accepts one name.
    fn start(dir: &Path) -> PathBuf {
        let path = dir.join("control.sock");
        let (inbox, mut messages) = mpsc::channel(1);
        tokio::spawn(serve(bind(&path).unwrap(), inbox));
        tokio::spawn(async move {
            while let Some(BookMessage::Admin(request)) = messages.recv().await {
                match request {
                    // Dropping the sender is what a stopping task does.
                    AdminRequest::Status(_) => {}
                    AdminRequest::Peers(reply) => drop(reply.send(Vec::new())),
                    AdminRequest::Add { name, reply } => {
                        let result = if name == "a.example t" { Ok(()) } else { Err("rejected".to_owned()) };
                        drop(reply.send(result));
                    }
                    AdminRequest::Forget { reply, .. } => drop(reply.send(Ok(()))),
                    AdminRequest::Peer { .. }
                    | AdminRequest::PeersNamed { .. }
                    | AdminRequest::Summaries(_)
                    | AdminRequest::Trends(_) => {}
                }
            }
        });
        path
    }

    #[tokio::test]
    async fn replies_are_sent_as_json() {
        let dir = tempfile::tempdir().unwrap();
        let stream = UnixStream::connect(start(dir.path())).await.unwrap();
        let mut lines = Framed::new(stream, LinesCodec::new());
        for (request, response) in [
            (r#""id":1,"method":"peers""#, r#"{"id":1,"jsonrpc":"2.0","result":[]}"#),
            (r#""id":"x","method":"add","params":["a.example t"]"#, r#"{"id":"x","jsonrpc":"2.0","result":true}"#),
            (
                r#""id":2,"method":"add","params":["b.example"]"#,
                r#"{"error":{"code":1,"message":"rejected"},"id":2,"jsonrpc":"2.0"}"#,
            ),
            (
                r#""id":3,"method":"status""#,
                r#"{"error":{"code":1,"message":"the daemon is stopping"},"id":3,"jsonrpc":"2.0"}"#,
            ),
        ] {
            lines.send(format!(r#"{{"jsonrpc":"2.0",{request}}}"#)).await.unwrap();
            assert_eq!(lines.next().await.unwrap().unwrap(), response);
        }
    }

    #[tokio::test]
    async fn client_returns_typed_replies_and_refusals() {
        let dir = tempfile::tempdir().unwrap();
        let client = ControlClient::new(start(dir.path()));
        assert!(client.peers().await.unwrap().is_empty());
        client.add("a.example t").await.unwrap();
        client.forget("a.example").await.unwrap();
        assert!(matches!(client.add("b.example").await, Err(ControlError::Refused(reason)) if reason == "rejected"));
        let missing = ControlClient::new(dir.path().join("missing.sock"));
        assert!(matches!(missing.status().await, Err(ControlError::NoDaemon { .. })));
    }
}
