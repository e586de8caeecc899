//! Conversations with callers: from a listener, or our onion service, through the door to a session.

mod door;
mod limits;
mod lines;
mod link;
mod listen;
mod proxy_header;
mod relay;
mod room;
mod session;
mod tally;
mod tls;
mod unanswered;

use std::sync::Arc;

use tokio::sync::watch;

pub use door::{Arrival, Manner, Source, WAITING, keep};
pub use limits::Limits;
pub use lines::LongLines;
pub use listen::listen;
pub use proxy_header::{Header, circuit};
pub use tally::{CallCount, Calls, Count, Counters};
pub use tls::{Acceptor, CertificateError, Credentials, Files};

use crate::backend::Backend;
use crate::bans::Bans;
use crate::book::Snapshot;
use crate::conversation::identity::Ourselves;
use crate::inbox::Inbox;

/// What every session has of the daemon.
#[derive(Debug, Clone)]
pub struct Shared {
    /// What we say of ourselves; it grows when our onion name proves to be one.
    pub ourselves: watch::Receiver<Arc<Ourselves>>,
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub bans: watch::Receiver<Arc<Bans>>,
    pub inbox: Inbox,
    /// For sessions that begin from now on.
    pub limits: watch::Receiver<Arc<Limits>>,
    /// Where callers come by TLS.
    pub tls: Option<Acceptor>,
    /// The server that we stand in front of.
    pub backend: Option<Arc<Backend>>,
    pub long_lines: LongLines,
    pub counters: Arc<Counters>,
}
