//! The upstream of forwarded requests: the operator's servers, the verified peers, or both.

mod address;
mod cross_check;
mod key_pinning;
mod peer_checks;
mod peer_pool;
mod peer_ranking;
mod peer_set;
mod server;
mod server_list;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::codec::{Framed, LinesCodec};

pub use address::{AddressError, BackendTargets, UpstreamAddr};
pub use cross_check::{MAX_COMPARED_BYTES, ReadRequest, result_of};
pub use key_pinning::KeyPinError;
pub use peer_pool::{PeerLease, PeerPool, SessionFailure};
pub use server::{Server, ServerStatus};
pub use server_list::{ServerLease, ServerList};

use crate::book::Ingress;
use crate::connect::ProbeError;
use crate::dial::Stream;
use crate::electrum::identity::{self, BackendInfo, Identity, LocalIdentity};
use crate::jsonrpc::{self, DEFAULT_PROTOCOL, MAX_PROTOCOL, MAX_RESPONSE_BYTES, MIN_PROTOCOL, USER_AGENT};
use crate::peer::{Fault, Host};

/// Timeout for the operator's server to accept a connection and negotiate the version.
const GREETING_TIMEOUT: Duration = Duration::from_secs(20);

/// The upstream of forwarded requests of one ingress. Servers come first.
#[derive(Debug)]
pub struct Backend {
    /// The operator's servers. Empty if there are only peers.
    pub servers: Arc<ServerList>,
    /// The verified peers; `None` if they are not configured.
    pub peers: Option<PeerPool>,
}

/// Which parts of the backend serve a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackendAccess {
    /// None: the client's requests are not forwarded.
    #[default]
    None,
    /// The operator's servers.
    Servers,
    /// The operator's servers, and the verified peers.
    All,
}

/// What a session wants of its upstream.
#[derive(Debug, Clone, Copy)]
pub struct SessionNeeds<'a> {
    /// Protocol version to negotiate.
    pub version: &'a str,
    /// Parts of the backend that may serve the client.
    pub access: BackendAccess,
    /// Upstreams that failed within the session, which are tried last.
    pub failed: &'a [UpstreamName],
    /// Address of the client, for servers that are sent it; `None` for onion clients.
    pub client: Option<IpAddr>,
}

/// An upstream of sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamName {
    /// A verified peer.
    Peer(Host),
    /// A server of the operator.
    Server(UpstreamAddr),
}

/// A session's connection to the upstream.
pub struct UpstreamConnection {
    /// The stream, on which the version is negotiated.
    pub stream: Box<dyn Stream>,
    /// The lease of the upstream.
    pub lease: UpstreamLease,
}

/// Counts a session at its upstream, until dropped.
#[derive(Debug)]
pub enum UpstreamLease {
    /// Session of a peer.
    Peer(Box<PeerLease>),
    /// Session of a server.
    Server(ServerLease),
}

/// Error of opening or checking an upstream connection.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The server can't be reached or violates the protocol.
    #[error("{0}")]
    Failed(#[from] ProbeError),
    /// The server's TLS key is not accepted.
    #[error("{0}")]
    Key(#[from] KeyPinError),
    /// The server follows a branch with less work than the known chain.
    #[error(
        "server follows a chain with less work, which leaves the one with the most work after block {0}; check its node"
    )]
    LessWork(u32),
    /// The server supports no common protocol version.
    #[error("server supports none of the protocol versions {MIN_PROTOCOL} to {MAX_PROTOCOL}")]
    Versions,
    /// There is no server that may serve the session.
    #[error("no server is left that could serve the session")]
    NoServer,
    /// No candidate could be reached.
    #[error("no suitable peer is reachable")]
    NoPeer,
}

impl Backend {
    /// Opens a connection for a session.
    pub async fn open(&self, needs: SessionNeeds<'_>, rng: &mut StdRng) -> Result<UpstreamConnection, BackendError> {
        let SessionNeeds { version, access, failed, client } = needs;
        let has_failed = |server: &Server| failed.contains(&UpstreamName::Server(server.address.clone()));
        let Some(peers) = self.peers.as_ref().filter(|_| access == BackendAccess::All) else {
            let first = self.servers.open(version, client, |server| !has_failed(server)).await;
            // The others have failed just now.
            return if first.is_ok() || failed.is_empty() {
                first
            } else {
                self.servers.open(version, client, has_failed).await
            };
        };
        // Servers that do not work now would only delay the session.
        let is_usable = |server: &Server| server.status().error.is_none() && !has_failed(server);
        if let Ok(connection) = self.servers.open(version, client, is_usable).await {
            return Ok(connection);
        }
        let failed: Vec<Host> = failed.iter().filter_map(UpstreamName::host).cloned().collect();
        match peers.open(version, &failed, rng).await {
            Err(error) if self.servers.is_empty() => Err(error),
            Err(_) => self.servers.open(version, client, |server| !is_usable(server)).await,
            opened => opened,
        }
    }

    /// Returns whether another upstream can take over a session when one fails.
    pub fn has_alternatives(&self, access: BackendAccess) -> bool {
        self.servers.len() > 1 || (self.peers.is_some() && access == BackendAccess::All)
    }

