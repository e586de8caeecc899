//! Conversations with callers: from a listener, or our onion service, through the door to a session.

mod door;
mod limits;
mod lines;
mod link;
mod listen;
mod proxy_header;
mod relay;
mod session;
mod tls;
mod unanswered;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

pub use door::{Arrival, Manner, Source, WAITING, keep};
pub use limits::Limits;
pub use lines::LongLines;
pub use listen::listen;
pub use proxy_header::{Header, circuit};
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
    pub limits: Limits,
    /// Where callers come by TLS.
    pub tls: Option<Acceptor>,
    /// The server that we stand in front of.
    pub backend: Option<Arc<Backend>>,
    pub long_lines: LongLines,
    pub counters: Arc<Counters>,
}

/// What callers did, in numbers; nothing of who they were.
#[derive(Debug, Default)]
pub struct Counters {
    pub sessions: Count,
    pub open: Count,
    pub requests: Count,
    /// Passed on to the server behind us.
    pub passed_requests: Count,
    /// It couldn't be reached, or went away.
    pub backend_failures: Count,
    /// Turned away at the door, as we were full.
    pub refused_full: Count,
    /// Turned away at the door, for too many sessions from one source, or too many begun at once.
    pub refused_source: Count,
    pub refused_banned: Count,
    /// Sent off, to make room for somebody from a source with fewer sessions.
    pub evicted: Count,
    pub failed_handshakes: Count,
    /// Answered later than they might have been.
    pub delayed_requests: Count,
    /// Sent off for too many requests, or too many bytes.
    pub excessive_requests: Count,
    pub excessive_bytes: Count,
    pub unreadable_lines: Count,
    /// Sent off for a line that didn't end, or an answer that wasn't taken.
    pub slow: Count,
    pub idle: Count,
    pub broken_sessions: Count,
}

#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn take_one(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
