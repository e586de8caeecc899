//! Activity of a session, which decides whether it is evicted.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Time;

/// Time of a session's last request, shared by the session and the session table.
#[derive(Debug)]
pub(super) struct SessionActivity {
    admitted_at: Time,
    /// Milliseconds since 1970; zero before the first request.
    last_request: AtomicU64,
}

/// Order in which sessions are evicted: those without a request first, then by the time of the last request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EvictionRank {
    /// No request was sent since this time.
    Silent(Time),
    /// Time of the last request.
    Idle(Time),
}

impl SessionActivity {
    /// Starts without a request.
    pub(super) fn new(admitted_at: Time) -> SessionActivity {
        SessionActivity { admitted_at, last_request: AtomicU64::new(0) }
    }

    /// Records a request.
    pub(super) fn record_request(&self, now: Time) {
        self.last_request.store(now.as_millis(), Ordering::Relaxed);
    }

    /// Returns the place of the session in the order of eviction.
    pub(super) fn rank(&self) -> EvictionRank {
        match self.last_request.load(Ordering::Relaxed) {
            0 => EvictionRank::Silent(self.admitted_at),
            millis => EvictionRank::Idle(Time::from_millis(millis)),
        }
    }
}
