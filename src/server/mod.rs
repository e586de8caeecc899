//! Conversations with callers: from a listener, or our onion service, through the door to a session.

mod accept;
mod admission;
mod client_stream;
mod connection;
mod counters;
mod limits;
mod line_codec;
mod pending_calls;
mod proxy_header;
mod session;
mod session_table;
mod tls;
mod upstream;

use std::sync::Arc;

use tokio::sync::watch;

pub use accept::accept;
pub use admission::{ACCEPT_QUEUE, run_admission};
pub use connection::{ClientSource, ConnectionKind, IncomingConnection};
pub use counters::{CallCount, CallCounters, Counter, Counters};
pub use limits::Limits;
pub use line_codec::LongLinePool;
pub use proxy_header::{ProxyHeader, parse_proxy_header};
pub use tls::{Acceptor, CertificateError, CertificateSource, Credentials};

use crate::backend::Backend;
use crate::ban_list::Bans;
use crate::book::Snapshot;
use crate::book_handle::Inbox;
use crate::electrum::identity::LocalIdentity;

/// What every session has of the daemon.
#[derive(Debug, Clone)]
pub struct SessionContext {
    /// What we say of ourselves; it grows when our onion name proves to be one.
    pub ourselves: watch::Receiver<Arc<LocalIdentity>>,
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub bans: watch::Receiver<Arc<Bans>>,
    pub inbox: Inbox,
    /// For sessions that begin from now on.
    pub limits: watch::Receiver<Arc<Limits>>,
    /// Where callers come by TLS.
    pub tls: Option<Acceptor>,
    /// The server that we stand in front of.
    pub backend: Option<Arc<Backend>>,
    pub long_lines: LongLinePool,
    pub counters: Arc<Counters>,
}