    /// Keeps the backend's properties in the local identity current until shutdown.
    pub async fn publish_info(&self, local_identity: &watch::Sender<Arc<LocalIdentity>>) {
        let ingresses: Vec<Ingress> = match &self.peers {
            Some(peers) => Ingress::ALL.into_iter().filter(|ingress| peers.side().serves(*ingress)).collect(),
            None => Ingress::ALL.to_vec(),
        };
        let mut polls = self.servers.polls();
        let mut snapshots = self.peers.as_ref().map(PeerPool::snapshots);
        loop {
            polls.mark_unchanged();
            if let Some(snapshots) = &mut snapshots {
                snapshots.mark_unchanged();
            }
            if let Some(info) = self.info() {
                publish(local_identity, &ingresses, &info);
            }
            let other_candidates = async {
                match &mut snapshots {
                    Some(snapshots) => snapshots.changed().await,
                    None => std::future::pending().await,
                }
            };
            let changed = tokio::select! {
                changed = polls.changed() => changed,
                changed = other_candidates => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Returns the targets as configured.
    pub fn targets(&self) -> String {
        let servers = self.servers.addresses().map(|address| address.to_string());
        servers.chain(self.peers.as_ref().map(|_| "peers".to_owned())).collect::<Vec<_>>().join(", ")
    }

    /// Returns why the backend is unusable. `None`: it is usable.
    pub fn last_error(&self) -> Option<String> {
        match &self.peers {
            Some(peers) if self.servers.is_empty() => peers.last_error(),
            Some(peers) => self.servers.last_error().filter(|_| peers.last_error().is_some()),
            None => self.servers.last_error(),
        }
    }

    /// Returns the properties that clients are told; `None` while they are not known.
    fn info(&self) -> Option<BackendInfo> {
        let peers = self.peers.as_ref().map(|peers| BackendInfo {
            software: None,
            versions: (DEFAULT_PROTOCOL, peers.common_version()),
            pruning: None,
            tip: None,
        });
        self.servers.info().or(peers.filter(|_| self.servers.is_empty() || self.servers.last_error().is_some()))
    }
}

impl UpstreamName {
    fn host(&self) -> Option<&Host> {
        match self {
            UpstreamName::Peer(host) => Some(host),
            UpstreamName::Server(_) => None,
        }
    }
}

impl UpstreamLease {
    /// Returns the upstream that serves the session.
    pub fn name(&self) -> UpstreamName {
        match self {
            UpstreamLease::Peer(lease) => UpstreamName::Peer(lease.host().clone()),
            UpstreamLease::Server(lease) => UpstreamName::Server(lease.address().clone()),
        }
    }

    /// Returns the lease of a peer; `None` for a server.
    pub fn peer(&mut self) -> Option<&mut PeerLease> {
        match self {
            UpstreamLease::Peer(lease) => Some(lease),
            UpstreamLease::Server(_) => None,
        }
    }

    /// Records that the upstream has answered a request.
    pub fn record_answer(&mut self, now: Instant) {
        if let UpstreamLease::Peer(lease) = self {
            lease.record_answer(now);
        }
    }

    /// Handles the failure of the upstream within the session.
    pub fn failed(&self, failure: SessionFailure, rng: &mut StdRng) {
        match self {
            UpstreamLease::Peer(lease) => lease.failed(failure, rng),
            UpstreamLease::Server(lease) => lease.failed(),
        }
    }
}

impl fmt::Debug for UpstreamConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamConnection").field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// Sends `server.version`, which fixes the protocol version of the connection.
async fn negotiate(stream: Box<dyn Stream>, version: &str) -> Result<Box<dyn Stream>, BackendError> {
    // A buffer of one byte: what follows the response must stay in the stream.
    let mut lines = Framed::with_capacity(stream, LinesCodec::new_with_max_length(MAX_RESPONSE_BYTES), 1);
    let line = jsonrpc::encode_request(0, "server.version", &[USER_AGENT, version]);
    let line = String::from_utf8(line).map_err(|_| ProbeError::Internal)?;
    lines.send(line.trim_end()).await.map_err(|_| ProbeError::Closed)?;
    let response =
        lines.next().await.ok_or(ProbeError::Closed)?.map_err(|_| ProbeError::ProtocolViolation(Fault::Malformed))?;
    match jsonrpc::parse_response(&response) {
        Ok(jsonrpc::Response::Result { .. }) => Ok(lines.into_inner()),
        _ => Err(BackendError::Versions),
    }
}

/// Publishes the backend's properties in the local identity.
fn publish(local_identity: &watch::Sender<Arc<LocalIdentity>>, ingresses: &[Ingress], info: &BackendInfo) {
    local_identity.send_if_modified(|local_identity| {
        let mut backend = local_identity.identity.backend.clone();
        for ingress in ingresses {
            backend[*ingress] = identity::BackendState::Known(info.clone());
        }
        let changed = local_identity.identity.backend != backend;
        if changed {
            *local_identity = Arc::new(LocalIdentity::new(Identity { backend, ..local_identity.identity.clone() }));
        }
        changed
    });
}
