//! The upstream of forwarded requests: the operator's server, or the verified peers.

mod address;
mod key_pinning;
mod peer_pool;
mod server;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::sync::watch;
use tokio_util::codec::{Framed, LinesCodec};

pub use address::{AddressError, BackendTarget, UpstreamAddr};
pub use key_pinning::KeyPinError;
pub use peer_pool::{PeerPool, UpstreamLease};
pub use server::Server;

use crate::book::Ingress;
use crate::book_handle::Inbox;
use crate::connect::ProbeError;
use crate::dial::Stream;
use crate::electrum::identity::{self, BackendInfo, Identity, LocalIdentity};
use crate::jsonrpc::{self, MAX_PROTOCOL, MAX_RESPONSE_BYTES, MIN_PROTOCOL, USER_AGENT};
use crate::peer::{Fault, Host};

/// Timeout for the operator's server to accept a connection and negotiate the version.
const GREETING_TIMEOUT: Duration = Duration::from_secs(20);

/// The upstream of forwarded requests.
#[derive(Debug)]
pub enum Backend {
    /// The operator's server.
    Server(Server),
    /// The verified peers.
    Peers(PeerPool),
}

/// A session's connection to the upstream.
pub struct UpstreamConnection {
    /// The stream, on which the version is negotiated.
    pub stream: Box<dyn Stream>,
    /// The lease of the peer. `None` for the operator's server.
    pub lease: Option<UpstreamLease>,
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
    /// No candidate could be reached.
    #[error("no suitable peer is reachable")]
    NoPeer,
}

impl Backend {
    /// Opens a connection for a session, with this protocol version.
    ///
    /// With peers, the one that has just failed is tried last.
    pub async fn open(&self, version: &str, failed: Option<&Host>) -> Result<UpstreamConnection, BackendError> {
        match self {
            Backend::Server(server) => Ok(UpstreamConnection { stream: server.open(version).await?, lease: None }),
            Backend::Peers(peers) => peers.open(version, failed).await,
        }
    }

    /// Keeps the backend's properties in the local identity current until shutdown.
    pub async fn monitor(&self, local_identity: &watch::Sender<Arc<LocalIdentity>>, inbox: Inbox) {
        match self {
            Backend::Server(server) => server.monitor(local_identity, inbox).await,
            Backend::Peers(peers) => peers.monitor(local_identity).await,
        }
    }

    /// Returns the target as configured.
    pub fn target(&self) -> BackendTarget {
        match self {
            Backend::Server(server) => BackendTarget::Server(server.address.clone()),
            Backend::Peers(_) => BackendTarget::Peers,
        }
    }

    /// Returns why the backend is unusable. `None`: it is usable.
    pub fn last_error(&self) -> Option<String> {
        match self {
            Backend::Server(server) => server.last_error(),
            Backend::Peers(peers) => peers.last_error(),
        }
    }

    /// Returns the number of sessions for each peer that serves any.
    pub fn session_counts(&self) -> Vec<(Host, usize)> {
        match self {
            Backend::Server(_) => Vec::new(),
            Backend::Peers(peers) => peers.session_counts(),
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
