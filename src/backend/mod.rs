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
pub use key_pinning::KeyError;
pub use peer_pool::{PeerPool, UpstreamLease};
pub use server::Server;

use crate::book_handle::Inbox;
use crate::connect::ProbeError;
use crate::dial::Stream;
use crate::electrum::identity::{self, BackendInfo, Identity, LocalIdentity};
use crate::jsonrpc::{self, MAX_PROTOCOL, MAX_RESPONSE_BYTES, MIN_PROTOCOL, USER_AGENT};
use crate::peer::{Fault, Host};

/// How long a server of the operator's may take to greet us.
const GREETING: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub enum Backend {
    Server(Server),
    Peers(PeerPool),
}

/// A session's own connection to a server.
pub struct Connection {
    pub stream: Box<dyn Stream>,
    /// Where it is a peer's.
    pub seat: Option<UpstreamLease>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("{0}")]
    Failed(#[from] ProbeError),
    #[error("{0}")]
    Key(#[from] KeyError),
    #[error("it speaks none of the protocol versions {MIN_PROTOCOL} to {MAX_PROTOCOL}")]
    Versions,
    #[error("no peer that is fit for it could be reached")]
    NoPeer,
}

impl Backend {
    /// A connection of a caller's own, on which this protocol version was agreed upon.
    ///
    /// Where it is a peer's, rather not that of the one that has just failed.
    pub async fn open(&self, version: &str, failed: Option<&Host>) -> Result<Connection, BackendError> {
        match self {
            Backend::Server(server) => Ok(Connection { stream: server.open(version).await?, seat: None }),
            Backend::Peers(peers) => peers.open(version, failed).await,
        }
    }

    /// Looks after what clients are sent it, until nobody is left to be told.
    pub async fn monitor(&self, ourselves: &watch::Sender<Arc<LocalIdentity>>, inbox: Inbox) {
        match self {
            Backend::Server(server) => server.monitor(ourselves, inbox).await,
            Backend::Peers(peers) => peers.monitor(ourselves).await,
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

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("seat", &self.seat).finish_non_exhaustive()
    }
}

/// The first words on a connection, which commit it to a protocol version.
async fn negotiate(stream: Box<dyn Stream>, version: &str) -> Result<Box<dyn Stream>, BackendError> {
    // A line at a time, so that nothing of what follows the greeting is read here and lost.
    let mut lines = Framed::with_capacity(stream, LinesCodec::new_with_max_length(MAX_RESPONSE_BYTES), 1);
    let line = jsonrpc::encode_request(0, "server.version", &[USER_AGENT, version]);
    let line = String::from_utf8(line).map_err(|_| ProbeError::Internal)?;
    lines.send(line.trim_end()).await.map_err(|_| ProbeError::Closed)?;
    let answer =
        lines.next().await.ok_or(ProbeError::Closed)?.map_err(|_| ProbeError::ProtocolViolation(Fault::Malformed))?;
    match jsonrpc::parse_response(&answer) {
        Ok(jsonrpc::Response::Result { .. }) => Ok(lines.into_inner()),
        _ => Err(BackendError::Versions),
    }
}

/// Has callers advertised what is behind us.
fn publish(ourselves: &watch::Sender<Arc<LocalIdentity>>, behind: BackendInfo) {
    ourselves.send_if_modified(|ourselves| {
        let backend = identity::BackendState::Known(behind);
        let news = ourselves.identity.backend != backend;
        if news {
            *ourselves = Arc::new(LocalIdentity::new(Identity { backend, ..ourselves.identity.clone() }));
        }
        news
    });
}
