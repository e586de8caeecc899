//! Sessions of clients: from a listener or the onion service through admission to responses.

mod accept;
mod admission;
mod batch;
mod book_requests;
mod client_stream;
mod connection;
mod input_memory;
mod limits;
mod memory;
mod metered_stream;
mod pending_calls;
mod proxy_header;
mod reply_timer;
mod session;
mod session_activity;
mod session_table;
mod subscriptions;
mod tls;
mod trusted_proxies;
mod upstream;
mod upstream_event;

use std::sync::Arc;

use tokio::sync::watch;

pub use accept::{ClientListener, accept};
pub use admission::{ACCEPT_QUEUE, Ingresses, run_admission};
pub use book_requests::BookRequestPool;
pub use connection::{ClientSource, ConnectionKind, IncomingConnection};
pub use limits::Limits;
pub use memory::MemoryPool;
pub use proxy_header::{HeaderVersions, ProxiedSource, ProxyHeader, parse_proxy_header};
pub use tls::{Acceptor, CertificateError, CertificateSource, Credentials};
pub use trusted_proxies::{ListenerProtocol, TrustedProxies};

use crate::backend::Backend;
use crate::ban_list::Bans;
use crate::book::{PerIngress, Snapshot};
use crate::book_handle::Inbox;
use crate::client_counters::Counters;
use crate::electrum::identity::LocalIdentity;

/// State of the daemon that all sessions share.
#[derive(Debug, Clone)]
pub struct SessionContext {
    /// Local identity that clients see. It gains the onion name once that is reachable.
    pub local_identity: watch::Receiver<Arc<LocalIdentity>>,
    /// Peers that clients see.
    pub snapshot: PerIngress<watch::Receiver<Arc<Snapshot>>>,
    /// Banned hosts and addresses.
    pub bans: watch::Receiver<Arc<Bans>>,
    /// Channel to the book's task.
    pub inbox: Inbox,
    /// Limits of new sessions.
    pub limits: watch::Receiver<Arc<Limits>>,
    /// Acceptors of TLS handshakes. `None` without TLS listeners.
    pub tls: PerIngress<Option<Acceptor>>,
    /// Upstream that requests are forwarded to. `None` for discovery only.
    pub backend: PerIngress<Option<Arc<Backend>>>,
    /// Longest line of clients whose requests are forwarded, in bytes.
    pub max_line_bytes: usize,
    /// Memory of clients.
    pub memory: PerIngress<MemoryPool>,
    /// Permits for requests that wait for the book.
    pub book_requests: PerIngress<BookRequestPool>,
    /// Counters of client activity.
    pub counters: Arc<Counters>,
}
