//! What a peer waits for before it is probed.

use std::fmt;

use super::{Entry, PathUsability, PeerBook};
use crate::clock::Time;
use crate::netgroup::Netgroup;
use crate::route::Route;

/// What holds a peer's next probe back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// None of its ports may be dialled.
    Port,
    /// So many connections went to its subnet that it is another peer's turn.
    DialBudget(Netgroup),
    /// Its route does not work.
    Route(Route),
    /// As many probes are under way as may be at once.
    Probes,
    /// It was never tried, and its time has not come.
    FirstTry,
}

impl PeerBook {
    /// What a peer waits for, where that is more than the time of its next probe.
    pub fn waiting(&self, entry: &Entry, now: Time) -> Option<Waiting> {
        if self.in_flight.contains_key(&entry.host) {
            return None;
        }
        if !self.has_dialable_endpoint(entry) {
            return Some(Waiting::Port);
        }
        if let Some(site) = self.held.get(&entry.host) {
            return Some(Waiting::DialBudget(*site));
        }
        let (via, is_untried) = (self.via(&entry.host), entry.last_try.is_none());
        match self.path_usability(via) {
            _ if entry.next_probe_at > now && !is_untried => None,
            PathUsability::Unavailable | PathUsability::Trial => Some(Waiting::Route(via)),
            PathUsability::Usable if entry.next_probe_at <= now => Some(Waiting::Probes),
            PathUsability::Usable => Some(Waiting::FirstTry),
        }
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Waiting::Port => f.write_str("a port that may be dialled"),
            Waiting::DialBudget(subnet) => write!(f, "the dial budget of {subnet}"),
            Waiting::Route(Route::Tor) => f.write_str("Tor"),
            Waiting::Route(Route::Direct) => f.write_str("the local network"),
            Waiting::Probes => f.write_str("other probes to end"),
            Waiting::FirstTry => f.write_str("its first probe"),
        }
    }
}
