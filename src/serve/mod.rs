//! Conversations with callers.

mod listen;
mod session;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

pub use listen::{serve, serve_onion};

use crate::book::Snapshot;
use crate::conversation::server::Identity;
use crate::inbox::Inbox;

/// What callers may use of us.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Sessions at once.
    pub sessions: usize,
    /// How long a caller may say nothing. ElectrumX sends such callers off after as long.
    pub idle: Duration,
    /// How long a line may take from its first byte to its last, and an answer until the caller has taken it.
    pub line: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { sessions: 10_000, idle: Duration::from_secs(600), line: Duration::from_secs(30) }
    }
}

/// What every session has of the daemon.
#[derive(Debug, Clone)]
pub struct Shared {
    /// What we say of ourselves; it grows when our onion name proves to be one.
    pub identity: watch::Receiver<Arc<Identity>>,
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub inbox: Inbox,
    pub limits: Limits,
    /// A place for each session that there may be, of whatever listener.
    pub slots: Arc<Semaphore>,
    pub counters: Arc<Counters>,
}

/// What callers did, in numbers; nothing of who they were.
#[derive(Debug, Default)]
pub struct Counters {
    pub sessions: Count,
    pub open: Count,
    pub requests: Count,
    pub refused_sessions: Count,
    pub unreadable_lines: Count,
    pub slow_lines: Count,
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
