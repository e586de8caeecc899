//! What we stand in front of: a server of the operator's, or whichever peer is best.

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

use crate::book_handle::Inbox;
use crate::connect::ProbeError;
use crate::dial::Stream;
use crate::electrum::identity::{self, BackendInfo, Identity, LocalIdentity};
use crate::jsonrpc::{self, MAX_RESPONSE_BYTES, NEWEST, OLDEST, USER_AGENT};
use crate::peer::{Fault, Host};

/// How long a server of the operator's may take to greet us.
const GREETING_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub enum Backend {
    Server(Server),
    Peers(PeerPool),
}

/// A session's own connection to a server.
pub struct UpstreamConnection {
    pub stream: Box<dyn Stream>,
    /// Where it is a peer's.
    pub lease: Option<UpstreamLease>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("{0}")]
    Failed(#[from] ProbeError),
    #[error("{0}")]
    Key(#[from] KeyPinError),
    #[error("it speaks none of the protocol versions {OLDEST} to {NEWEST}")]
    Versions,
    #[error("no peer that is fit for it could be reached")]
    NoPeer,
}

impl Backend {
    /// A connection of a caller's own, on which this protocol version was agreed upon.
    ///
    /// Where it is a peer's, rather not that of the one that has just failed.
    pub async fn open(&self, version: &str, failed: Option<&Host>) -> Result<UpstreamConnection, BackendError> {
        match self {
            Backend::Server(server) => Ok(UpstreamConnection { stream: server.open(version).await?, lease: None }),
            Backend::Peers(peers) => peers.open(version, failed).await,
        }
    }

    /// Looks after what clients are sent it, until nobody is left to be told.
    pub async fn monitor(&self, local_identity: &watch::Sender<Arc<LocalIdentity>>, inbox: Inbox) {
        match self {
            Backend::Server(server) => server.monitor(local_identity, inbox).await,
            Backend::Peers(peers) => peers.monitor(local_identity).await,
        }
    }

    /// As the configuration has it.
    pub fn target(&self) -> BackendTarget {
        match self {
            Backend::Server(server) => BackendTarget::Server(server.address.clone()),
            Backend::Peers(_) => BackendTarget::Peers,
        }
    }

    /// Why it is of no use at the moment.
    pub fn last_error(&self) -> Option<String> {
        match self {
            Backend::Server(server) => server.last_error(),
            Backend::Peers(peers) => peers.last_error(),
        }
    }

    /// Which peers carry sessions, and how many.
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

/// The first words on a connection, which commit it to a protocol version.
async fn negotiate(stream: Box<dyn Stream>, version: &str) -> Result<Box<dyn Stream>, BackendError> {
    // A line at a time, so that nothing of what follows the greeting is read here and lost.
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

/// Has callers advertised what is behind us.
fn publish(local_identity: &watch::Sender<Arc<LocalIdentity>>, info: BackendInfo) {
    local_identity.send_if_modified(|local_identity| {
        let backend = identity::BackendState::Known(info);
        let changed = local_identity.identity.backend != backend;
        if changed {
            *local_identity = Arc::new(LocalIdentity::new(Identity { backend, ..local_identity.identity.clone() }));
        }
        changed
    });
}
