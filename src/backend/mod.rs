//! What we stand in front of: a server of the operator's, or whichever peer is best.

mod address;
mod known_key;
mod peers;
mod server;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::sync::watch;
use tokio_util::codec::{Framed, LinesCodec};

pub use address::{Address, AddressError, Front};
pub use known_key::KeyError;
pub use peers::{Peers, Seat};
pub use server::Server;

use crate::book::Failure;
use crate::conversation::identity::{self, Behind, Identity, Ourselves};
use crate::dial::Stream;
use crate::inbox::Inbox;
use crate::peer::{Fault, Host};
use crate::protocol::{self, MAX_ANSWER, NEWEST, OLDEST, SOFTWARE};

/// How long a server of the operator's may take to greet us.
const GREETING: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub enum Backend {
    Server(Server),
    Peers(Peers),
}

/// A session's own connection to a server.
pub struct Connection {
    pub stream: Box<dyn Stream>,
    /// Where it is a peer's.
    pub seat: Option<Seat>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("{0}")]
    Failed(#[from] Failure),
    #[error("{0}")]
    Key(#[from] KeyError),
    #[error("it speaks none of the protocol versions {OLDEST} to {NEWEST}")]
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

    /// Looks after what callers are told of it, until nobody is left to be told.
    pub async fn watch(&self, ourselves: &watch::Sender<Arc<Ourselves>>, inbox: Inbox) {
        match self {
            Backend::Server(server) => server.watch(ourselves, inbox).await,
            Backend::Peers(peers) => peers.watch(ourselves).await,
        }
    }

    /// As the configuration has it.
    pub fn front(&self) -> Front {
        match self {
            Backend::Server(server) => Front::Server(server.address.clone()),
            Backend::Peers(_) => Front::Peers,
        }
    }

    /// Why it is of no use at the moment.
    pub fn trouble(&self) -> Option<String> {
        match self {
            Backend::Server(server) => server.trouble(),
            Backend::Peers(peers) => peers.trouble(),
        }
    }

    /// Which peers carry sessions, and how many.
    pub fn carried(&self) -> Vec<(Host, usize)> {
        match self {
            Backend::Server(_) => Vec::new(),
            Backend::Peers(peers) => peers.carried(),
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("seat", &self.seat).finish_non_exhaustive()
    }
}

/// The first words on a connection, which commit it to a protocol version.
async fn greet(stream: Box<dyn Stream>, version: &str) -> Result<Box<dyn Stream>, BackendError> {
    // A line at a time, so that nothing of what follows the greeting is read here and lost.
    let mut lines = Framed::with_capacity(stream, LinesCodec::new_with_max_length(MAX_ANSWER), 1);
    let line = protocol::request(0, "server.version", &[SOFTWARE, version]);
    let line = String::from_utf8(line).map_err(|_| Failure::Internal)?;
    lines.send(line.trim_end()).await.map_err(|_| Failure::Closed)?;
    let answer = lines.next().await.ok_or(Failure::Closed)?.map_err(|_| Failure::Bad(Fault::Malformed))?;
    match protocol::parse_answer(&answer) {
        Ok(protocol::Answer::Result { .. }) => Ok(lines.into_inner()),
        _ => Err(BackendError::Versions),
    }
}

/// Has callers told of what is behind us.
fn tell(ourselves: &watch::Sender<Arc<Ourselves>>, behind: Behind) {
    ourselves.send_if_modified(|ourselves| {
        let backend = identity::Backend::Known(behind);
        let news = ourselves.identity.backend != backend;
        if news {
            *ourselves = Arc::new(Ourselves::new(Identity { backend, ..ourselves.identity.clone() }));
        }
        news
    });
}
